//! The next page for a consumer at any position: events of the log, or a catch-up from the current state.
//!
//! From every position, merge patches alone bring the consumer to the current state. Each page is read in one short
//! transaction and contains the position after it, so nothing is kept between pages.

use crate::domain::cursor::Cursor;
use crate::domain::feed::{Feed, Member, Presence};
use crate::domain::history::History;
use crate::domain::revision::{Epoch, Revision};
use crate::events::replay_cache::{Replay, ReplayCache, Wanted};
use crate::events::sse::{Form, Messages};
use crate::storage::aggregates::State;
use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::View;

/// How much a consumer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Everything up to this revision.
    Log(Revision),
    /// The part of a catch-up that last changed at or before `after`.
    State {
        after: Revision,
        /// The consumer may still have aggregates that were deleted after this revision, so it must get those deletions.
        since: Revision,
        /// The last revision when the consumer got this part.
        at: Revision,
    },
    /// Something from another history, or older than what is known of deletions: the consumer has to start over.
    Unknown,
}

/// How a consumer wants to reach the current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayMode {
    /// By the shorter way.
    Auto,
    /// By a catch-up, even if the log has all events.
    Compact,
    /// By every single event, or by none.
    Strict,
}

/// The request for the next page.
#[derive(Debug, Clone)]
pub(crate) struct ResumeRequest {
    pub(crate) feed: Feed,
    pub(crate) position: Position,
    pub(crate) mode: ReplayMode,
    pub(crate) limit: PageLimit,
    pub(crate) form: Form,
    /// Whether the consumer has the state of an empty document.
    pub(crate) sent_initial_state: bool,
    /// Up to this many revisions are replayed without a check whether a catch-up is shorter.
    pub(crate) replay_threshold: i64,
}

/// The states of so many aggregates are looked up in no more time than a page takes.
const FEW_KEYS: usize = 10;

impl ResumeRequest {
    /// Whether the page may take much longer than others, when `current` is the last revision: changed aggregates have to
    /// be counted, or many of them looked up one by one.
    pub(crate) fn is_long(&self, current: Revision) -> bool {
        let is_far_behind = match self.position {
            Position::Log(after) => current.number() - after.number() > self.replay_threshold,
            Position::State { .. } | Position::Unknown => true,
        };
        match self.feed.number_of_keys() {
            _ if self.mode == ReplayMode::Strict => false,
            Some(keys) => keys > FEW_KEYS && (is_far_behind || self.mode == ReplayMode::Compact),
            None => is_far_behind && self.mode == ReplayMode::Auto && matches!(self.position, Position::Log(_)),
        }
    }
}

/// Counting the changed aggregates costs more than replaying this many revisions.
pub(crate) const REPLAY_THRESHOLD: i64 = 10_000;

/// A catch-up is preferred if it has this many times fewer aggregates than the log has revisions.
const MUCH_SHORTER: i64 = 8;

/// The most segments in a page: a feed with few events must not keep a read transaction open for long.
const MAX_SEGMENTS: usize = 20;

/// The reply to a request.
#[derive(Debug)]
pub(crate) enum ResumeReply {
    /// The next messages.
    Page(Page),
    /// Some events since the position have been pruned, and the consumer needs every one.
    Gone(Horizon),
}

/// The next messages, in order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) messages: Messages,
    /// The consumer's position after them.
    pub(crate) position: Position,
    pub(crate) current: Revision,
    /// Whether the aggregate of the feed exists, in the current state.
    pub(crate) presence: Presence,
    /// What begins with this page, unless the consumer goes on as before.
    pub(crate) begins: Option<Beginning>,
}

/// What a consumer gets instead of the events after its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The aggregates that have changed.
    CatchUp,
    /// Everything, after it has dropped what it had.
    Reset,
}

impl Beginning {
    fn of(requested: Position, place: Position) -> Option<Self> {
        match (requested, place) {
            (_, Position::Unknown) => Some(Self::Reset),
            (Position::Log(_), Position::State { .. }) => Some(Self::CatchUp),
            _ => None,
        }
    }
}

impl Page {
    /// Whether the consumer is up to date after this page.
    pub(crate) fn is_last(&self) -> bool {
        self.position == Position::Log(self.current)
    }

    /// Adds a message, and the consumer's position after it if there is one.
    fn push_message(&mut self, position: Option<Position>, patch: &str) {
        let id = match &self.messages.form {
            Form::Stream(epoch) => position.and_then(|position| position.id(epoch)),
            Form::Array | Form::Lines => None,
        };
        self.messages.part(id.as_deref(), patch);
        self.messages.has_news |= position.is_some();
        if let Some(Position::Log(after)) = position {
            self.messages.last_id = Some(after);
        }
    }
}

