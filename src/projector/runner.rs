//! One projection in the background, step by step: the live generation takes what is new, and the one that is built
//! catches up with it. Plain functions: an actor calls them while the service runs, the command line when it does not.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::event_page::Item;
use super::generation::{Generation, Stopped};
use super::manifest::{Files, Pointer};
use super::source::Log;
use super::status::{Behind, Building, Current, Status};
use super::trouble::{Trouble, back_off, note};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::{CollectionId, Registry};
use crate::read_model::projection::{Projection, ProjectionError};
use crate::storage::database::Database;
use crate::storage::reader::Reader;

/// A projection in the background, its types erased.
pub(crate) trait Working: Send {
    /// Does some of what there is to do; the error is where it stops, and is in the status as well.
    fn step(&mut self) -> Result<Done, ()>;

    /// Sees how it is, and does nothing.
    fn look(&mut self) -> Result<(), ProjectionError>;

    /// Builds it anew, beside the generation that is read; the answer is how it is then.
    fn rebuild(&mut self) -> Result<Value, ProjectionError>;

    /// Leaves out the event that it stopped at.
    fn skip(&mut self, at: i64) -> Result<(), ProjectionError>;
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// There is more.
    Some,
    /// Everything was taken.
    All,
}

/// What a background projection is made of.
pub(crate) struct Parts {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) status: Status,
}

/// One projection in the background.
pub(super) struct Projecting<P: Projection> {
    parts: Parts,
    collections: Arc<[CollectionId]>,
    /// `None` until the first step, and after a failure of its own.
    open: Option<Open<P>>,
    /// How often building has failed at its place, and when it tries again: what is read goes on meanwhile.
    pause: Option<(u32, Instant)>,
    /// The same of the one that is read, while there is one that is built.
    live_pause: Option<(u32, Instant)>,
}

/// Its open files.
struct Open<P: Projection> {
    files: Files,
    pointer: Pointer,
    log: Log,
    identity: String,
    live: Option<Generation<P>>,
    building: Option<Generation<P>>,
}

/// Events that are taken in one transaction.
const AT_ONCE: usize = 2000;

impl<P: Projection> Projecting<P> {
    pub(super) fn new(parts: Parts) -> Result<Self, ProjectionError> {
        let known = |name: &&str| {
            parts
                .registry
                .id(name)
                .ok_or_else(|| ProjectionError::new(format!("{name} is no collection that is registered")))
        };
        let collections = P::COLLECTIONS.iter().map(known).collect::<Result<Vec<_>, _>>()?.into();
        Ok(Self { parts, collections, open: None, pause: None, live_pause: None })
    }

    fn open(&mut self) -> Result<&mut Open<P>, ProjectionError> {
        if self.open.is_none() {
            let files = Files::beside(self.parts.database.path(), P::NAME)?;
            let reader = Reader::open(&self.parts.database, Arc::clone(&self.parts.registry))?;
            let registry = Arc::clone(&self.parts.registry);
            let mut log = Log::open(P::FEED, Arc::clone(&self.collections), &files, reader, registry)?;
            let identity = log.refresh(self.parts.clock.now())?;
            let pointer = files.pointer()?;
            files.keep_only(&pointer);
            // One that cannot be opened (a disk that lost a file) is built anew.
            let open = |number: Option<i64>| {
                let opened = Generation::open(&files, number?, &identity);
                opened.inspect_err(|error| log::error!("projection {} is built anew: {error}", P::NAME)).ok()
            };
            // One that is read was made; what is missing of it would be made anew, and read while it is empty.
            let made = pointer.current.filter(|number| files.tables(*number).exists());
            let (live, building) = (open(made), open(pointer.building));
            self.open = Some(Open { files, pointer, log, identity, live, building });
        }
        self.open.as_mut().ok_or_else(|| ProjectionError::new("its files are not open"))
    }

