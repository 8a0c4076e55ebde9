//! The generations of one projection: the live one, which applies new events, and the one that is being built, which
//! catches up and then replaces it.

use std::sync::Arc;
use std::time::Instant;

use super::event_page::{EventId, Page, PageEvent};
use super::generation::{ApplyError, Checkpoint, Generation, Position, read_checkpoint};
use super::history::History;
use super::manifest::{Files, Manifest};
use super::snapshot::Snapshot;
use super::source::{Compatibility, Source, SourceState, epoch_of, is_snapshot};
use super::status::{Behind, Building, Current, FailedEvent, Status, StepError};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::read_model::error::ProjectionError;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::connection::open_read_only;
use crate::storage::database::Database;
use crate::storage::page::{PageLimit, Progress};
use crate::storage::reader::Reader;

/// What all background projections of a service use.
#[derive(Clone)]
pub(crate) struct ProjectorContext {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(super) history: Arc<History>,
}

/// The open generations of one projection.
pub(super) struct Generations {
    spec: Arc<ProjectionSpec>,
    status: Status,
    clock: Arc<Clock>,
    files: Files,
    manifest: Manifest,
    source: Source,
    state: SourceState,
    live: Option<Generation>,
    building: Option<Build>,
    /// Everything that was deleted up to this revision is erased from the files.
    erased: i64,
}

/// A generation that is being built.
struct Build {
    generation: Generation,
    /// The aggregates to start from, until they are applied.
    snapshot: Option<Snapshot>,
}

/// What a step of a build came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BuildStep {
    /// No generation is being built.
    Nothing,
    /// There are more events to apply.
    More,
    /// The generation is complete, and is the live one now.
    Swapped,
}

/// The events that are applied in one transaction: their number, and the length of their JSON text in bytes.
const PAGE_LIMIT: PageLimit = PageLimit { items: 2000, bytes: 4 * 1024 * 1024 };

impl Generations {
    pub(super) fn open(
        context: &ProjectorContext,
        spec: Arc<ProjectionSpec>,
        status: Status,
    ) -> Result<Self, ProjectionError> {
        let files = Files::new(context.database.path(), spec.name)?;
        let reader = Reader::open(&context.database, Arc::clone(&context.registry))?;
        let mut source = Source::new(&spec, Arc::clone(&context.registry), &context.history, reader)?;
        let state = source.refresh(context.clock.now())?;
        let manifest = files.read_manifest()?;
        files.remove_unnamed(&manifest);
        // A generation that cannot be opened (the disk lost a file) is replaced by a new one. A file that is missing must
        // not be created, because it would be served while it is empty.
        let open = |number: i64| {
            let exists = files.tables(number).exists();
            exists.then(|| Generation::open(&spec, &files, number, &state.identity))
        };
        let give_up = |error: &ProjectionError| log::error!("projection {} will be rebuilt: {error}", spec.name);
        let live = manifest.current.and_then(open).and_then(|opened| opened.inspect_err(give_up).ok());
        let building = manifest.building.and_then(open).map(|opened| resume(opened?, &files));
        let building = building.and_then(|opened| opened.inspect_err(give_up).ok());
        let clock = Arc::clone(&context.clock);
        Ok(Self { spec, status, clock, files, manifest, source, state, live, building, erased: 0 })
    }

    /// Looks for new events, and starts or discards generations so that there is one which can apply them.
    pub(super) fn prepare(&mut self) -> Result<(), ProjectionError> {
        self.state = self.source.refresh(self.clock.now())?;
        self.discard_incompatible()?;
        self.publish();
        Ok(())
    }

    pub(super) fn is_building(&self) -> bool {
        self.building.is_some()
    }

    /// Starts to build a generation; one that was being built is given up. Returns its number.
    fn begin(&mut self) -> Result<i64, ProjectionError> {
        self.building = None;
        let given_up = self.manifest.building.take();
        let number = self.manifest.last + 1;
        // Events of another incarnation of the database do not exist any more.
        self.manifest.skipped.retain(|EventId(source, _)| epoch_of(source) == self.state.epoch);
        self.manifest.building = Some(number);
        self.manifest.last = number;
        self.files.write_manifest(&self.manifest)?;
        if let Some(given_up) = given_up {
            self.files.remove(given_up);
        }
        // A killed process may have left files of this number.
        self.files.remove(number);
        let snapshot = self.source.take_snapshot(&self.files.snapshot(number), self.clock.now())?;
        let beginning = match &snapshot {
            Some(_) => self.state.start_of_snapshot(),
            None => self.state.identity.clone(),
        };
        let generation = Generation::open(&self.spec, &self.files, number, &beginning)?;
        let total = snapshot.as_ref().map_or(self.state.last, |snapshot| snapshot.length);
        self.publish();
        self.status.state().building = Some(Building::start(&generation, total));
        self.building = Some(Build { generation, snapshot });
        Ok(number)
    }

