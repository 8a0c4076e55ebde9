//! The actor of one SSE client, from the first byte of its stream to the last.
//!
//! It brings the client from its cursor to now, page by page, and then lets the hub of its thread deliver live events. When
//! the client is too slow, the hub parks it, and the session reads on from the outbox once the queue has drained. It gets
//! a message when its state changes, never for an event.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::WeakRecipient;
use actix::prelude::*;

use super::hub::{Added, LiveSubscribers, Park};
use super::send_queue::SendQueue;
use super::stream_limiter::Permit;
use crate::domain::error_chain::ErrorChain;
use crate::domain::feed::Feed;
use crate::events::resume::{Page, Position, ReplayMode, ResumeReply, ResumeRequest};
use crate::events::sse::Form;
use crate::memory::budget::BudgetExceeded;
use crate::metrics::{Gauge, Held};
use crate::read::pool::PageReaders;
use crate::read::thread_pool::PoolStopped;
use crate::storage::error::StoreError;
use crate::storage::page::PageLimit;
use crate::write::attention::Following;
use crate::write::committed_revision::CommittedRevision;

/// How long a session waits for memory before it tries again.
const PAUSE: Duration = Duration::from_millis(200);

/// One SSE client.
pub(crate) struct Session {
    subscription: Subscription,
    readers: PageReaders,
    committed: Arc<CommittedRevision>,
    _running: Running,
    parked: Parked,
    /// Released when the session ends.
    _permit: Permit,
}

/// What a session works with.
pub(crate) struct SessionConfig {
    pub(crate) readers: PageReaders,
    pub(crate) committed: Arc<CommittedRevision>,
    pub(crate) permit: Permit,
    /// The number of sessions that run in the service.
    pub(crate) running: Arc<AtomicUsize>,
    /// The number of parked sessions.
    pub(crate) parked: Arc<Gauge>,
}

impl Session {
    /// Starts the session of a client whose first page has been read.
    pub(crate) fn start(subscription: Subscription, first: ResumeReply, config: SessionConfig) -> Addr<Self> {
        let SessionConfig { readers, committed, permit, running, parked } = config;
        Self::create(|ctx| {
            let parked = Parked { gauge: parked, held: None };
            let mut session =
                Self { subscription, readers, committed, _running: Running::count(running), parked, _permit: permit };
            session.accept(first, ctx);
            session
        })
    }

    /// Sends a page. After the last one the stream goes live.
    fn accept(&mut self, reply: ResumeReply, ctx: &mut Context<Self>) {
        let accepted = self.subscription.accept(reply, Some(ctx.address().downgrade().recipient()));
        if accepted == Accepted::NoMemory {
            ctx.run_later(PAUSE, Self::read_on);
        }
        self.parked.count(self.subscription.state);
    }

    /// Reads the next page, as soon as there is memory for it.
    fn read_on(&mut self, ctx: &mut Context<Self>) {
        if self.subscription.queue.reserve_page().is_err() {
            self.subscription.state = State::Parked;
            self.parked.count(State::Parked);
            ctx.run_later(PAUSE, Self::read_on);
            return;
        }
        let reply = self.readers.send(self.subscription.next_request(), self.committed.get());
        ctx.spawn(reply.into_actor(self).map(|reply, session, ctx| session.on_reply(reply, ctx)));
    }

