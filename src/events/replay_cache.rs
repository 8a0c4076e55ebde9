//! Segments of the log as they are sent, in memory, shared by all who catch up: when the service or a proxy begins
//! anew, that is everybody at once, and all from about the same place.
//!
//! The log has cuts at the same revisions for all. What comes before the first cut is read for a consumer alone; from
//! there it goes on with what others read before it. Events never change, and so a segment never does.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::web::Bytes;

use crate::domain::collection::CollectionId;
use crate::domain::cursor::Revision;
use crate::domain::feed::Feed;
use crate::events::memory_budget::{MemoryBudget, Tracked};
use crate::events::sse::{Form, Messages};
use crate::storage::error::StoreError;
use crate::storage::page::PageLimit;
use crate::storage::reader::View;

/// The revisions between two cuts: half a page of small events.
const SEGMENT_REVISIONS: i64 = 512;

/// The longest segment, in bytes; longer events gain little from it.
const MAX_SEGMENT_BYTES: usize = 256 * 1024;

/// What a segment takes beside its text, in bytes, roughly.
const ENTRY_OVERHEAD: usize = 256;

/// What the longest segment takes: with less, there are none.
const MIN_BUDGET: usize = MAX_SEGMENT_BYTES + ENTRY_OVERHEAD;

/// The segments that are in memory.
pub(crate) struct ReplayCache {
    budget: Arc<MemoryBudget>,
    revisions: i64,
    kept: Mutex<Kept>,
}

/// The events of a feed between two cuts.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    text: Arc<Tracked>,
    /// The revision of the last of them, if there are any.
    pub(crate) last: Option<Revision>,
    /// The cut at its end.
    pub(crate) to: Revision,
    /// The events are too long: they are not in `text`.
    is_too_long: bool,
}

/// What comes next for a consumer.
pub(crate) enum Replay {
    /// A segment.
    Cached(Segment),
    /// What is read for it alone, up to this revision: another cut, or the last revision that there is.
    Read(Revision),
}

impl Segment {
    /// The events as they are sent.
    pub(crate) fn text(&self) -> Bytes {
        self.text.share()
    }
}

/// The whole document, or a collection; and the cut where a segment begins.
type Place = (Option<CollectionId>, Revision);

#[derive(Default)]
struct Kept {
    replay_cache: HashMap<Place, (u64, Segment)>,
    /// By the time of their last use, which is counted in uses.
    by_use: BTreeMap<u64, Place>,
    now: u64,
}

impl ReplayCache {
    /// For so many bytes, whoever holds them.
    pub(crate) fn new(limit: usize) -> Self {
        Self::between_cuts(limit, SEGMENT_REVISIONS)
    }

    pub(crate) fn between_cuts(limit: usize, revisions: i64) -> Self {
        Self { budget: MemoryBudget::new(limit), revisions, kept: Mutex::default() }
    }

    /// What comes next for a consumer of a feed that has everything up to `after`.
    pub(crate) fn next(
        &self,
        view: &mut View<'_>,
        (feed, form): (&Feed, &Form),
        (after, current): (Revision, Revision),
    ) -> Result<Replay, StoreError> {
        if !self.are_for(feed, form) {
            return Ok(Replay::Read(current));
        }
        let cut = Revision::from_raw((after.number() / self.revisions + 1).saturating_mul(self.revisions));
        if after.number() % self.revisions == 0
            && cut <= current
            && let Some(segment) = self.segment(view, (feed, form), (after, cut))?
        {
            return Ok(Replay::Cached(segment));
        }
        Ok(Replay::Read(cut.min(current)))
    }

    /// Whether there are segments of such a feed: one that many have in common, as a stream.
    fn are_for(&self, feed: &Feed, form: &Form) -> bool {
        let is_whole = matches!(feed, Feed::Everything(None) | Feed::Collection(_, None));
        self.budget.limit() >= MIN_BUDGET && is_whole && matches!(form, Form::Stream(_))
    }

    /// What a feed has between two cuts; `None` where that is too long, or there is no room.
    fn segment(
        &self,
        view: &mut View<'_>,
        (feed, form): (&Feed, &Form),
        (after, to): (Revision, Revision),
    ) -> Result<Option<Segment>, StoreError> {
        let place = (feed.collection(), after);
        let known = self.kept().get(place);
        let segment = match known {
            Some(segment) => Some(segment),
            None if self.make_room() => self.read(view, (feed, form), (after, to))?,
            None => None,
        };
        Ok(segment.inspect(|segment| self.kept().put(place, segment)).filter(|segment| !segment.is_too_long))
    }

    /// Nobody else waits meanwhile: two who miss the same segment at the same time both read it.
    fn read(
        &self,
        view: &mut View<'_>,
        (feed, form): (&Feed, &Form),
        (after, to): (Revision, Revision),
    ) -> Result<Option<Segment>, StoreError> {
        let registry = view.registry();
        let mut messages = Messages::new(form.clone());
        let limit = PageLimit { items: usize::MAX, bytes: MAX_SEGMENT_BYTES };
        let read = view.replay(feed, (after, to), limit, |revision, members| {
            messages.event(revision, |text| feed.write(text, registry, members.iter()));
        })?;
        let is_too_long = read < to || messages.text.len() > MAX_SEGMENT_BYTES;
        let (text, last) = if is_too_long { (String::new(), None) } else { (messages.text, messages.named) };
        let held = self.budget.reserve(text.into_bytes(), ENTRY_OVERHEAD).ok();
        Ok(held.map(|text| Segment { text: Arc::new(text), last, to, is_too_long }))
    }

    /// Lets go of what was not used for longest, if that makes room for the longest segment. What slow clients hold would
    /// not, and may as well be found by others.
    fn make_room(&self) -> bool {
        let (mut kept, mut free, mut useless) = (self.kept(), self.budget.free(), Vec::new());
        for (used, place) in &kept.by_use {
            if free >= MIN_BUDGET {
                break;
            }
            let text = kept.replay_cache.get(place).map(|(_, segment)| &segment.text);
            if let Some(text) = text.filter(|text| Arc::strong_count(text) == 1) {
                free += text.taken();
                useless.push((*used, *place));
            }
        }
        if free < MIN_BUDGET {
            return false;
        }
        for (used, place) in useless {
            kept.by_use.remove(&used);
            kept.replay_cache.remove(&place);
        }
        true
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics while looking something up")
    }
}

impl Kept {
    fn get(&self, place: Place) -> Option<Segment> {
        self.replay_cache.get(&place).map(|(_, segment)| segment.clone())
    }

    /// Keeps a segment as the one that was used last.
    fn put(&mut self, place: Place, segment: &Segment) {
        self.now += 1;
        self.by_use.insert(self.now, place);
        if let Some((before, _)) = self.replay_cache.insert(place, (self.now, segment.clone())) {
            self.by_use.remove(&before);
        }
    }
}