    fn try_step(&mut self) -> Result<Done, Trouble> {
        let now = self.parts.clock.now();
        let is_now = |pause: Option<(u32, Instant)>| pause.is_some_and(|(_, until)| until > Instant::now());
        let (is_pausing, is_live_pausing) = (is_now(self.pause), is_now(self.live_pause));
        let status = self.parts.status.clone();
        let open = self.open()?;
        open.identity = open.log.refresh(now)?;
        open.discard_strangers(&status)?;
        open.tell(&status);
        let is_live_waiting = is_live_pausing && open.building.is_some() && !is_pausing;
        let mut live = if is_live_waiting { Ok(Done::All) } else { open.go_on(&status, now) };
        let (was_built, mut done) = (open.building.is_some(), Done::All);
        if !is_pausing {
            // What is read may stand still while the one that is built does not, and the other way round.
            match open.build(&status) {
                Ok(built) => {
                    self.pause = None;
                    done = built;
                    // What is wrong with the one that was read until now does not matter any more.
                    if was_built && built == Done::All {
                        (live, self.live_pause, done) = (Ok(Done::Some), None, Done::Some);
                    }
                    if live.is_ok() && self.live_pause.is_none() {
                        status.state().failure = None;
                    }
                }
                Err(trouble) => {
                    let attempts = self.pause.map_or(0, |(attempts, _)| attempts);
                    self.pause = Some((attempts + 1, Instant::now() + back_off(attempts)));
                    // What failed by itself is opened again.
                    if trouble.event.is_none() {
                        self.open = None;
                    }
                    note(&status, trouble);
                }
            }
        }
        if let Some(open) = &self.open {
            open.tell(&status);
        }
        match live {
            // The one that is built does not wait for it.
            Err(trouble) if done == Done::Some && trouble.event.is_some() => {
                let attempts = self.live_pause.map_or(0, |(attempts, _)| attempts);
                self.live_pause = Some((attempts + 1, Instant::now() + back_off(attempts)));
                note(&status, trouble);
                Ok(Done::Some)
            }
            live => {
                let taken = live?;
                if !is_live_waiting {
                    self.live_pause = None;
                }
                Ok(if taken == Done::Some { Done::Some } else { done })
            }
        }
    }
}

impl<P: Projection> Working for Projecting<P>
where
    Generation<P>: Send,
{
    fn step(&mut self) -> Result<Done, ()> {
        match self.try_step() {
            Ok(done) => Ok(done),
            Err(trouble) => {
                // What failed by itself is opened again.
                if trouble.event.is_none() {
                    self.open = None;
                }
                note(&self.parts.status, trouble);
                Err(())
            }
        }
    }

    fn look(&mut self) -> Result<(), ProjectionError> {
        let (status, now) = (self.parts.status.clone(), self.parts.clock.now());
        let open = self.open()?;
        open.tell(&status);
        if let Some(live) = &open.live {
            let page = open.log.page(live.checkpoint.place, 1)?;
            let since = page.items.first().map_or(now, |item| item.time);
            let events = page.last - live.checkpoint.place;
            status.state().behind = (events > 0).then_some(Behind { events, since });
        }
        Ok(())
    }

    fn rebuild(&mut self) -> Result<Value, ProjectionError> {
        let status = self.parts.status.clone();
        let open = self.open()?;
        open.begin()?;
        let total = open.log.page(0, 1)?.last;
        open.tell(&status);
        // Who asks from now on is told that it has begun, and not what was wrong with one that is given up.
        let generation = open.pointer.last;
        let mut state = status.state();
        state.building = Some(Building { generation, done: 0, total, since: (Instant::now(), 0) });
        let read = state.current.as_ref().map(|current| current.generation);
        state.failure =
            state.failure.take().filter(|failure| failure.generation.is_some() && failure.generation == read);
        drop(state);
        self.pause = None;
        Ok(status.told(self.parts.clock.now()))
    }

    fn skip(&mut self, at: i64) -> Result<(), ProjectionError> {
        let failing = self.parts.status.state().failure.as_ref().and_then(|failure| failure.event);
        let Some((place, _)) = failing.filter(|(_, failing)| *failing == at) else {
            return Err(ProjectionError::new(format!("it does not stop at {at}")));
        };
        let open = self.open()?;
        let mut pointer = open.pointer.clone();
        pointer.skipped.push((open.identity.clone(), place));
        open.files.point(&pointer)?;
        open.pointer = pointer;
        log::warn!("projection {}: the event at {at} is left out, as was asked for", P::NAME);
        self.pause = None;
        Ok(())
    }
}

impl<P: Projection> Open<P> {
    /// A generation of another log (another life of the database, an archive that began anew, a copy that is older) has
    /// nothing to go on from.
    fn discard_strangers(&mut self, status: &Status) -> Result<(), ProjectionError> {
        let last = self.log.last()?;
        let is_ours = |generation: &Generation<P>| {
            generation.checkpoint.log == self.identity && generation.checkpoint.place <= last
        };
        let building_is_ours = self
            .building
            .as_ref()
            .is_some_and(|building| is_ours(building) && building.checkpoint.version == P::VERSION);
        let live_is_ours = self.live.as_ref().is_some_and(is_ours);
        let live_is_right =
            live_is_ours && self.live.as_ref().is_some_and(|live| live.checkpoint.version == P::VERSION);
        if (self.building.is_some() && !building_is_ours) || (!live_is_right && self.building.is_none()) {
            self.begin()?;
        }
        if !live_is_ours && let Some(live) = self.live.take() {
            self.pointer.current = None;
            self.files.point(&self.pointer)?;
            // Nobody is to look for it when it is gone.
            self.tell(status);
            self.files.remove(live.number);
        }
        Ok(())
    }

