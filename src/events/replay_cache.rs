//! Encoded segments of the log in memory, shared by all consumers that replay it: after a restart of the service or of a
//! proxy, all clients reconnect at once, from about the same cursor.
//!
//! The log is cut at the same revisions for all. Up to the first cut, a consumer reads for itself; from there on it gets
//! the segments that others have read. Events do not change, and so a segment does not, until some are overwritten: then all
//! segments are forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::web::Bytes;

use crate::domain::feed::Feed;
use crate::domain::key::CollectionId;
use crate::domain::revision::Revision;
use crate::events::sse::{Form, Messages};
use crate::memory::budget::{MemoryBudget, Tracked};
use crate::storage::error::StoreError;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::View;

/// The number of revisions between two cuts: half a page of small events.
const SEGMENT_REVISIONS: i64 = 512;

/// The longest segment, in bytes; longer events gain little from it.
const MAX_SEGMENT_BYTES: usize = 256 * 1024;

/// An estimate of what a segment takes beside its text, in bytes.
const ENTRY_OVERHEAD: usize = 256;

/// The longest segment: with a smaller budget, nothing is cached.
const MIN_BUDGET: usize = MAX_SEGMENT_BYTES + ENTRY_OVERHEAD;

/// The cached segments.
pub(crate) struct ReplayCache {
    budget: Arc<MemoryBudget>,
    revisions: i64,
    kept: Mutex<Kept>,
}

/// The events of a feed between two cuts.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    text: Arc<Tracked>,
    /// The revision of the last event, if there is one.
    pub(crate) last: Option<Revision>,
    /// The cut at its end.
    pub(crate) to: Revision,
    /// The events are too long, and not in `text`.
    is_too_long: bool,
}

/// What a consumer has and wants.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) feed: &'a Feed,
    pub(crate) form: &'a Form,
    pub(crate) span: Span,
    /// See [`Horizon::erasures`](crate::storage::counters::Horizon).
    pub(crate) erasures: i64,
}

/// What comes next for a consumer.
pub(crate) enum Replay {
    /// A segment.
    Cached(Segment),
    /// The consumer reads for itself up to this revision: another cut, or the last revision.
    Read(Revision),
}

impl Segment {
    /// The events as sent.
    pub(crate) fn text(&self) -> Bytes {
        self.text.share()
    }
}

/// The whole document or a collection, and the cut where a segment begins.
type Place = (Option<CollectionId>, Revision);

#[derive(Default)]
struct Kept {
    segments: HashMap<Place, (u64, Segment)>,
    /// In the order of their last use.
    by_use: BTreeMap<u64, Place>,
    now: u64,
    /// When the segments were read.
    erasures: i64,
}

impl ReplayCache {
    /// With a budget, against which segments count until their last holder drops them.
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self::between_cuts(budget, SEGMENT_REVISIONS)
    }

    pub(crate) fn between_cuts(budget: &Arc<MemoryBudget>, revisions: i64) -> Self {
        Self { budget: Arc::clone(budget), revisions, kept: Mutex::default() }
    }

    /// How a consumer of a feed that has everything up to `span.after` gets the next events, up to `span.to`.
    pub(crate) fn next(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Replay, StoreError> {
        let Wanted { feed, form, span, .. } = wanted;
        let Span { after, to: current } = span;
        if !self.are_for(feed, form) {
            return Ok(Replay::Read(span.to));
        }
        let cut = Revision::from_raw((after.number() / self.revisions + 1).saturating_mul(self.revisions));
        if after.number() % self.revisions == 0
            && cut <= current
            && let Some(segment) = self.segment(view, Wanted { span: Span { after, to: cut }, ..wanted })?
        {
            return Ok(Replay::Cached(segment));
        }
        Ok(Replay::Read(cut.min(current)))
    }

    /// Whether this feed is cached: a stream of a feed that many consumers share.
    fn are_for(&self, feed: &Feed, form: &Form) -> bool {
        let is_whole = matches!(feed, Feed::Everything(None) | Feed::Collection(_, None));
        self.budget.limit() >= MIN_BUDGET && is_whole && matches!(form, Form::Stream(_))
    }

    /// The events of a feed between two cuts; `None` if they are too long or do not fit into the budget.
    fn segment(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Option<Segment>, StoreError> {
        let Wanted { feed, form, span, erasures } = wanted;
        let place = (feed.collection(), span.after);
        let known = match self.kept().of(erasures) {
            Some(kept) => kept.get(place),
            // The consumer reads in a transaction from before something was overwritten.
            None => return Ok(None),
        };
        let segment = match known {
            Some(segment) => Some(segment),
            None if self.make_room() => self.read(view, (feed, form), span)?,
            None => None,
        };
        let put = |segment: &Segment| {
            if let Some(kept) = self.kept().of(erasures) {
                kept.put(place, segment);
            }
        };
        Ok(segment.inspect(put).filter(|segment| !segment.is_too_long))
    }

    /// Without a lock: two consumers that miss the same segment at the same time both read it.
    fn read(
        &self,
        view: &mut View<'_>,
        (feed, form): (&Feed, &Form),
        span: Span,
    ) -> Result<Option<Segment>, StoreError> {
        let registry = view.registry();
        let mut messages = Messages::new(form.clone());
        let limit = PageLimit { items: usize::MAX, bytes: MAX_SEGMENT_BYTES };
        let read = view.replay(feed, span, limit, |revision, members| {
            messages.event(revision, |text| feed.write(text, registry, members.iter()));
        })?;
        let is_too_long = read < span.to || messages.text.len() > MAX_SEGMENT_BYTES;
        let (text, last) = if is_too_long { (String::new(), None) } else { (messages.text, messages.last_id) };
        let held = self.budget.reserve(text.into_bytes(), ENTRY_OVERHEAD).ok();
        Ok(held.map(|text| Segment { text: Arc::new(text), last, to: span.to, is_too_long }))
    }

    /// Evicts the least recently used segments, if that makes room for the longest segment. Segments that slow clients hold
    /// stay: evicting them would free nothing.
    fn make_room(&self) -> bool {
        let (mut kept, mut free, mut evicted) = (self.kept(), self.budget.free(), Vec::new());
        for (used, place) in &kept.by_use {
            if free >= MIN_BUDGET {
                break;
            }
            let text = kept.segments.get(place).map(|(_, segment)| &segment.text);
            if let Some(text) = text.filter(|text| Arc::strong_count(text) == 1) {
                free += text.taken();
                evicted.push((*used, *place));
            }
        }
        if free < MIN_BUDGET {
            return false;
        }
        for (used, place) in evicted {
            kept.by_use.remove(&used);
            kept.segments.remove(&place);
        }
        true
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics during a lookup")
    }
}

impl Kept {
    /// The segments as they are after so many erasures; those that were read earlier are forgotten. `None` if there have been
    /// more.
    fn of(&mut self, erasures: i64) -> Option<&mut Self> {
        if erasures > self.erasures {
            *self = Self { now: self.now, erasures, ..Self::default() };
        }
        (erasures == self.erasures).then_some(self)
    }

    fn get(&self, place: Place) -> Option<Segment> {
        self.segments.get(&place).map(|(_, segment)| segment.clone())
    }

    /// Marks a segment as the last used one.
    fn put(&mut self, place: Place, segment: &Segment) {
        self.now += 1;
        self.by_use.insert(self.now, place);
        if let Some((before, _)) = self.segments.insert(place, (self.now, segment.clone())) {
            self.by_use.remove(&before);
        }
    }
}
