//! All projections of a service: how they are, what can be read of them, and whom to ask to build one anew.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use serde_json::Value;

use crate::delivery::relay::{RegisterProjector, Relay};
use crate::domain::clock::Clock;
use crate::domain::collection::{InvalidRegistration, Registry};
use crate::projector::actor::{Background, Projector, Rebuild, Skip};
use crate::projector::generation::length;
use crate::projector::runner::Parts;
use crate::projector::status::{Current, Status};
use crate::read_model::inline::Inline;
use crate::read_model::projection::{Feed, ProjectionError, Tables};
use crate::read_model::report::{Parameters, Report, ReportError};
use crate::storage::connection::open_read_only;
use crate::storage::database::Database;
use crate::write::aggregator::{Aggregator, RebuildInline};

/// A projection that runs.
pub(crate) struct Kept {
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    pub(crate) keeper: Keeper,
}

/// Who keeps a projection.
pub(crate) enum Keeper {
    /// The writer, in the transactions of the commands.
    Inline,
    /// An actor of its own.
    Background(Addr<Projector>),
}

/// All projections, and their reports.
pub(crate) struct Projections {
    pub(crate) database: Arc<Database>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) kept: Vec<Kept>,
    /// What can be read, by its name: the projection, and the question; `None` for the file that it makes.
    pub(crate) reports: HashMap<&'static str, (usize, Option<Report>)>,
}

/// The projections of a service before it runs.
#[derive(Default)]
pub(crate) struct Registered {
    pub(crate) inline: Vec<Box<dyn Inline>>,
    pub(crate) background: Vec<Box<dyn Background>>,
}

/// What the projections of a service are started with.
pub(crate) struct Surroundings<'a> {
    pub(crate) database: &'a Arc<Database>,
    pub(crate) registry: &'a Arc<Registry>,
    pub(crate) clock: &'a Arc<Clock>,
    pub(crate) relay: &'a Addr<Relay>,
    pub(crate) poll_interval: Duration,
}

impl Registered {
    /// The first mistake in the registrations, if there is one.
    pub(crate) fn check(&self, registry: &Registry) -> Result<(), InvalidRegistration> {
        let inline = self.inline.iter().map(|p| (p.name(), p.collections(), p.feed(), p.reports(), false));
        let background = self.background.iter();
        let background = background.map(|p| (p.name(), p.collections(), p.feed(), p.reports(), p.is_file()));
        let (mut names, mut reports) = (Vec::new(), Vec::new());
        for (name, collections, feed, of_this, is_file) in inline.chain(background) {
            let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_-.".contains(&c);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_plain) || names.contains(&name) {
                return Err(InvalidRegistration::new(format!(
                    "the name {name:?} of a projection is taken, or is none"
                )));
            }
            names.push(name);
            for collection in collections {
                let id = registry.id(collection).ok_or_else(|| {
                    InvalidRegistration::new(format!(
                        "projection {name}: {collection} is no collection registered before it"
                    ))
                })?;
                if feed == Feed::Journal && registry.get(id).journaled().is_none() {
                    let why = format!("projection {name}: {collection} have no journal, but change events");
                    return Err(InvalidRegistration::new(why));
                }
            }
            // A file is a report by its own name.
            for report in of_this.iter().map(|report| report.name).chain(is_file.then_some(name)) {
                if reports.contains(&report) {
                    return Err(InvalidRegistration::new(format!("there is a report {report:?} already")));
                }
                reports.push(report);
            }
        }
        Ok(())
    }
}

impl Projections {
    /// Starts those in the background, each on a thread of its own.
    pub(crate) fn start(
        inline: &[Box<dyn Inline>],
        background: &[Box<dyn Background>],
        around: &Surroundings<'_>,
    ) -> Result<(Self, Vec<Arbiter>), ProjectionError> {
        let (mut kept, mut reports, mut threads) = (Vec::new(), HashMap::new(), Vec::new());
        for projection in inline {
            let (name, version) = (projection.name(), projection.version());
            reports.extend(projection.reports().into_iter().map(|report| (report.name, (kept.len(), Some(report)))));
            kept.push(Kept { name, status: Status::new(name, version, true), keeper: Keeper::Inline });
        }
        for projection in background {
            let (name, status) = (projection.name(), Status::new(projection.name(), projection.version(), false));
            let work = projection.work(parts(around, &status))?;
            let thread = Arbiter::new();
            let interval = around.poll_interval;
            let projector = Projector::start_in_arbiter(&thread.handle(), move |_| Projector::new(work, interval));
            around.relay.do_send(RegisterProjector(projector.clone().recipient()));
            reports.extend(projection.reports().into_iter().map(|report| (report.name, (kept.len(), Some(report)))));
            if projection.is_file() {
                reports.insert(name, (kept.len(), None));
            }
            kept.push(Kept { name, status, keeper: Keeper::Background(projector) });
            threads.push(thread);
        }
        let (database, clock) = (Arc::clone(around.database), Arc::clone(around.clock));
        Ok((Self { database, clock, kept, reports }, threads))
    }
}

