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

/// The most segments that are read at once: those of a page of small events.
const READ_AHEAD: i64 = 4;

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
    /// The bytes that the consumer's page has room for.
    pub(crate) room: usize,
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
    /// The length of the segment that was read last, in bytes.
    length: Option<usize>,
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
            && let Some(segment) = self.segment(view, wanted)?
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

    /// The next segment; `None` if it is too long or does not fit into the budget. Those after it that the page
    /// needs are read with it.
    fn segment(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Option<Segment>, StoreError> {
        let Wanted { feed, span: Span { after, .. }, erasures, .. } = wanted;
        let collection = feed.collection();
        let known = match self.kept().of(erasures) {
            Some(kept) => kept.get((collection, after)),
            // The consumer reads in a transaction from before something was overwritten.
            None => return Ok(None),
        };
        let segments = match known {
            Some(segment) => vec![segment],
            None if self.make_room() => self.read(view, wanted)?,
            None => Vec::new(),
        };
        if let Some(kept) = self.kept().of(erasures) {
            for segment in &segments {
                let begin = Revision::from_raw(segment.to.number() - self.revisions);
                kept.put((collection, begin), segment);
            }
        }
        Ok(segments.into_iter().next().filter(|segment| !segment.is_too_long))
    }

    /// Reads the next segments by one query, as many as the page needs if they are as long as the one before them;
    /// none if the first one does not fit into the budget. Without a lock: two consumers that miss the same segment at the
    /// same time both read it.
    fn read(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Vec<Segment>, StoreError> {
        let Wanted { feed, form, span: Span { after, to: current }, room, .. } = wanted;
        let there = (current.number() - after.number()) / self.revisions;
        let cut = |number: i64| Revision::from_raw(after.number() + self.revisions * number);
        let span = Span { after, to: cut(there.min(self.kept().read_ahead(room))) };
        let limit = PageLimit { items: usize::MAX, bytes: MAX_SEGMENT_BYTES };
        let registry = view.registry();
        let (mut segments, mut end) = (vec![Messages::new(form.clone())], 1);
        let read = view.replay(feed, span, limit, |revision, members| {
            while revision > cut(end) {
                segments.push(Messages::new(form.clone()));
                end += 1;
            }
            if let Some(messages) = segments.last_mut() {
                messages.event(revision, |text| feed.write(text, registry, members.iter()));
            }
        })?;
        // One that was not read to its end is read again when it is the first one.
        let complete = usize::try_from((read.number() - after.number()) / self.revisions).unwrap_or_default();
        segments.resize_with(complete.max(1), || Messages::new(form.clone()));
        let kept = segments.into_iter().zip(1..).map_while(|(Messages { text, last_id, .. }, number)| {
            let is_too_long = complete == 0 || text.len() > MAX_SEGMENT_BYTES;
            let (text, last) = if is_too_long { (String::new(), None) } else { (text, last_id) };
            let text = Arc::new(self.budget.reserve(text.into_bytes(), ENTRY_OVERHEAD).ok()?);
            Some(Segment { text, last, to: cut(number), is_too_long })
        });
        Ok(kept.collect())
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

    /// How many segments a page probably has room for, and the one that it has no room for: it is the first of the next page.
    fn read_ahead(&self, room: usize) -> i64 {
        let fit = self.length.map_or(0, |length| room / length.max(1));
        i64::try_from(fit).map_or(READ_AHEAD, |fit| (fit + 1).min(READ_AHEAD))
    }

    fn get(&self, place: Place) -> Option<Segment> {
        self.segments.get(&place).map(|(_, segment)| segment.clone())
    }

    /// Marks a segment as the last used one.
    fn put(&mut self, place: Place, segment: &Segment) {
        self.now += 1;
        self.by_use.insert(self.now, place);
        self.length = Some(if segment.is_too_long { MAX_SEGMENT_BYTES } else { segment.text.taken() });
        if let Some((before, _)) = self.segments.insert(place, (self.now, segment.clone())) {
            self.by_use.remove(&before);
        }
    }
}
