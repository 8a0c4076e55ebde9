//! The actor of one subscriber that is behind: brings it from its cursor to now, then leaves it to the hub; and again, if
//! it falls behind.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::*;

use crate::delivery::hub::LiveSubscribers;
use crate::delivery::send_queue::SendQueue;
use crate::domain::feed::Feed;
use crate::events::resume::{Page, Position, ReplayMode, ResumeReply, ResumeRequest};
use crate::events::sse::Form;
use crate::read::pool::Readers;
use crate::read::thread_pool::PoolStopped;
use crate::storage::error::StoreError;
use crate::storage::page::PageLimit;

/// One subscriber, without its actor: what it follows, and where it stands.
pub(crate) struct Subscription {
    pub(crate) feed: Feed,
    pub(crate) form: Form,
    pub(crate) mode: ReplayMode,
    pub(crate) replay_threshold: i64,
    /// Whether it was told what the state is when nothing is there.
    pub(crate) sent_initial_state: bool,
    /// What its pages have room for.
    pub(crate) limit: PageLimit,
    pub(crate) position: Position,
    pub(crate) channel: Rc<SendQueue>,
    pub(crate) subscribers: Rc<RefCell<LiveSubscribers>>,
}

impl Subscription {
    /// What to ask for next.
    pub(crate) fn next_request(&self) -> ResumeRequest {
        let position = match self.position {
            // The hub has brought it further since, if it was live.
            Position::Log(after) => Position::Log(after.max(self.channel.sent_up_to())),
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

    /// Sends what was read; then more is read when there is room, or the hub takes over.
    pub(crate) fn take(&mut self, answer: ResumeReply) {
        let ResumeReply::Page(step) = answer else {
            // Pruning was faster than one who wants every event. It comes back with its last id, and is told.
            return self.channel.end();
        };
        // What it knows is what its client presented; later positions are not, for a step need not have named one.
        if let (Position::Log(known), false) = (self.position, self.sent_initial_state)
            && known <= step.current
        {
            self.channel.set_last_id(known.max(self.channel.last_id()), step.presence);
        }
        if let Some(named) = step.messages.named {
            self.channel.set_last_id(named, step.presence);
        }
        let (is_last, Page { messages, position, presence, .. }) = (step.is_last(), step);
        messages.into_pieces().for_each(|piece| self.channel.push(piece));
        self.position = position;
        // What was decided at first is not decided anew with every page.
        self.replay_threshold = i64::MAX;
        self.sent_initial_state = true;
        if self.mode == ReplayMode::Compact {
            self.mode = ReplayMode::Auto;
        }
        if let Position::Log(after) = position {
            self.channel.advance_to(after);
        }
        if is_last {
            self.channel.set_last_id(self.channel.last_id(), presence);
            // Handover: the hub goes on from the channel's mark, or parks it if it has moved too far since.
            self.subscribers.borrow_mut().add(self.feed.clone(), Rc::clone(&self.channel));
        } else {
            self.channel.park();
        }
    }
}

/// One subscriber, while it is behind: it reads on, once, and is gone. A stream that is up to date has no actor.
pub(crate) struct Session {
    subscription: Rc<RefCell<Subscription>>,
}

impl Session {
    /// Reads what comes next for a subscriber in whose channel there is room.
    pub(crate) fn read_on(subscription: &Rc<RefCell<Subscription>>, readers: &Readers) {
        let (answer, subscription) = (readers.send(subscription.borrow().next_request()), Rc::clone(subscription));
        Self::create(|ctx| {
            let session = Self { subscription };
            ctx.spawn(answer.into_actor(&session).map(|answer, session, ctx| {
                session.go_on(answer);
                ctx.stop();
            }));
            session
        });
    }

    fn go_on(&self, answer: Result<Result<ResumeReply, StoreError>, PoolStopped>) {
        let mut subscription = self.subscription.borrow_mut();
        match answer {
            // The client has gone meanwhile.
            _ if subscription.channel.is_closed() => {}
            Ok(Ok(answer)) => subscription.take(answer),
            Ok(Err(error)) => {
                log::error!("a stream ends: {error}");
                subscription.channel.end();
            }
            // The readers are gone: the service stops.
            Err(_) => subscription.channel.end(),
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}
