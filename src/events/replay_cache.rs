//! Encoded segments of the log in memory, shared by all consumers that replay it: after a restart of the service or of a
//! proxy, all clients reconnect at once, from about the same cursor.
//!
//! The log is cut at the same revisions for all. Up to the first cut, a consumer reads for itself; from there on it gets
//! the segments that others have read, or are just reading. While the page of one that is far behind is read, another thread
//! reads what follows it. Events do not change, and so a segment does not, until some are overwritten: then all segments are
//! forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

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

/// A segment that another thread reads is waited for so long. It takes a few milliseconds, unless the database is hardly there.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the lock is never poisoned.
const NO_PANIC: &str = "no thread panics during a lookup";

/// An estimate of what a segment takes beside its text, in bytes.
const ENTRY_OVERHEAD: usize = 256;

/// The longest segment: with a smaller budget, nothing is cached.
const MIN_BUDGET: usize = MAX_SEGMENT_BYTES + ENTRY_OVERHEAD;

/// With a smaller budget, nothing is read ahead: what a consumer is about to get would be evicted for it. Two threads read four
/// segments each.
const MIN_BUDGET_AHEAD: usize = 2 * 4 * MIN_BUDGET;

/// The cached segments.
pub(crate) struct ReplayCache {
    budget: Arc<MemoryBudget>,
    revisions: i64,
    kept: Mutex<Kept>,
    /// Notified when some segments were read.
    read: Condvar,
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
    /// The bytes that a page of the consumer has room for.
    pub(crate) page_bytes: usize,
    /// See [`Horizon::erasures`](crate::storage::counters::Horizon).
    pub(crate) erasures: i64,
}

/// Who reads a segment.
enum Turn<'a> {
    /// It is known.
    Known(Segment),
    /// The caller does, and the segments after it.
    Read(Reading<'a>),
    /// Nobody: the caller reads in a transaction from before something was overwritten.
    Late,
}

/// Segments that a thread reads, until this is dropped.
struct Reading<'a> {
    cache: &'a ReplayCache,
    collection: Option<CollectionId>,
    /// The cuts before and after them.
    span: Span,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Self { cache, collection, span } = self;
        let mut kept = cache.kept();
        for begin in cache.begins(*span) {
            kept.being_read.remove(&(*collection, begin));
        }
        cache.read.notify_all();
    }
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
    being_read: HashSet<Place>,
    /// The first of the segments that were last to be read ahead.
    ahead: Option<Place>,
}