    /// Starts a rebuild on request.
    pub(super) fn rebuild(&mut self) -> Result<i64, ProjectionError> {
        self.state = self.source.refresh(self.clock.now())?;
        self.begin()
    }

    /// Omits an event from now on.
    pub(super) fn skip(&mut self, event: EventId) -> Result<(), ProjectionError> {
        let mut manifest = self.manifest.clone();
        manifest.skipped.push(event);
        self.files.write_manifest(&manifest)?;
        self.manifest = manifest;
        Ok(())
    }

    /// Applies a page of events to the live generation, if it can apply them.
    pub(super) fn advance_live(&mut self) -> Result<Progress, StepError> {
        let Some(live) = &self.live else { return Ok(Progress::Done) };
        if self.state.compatibility(&live.checkpoint, self.spec.version) != Compatibility::Current {
            return Ok(Progress::Done);
        }
        self.erase_deleted()?;
        let Some(live) = self.live.as_mut() else { return Ok(Progress::Done) };
        let Position { source, offset } = live.checkpoint.position.clone();
        let page = self.source.page(offset, PAGE_LIMIT)?;
        let since = page.events.first().map_or(self.clock.now(), |event| event.time);
        self.status.state().behind = behind(page.last - offset, since);
        if page.to == offset {
            return Ok(progress(&page));
        }
        apply(live, &self.spec, &page.events, &self.manifest.skipped, Position { source, offset: page.to })?;
        self.status.state().behind = behind(page.last - page.to, since);
        Ok(progress(&page))
    }

    /// Applies a page of events to the generation that is being built. When it has all events, it becomes the live one.
    pub(super) fn advance_build(&mut self) -> Result<BuildStep, StepError> {
        let Some(building) = self.building.as_mut() else { return Ok(BuildStep::Nothing) };
        let page = building.page(&mut self.source)?;
        let to = building.position_after(&page, &self.state);
        let is_new_source = to.source != building.generation.checkpoint.position.source;
        let is_resumed = self.status.state().building.is_none();
        if is_resumed {
            self.status.state().building = Some(Building::start(&building.generation, page.last));
        }
        let applied = apply(&mut building.generation, &self.spec, &page.events, &self.manifest.skipped, to);
        if let Some(progress) = &mut self.status.state().building {
            progress.done = building.generation.checkpoint.position.offset;
            progress.total = page.last;
        }
        applied?;
        if is_new_source {
            if let Some(snapshot) = building.snapshot.take() {
                snapshot.remove();
            }
            // Offsets count something else from now on, so the rate starts over.
            self.status.state().building = Some(Building::start(&building.generation, self.state.last));
            return Ok(BuildStep::More);
        }
        if page.to < page.last {
            return Ok(BuildStep::More);
        }
        self.swap()?;
        Ok(BuildStep::Swapped)
    }

    /// Shows the lag without applying anything.
    pub(super) fn look(&mut self) -> Result<(), ProjectionError> {
        self.publish();
        let Some(live) = &self.live else { return Ok(()) };
        if self.state.compatibility(&live.checkpoint, self.spec.version) == Compatibility::Current {
            let offset = live.checkpoint.position.offset;
            let page = self.source.page(offset, PageLimit { items: 1, ..PAGE_LIMIT })?;
            let since = page.events.first().map_or(self.clock.now(), |event| event.time);
            self.status.state().behind = behind(page.last - offset, since);
        }
        Ok(())
    }

    /// Writes the generations to the status.
    pub(super) fn publish(&self) {
        let mut state = self.status.state();
        state.current = self.live.as_ref().map(|live| Current {
            generation: live.number,
            version: live.checkpoint.version,
            offset: live.checkpoint.position.offset,
            tables: self.files.tables(live.number),
            output: self.files.output(live.number),
        });
        if self.building.is_none() {
            state.building = None;
        }
    }

    fn discard_incompatible(&mut self) -> Result<(), ProjectionError> {
        let version = self.spec.version;
        let live = self.live.as_ref().map(|live| self.state.compatibility(&live.checkpoint, version));
        let is_unfit = |build: &Build| !build.continues(&self.state, version);
        let was_unfit = self.building.as_ref().is_some_and(is_unfit);
        if was_unfit || (live != Some(Compatibility::Current) && self.building.is_none()) {
            let generation = self.begin()?;
            log::info!("projection {}: building generation {generation}", self.spec.name);
        }
        if live == Some(Compatibility::Foreign)
            && let Some(live) = self.live.take()
        {
            self.manifest.current = None;
            self.files.write_manifest(&self.manifest)?;
            // No reader must look for the files when they are gone.
            self.publish();
            self.files.remove(live.number);
        }
        Ok(())
    }

