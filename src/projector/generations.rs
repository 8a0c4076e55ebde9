//! The generations of one projection: the live one, which applies new events, and the one that is being built, which
//! catches up and then replaces it.

use std::sync::Arc;
use std::time::Instant;

use super::event_page::{EventId, Page, PageEvent};
use super::generation::{ApplyError, Checkpoint, Events, Generation, Position, Remedy, read_checkpoint};
use super::history::KeptHistory;
use super::main_reader::MainReader;
use super::manifest::{Files, Manifest};
use super::snapshot::Snapshot;
use super::source::{Compatibility, Source, SourceState};
use super::source_id::{SourceId, SourceKind};
use super::status::{Behind, Building, Current, FailedEvent, Status, StepError};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::read_model::error::ProjectionError;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::connection::open_read_only;
use crate::storage::database::Database;
use crate::storage::page::{PageLimit, Progress};

/// What all background projections of a service use.
#[derive(Clone)]
pub(crate) struct ProjectorContext {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(super) history: Arc<KeptHistory>,
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
    /// How often something of the past was overwritten before it began: it has nothing of that. Not known after a restart.
    erasures: i64,
}

/// Where a build knows nothing of erasures.
const NO_ERASURES: i64 = -1;

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
        let reader = MainReader::open(&context.database, &context.registry)?;
        let mut source = Source::new(&spec, Arc::clone(&context.registry), &context.history, reader)?;
        let state = source.refresh(context.clock.now())?;
        let mut manifest = files.read_manifest()?;
        // Another history has other events in these places.
        manifest.skipped.retain(|event| event.belongs_to(&state.epochs));
        files.remove_unnamed(&manifest);
        // A generation that cannot be opened (the disk lost a file) is replaced by a new one. A file that is missing must
        // not be created, because it would be served while it is empty.
        let open = |number: i64| {
            let exists = files.tables(number).exists();
            exists.then(|| {
                Generation::open(&spec, &files, number, Position { source: state.id(), offset: 0, reached: None })
            })
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
        self.files.create_directory()?;
        self.discard_broken(Generation::check)?;
        self.discard_incompatible()?;
        self.overwrite_erased()?;
        self.publish();
        Ok(())
    }

    /// Gives up the generations whose database is damaged. Reads all of it.
    pub(super) fn discard_damaged(&mut self) -> Result<(), ProjectionError> {
        self.discard_broken(Generation::check_pages)
    }

    pub(super) fn is_building(&self) -> bool {
        self.building.is_some()
    }

    /// Starts to build a generation; one that was being built is given up. Returns its number.
    fn begin(&mut self) -> Result<i64, ProjectionError> {
        self.building = None;
        let given_up = self.manifest.building.take();
        let number = self.manifest.last + 1;
        self.manifest.building = Some(number);
        // Until it is known what it starts from.
        self.manifest.building_from = None;
        self.manifest.is_building_stained = false;
        self.manifest.last = number;
        self.files.write_manifest(&self.manifest)?;
        if let Some(given_up) = given_up {
            self.files.remove(given_up);
        }
        // A killed process may have left files of this number.
        self.files.remove(number);
        let snapshot = self.source.take_snapshot(&self.files.snapshot(number), self.clock.now())?;
        let kind = snapshot.as_ref().map_or(self.state.kind.clone(), |_| SourceKind::Snapshot);
        let reached = snapshot.as_ref().map_or(0, |snapshot| snapshot.revision.number());
        let beginning = Position { source: self.state.id_of(kind), offset: 0, reached: Some(reached) };
        let from = snapshot.as_ref().map_or(self.state.last, |snapshot| snapshot.revision.number());
        let generation = Generation::open(&self.spec, &self.files, number, beginning)?;
        self.manifest.building_from = Some(from);
        self.files.write_manifest(&self.manifest)?;
        let total = snapshot.as_ref().map_or(self.state.last, |snapshot| snapshot.length);
        self.publish();
        self.status.state().building = Some(Building::start(&generation, total));
        self.building = Some(Build { generation, snapshot, erasures: self.state.erasures });
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
        let offset = live.checkpoint.position.offset;
        let page = self.source.page(offset, PAGE_LIMIT)?;
        let since = page.events.first().map_or(self.clock.now(), |event| event.time);
        self.status.state().behind = behind(page.last - offset, since);
        if page.to == offset {
            return Ok(progress(&page));
        }
        let to = Position { source: self.state.id(), offset: page.to, reached: Some(page.reached) };
        self.expect_erasures(&page)?;
        if self.apply_to_live(&page, &to, ErasedEvents::Apply)? == Applied::NeedsRebuild {
            self.manifest.is_stained = true;
            self.files.write_manifest(&self.manifest)?;
            if self.building.is_none() {
                self.begin_without_erased()?;
            }
            self.apply_to_live(&page, &to, ErasedEvents::Ignore)?;
            return Ok(Progress::More);
        }
        self.overwrite_erased()?;
        self.status.state().behind = behind(page.last - page.to, since);
        Ok(progress(&page))
    }

    /// Applies a page of events to the generation that is being built. When it has all events, it becomes the live one.
    pub(super) fn advance_build(&mut self) -> Result<BuildStep, StepError> {
        let Some(building) = self.building.as_mut() else { return Ok(BuildStep::Nothing) };
        let page = building.page(&mut self.source)?;
        self.expect_erasures(&page)?;
        let Some(building) = self.building.as_mut() else { return Ok(BuildStep::Nothing) };
        let to = building.position_after(&page, &self.state);
        let is_new_source = to.source.kind != building.generation.checkpoint.position.source.kind;
        let is_resumed = self.status.state().building.is_none();
        if is_resumed {
            self.status.state().building = Some(Building::start(&building.generation, page.last));
        }
        // The offsets of a snapshot count something else, but it has nothing of what was erased before.
        let covered = self.manifest.building_from.unwrap_or(i64::MIN);
        let events = Events { events: &page.events, skipped: &self.manifest.skipped, covered };
        let mut applied = apply(&mut building.generation, &self.spec, events, &to);
        if matches!(applied, Ok(Applied::NeedsRebuild)) {
            self.manifest.is_building_stained = true;
            self.files.write_manifest(&self.manifest)?;
            let events = Events { events: &page.events, skipped: &self.manifest.skipped, covered: i64::MAX };
            applied = apply(&mut building.generation, &self.spec, events, &to);
        }
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
        state.is_erasing = self.manifest.is_erasing;
        let is_current = self.live.as_ref().is_some_and(|live| live.checkpoint.position.offset >= self.state.last);
        if is_current && self.building.is_none() && !state.is_erasing {
            state.erasures = state.erasures.max(self.state.erasures);
        }
        if self.building.is_none() {
            state.building = None;
        }
    }

    /// Gives up the generations that fail a check, so that others are built.
    fn discard_broken(
        &mut self,
        check: impl Fn(&mut Generation, &Files) -> Result<(), ProjectionError>,
    ) -> Result<(), ProjectionError> {
        let name = self.spec.name;
        let is_broken = |generation: &mut Generation| {
            let checked = check(generation, &self.files);
            checked.inspect_err(|error| log::error!("projection {name} is built again: {error}")).is_err()
        };
        let live = self.live.take_if(&is_broken);
        let build = self.building.take_if(|build| is_broken(&mut build.generation));
        if let Some(live) = live {
            self.give_up(&live)?;
        }
        if build.is_some() {
            self.begin()?;
        }
        Ok(())
    }

    /// Gives up the generation that was served, and removes its files.
    fn give_up(&mut self, live: &Generation) -> Result<(), ProjectionError> {
        self.manifest.current = None;
        // No reader must look for the files when they are gone.
        self.publish();
        self.files.write_manifest(&self.manifest)?;
        self.files.remove(live.number);
        Ok(())
    }

    fn discard_incompatible(&mut self) -> Result<(), ProjectionError> {
        let version = self.spec.version;
        let live = self.live.as_ref().map(|live| self.state.compatibility(&live.checkpoint, version));
        if live == Some(Compatibility::Foreign)
            && let Some(live) = self.live.take()
        {
            let (name, number) = (self.spec.name, live.number);
            log::warn!(
                "projection {name} is built again: generation {number} has events that the database does not have"
            );
            self.give_up(&live)?;
        }
        let is_current = live == Some(Compatibility::Current) && !self.manifest.is_stained;
        let is_unfit = |build: &Build| !build.continues(&self.state, version);
        if self.building.as_ref().map_or(!is_current, is_unfit) {
            let generation = self.begin()?;
            log::info!("projection {}: building generation {generation}", self.spec.name);
        }
        Ok(())
    }

    /// Replaces the live generation by the one that was built.
    fn swap(&mut self) -> Result<(), ProjectionError> {
        let Some(Build { mut generation, erasures, .. }) = self.building.take() else { return Ok(()) };
        generation.checkpoint_wal()?;
        let before = self.live.take().map(|live| live.number);
        let oldest = std::mem::replace(&mut self.manifest.previous, before);
        // What was served before has what was erased.
        let stained = if self.manifest.is_erasing { self.manifest.previous.take() } else { None };
        self.manifest.current = Some(generation.number);
        self.manifest.building = None;
        self.manifest.building_from = None;
        self.manifest.is_stained = std::mem::take(&mut self.manifest.is_building_stained);
        log::info!("projection {}: generation {} is complete and served", self.spec.name, generation.number);
        self.live = Some(generation);
        self.erased = 0;
        self.files.write_manifest(&self.manifest)?;
        for number in oldest.into_iter().chain(stained) {
            self.files.remove(number);
        }
        // Whoever waits for what was erased before it began need not wait for the next one.
        let mut state = self.status.state();
        state.erasures = state.erasures.max(erasures);
        drop(state);
        self.overwrite_erased()
    }

    /// Starts to build a generation that has nothing of what was erased up to now.
    fn begin_without_erased(&mut self) -> Result<(), ProjectionError> {
        self.state = self.source.refresh(self.clock.now())?;
        let generation = self.begin()?;
        log::info!("projection {}: building generation {generation} without what was erased", self.spec.name);
        Ok(())
    }

    /// Notes, before a page is applied, that it has an aggregate that was erased: a process that is killed has to go on with
    /// that. A generation that is no longer served goes.
    fn expect_erasures(&mut self, page: &Page) -> Result<(), ProjectionError> {
        let is_erased = page.events.iter().any(PageEvent::is_erasure);
        if !is_erased || self.manifest.is_erasing {
            return Ok(());
        }
        self.manifest.is_erasing = true;
        let previous = self.manifest.previous.take();
        self.files.write_manifest(&self.manifest)?;
        if let Some(previous) = previous {
            self.files.remove(previous);
        }
        Ok(())
    }

    /// Applies a page to the generation that is served.
    fn apply_to_live(&mut self, page: &Page, to: &Position, erased: ErasedEvents) -> Result<Applied, StepError> {
        let Some(live) = self.live.as_mut() else { return Ok(Applied::All) };
        let covered = match erased {
            ErasedEvents::Apply => i64::MIN,
            ErasedEvents::Ignore => i64::MAX,
        };
        let events = Events { events: &page.events, skipped: &self.manifest.skipped, covered };
        apply(live, &self.spec, events, to)
    }

    /// Overwrites what was erased in the files of the generation that is served, unless another one replaces it.
    fn overwrite_erased(&mut self) -> Result<(), ProjectionError> {
        if !self.manifest.is_erasing || self.manifest.is_stained || self.building.is_some() {
            return Ok(());
        }
        if let Some(live) = &mut self.live
            && live.overwrite_deleted()?
        {
            self.manifest.is_erasing = false;
            self.files.write_manifest(&self.manifest)?;
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
    !checkpoint.is_ok_and(|Checkpoint { position, .. }| state.is_recent(&position))
}

/// Continues a build after a restart.
fn resume(generation: Generation, files: &Files) -> Result<Build, ProjectionError> {
    let path = files.snapshot(generation.number);
    if generation.checkpoint.position.source.kind == SourceKind::Snapshot {
        return Ok(Build { snapshot: Some(Snapshot::open(&path)?), generation, erasures: NO_ERASURES });
    }
    super::manifest::remove_database(&path);
    Ok(Build { generation, snapshot: None, erasures: NO_ERASURES })
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
        let kind = match &self.snapshot {
            Some(snapshot) if page.to == snapshot.length => {
                let offset = snapshot.revision.number();
                return Position { source: state.id(), offset, reached: Some(offset) };
            }
            Some(_) => SourceKind::Snapshot,
            None => state.kind.clone(),
        };
        Position { source: state.id_of(kind), offset: page.to, reached: Some(page.reached) }
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

/// What becomes of the events in a page that say that an aggregate was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErasedEvents {
    Apply,
    /// Another generation without these aggregates will be served.
    Ignore,
}

/// Whether a page was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    All,
    /// Nothing was: the generation has something of an aggregate that was erased.
    NeedsRebuild,
}

/// Applies a page of events. If one event cannot be applied, those before it are.
fn apply(
    generation: &mut Generation,
    spec: &ProjectionSpec,
    events: Events<'_>,
    to: &Position,
) -> Result<Applied, StepError> {
    // The events are those of the current epoch, whatever the epoch of the last checkpoint.
    let source = SourceId { epoch: to.source.epoch.clone(), kind: generation.checkpoint.position.source.kind.clone() };
    let reached = to.reached;
    let Err(ApplyError { index, error, remedy }) = generation.apply(spec, events, to) else { return Ok(Applied::All) };
    if remedy == Remedy::Rebuild {
        return Ok(Applied::NeedsRebuild);
    }
    let page = events.events;
    let failed = page.get(index);
    // Events with one offset are applied together.
    let before = failed.map_or(&[][..], |failed| {
        let end = page.iter().position(|event| event.sequence == failed.sequence);
        &page[..end.unwrap_or_default()]
    });
    if let Some(last) = before.last() {
        let to = Position { source: source.clone(), offset: last.sequence, reached };
        let before = Events { events: before, ..events };
        generation.apply(spec, before, &to).map_err(|ApplyError { error, .. }| error)?;
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
