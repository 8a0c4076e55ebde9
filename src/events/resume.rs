//! What comes next for a consumer, wherever it stands: events of the log, or a catch-up from the state as it is.
//!
//! Whatever the position, merge patches alone bring the consumer to the state of now. Each step is read in one short
//! transaction, and says where the consumer stands after it, so that nothing is kept between steps.

use crate::domain::cursor::{Cursor, Epoch, Revision};
use crate::domain::feed::{Feed, Member, Presence};
use crate::events::replay_cache::{Replay, ReplayCache};
use crate::events::sse::{Form, Messages};
use crate::storage::aggregates::State;
use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::View;

/// Where a consumer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// It has everything up to here.
    Log(Revision),
    /// Of a catch-up, it has everything that last changed at or before `after`.
    State {
        after: Revision,
        /// Every deletion after this matters to it: it may have what was deleted.
        since: Revision,
    },
    /// It has something that is not ours: it has to start from nothing.
    Unknown,
}

/// How a consumer wants to be brought to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayMode {
    /// However it is done best.
    Auto,
    /// By a catch-up, even where the log would do.
    Compact,
    /// By every single event, or not at all.
    Strict,
}

/// What a consumer asks for.
#[derive(Debug, Clone)]
pub(crate) struct ResumeRequest {
    pub(crate) feed: Feed,
    pub(crate) position: Position,
    pub(crate) mode: ReplayMode,
    pub(crate) limit: PageLimit,
    pub(crate) form: Form,
    /// Whether it was told what the state is when nothing is there.
    pub(crate) sent_initial_state: bool,
    /// The log is replayed without another thought when it has no more revisions than this.
    pub(crate) replay_threshold: i64,
}

/// The revisions that are replayed rather than counted.
pub(crate) const REPLAY_THRESHOLD: i64 = 10_000;

/// A catch-up is much shorter than the log when it has this many times fewer aggregates than that has revisions.
const MUCH_SHORTER: i64 = 8;

/// The segments of a page, at most: a feed that few events concern must not keep a read transaction open for long.
const SEGMENTS: usize = 20;

/// What the consumer gets.
#[derive(Debug)]
pub(crate) enum ResumeReply {
    /// The next messages.
    Page(Page),
    /// Not every event since its position is here.
    Gone(Horizon),
}

/// The next messages, in order.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) messages: Messages,
    /// Where the consumer stands after them.
    pub(crate) position: Position,
    pub(crate) current: Revision,
    /// Whether the aggregate of the feed is there, once the consumer has everything.
    pub(crate) presence: Presence,
}

impl Page {
    /// Whether the consumer has everything that there is.
    pub(crate) fn is_last(&self) -> bool {
        self.position == Position::Log(self.current)
    }

    /// Adds a message, after which the consumer stands there, if that can be said.
    fn push_message(&mut self, position: Option<Position>, patch: &str) {
        let id = match &self.messages.form {
            Form::Stream(epoch) => position.and_then(|position| position.id(epoch)),
            Form::Array | Form::Lines => None,
        };
        self.messages.part(id.as_deref(), patch);
        self.messages.has_news |= position.is_some();
        if let Some(Position::Log(after)) = position {
            self.messages.named = Some(after);
        }
    }
}

impl Position {
    /// The place of a cursor in this life of the database.
    pub(crate) fn of(cursor: &Cursor, ours: &Epoch) -> Self {
        match cursor {
            Cursor::After { epoch, after } if epoch.as_ref().is_none_or(|epoch| epoch == ours) => Self::Log(*after),
            Cursor::Partial { epoch, after, since } if epoch == ours => Self::State { after: *after, since: *since },
            _ => Self::Unknown,
        }
    }

    /// The cursor that brings a consumer back here; a lost one has none.
    pub(crate) fn id(self, epoch: &Epoch) -> Option<String> {
        match self {
            Self::Log(after) => Some(format!("{epoch}.{after}")),
            Self::State { after, since } if after == since => Some(format!("{epoch}.{after}.partial")),
            Self::State { after, since } => Some(format!("{epoch}.{after}.partial.{since}")),
            Self::Unknown => None,
        }
    }

    /// Where to go on from, given what is retained.
    fn within(self, horizon: &Horizon) -> Self {
        match self {
            Self::Log(after) if after > horizon.current => Self::Unknown,
            Self::Log(after) if after >= horizon.pruned => self,
            Self::Log(after) => Self::State { after, since: after }.within(horizon),
            // Who has nothing yet misses no deletion.
            Self::State { after: Revision::ZERO, .. } => Self::State { after: Revision::ZERO, since: horizon.current },
            Self::State { after, since } if since >= horizon.forgotten && after <= horizon.current => self,
            _ => Self::Unknown,
        }
    }
}