    /// Begins to build another generation; one that was being built is given up.
    fn begin(&mut self) -> Result<(), ProjectionError> {
        let given_up = self.building.take().map(|building| building.number);
        let number = self.pointer.last + 1;
        self.pointer.skipped.retain(|(log, _)| *log == self.identity);
        (self.pointer.building, self.pointer.last) = (Some(number), number);
        self.files.point(&self.pointer)?;
        if let Some(given_up) = given_up {
            self.files.remove(given_up);
        }
        // What a killed one may have left under this number.
        self.files.remove(number);
        self.building = Some(Generation::open(&self.files, number, &self.identity)?);
        Ok(())
    }

    /// The places of the events that are left out.
    fn skipped(&self) -> Vec<i64> {
        let ours = self.pointer.skipped.iter().filter(|(log, _)| *log == self.identity);
        ours.map(|(_, place)| *place).collect()
    }

    /// Has the generation that is read take a page; one that another rule made takes nothing more.
    fn go_on(&mut self, status: &Status, now: Timestamp) -> Result<Done, Trouble> {
        let skipped = self.skipped();
        let Some(live) = self.live.as_mut().filter(|live| live.checkpoint.version == P::VERSION) else {
            return Ok(Done::All);
        };
        let page = self.log.page(live.checkpoint.place, AT_ONCE)?;
        let since = page.items.first().map_or(now, |item| item.time);
        let behind = |events: i64| (events > 0).then_some(Behind { events, since });
        status.state().behind = behind(page.last - live.checkpoint.place);
        if page.to == live.checkpoint.place {
            return Ok(Done::All);
        }
        take(live, &page.items, &skipped, page.to)?;
        status.state().behind = behind(page.last - page.to);
        Ok(if page.to < page.last { Done::Some } else { Done::All })
    }

    /// Has the generation that is built take a page; when it has everything, it is the one that is read.
    fn build(&mut self, status: &Status) -> Result<Done, Trouble> {
        let skipped = self.skipped();
        let Some(building) = &mut self.building else { return Ok(Done::All) };
        let before = building.checkpoint.place;
        let page = self.log.page(before, AT_ONCE)?;
        let taken = take(building, &page.items, &skipped, page.to);
        let (generation, done, total) = (building.number, building.checkpoint.place, page.last);
        let mut state = status.state();
        let known = state.building.as_ref().filter(|known| known.generation == generation);
        let since = known.map_or_else(|| (Instant::now(), before), |known| known.since);
        state.building = Some(Building { generation, done, total, since });
        drop(state);
        taken?;
        if page.to < page.last {
            return Ok(Done::Some);
        }
        self.swap()?;
        log::info!("projection {}: generation {generation} was built, and is read now", P::NAME);
        Ok(Done::All)
    }

    /// The generation that was built is the one that is read.
    fn swap(&mut self) -> Result<(), ProjectionError> {
        let Some(mut built) = self.building.take() else { return Ok(()) };
        built.settle()?;
        let before = self.live.take().map(|live| live.number);
        let oldest = std::mem::replace(&mut self.pointer.previous, before);
        (self.pointer.current, self.pointer.building) = (Some(built.number), None);
        self.live = Some(built);
        self.files.point(&self.pointer)?;
        if let Some(oldest) = oldest {
            self.files.remove(oldest);
        }
        Ok(())
    }

    fn tell(&self, status: &Status) {
        let mut state = status.state();
        state.current = self.live.as_ref().map(|live| Current {
            generation: live.number,
            version: live.checkpoint.version,
            place: live.checkpoint.place,
            tables: self.files.tables(live.number),
            output: self.files.output(live.number),
        });
        if self.building.is_none() {
            state.building = None;
        }
    }
}

/// Has a generation take a page; if one event cannot be taken, those before it are.
fn take<P: Projection>(
    generation: &mut Generation<P>,
    items: &[Item],
    skipped: &[i64],
    to: i64,
) -> Result<(), Trouble> {
    let stopped = match generation.take(items, skipped, to) {
        Err(stopped) => stopped,
        Ok(()) => return Ok(()),
    };
    let Stopped { index, error } = stopped;
    if let Some(last) = index.checked_sub(1).and_then(|last| items.get(last)) {
        generation.take(&items[..index], skipped, last.place).map_err(|stopped| stopped.error)?;
    }
    let event = items.get(index).map(|item| (item.place, item.at));
    Err(Trouble { event, generation: Some(generation.number), error })
}