    /// Replaces the live generation by the one that was built.
    fn swap(&mut self) -> Result<(), ProjectionError> {
        let Some(Build { mut generation, .. }) = self.building.take() else { return Ok(()) };
        generation.checkpoint_wal()?;
        let before = self.live.take().map(|live| live.number);
        let oldest = std::mem::replace(&mut self.manifest.previous, before);
        self.manifest.current = Some(generation.number);
        self.manifest.building = None;
        log::info!("projection {}: generation {} is complete and served", self.spec.name, generation.number);
        self.live = Some(generation);
        self.erased = 0;
        self.files.write_manifest(&self.manifest)?;
        if let Some(oldest) = oldest {
            self.files.remove(oldest);
        }
        Ok(())
    }

    /// Once change events are pruned, erases what they changed or deleted: the files of the projection must not have the
    /// former name of a person for longer than the outbox.
    fn erase_deleted(&mut self) -> Result<(), ProjectionError> {
        let pruned = self.state.first;
        if !self.source.forgets() || pruned <= self.erased {
            return Ok(());
        }
        if let Some(previous) = self.manifest.previous
            && is_older(&self.files, previous, &self.state)
        {
            self.manifest.previous = None;
            self.files.write_manifest(&self.manifest)?;
            self.files.remove(previous);
        }
        if let Some(live) = &mut self.live
            && live.erase_deleted()?
        {
            self.erased = pruned;
        }
        Ok(())
    }
}

/// Whether a generation that is no longer served has data that is older than the events in the outbox.
fn is_older(files: &Files, generation: i64, state: &SourceState) -> bool {
    let checkpoint = open_read_only(&files.tables(generation)).map_err(ProjectionError::from);
    let checkpoint = checkpoint.and_then(|mut connection| read_checkpoint(&mut connection));
    let is_recent =
        |Checkpoint { position, .. }: Checkpoint| position.source == state.identity && position.offset >= state.first;
    !checkpoint.is_ok_and(is_recent)
}

/// Continues a build after a restart.
fn resume(generation: Generation, files: &Files) -> Result<Build, ProjectionError> {
    let path = files.snapshot(generation.number);
    if is_snapshot(&generation.checkpoint.position.source) {
        return Ok(Build { snapshot: Some(Snapshot::open(&path)?), generation });
    }
    super::manifest::remove_database(&path);
    Ok(Build { generation, snapshot: None })
}

impl Build {
    /// The next events.
    fn page(&mut self, source: &mut Source) -> Result<Page, ProjectionError> {
        let after = self.generation.checkpoint.position.offset;
        match &mut self.snapshot {
            Some(snapshot) => snapshot.page(source.registry(), after, PAGE_LIMIT),
            None => source.page(after, PAGE_LIMIT),
        }
    }

    /// The position when a page is applied. After the last page of the snapshot, the change events follow.
    fn position_after(&self, page: &Page, state: &SourceState) -> Position {
        match &self.snapshot {
            Some(snapshot) if page.to == snapshot.length => {
                Position { source: state.identity.clone(), offset: snapshot.revision.number() }
            }
            _ => Position { source: self.generation.checkpoint.position.source.clone(), offset: page.to },
        }
    }

    /// Whether the build can continue, or has to start over.
    fn continues(&self, state: &SourceState, version: i64) -> bool {
        let checkpoint = &self.generation.checkpoint;
        match &self.snapshot {
            Some(snapshot) => checkpoint.version == version && state.continues(snapshot),
            None => state.compatibility(checkpoint, version) == Compatibility::Current,
        }
    }
}

/// Applies a page of events. If one event cannot be applied, those before it are.
fn apply(
    generation: &mut Generation,
    spec: &ProjectionSpec,
    events: &[PageEvent],
    skipped: &[EventId],
    to: Position,
) -> Result<(), StepError> {
    let source = generation.checkpoint.position.source.clone();
    let Err(ApplyError { index, error }) = generation.apply(spec, events, skipped, to) else { return Ok(()) };
    let failed = events.get(index);
    // Events with one offset are applied together.
    let before = failed.map_or(&[][..], |failed| {
        let end = events.iter().position(|event| event.sequence == failed.sequence);
        &events[..end.unwrap_or_default()]
    });
    if let Some(last) = before.last() {
        let to = Position { source: source.clone(), offset: last.sequence };
        generation.apply(spec, before, skipped, to).map_err(|ApplyError { error, .. }| error)?;
    }
    let event = failed.map(|event| FailedEvent { id: event.id(&source), at: event.at });
    Err(StepError { event, generation: Some(generation.number), error })
}

fn progress(page: &Page) -> Progress {
    if page.to < page.last { Progress::More } else { Progress::Done }
}

fn behind(events: i64, since: Timestamp) -> Option<Behind> {
    (events > 0).then_some(Behind { events, since })
}

impl Building {
    /// The progress of a build that starts or continues now.
    fn start(generation: &Generation, total: i64) -> Self {
        let done = generation.checkpoint.position.offset;
        Self { generation: generation.number, done, total, started: Instant::now(), started_at: done }
    }
}
