//! The actor of one subscriber that is behind: brings it from its cursor to now, then leaves it to the hub; and again, if
//! it falls behind.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::*;

use crate::delivery::hub::Audience;
use crate::delivery::send_queue::Channel;
use crate::domain::feed::Feed;
use crate::events::resume::{Answer, Ask, History, Position, Step};
use crate::events::sse::Form;
use crate::read::pool::Readers;
use crate::storage::error::StoreError;
use crate::storage::page::Room;

/// One subscriber, without its actor: what it follows, and where it stands.
pub(crate) struct Subscription {
    pub(crate) feed: Feed,
    pub(crate) form: Form,
    pub(crate) history: History,
    pub(crate) patience: i64,
    /// Whether it was told what the state is when nothing is there.
    pub(crate) has_frame: bool,
    /// What its pages have room for.
    pub(crate) room: Room,
    pub(crate) position: Position,
    pub(crate) channel: Rc<Channel>,
    pub(crate) audience: Rc<RefCell<Audience>>,
}

impl Subscription {
    /// What to ask for next.
    pub(crate) fn ask(&self) -> Ask {
        let position = match self.position {
            // The hub has brought it further since, if it was live.
            Position::Log(after) => Position::Log(after.max(self.channel.sent())),
            other => other,
        };
        Ask {
            feed: self.feed.clone(),
            position,
            history: self.history,
            room: self.room,
            form: self.form.clone(),
            has_frame: self.has_frame,
            patience: self.patience,
        }
    }

    /// Sends what was read; then more is read when there is room, or the hub takes over.
    pub(crate) fn take(&mut self, answer: Answer) {
        let Answer::Step(step) = answer else {
            // Pruning was faster than one who wants every event. It comes back with its last id, and is told.
            return self.channel.end();
        };
        // What it knows is what its client presented; later positions are not, for a step need not have named one.
        if let (Position::Log(known), false) = (self.position, self.has_frame)
            && known <= step.current
        {
            self.channel.name(known.max(self.channel.named()), step.presence);
        }
        if let Some(named) = step.messages.named {
            self.channel.name(named, step.presence);
        }
        let (is_last, Step { messages, position, presence, .. }) = (step.is_last(), step);
        messages.into_pieces().for_each(|piece| self.channel.push(piece));
        self.position = position;
        // What was decided at first is not decided anew with every page.
        self.patience = i64::MAX;
        self.has_frame = true;
        if self.history == History::Compact {
            self.history = History::Any;
        }
        if let Position::Log(after) = position {
            self.channel.reach(after);
        }
        if is_last {
            self.channel.name(self.channel.named(), presence);
            // Handover: the hub goes on from the channel's mark, or parks it if it has moved too far since.
            self.audience.borrow_mut().enter(self.feed.clone(), Rc::clone(&self.channel));
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
    pub(crate) fn read_on(subscription: &Rc<RefCell<Subscription>>, readers: &Addr<Readers>) {
        let (answer, subscription) = (readers.send(subscription.borrow().ask()), Rc::clone(subscription));
        Self::create(|ctx| {
            let session = Self { subscription };
            ctx.spawn(answer.into_actor(&session).map(|answer, session, ctx| {
                session.go_on(answer);
                ctx.stop();
            }));
            session
        });
    }

    fn go_on(&self, answer: Result<Result<Answer, StoreError>, MailboxError>) {
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