impl ReplayCache {
    /// With a budget, against which segments count until their last holder drops them.
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self::between_cuts(budget, SEGMENT_REVISIONS)
    }

    pub(crate) fn between_cuts(budget: &Arc<MemoryBudget>, revisions: i64) -> Self {
        Self { budget: Arc::clone(budget), revisions, kept: Mutex::default(), read: Condvar::new() }
    }

    /// How a consumer of a feed that has everything up to `span.after` gets the next events, up to `span.to`.
    pub(crate) fn next(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Replay, StoreError> {
        let Wanted { feed, form, span, .. } = wanted;
        let Span { after, to: current } = span;
        if !self.are_for(feed, form) {
            return Ok(Replay::Read(span.to));
        }
        let cut = self.cut_after(after);
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

    /// The segments that another thread can read while the next page of a stream is read, so that both processors work for a
    /// consumer that is far behind: those after the ones that are read for the page. `None` if there are none, or if the page
    /// is cached. They are returned once, so the caller has them read, see [`prepare`](Self::prepare).
    pub(crate) fn ahead(
        &self,
        feed: &Feed,
        form: &Form,
        Span { after, to: current }: Span,
        page_bytes: usize,
    ) -> Option<Span> {
        if !self.are_for(feed, form) || self.budget.limit() < MIN_BUDGET_AHEAD {
            return None;
        }
        let first = if after.number() % self.revisions == 0 { after } else { self.cut_after(after) };
        let mut kept = self.kept();
        let segments = kept.read_ahead(page_bytes);
        let cut = |number: i64| Revision::from_raw(first.number().saturating_add(self.revisions * number));
        let place = |number| (feed.collection(), cut(number));
        let is_known = |number| kept.is_known(place(number));
        let missing = (0..segments).find(|number| !is_known(*number))?;
        let (begin, end) = (missing + segments, missing + 2 * segments);
        if cut(end) > current || is_known(begin) || kept.ahead == Some(place(begin)) {
            return None;
        }
        kept.ahead = Some(place(begin));
        Some(Span { after: cut(begin), to: cut(end) })
    }

    /// Reads segments for consumers to come, unless they are known or another thread reads them.
    pub(crate) fn prepare(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<(), StoreError> {
        let place = (wanted.feed.collection(), wanted.span.after);
        if !self.kept().being_read.contains(&place) {
            self.segment(view, wanted)?;
        }
        Ok(())
    }

    /// The next segment; `None` if it is too long or does not fit into the budget. Those after it that the page
    /// needs are read with it.
    fn segment(&self, view: &mut View<'_>, wanted: Wanted<'_>) -> Result<Option<Segment>, StoreError> {
        let collection = wanted.feed.collection();
        let (segments, _reading) = match self.turn(wanted) {
            Turn::Known(segment) => (vec![segment], None),
            Turn::Read(reading) if self.make_room() => (self.read(view, wanted, reading.span)?, Some(reading)),
            Turn::Read(_) | Turn::Late => return Ok(None),
        };
        if let Some(kept) = self.kept().of(wanted.erasures) {
            for segment in &segments {
                let begin = Revision::from_raw(segment.to.number() - self.revisions);
                kept.put((collection, begin), segment);
            }
        }
        Ok(segments.into_iter().next().filter(|segment| !segment.is_too_long))
    }

    /// Who reads the next segment. If another thread does, it is waited for.
    fn turn(
        &self,
        Wanted { feed, span: Span { after, to: current }, page_bytes, erasures, .. }: Wanted<'_>,
    ) -> Turn<'_> {
        let collection = feed.collection();
        let waited = |kept: &mut Kept| kept.being_read.contains(&(collection, after));
        let (mut kept, _) = self.read.wait_timeout_while(self.kept(), PATIENCE, waited).expect(NO_PANIC);
        let Some(kept) = kept.of(erasures) else { return Turn::Late };
        if let Some(segment) = kept.get((collection, after)) {
            return Turn::Known(segment);
        }
        let there = (current.number() - after.number()) / self.revisions;
        let to = Revision::from_raw(after.number() + self.revisions * there.min(kept.read_ahead(page_bytes)));
        let new = self.begins(Span { after, to }).take_while(|begin| {
            // The first one may still be read by a thread that was waited for in vain.
            *begin == after || !kept.is_known((collection, *begin))
        });
        let new: Vec<_> = new.collect();
        kept.being_read.extend(new.iter().map(|begin| (collection, *begin)));
        let to = new.last().map_or(to, |last| self.cut_after(*last));
        Turn::Read(Reading { cache: self, collection, span: Span { after, to } })
    }

    /// Reads segments by one query; none if the first one does not fit into the budget.
    fn read(
        &self,
        view: &mut View<'_>,
        Wanted { feed, form, .. }: Wanted<'_>,
        span: Span,
    ) -> Result<Vec<Segment>, StoreError> {
        let cut = |number: i64| Revision::from_raw(span.after.number() + self.revisions * number);
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
        let complete = usize::try_from((read.number() - span.after.number()) / self.revisions).unwrap_or_default();
        segments.resize_with(complete.max(1), || Messages::new(form.clone()));
        let kept = segments.into_iter().zip(1..).map_while(|(Messages { text, last_id, .. }, number)| {
            let is_too_long = complete == 0 || text.len() > MAX_SEGMENT_BYTES;
            let (text, last) = if is_too_long { (String::new(), None) } else { (text, last_id) };
            let text = Arc::new(self.budget.reserve(text.into_bytes(), ENTRY_OVERHEAD).ok()?);
            Some(Segment { text, last, to: cut(number), is_too_long })
        });
        Ok(kept.collect())
    }

    /// The first cut after a revision.
    fn cut_after(&self, revision: Revision) -> Revision {
        Revision::from_raw((revision.number() / self.revisions + 1).saturating_mul(self.revisions))
    }

    /// The cuts where the segments between two cuts begin.
    fn begins(&self, Span { after, to }: Span) -> impl Iterator<Item = Revision> + use<> {
        let length = (to.number() - after.number()) / self.revisions;
        let revisions = self.revisions;
        (0..length).map(move |number| Revision::from_raw(after.number() + revisions * number))
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
        self.kept.lock().expect(NO_PANIC)
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
    fn read_ahead(&self, page_bytes: usize) -> i64 {
        let fit = self.length.map_or(0, |length| page_bytes / length.max(1));
        i64::try_from(fit).map_or(READ_AHEAD, |fit| (fit + 1).min(READ_AHEAD))
    }

    /// Whether somebody has read or reads a segment.
    fn is_known(&self, place: Place) -> bool {
        self.segments.contains_key(&place) || self.being_read.contains(&place)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const FEED: Feed = Feed::Everything(None);

    /// With a cut every ten revisions.
    fn cache() -> ReplayCache {
        ReplayCache::between_cuts(&MemoryBudget::new(4 << 20), 10)
    }

    fn form() -> Form {
        Form::Stream("4f9c21aa".parse().unwrap())
    }

    fn span(after: i64, to: i64) -> Span {
        Span { after: Revision::from_raw(after), to: Revision::from_raw(to) }
    }

    fn wanted(form: &Form, span: Span) -> Wanted<'_> {
        Wanted { feed: &FEED, form, span, page_bytes: 100, erasures: 0 }
    }

    /// Notes that a segment of 30 bytes was read, of which three fit into a page.
    fn put(cache: &ReplayCache, begin: i64) {
        let text = Arc::new(cache.budget.reserve(vec![0; 30], 0).unwrap());
        let to = Revision::from_raw(begin + 10);
        let segment = Segment { text, last: None, to, is_too_long: false };
        cache.kept().put((None, Revision::from_raw(begin)), &segment);
    }

    #[test]
    fn the_segments_after_those_that_a_page_reads_are_read_ahead_once() {
        let form = form();
        for (known, after, current, expected) in [
            // Nothing tells how long they are.
            (&[] as &[i64], 0, 100, Some(span(10, 20))),
            (&[], 3, 100, Some(span(20, 30))),
            // Three fit, and the next page begins with one that does not.
            (&[100], 0, 80, Some(span(40, 80))),
            // There are not so many yet.
            (&[100], 0, 79, None),
            // The page has the first one, and reads the others.
            (&[0], 0, 90, Some(span(50, 90))),
            // The page reads nothing.
            (&[0, 10, 20, 30], 0, 100, None),
            // They are known already.
            (&[40], 0, 100, None),
        ] {
            let cache = cache();
            known.iter().for_each(|begin| put(&cache, *begin));
            let ahead = || cache.ahead(&FEED, &form, span(after, current), 100);
            assert_eq!(ahead(), expected, "{known:?} {after} {current}");
            assert_eq!(ahead(), None, "another consumer has them read");
        }
        let filtered = Feed::Everything(Some([].into()));
        assert_eq!(cache().ahead(&filtered, &form, span(0, 100), 100), None);
        assert_eq!(cache().ahead(&FEED, &Form::Array, span(0, 100), 100), None);
    }

    #[test]
    fn a_segment_that_another_thread_reads_is_waited_for() {
        let (cache, is_read) = (cache(), AtomicBool::new(false));
        put(&cache, 30);
        let form = form();
        let Turn::Read(reading) = cache.turn(wanted(&form, span(0, 100))) else { panic!("nobody else reads it") };
        assert_eq!(reading.span, span(0, 30), "the segment after these is known");
        let (sender, begins) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                sender.send(()).unwrap();
                let turn = cache.turn(wanted(&form, span(20, 100)));
                assert!(is_read.load(Ordering::SeqCst), "it did not wait");
                matches!(turn, Turn::Known(segment) if segment.to == Revision::from_raw(30))
            });
            begins.recv().unwrap();
            put(&cache, 20);
            is_read.store(true, Ordering::SeqCst);
            drop(reading);
            assert!(waiting.join().unwrap());
        });
        // The others were not read, and nobody does.
        assert!(matches!(cache.turn(wanted(&form, span(0, 100))), Turn::Read(_)));
    }

    #[test]
    fn who_reads_from_before_an_erasure_neither_gets_nor_keeps_segments() {
        let (cache, form) = (cache(), form());
        put(&cache, 0);
        assert!(matches!(cache.turn(wanted(&form, span(0, 100))), Turn::Known(_)));
        let after = Wanted { erasures: 1, ..wanted(&form, span(0, 100)) };
        assert!(matches!(cache.turn(after), Turn::Read(_)));
        assert!(matches!(cache.turn(wanted(&form, span(0, 100))), Turn::Late));
    }
}