    fn on_reply(&mut self, reply: Result<Result<ResumeReply, StoreError>, PoolStopped>, ctx: &mut Context<Self>) {
        match reply {
            Ok(Ok(reply)) => self.accept(reply, ctx),
            Ok(Err(error)) => {
                // If nothing can be read, that is in the log already, once and not for each stream.
                if !error.is_of_file() {
                    log::error!("a stream ends, because its next page cannot be read: {}", ErrorChain(&error));
                }
                self.subscription.queue.end();
            }
            // The readers have stopped: the service stops.
            Err(_) => self.subscription.queue.end(),
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}

/// Counts an actor for as long as it lives.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn count(running: Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a session while it is parked.
struct Parked {
    gauge: Arc<Gauge>,
    held: Option<Held>,
}

impl Parked {
    fn count(&mut self, state: State) {
        match state {
            State::Parked => _ = self.held.get_or_insert_with(|| self.gauge.hold(1)),
            State::CatchingUp | State::Live => self.held = None,
        }
    }
}

impl Handler<Park> for Session {
    type Result = ();

    fn handle(&mut self, _: Park, _: &mut Self::Context) {
        self.subscription.state = State::Parked;
        self.parked.count(State::Parked);
    }
}

/// The client has taken enough of its queue that the next page has room.
pub(crate) struct Drained;

impl Message for Drained {
    type Result = ();
}

impl Handler<Drained> for Session {
    type Result = ();

    fn handle(&mut self, _: Drained, ctx: &mut Self::Context) {
        self.read_on(ctx);
    }
}

/// The client has disconnected, or its stream has ended.
pub(crate) struct Disconnected;

impl Message for Disconnected {
    type Result = ();
}

impl Handler<Disconnected> for Session {
    type Result = ();

    fn handle(&mut self, _: Disconnected, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// What a client follows, and how far it has got: the state machine of a session, without its actor.
pub(crate) struct Subscription {
    pub(crate) feed: Feed,
    pub(crate) form: Form,
    pub(crate) mode: ReplayMode,
    /// The number of revisions that are replayed without a check whether a catch-up is shorter.
    pub(crate) replay_threshold: i64,
    /// Whether the state of an empty document has been sent.
    pub(crate) sent_initial_state: bool,
    pub(crate) limit: PageLimit,
    pub(crate) position: Position,
    pub(crate) state: State,
    pub(crate) queue: Rc<SendQueue>,
    pub(crate) subscribers: Rc<RefCell<LiveSubscribers>>,
    /// Since before the first page was read.
    pub(crate) _following: Following,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It is on its way.
    All,
    /// It was dropped, and has to be read again later.
    NoMemory,
}

/// How a stream gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The session reads pages.
    CatchingUp,
    /// The hub delivers.
    Live,
    /// Nobody delivers until the queue has drained.
    Parked,
}

impl Subscription {
    /// The request for the next page.
    pub(crate) fn next_request(&self) -> ResumeRequest {
        let position = match self.position {
            // The hub may have brought a live stream further.
            Position::Log(after) => Position::Log(after.max(self.queue.sent_up_to())),
            other => other,
        };
        ResumeRequest {
            feed: self.feed.clone(),
            position,
            mode: self.mode,
            limit: self.limit,
            form: self.form.clone(),
            sent_initial_state: self.sent_initial_state,
            replay_threshold: self.replay_threshold,
        }
    }

    /// Sends a page, and decides who brings the next events: the hub, or the session when the queue has drained.
    pub(crate) fn accept(&mut self, reply: ResumeReply, session: Option<WeakRecipient<Park>>) -> Accepted {
        let ResumeReply::Page(page) = reply else {
            // Pruning has overtaken a client that needs every event. It gets the 410 when it reconnects.
            self.queue.end();
            return Accepted::All;
        };
        let is_last = page.is_last();
        let presence = page.presence;
        if self.send(page).is_err() {
            self.state = State::Parked;
            return Accepted::NoMemory;
        }
        if !is_last {
            self.state = State::CatchingUp;
            self.queue.notify_when_drained();
            return Accepted::All;
        }
        self.queue.set_last_id(self.queue.last_id(), presence);
        let added = self.subscribers.borrow_mut().add(self.feed.clone(), &self.queue, session);
        match added {
            Added::Live => self.state = State::Live,
            Added::Behind => {
                self.state = State::Parked;
                self.queue.notify_when_drained();
            }
            Added::Stopping => self.queue.end(),
        }
        Accepted::All
    }

    /// Puts the messages of a page into the queue and moves on.
    ///
    /// # Errors
    /// There is no memory for them. Nothing has changed.
    fn send(&mut self, page: Page) -> Result<(), BudgetExceeded> {
        let last_id = page.messages.last_id;
        let (shared, own) = page.messages.into_parts();
        self.queue.push_page(shared, own)?;
        // The client's own cursor counts as its last id. Later positions do not: a page need not have given an id.
        if let (Position::Log(known), false) = (self.position, self.sent_initial_state)
            && known <= page.current
        {
            self.queue.set_last_id(known.max(self.queue.last_id()), page.presence);
        }
        if let Some(last) = last_id {
            self.queue.set_last_id(last, page.presence);
        }
        self.position = page.position;
        // Replay or catch-up: that is decided once, not again with each page.
        self.replay_threshold = i64::MAX;
        self.sent_initial_state = true;
        if self.mode == ReplayMode::Compact {
            self.mode = ReplayMode::Auto;
        }
        if let Position::Log(after) = self.position {
            self.queue.advance_to(after);
        }
        Ok(())
    }
}