/// The next step of a consumer.
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
    let mut step = Page { messages, position: place, current: horizon.current, presence: Presence::Present };
    match place {
        Position::Log(after) => replay(view, replay_cache, request, after, &mut step)?,
        _ if request.mode == ReplayMode::Strict => return Ok(ResumeReply::Gone(horizon)),
        Position::State { after, since } => catch_up(view, request, (after, since), &horizon, &mut step)?,
        Position::Unknown => {
            let nothing = (Revision::ZERO, horizon.current);
            step.push_message(Some(Position::State { after: Revision::ZERO, since: Revision::ZERO }), "null");
            catch_up(view, request, nothing, &horizon, &mut step)?;
        }
    }
    if let (true, Feed::Aggregate(collection, key)) = (step.is_last(), &request.feed)
        && !view.exists(*collection, key)?
    {
        step.presence = Presence::Absent;
    }
    Ok(ResumeReply::Page(step))
}

/// Whether a catch-up is asked for, or much shorter than what the log has after this revision.
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

/// Events of the log: from segments that others read before, where there are any.
fn replay(
    view: &mut View<'_>,
    replay_cache: &ReplayCache,
    request: &ResumeRequest,
    after: Revision,
    step: &mut Page,
) -> Result<(), StoreError> {
    if after == Revision::ZERO && !request.sent_initial_state {
        step.push_message(None, &request.feed.frame(view.registry()));
    }
    let (mut at, current) = (after, step.current);
    for _ in 0..SEGMENTS {
        match replay_cache.next(view, (&request.feed, &request.form), (at, current))? {
            Replay::Cached(segment) => {
                let text = segment.text();
                if at > after && step.messages.len() + text.len() > request.limit.bytes {
                    break;
                }
                step.messages.share(text, segment.last);
                at = segment.to;
            }
            Replay::Read(to) => {
                let (registry, messages) = (view.registry(), &mut step.messages);
                let limit = PageLimit { bytes: request.limit.bytes.saturating_sub(messages.len()), ..request.limit };
                at = view.replay(&request.feed, Span { after: at, to }, limit, |revision, members| {
                    messages.event(revision, |text| request.feed.write(text, registry, members.iter()));
                })?;
                if at < to {
                    break;
                }
            }
        }
        if at == current || step.messages.len() >= request.limit.bytes {
            break;
        }
    }
    step.position = Position::Log(at);
    Ok(())
}

/// Aggregates as they are: null first, since patches do not compose across a deletion and a new beginning, then whole.
fn catch_up(
    view: &mut View<'_>,
    request: &ResumeRequest,
    (after, since): (Revision, Revision),
    horizon: &Horizon,
    step: &mut Page,
) -> Result<(), StoreError> {
    let feed = &request.feed;
    let read = view.states(feed, after, request.limit)?;
    step.position = match read.to {
        None => Position::Log(step.current),
        // Past all deletions that are forgotten, it need not be known when the catch-up began.
        Some(after) if after >= horizon.forgotten => Position::State { after, since: after },
        Some(after) => Position::State { after, since },
    };
    // The document also has collections that have come to be since, whether anything is in them or not.
    if after == Revision::ZERO || matches!(feed, Feed::Everything(_)) {
        step.push_message(None, &feed.frame(view.registry()));
    }
    let all = feed.patch(view.registry(), read.states.iter().map(|state| member(state, "null")));
    let there = read.states.iter().filter_map(|state| Some(member(state, state.body.as_deref()?)));
    let there = feed.patch(view.registry(), there);
    match (all, there) {
        (Some(all), Some(there)) => {
            step.push_message(None, &all);
            step.push_message(Some(step.position), &there);
        }
        (Some(all), None) => step.push_message(Some(step.position), &all),
        (None, _) if step.is_last() => {
            let presence = match feed {
                Feed::Aggregate(collection, key) if !view.exists(*collection, key)? => Presence::Absent,
                _ => Presence::Present,
            };
            step.push_message(Some(step.position), feed.unchanged(presence));
        }
        (None, _) => {}
    }
    Ok(())
}

fn member<'a>(state: &'a State, patch: &'a str) -> Member<'a> {
    Member { collection: state.collection, key: state.key.as_str(), patch }
}
