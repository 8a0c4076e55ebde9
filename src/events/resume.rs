//! The next page for a consumer at any position: events of the log, or a catch-up from the current state.
//!
//! From every position, merge patches alone bring the consumer to the current state. Each page is read in one short
//! transaction and contains the position after it, so nothing is kept between pages.

use crate::domain::cursor::Cursor;
use crate::domain::feed::{Feed, Member, Presence};
use crate::domain::revision::{Epoch, Revision};
use crate::events::replay_cache::{Replay, ReplayCache};
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
    /// The position that a cursor means in this epoch.
    pub(crate) fn of(cursor: &Cursor, ours: &Epoch) -> Self {
        match cursor {
            Cursor::After { epoch, after } if epoch.as_ref().is_none_or(|epoch| epoch == ours) => Self::Log(*after),
            Cursor::Partial { epoch, after, since } if epoch == ours => Self::State { after: *after, since: *since },
            _ => Self::Unknown,
        }
    }

    /// The cursor for this position; an unknown position has none.
    pub(crate) fn id(self, epoch: &Epoch) -> Option<String> {
        match self {
            Self::Log(after) => Some(format!("{epoch}.{after}")),
            Self::State { after, since } if after == since => Some(format!("{epoch}.{after}.partial")),
            Self::State { after, since } => Some(format!("{epoch}.{after}.partial.{since}")),
            Self::Unknown => None,
        }
    }

    /// The position to continue from, given what is retained.
    fn within(self, horizon: &Horizon) -> Self {
        match self {
            Self::Log(after) if after > horizon.current => Self::Unknown,
            Self::Log(after) if after >= horizon.pruned => self,
            Self::Log(after) => Self::State { after, since: after }.within(horizon),
            // A consumer that has nothing cannot miss a deletion.
            Self::State { after: Revision::ZERO, .. } => Self::State { after: Revision::ZERO, since: horizon.current },
            Self::State { after, since } if since >= horizon.forgotten && after <= horizon.current => self,
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
            Position::State { after, since: after }.within(&horizon)
        }
        place => place,
    };
    let messages = Messages::new(request.form.clone());
    let mut page = Page { messages, position: place, current: horizon.current, presence: Presence::Present };
    match place {
        Position::Log(after) => replay(view, replay_cache, request, after, &mut page)?,
        _ if request.mode == ReplayMode::Strict => return Ok(ResumeReply::Gone(horizon)),
        Position::State { after, since } => catch_up(view, request, CatchUp { after, since }, &horizon, &mut page)?,
        Position::Unknown => {
            page.push_message(Some(Position::State { after: Revision::ZERO, since: Revision::ZERO }), "null");
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
        ReplayMode::Auto if request.feed.keys().is_some() => Ok(true),
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
    after: Revision,
    page: &mut Page,
) -> Result<(), StoreError> {
    if after == Revision::ZERO && !request.sent_initial_state {
        page.push_message(None, &request.feed.frame(view.registry()));
    }
    let (mut at, current) = (after, page.current);
    for _ in 0..MAX_SEGMENTS {
        match replay_cache.next(view, (&request.feed, &request.form), Span { after: at, to: current })? {
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
                let limit = PageLimit { bytes: request.limit.bytes.saturating_sub(messages.len()), ..request.limit };
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
    let read = view.states(feed, after, request.limit)?;
    page.position = match read.to {
        None => Position::Log(page.current),
        // After the last forgotten deletion, the cursor need not contain the begin of the catch-up.
        Some(after) if after >= horizon.forgotten => Position::State { after, since: after },
        Some(after) => Position::State { after, since },
    };
    // The document may have new collections, which may be empty.
    if after == Revision::ZERO || matches!(feed, Feed::Everything(_)) {
        page.push_message(None, &feed.frame(view.registry()));
    }
    let all = feed.patch(view.registry(), read.states.iter().map(|state| member(state, "null")));
    let there = read.states.iter().filter_map(|state| Some(member(state, state.body.as_deref()?)));
    let there = feed.patch(view.registry(), there);
    match (all, there) {
        (Some(all), Some(there)) => {
            page.push_message(None, &all);
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

fn member<'a>(state: &'a State, patch: &'a str) -> Member<'a> {
    Member { collection: state.collection, key: state.key.as_str(), patch }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_continues_where_nothing_is_missed() {
        let revision = Revision::from_raw;
        let log = |after| Position::Log(revision(after));
        let state = |after, since| Position::State { after: revision(after), since: revision(since) };
        let horizon = Horizon { current: revision(100), pruned: revision(50), forgotten: revision(20) };
        for (position, expected) in [
            // The log reaches back to the position.
            (log(100), log(100)),
            (log(50), log(50)),
            // It does not: a catch-up, as long as no tombstone since then is forgotten.
            (log(49), state(49, 49)),
            (log(20), state(20, 20)),
            (log(19), Position::Unknown),
            // Nothing was read yet, so no deletion can be missed.
            (log(0), state(0, 100)),
            (state(0, 0), state(0, 100)),
            // In the middle of a catch-up.
            (state(30, 30), state(30, 30)),
            (state(10, 30), state(10, 30)),
            (state(10, 10), Position::Unknown),
            // From the future.
            (log(101), Position::Unknown),
            (state(101, 101), Position::Unknown),
            (Position::Unknown, Position::Unknown),
        ] {
            assert_eq!(position.within(&horizon), expected, "{position:?}");
        }
    }
}