impl Position {
    /// Nothing yet.
    pub(crate) const NOTHING: Self = Self::State { after: Revision::ZERO, since: Revision::ZERO, at: Revision::ZERO };

    /// The position that a cursor means in this history.
    pub(crate) fn of(cursor: &Cursor, history: &History) -> Self {
        match cursor {
            Cursor::After { epoch: None, after } => Self::Log(*after),
            Cursor::After { epoch: Some(epoch), after } if history.has_revision(epoch, *after) => Self::Log(*after),
            Cursor::Partial { after: Revision::ZERO, .. } => Self::NOTHING,
            Cursor::Partial { epoch, after, since, at } => {
                // An aggregate that was read in a later revision, which this history does not have, would be skipped.
                // Only in the current epoch can that not have happened.
                let at = at.or((epoch == history.epoch()).then_some(*after));
                match at.filter(|at| history.has_revision(epoch, (*at).max(*after))) {
                    Some(at) => Self::State { after: *after, since: *since, at },
                    None => Self::Unknown,
                }
            }
            Cursor::After { .. } | Cursor::Foreign => Self::Unknown,
        }
    }

    /// The cursor for this position; an unknown position has none.
    pub(crate) fn id(self, epoch: &Epoch) -> Option<String> {
        match self {
            Self::Log(after) => Some(format!("{epoch}.{after}")),
            Self::NOTHING => Some(format!("{epoch}.0.partial")),
            Self::State { after, since, at } => Some(format!("{epoch}.{after}.partial.{since}.{at}")),
            Self::Unknown => None,
        }
    }

    /// The position to continue from, given what is retained.
    pub(crate) fn within(self, horizon: &Horizon) -> Self {
        match self {
            Self::Log(after) if after > horizon.current => Self::Unknown,
            Self::Log(after) if after >= horizon.pruned => self,
            Self::Log(after) => Self::State { after, since: after, at: horizon.current }.within(horizon),
            // A consumer that has nothing cannot miss a deletion.
            Self::State { after: Revision::ZERO, at, .. } => {
                Self::State { after: Revision::ZERO, since: horizon.current, at }
            }
            Self::State { after, since, at } if since >= horizon.forgotten && after.max(at) <= horizon.current => self,
            _ => Self::Unknown,
        }
    }
}

/// Reads the next page for a consumer.
pub(crate) fn resume(
    view: &mut View<'_>,
    replay_cache: &ReplayCache,
    request: &ResumeRequest,
) -> Result<ResumeReply, StoreError> {
    let horizon = view.horizon()?;
    let place = match request.position.within(&horizon) {
        Position::Log(after) if should_compact(view, request, after, &horizon)? => {
            Position::State { after, since: after, at: horizon.current }.within(&horizon)
        }
        place => place,
    };
    let messages = Messages::new(request.form.clone());
    let begins = Beginning::of(request.position, place);
    let mut page = Page { messages, position: place, current: horizon.current, presence: Presence::Present, begins };
    match place {
        Position::Log(_) => replay(view, replay_cache, request, &horizon, &mut page)?,
        _ if request.mode == ReplayMode::Strict => return Ok(ResumeReply::Gone(horizon)),
        Position::State { after, since, .. } => catch_up(view, request, CatchUp { after, since }, &horizon, &mut page)?,
        Position::Unknown => {
            page.push_message(Some(Position::NOTHING), "null");
            let everything = CatchUp { after: Revision::ZERO, since: horizon.current };
            catch_up(view, request, everything, &horizon, &mut page)?;
        }
    }
    if let (true, Feed::Aggregate(collection, key)) = (page.is_last(), &request.feed)
        && !view.exists(*collection, key)?
    {
        page.presence = Presence::Absent;
    }
    Ok(ResumeReply::Page(page))
}

/// Whether a catch-up was requested, or is much shorter than the log after this revision.
fn should_compact(
    view: &mut View<'_>,
    request: &ResumeRequest,
    after: Revision,
    horizon: &Horizon,
) -> Result<bool, StoreError> {
    let behind = horizon.current.number() - after.number();
    if behind == 0 || (after < horizon.forgotten && after != Revision::ZERO) {
        return Ok(false);
    }
    match request.mode {
        ReplayMode::Strict => Ok(false),
        ReplayMode::Compact => Ok(true),
        ReplayMode::Auto if behind <= request.replay_threshold => Ok(false),
        ReplayMode::Auto if request.feed.names_keys() => Ok(true),
        ReplayMode::Auto => {
            let few = behind / MUCH_SHORTER;
            Ok(!view.has_changed(after, few)?)
        }
    }
}