fn parts(around: &Surroundings<'_>, status: &Status) -> Parts {
    Parts {
        database: Arc::clone(around.database),
        registry: Arc::clone(around.registry),
        clock: Arc::clone(around.clock),
        status: status.clone(),
    }
}

/// What a report comes to.
pub(crate) enum Answered {
    Value(Value),
    /// A file, so many bytes of which count.
    File(File, u64),
    /// Nothing has been built yet.
    Building,
}

impl Projections {
    /// Those that there are, and how they are.
    pub(crate) fn told(&self) -> Vec<Value> {
        self.kept.iter().map(|kept| kept.status.told(self.clock.now())).collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.name == name)
    }

    pub(crate) fn told_of(&self, kept: &Kept) -> Value {
        kept.status.told(self.clock.now())
    }

    /// Has one built anew; the answer is how it was when that had begun, or, of an inline one, had been done.
    pub(crate) async fn rebuild(&self, kept: &Kept, aggregator: &Addr<Aggregator>) -> Result<Value, ProjectionError> {
        match &kept.keeper {
            Keeper::Inline => {
                aggregator.send(RebuildInline(kept.name)).await??;
                Ok(self.told_of(kept))
            }
            Keeper::Background(projector) => projector.send(Rebuild).await?,
        }
    }

    /// Whether one of them does not go on.
    pub(crate) fn is_failing(&self) -> bool {
        self.kept.iter().any(|kept| kept.status.state().failure.is_some())
    }

    /// Reads a report from the generation that counts now. Blocks.
    pub(crate) fn read(&self, name: &str, parameters: &Parameters) -> Result<Answered, ReportError> {
        let Some((projection, report)) = self.reports.get(name) else { return Ok(Answered::Building) };
        let kept = &self.kept[*projection];
        if let (Keeper::Inline, Some(report)) = (&kept.keeper, report) {
            return Ok(Answered::Value((report.read)(&mut open_read_only(self.database.path())?, parameters)?));
        }
        // A generation goes two swaps later; one who was slower than that begins again.
        for _ in 0..ATTEMPTS {
            let Some(current) = kept.status.state().current.clone() else { return Ok(Answered::Building) };
            match read(&current, report.as_ref(), parameters) {
                Err(ReportError::Failed(error)) => {
                    let state = kept.status.state();
                    let is_same = state.current.as_ref().is_some_and(|now| now.generation == current.generation);
                    if is_same && current.version == state.version {
                        return Err(ReportError::Failed(error));
                    }
                    // The tables of another version need not be what is asked for.
                    if is_same {
                        return Ok(Answered::Building);
                    }
                }
                read => return read,
            }
        }
        Ok(Answered::Building)
    }
}

/// Attempts to read a generation that is swapped meanwhile.
const ATTEMPTS: usize = 10;

fn read(current: &Current, report: Option<&Report>, parameters: &Parameters) -> Result<Answered, ReportError> {
    let mut tables: Tables = open_read_only(&current.tables)?;
    match report {
        Some(report) => Ok(Answered::Value((report.read)(&mut tables, parameters)?)),
        None => {
            let length = length(&mut tables).map_err(ReportError::Failed)?;
            Ok(Answered::File(File::open(&current.output)?, length))
        }
    }
}

impl Kept {
    /// Has it leave out the event at which it stopped.
    pub(crate) async fn skip(&self, at: i64) -> Result<(), ProjectionError> {
        match &self.keeper {
            Keeper::Inline => {
                Err(ProjectionError::new("it is kept in the transactions of the commands, and never behind"))
            }
            Keeper::Background(projector) => projector.send(Skip(at)).await?,
        }
    }
}
