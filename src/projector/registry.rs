//! All projections of a service: which are registered, how each is run, and their reports.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;

use super::actor::{CheckFiles, ProjectorActor, Rebuild, Skip};
use super::generation::read_checkpoint;
use super::generations::ProjectorContext;
use super::history::KeptHistory;
use super::manifest::{directory, remove_archives};
use super::runner::ProjectionRunner;
use super::status::{Current, Mode, Status};
use crate::delivery::interest::Interest;
use crate::delivery::relay::{RegisterProjector, Relay};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::{InvalidRegistration, Registry};
use crate::read_model::error::ProjectionError;
use crate::read_model::projection::Feed;
use crate::read_model::report::{Parameters, Report, ReportError};
use crate::read_model::sink::Tables;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::connection::open_read_only;
use crate::storage::database::Database;
use crate::threads::named_arbiter;
use crate::write::aggregator::Aggregator;
use crate::write::maintenance::RebuildInline;

/// The projections of a running service, and their reports.
pub(crate) struct Projections {
    clock: Arc<Clock>,
    /// Inline projections first, then those in the background.
    pub(crate) running: Vec<RunningProjection>,
    reports: HashMap<&'static str, RegisteredReport>,
}

/// A projection of a running service.
pub(crate) struct RunningProjection {
    pub(crate) name: &'static str,
    collections: &'static [&'static str],
    pub(crate) status: Status,
    host: Host,
}

/// What writes a projection.
enum Host {
    /// The aggregator, in the transactions of the commands.
    Inline,
    /// An actor.
    Background(Addr<ProjectorActor>),
}

struct RegisteredReport {
    /// The index of the projection.
    projection: usize,
    /// `None` for the file of the projection.
    query: Option<Report>,
}

/// The projections of a service before it runs.
#[derive(Default)]
pub(crate) struct ProjectionSet {
    pub(crate) inline: Vec<ProjectionSpec>,
    pub(crate) background: Vec<Arc<ProjectionSpec>>,
}

impl ProjectionSet {
    /// Finds the first mistake in the registrations.
    pub(crate) fn check(&self, registry: &Registry) -> Result<(), InvalidRegistration> {
        let mut names = Vec::new();
        let mut reports = Vec::new();
        for spec in self.inline.iter().chain(self.background.iter().map(AsRef::as_ref)) {
            let name = spec.name;
            let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-.".contains(&c);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) || names.contains(&name) {
                return Err(InvalidRegistration::new(format!("the projection name {name:?} is taken or invalid")));
            }
            names.push(name);
            check_collections(spec, registry)?;
            // A file is a report with the name of the projection.
            for report in spec.reports.iter().map(|report| report.name).chain(spec.is_file().then_some(name)) {
                if reports.contains(&report) {
                    return Err(InvalidRegistration::new(format!("there is already a report {report:?}")));
                }
                reports.push(report);
            }
        }
        Ok(())
    }
}

fn check_collections(spec: &ProjectionSpec, registry: &Registry) -> Result<(), InvalidRegistration> {
    let name = spec.name;
    for collection in spec.collections {
        let Some(id) = registry.id(collection) else {
            let why = format!("projection {name}: no collection {collection} is registered before it");
            return Err(InvalidRegistration::new(why));
        };
        if spec.feed == Feed::Journal && registry.get(id).journaled().is_none() {
            let why = format!("projection {name}: {collection} have no journal, but change events");
            return Err(InvalidRegistration::new(why));
        }
    }
    Ok(())
}

impl Projections {
    /// What the background projections use. Removes files that no registered projection uses any more.
    pub(crate) fn context(
        background: &[Arc<ProjectionSpec>],
        database: &Arc<Database>,
        registry: &Arc<Registry>,
        clock: &Arc<Clock>,
    ) -> ProjectorContext {
        if let Err(error) = remove_archives(&directory(database.path())) {
            // The service starts nevertheless: the projections show the error, and recover when its cause is gone.
            log::error!("cannot look for files of earlier versions of this program: {error}");
        }
        let keeping = background.iter().filter(|spec| spec.has_history());
        let names: Vec<_> = keeping.flat_map(|spec| spec.collections).collect();
        let collections = registry.ids().filter(|id| names.contains(&&registry.get(*id).name())).collect();
        let history = KeptHistory::new(database.path(), Arc::clone(registry), collections);
        ProjectorContext {
            database: Arc::clone(database),
            registry: Arc::clone(registry),
            clock: Arc::clone(clock),
            history: Arc::new(history),
        }
    }