/// Adds events of the log, from cached segments where possible.
fn replay(
    view: &mut View<'_>,
    replay_cache: &ReplayCache,
    request: &ResumeRequest,
    horizon: &Horizon,
    page: &mut Page,
) -> Result<(), StoreError> {
    let Position::Log(after) = page.position else { return Ok(()) };
    if after == Revision::ZERO && !request.sent_initial_state {
        page.push_message(None, &request.feed.frame(view.registry()));
    }
    let (mut at, current) = (after, page.current);
    for _ in 0..MAX_SEGMENTS {
        let (feed, form, span) = (&request.feed, &request.form, Span { after: at, to: current });
        let (page_bytes, erasures) = (request.limit.bytes, horizon.erasures);
        match replay_cache.next(view, Wanted { feed, form, span, page_bytes, erasures })? {
            Replay::Cached(segment) => {
                let text = segment.text();
                if at > after && page.messages.len() + text.len() > request.limit.bytes {
                    break;
                }
                page.messages.share(text, segment.last);
                at = segment.to;
            }
            Replay::Read(to) => {
                let (registry, messages) = (view.registry(), &mut page.messages);
                let room = request.limit.bytes.saturating_sub(messages.len());
                let limit = PageLimit { bytes: room, ..request.limit };
                at = view.replay(&request.feed, Span { after: at, to }, limit, |revision, members| {
                    messages.event(revision, |text| request.feed.write(text, registry, members.iter()));
                })?;
                if at < to {
                    break;
                }
            }
        }
        if at == current || page.messages.len() >= request.limit.bytes {
            break;
        }
    }
    page.position = Position::Log(at);
    Ok(())
}

/// The rest of a catch-up.
#[derive(Debug, Clone, Copy)]
struct CatchUp {
    /// The aggregates that last changed after this revision are still to come.
    after: Revision,
    /// The consumer must get the deletions after this revision.
    since: Revision,
}

/// Adds aggregates in their current state: first null, because patches do not compose across a deletion and a new
/// creation, then the whole state.
fn catch_up(
    view: &mut View<'_>,
    request: &ResumeRequest,
    range: CatchUp,
    horizon: &Horizon,
    page: &mut Page,
) -> Result<(), StoreError> {
    let CatchUp { after, since } = range;
    let feed = &request.feed;
    let read = view.states(feed, Span { after, to: horizon.current }, request.limit)?;
    page.position = match read.to {
        None => Position::Log(page.current),
        // After the last forgotten deletion, the cursor need not contain the begin of the catch-up.
        Some(after) if after >= horizon.forgotten => Position::State { after, since: after, at: horizon.current },
        Some(after) => Position::State { after, since, at: horizon.current },
    };
    // The document may have new collections, which may be empty.
    if after == Revision::ZERO {
        page.push_message(None, &feed.frame(view.registry()));
    } else if matches!(feed, Feed::Everything(_)) {
        // Or it may have lost some.
        let dropped = view.dropped_after(since)?;
        page.push_message(None, &feed.frame_without(view.registry(), &dropped));
    }
    let all = feed.patch(view.registry(), read.states.iter().map(|state| member(state, "null")));
    let there = read.states.iter().filter_map(|state| Some(member(state, state.body.as_deref()?)));
    let there = feed.patch(view.registry(), there);
    match (all, there) {
        (Some(all), Some(there)) => {
            page.push_message(begun(range, horizon), &all);
            page.push_message(Some(page.position), &there);
        }
        (Some(all), None) => page.push_message(Some(page.position), &all),
        (None, _) if page.is_last() => {
            let presence = match feed {
                Feed::Aggregate(collection, key) if !view.exists(*collection, key)? => Presence::Absent,
                _ => Presence::Present,
            };
            page.push_message(Some(page.position), feed.unchanged(presence));
        }
        (None, _) => {}
    }
    Ok(())
}

/// Where a consumer is that got the null of a page, but not yet the state. The log could not bring it any further from its
/// former position; nor could a history that ended before this page, in which the aggregates did not change that it now
/// lacks.
fn begun(range: CatchUp, horizon: &Horizon) -> Option<Position> {
    let CatchUp { after, since } = range;
    (after != Revision::ZERO).then_some(Position::State { after, since, at: horizon.current })
}

