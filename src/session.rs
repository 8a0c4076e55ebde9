//! The actor of one subscriber: brings it from its cursor to now, then leaves it to the hub; and again, if it falls
//! behind. It gets a message when something changes for it, never one per event.

use std::cell::RefCell;
use std::rc::Rc;

use actix::prelude::*;

use crate::channel::Channel;
use crate::feed::Feed;
use crate::hub::Audience;
use crate::readers::{Events, ReadEvents, Readers};
use crate::store::StoreError;

/// One subscriber. It lives as long as somebody holds its address: the response body.
pub(crate) struct Session {
    feed: Feed,
    channel: Rc<Channel>,
    audience: Rc<RefCell<Audience>>,
    readers: Addr<Readers>,
}

impl Session {
    /// Starts a session whose subscriber is to be brought on from `first`, which was read after its cursor.
    pub(crate) fn start(
        feed: Feed,
        channel: Rc<Channel>,
        first: Events,
        audience: Rc<RefCell<Audience>>,
        readers: Addr<Readers>,
    ) -> Addr<Self> {
        Self::create(|_| {
            let session = Self { feed, channel, audience, readers };
            session.take(Ok(first));
            session
        })
    }

    /// Sends what was read; then more is read when there is room, or the hub takes over.
    fn take(&self, events: Result<Events, StoreError>) {
        match events {
            Ok(Events::Read { bytes, to, current }) => {
                self.channel.push(bytes, to);
                if to < current {
                    self.channel.park();
                } else {
                    // Handover: the hub goes on from the channel's mark, or parks it if it has moved too far since.
                    self.audience.borrow_mut().enter(self.feed, Rc::clone(&self.channel));
                }
            }
            // Pruning was faster. The client comes back with its last id, and is told.
            Ok(Events::Outside { .. }) => self.channel.end(),
            Err(error) => {
                log::error!("a stream ends: {error}");
                self.channel.end();
            }
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;
}

/// There is room in the channel, and its subscriber is behind.
pub(crate) struct ReadOn;

impl Message for ReadOn {
    type Result = ();
}

impl Handler<ReadOn> for Session {
    type Result = ();

    fn handle(&mut self, _: ReadOn, ctx: &mut Self::Context) {
        let page = self.readers.send(ReadEvents { feed: self.feed, after: self.channel.sent() });
        let took = page.into_actor(self).map(|events, session, _| match events {
            Ok(events) => session.take(events),
            // The readers are gone: the service stops.
            Err(_) => session.channel.end(),
        });
        ctx.spawn(took);
    }
}