    /// Starts the background projections, each on its own thread.
    pub(crate) fn start(
        inline: &[ProjectionSpec],
        background: &[Arc<ProjectionSpec>],
        context: &ProjectorContext,
        relay: &Addr<Relay>,
        poll_interval: Duration,
    ) -> (Self, Vec<Arbiter>) {
        let clock = Arc::clone(&context.clock);
        let mut projections = Self { clock, running: Vec::new(), reports: HashMap::new() };
        let mut threads = Vec::new();
        for spec in inline {
            projections.add(spec, Status::new(spec.name, spec.version, Mode::Inline), Host::Inline);
        }
        for spec in background {
            let status = Status::new(spec.name, spec.version, Mode::Background);
            let runner = ProjectionRunner::new(context.clone(), Arc::clone(spec), status.clone());
            let thread = named_arbiter(format!("proj:{}", spec.name));
            let actor = move |_: &mut Context<_>| ProjectorActor::new(runner, poll_interval);
            let projector = ProjectorActor::start_in_arbiter(&thread.handle(), actor);
            let interest = interest(spec, &context.registry);
            relay.do_send(RegisterProjector { projector: projector.clone().recipient(), interest });
            projections.add(spec, status, Host::Background(projector));
            threads.push(thread);
        }
        (projections, threads)
    }

    fn add(&mut self, spec: &ProjectionSpec, status: Status, host: Host) {
        let projection = self.running.len();
        for report in &spec.reports {
            self.reports.insert(report.name, RegisteredReport { projection, query: Some(*report) });
        }
        if spec.is_file() {
            self.reports.insert(spec.name, RegisteredReport { projection, query: None });
        }
        self.running.push(RunningProjection { name: spec.name, collections: spec.collections, status, host });
    }

    pub(crate) fn get(&self, name: &str) -> Option<&RunningProjection> {
        self.running.iter().find(|running| running.name == name)
    }

    /// The statuses of all projections.
    pub(crate) fn to_json(&self) -> Vec<Value> {
        self.running.iter().map(|running| self.status_json(running)).collect()
    }

    /// The time by which lags are measured.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn status_json(&self, running: &RunningProjection) -> Value {
        running.status.to_json(self.clock.now())
    }

    /// Rebuilds a projection. Returns its status when the build has started, or, for an inline one, when it is complete.
    pub(crate) async fn rebuild(
        &self,
        running: &RunningProjection,
        aggregator: &Addr<Aggregator>,
    ) -> Result<Value, ProjectionError> {
        match &running.host {
            Host::Inline => {
                aggregator.send(RebuildInline(running.name)).await??;
                Ok(self.status_json(running))
            }
            Host::Background(projector) => projector.send(Rebuild).await?,
        }
    }

    /// Waits until the background projections of a collection have nothing of what was erased in its first `erasures`
    /// erasures, but no longer than `patience`. Returns the names of those that may still have something.
    pub(crate) async fn wait_for_erasures(
        &self,
        collection: &str,
        erasures: i64,
        patience: Duration,
    ) -> Vec<&'static str> {
        let began = Instant::now();
        loop {
            let reading = self.running.iter().filter(|running| running.collections.contains(&collection));
            let background = reading.filter(|running| matches!(running.host, Host::Background(_)));
            let pending: Vec<_> = background
                .filter(|running| running.status.state().erasures < erasures)
                .map(|running| running.name)
                .collect();
            if pending.is_empty() || began.elapsed() >= patience {
                return pending;
            }
            actix::clock::sleep(ERASURE_INTERVAL).await;
        }
    }

    /// The names of all reports, sorted.
    pub(crate) fn report_names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.reports.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// What a report is: `None` if there is no report with this name.
    pub(crate) fn report(&self, name: &str) -> Option<ReportKind> {
        let RegisteredReport { projection, query } = self.reports.get(name)?;
        Some(match (query, &self.running[*projection].host) {
            (Some(report), Host::Inline) => ReportKind::Inline(*report),
            (Some(report), Host::Background(_)) => ReportKind::Query { parameters: report.parameters },
            (None, _) => ReportKind::File,
        })
    }

    /// Reads a report of a background projection from the generation that is served. Blocks.
    pub(crate) fn read(&self, name: &str, parameters: &Parameters) -> Result<ReportContent, ReportError> {
        let Some(RegisteredReport { projection, query }) = self.reports.get(name) else {
            return Ok(ReportContent::Building);
        };
        let running = &self.running[*projection];
        // The files of a generation are removed after two swaps. If that happens before they are open, try the next one.
        for _ in 0..MAX_ATTEMPTS {
            let Some(current) = running.status.state().current.clone() else { return Ok(ReportContent::Building) };
            let opened = OpenGeneration::open(&current, query.as_ref());
            let is_same = running.is_serving(current.generation);
            match opened {
                Ok(opened) => match opened.read(query.as_ref(), parameters) {
                    // The query need not fit the tables of another version.
                    Err(ReportError::Failed(_)) if current.version != running.status.state().version => {
                        return Ok(ReportContent::Building);
                    }
                    Err(ReportError::Failed(error)) if error.is_damage() => running.suspect(&error),
                    content => return content,
                },
                Err(error) if is_same => running.suspect(&error),
                Err(_) => continue,
            }
            return Ok(ReportContent::Building);
        }
        Ok(ReportContent::Building)
    }
}