fn member<'a>(state: &'a State, patch: &'a str) -> Member<'a> {
    Member { collection: state.collection, key: state.key.as_str(), patch }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::Person;
    use crate::domain::collection::Registry;
    use crate::domain::history::EpochStart;
    use crate::domain::key::Key;
    use crate::domain::revision::JournalPosition;
    use crate::domain::selection::Selection;
    use crate::memory::budget::MemoryBudget;

    fn state(after: i64, since: i64, at: i64) -> Position {
        let revision = Revision::from_raw;
        Position::State { after: revision(after), since: revision(since), at: revision(at) }
    }

    #[test]
    fn a_page_is_long_if_many_keys_are_looked_up_or_changes_are_counted() {
        let mut registry = Registry::default();
        registry.document::<Person>();
        let persons = registry.id("persons").unwrap();
        let all = Feed::Everything(None);
        let keys = |number: usize| {
            let keys: Vec<_> = (1..=number).map(|key| Key::from_db(&key.to_string())).collect();
            let keys = Selection::new(&keys, 0, &MemoryBudget::new(usize::MAX)).unwrap();
            Feed::Collection(persons, Some(keys))
        };
        let (near, far, part) =
            (Position::Log(Revision::from_raw(90_001)), Position::Log(Revision::ZERO), state(5, 5, 5));
        for (feed, position, mode, is_long) in [
            (all.clone(), near, ReplayMode::Auto, false),
            (all.clone(), far, ReplayMode::Auto, true),
            (all.clone(), far, ReplayMode::Strict, false),
            (all.clone(), far, ReplayMode::Compact, false),
            (all, part, ReplayMode::Auto, false),
            (keys(10), far, ReplayMode::Auto, false),
            (keys(11), far, ReplayMode::Auto, true),
            (keys(11), far, ReplayMode::Strict, false),
            (keys(11), near, ReplayMode::Auto, false),
            (keys(11), near, ReplayMode::Compact, true),
            (keys(11), part, ReplayMode::Auto, true),
            (keys(11), Position::Unknown, ReplayMode::Auto, true),
        ] {
            let request = ResumeRequest {
                feed: feed.clone(),
                position,
                mode,
                limit: PageLimit::PAGE,
                form: Form::Array,
                sent_initial_state: false,
                replay_threshold: REPLAY_THRESHOLD,
            };
            assert_eq!(request.is_long(Revision::from_raw(100_000)), is_long, "{feed:?} {position:?} {mode:?}");
        }
    }

    #[test]
    fn a_position_continues_where_nothing_is_missed() {
        let revision = Revision::from_raw;
        let log = |after| Position::Log(revision(after));
        let horizon = Horizon {
            current: revision(100),
            pruned: revision(50),
            forgotten: revision(20),
            erasures: 0,
            dropped: Revision::ZERO,
        };
        for (position, expected) in [
            // The log reaches back to the position.
            (log(100), log(100)),
            (log(50), log(50)),
            // It does not: a catch-up, as long as no tombstone since then is forgotten.
            (log(49), state(49, 49, 100)),
            (log(20), state(20, 20, 100)),
            (log(19), Position::Unknown),
            // Nothing was read yet, so no deletion can be missed.
            (log(0), state(0, 100, 100)),
            (Position::NOTHING, state(0, 100, 0)),
            // In the middle of a catch-up.
            (state(30, 30, 90), state(30, 30, 90)),
            (state(10, 30, 30), state(10, 30, 30)),
            (state(10, 10, 90), Position::Unknown),
            // From the future.
            (log(101), Position::Unknown),
            (state(101, 101, 101), Position::Unknown),
            (state(30, 30, 101), Position::Unknown),
            (Position::Unknown, Position::Unknown),
        ] {
            assert_eq!(position.within(&horizon), expected, "{position:?}");
        }
    }

    #[test]
    fn a_cursor_is_good_up_to_where_the_next_epoch_began() {
        let start = |name: &str, first| EpochStart {
            epoch: name.parse().unwrap(),
            first_revision: Revision::from_raw(first),
            first_position: JournalPosition::from_raw(1),
        };
        let history = History::new(vec![start("00000001", 1)], start("00000002", 10));
        let log = |after| Position::Log(Revision::from_raw(after));
        for (cursor, expected) in [
            ("00000001.9", log(9)),
            ("00000001.10", Position::Unknown),
            ("00000002.10", log(10)),
            // Only the database knows its last revision.
            ("00000002.99", log(99)),
            ("00000003.1", Position::Unknown),
            // Part of a catch-up, whose page was read while the epoch was ours.
            ("00000001.5.partial.3.9", state(5, 3, 9)),
            ("00000001.5.partial.3.10", Position::Unknown),
            ("00000002.5.partial.3.10", state(5, 3, 10)),
            // Nobody knows when its page was read.
            ("00000001.5.partial", Position::Unknown),
            ("00000001.5.partial.3", Position::Unknown),
            ("00000002.5.partial.3", state(5, 3, 5)),
            // Who has nothing can have nothing wrong.
            ("00000003.0.partial", Position::NOTHING),
        ] {
            assert_eq!(Position::of(&cursor.parse().unwrap(), &history), expected, "{cursor}");
        }
    }
}