/// What the relay tells a projection of.
fn interest(spec: &ProjectionSpec, registry: &Registry) -> Interest {
    match spec.feed {
        Feed::Journal => Interest::Journal,
        Feed::Changes => Interest::Changes(spec.collections.iter().filter_map(|name| registry.id(name)).collect()),
    }
}

/// How often it is looked whether projections have erased something.
const ERASURE_INTERVAL: Duration = Duration::from_millis(20);

/// What a report is.
#[derive(Clone, Copy)]
pub(crate) enum ReportKind {
    /// The CSV file of a projection.
    File,
    /// JSON, from a query of the tables of a background projection.
    Query { parameters: &'static [&'static str] },
    /// JSON, from a query of tables in the main database.
    Inline(Report),
}

/// The content of a report.
pub(crate) enum ReportContent {
    Json(Value),
    File(ReportFile),
    /// No generation can be read: the first one is being built, or its files were lost.
    Building,
}

/// An open file, of which the first `length` bytes are checkpointed.
pub(crate) struct ReportFile {
    pub(crate) file: File,
    pub(crate) length: u64,
    /// The number of the generation that has it.
    pub(crate) generation: i64,
}

/// How often a report tries to open a generation that was replaced and removed.
const MAX_ATTEMPTS: usize = 10;

/// A generation that a report has opened. Its files may be removed meanwhile.
struct OpenGeneration {
    tables: Tables,
    /// If the report is the file.
    file: Option<ReportFile>,
}

impl OpenGeneration {
    /// Fails if a file is missing, damaged, or shorter than its checkpoint says.
    fn open(current: &Current, query: Option<&Report>) -> Result<Self, ProjectionError> {
        let mut tables: Tables = open_read_only(&current.tables)?;
        let length = read_checkpoint(&mut tables)?.file.length;
        if query.is_some() {
            return Ok(Self { tables, file: None });
        }
        let file = File::open(&current.output)?;
        let found = file.metadata()?.len();
        if found < length {
            let path = current.output.display();
            return Err(ProjectionError::new(format!("{path} has {found} of its {length} bytes")));
        }
        Ok(Self { tables, file: Some(ReportFile { file, length, generation: current.generation }) })
    }

    fn read(mut self, query: Option<&Report>, parameters: &Parameters) -> Result<ReportContent, ReportError> {
        match (query, self.file) {
            (Some(report), _) => Ok(ReportContent::Json((report.read)(&mut self.tables, parameters)?)),
            (None, Some(file)) => Ok(ReportContent::File(file)),
            (None, None) => Ok(ReportContent::Building),
        }
    }
}

impl RunningProjection {
    /// Whether this generation is served.
    fn is_serving(&self, generation: i64) -> bool {
        self.status.state().current.as_ref().is_some_and(|current| current.generation == generation)
    }

    /// Has the projector check the files of the generation, which a report could not read.
    fn suspect(&self, error: &ProjectionError) {
        log::warn!("a report of {} cannot read its generation: {error}", self.name);
        if let Host::Background(projector) = &self.host {
            // If the mailbox is full, the next request does it.
            let _ = projector.try_send(CheckFiles);
        }
    }

    /// Skips the event at which the projection stopped.
    pub(crate) async fn skip(&self, at: i64) -> Result<(), ProjectionError> {
        match &self.host {
            Host::Inline => Err(ProjectionError::new("an inline projection never stops at an event")),
            Host::Background(projector) => projector.send(Skip(at)).await?,
        }
    }
}
