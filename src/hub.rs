//! The actor that hands events to the sessions of one worker thread.
//!
//! The relay wakes each worker once per batch; the hub then puts shared bytes into the channels of its own thread.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::web::Bytes;

use crate::channel::Channel;
use crate::cursor::Revision;
use crate::feed::Feed;
use crate::relay::{Batch, Join, Published, Relay};

/// Batches that may wait for a busy worker; it misses those after them, and its sessions catch up.
const MAILBOX: usize = 256;

/// Memory for batches that a session may still need which read from the database while they went out, in bytes.
const REMEMBERED: usize = 1024 * 1024;

/// The least and the most time between two looks for quiet sessions and for those whose client has gone.
const TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(900));

/// The streams of one worker thread that are up to date.
///
/// Shared on that thread by its hub, which brings the events, and its sessions, which enter when they have caught up.
#[derive(Default)]
pub(crate) struct Audience {
    /// Everything up to here went out; `None` until the relay has said where it is.
    published: Option<Revision>,
    /// The last batches, without a gap between them, and their weight.
    recent: VecDeque<Arc<Batch>>,
    weight: usize,
    /// Whom to tell, by feed.
    live: HashMap<Feed, Vec<Rc<Channel>>>,
    /// How often the hub has looked for quiet sessions.
    ticks: u64,
    stopping: bool,
}

impl Audience {
    /// Gives the batch to all who follow one of its feeds.
    fn publish(&mut self, batch: Arc<Batch>) {
        for (feed, channels) in &mut self.live {
            let frames = batch.frames(*feed);
            let all = frames.all();
            channels.retain(|channel| {
                if channel.sent() < batch.from || channel.is_full() {
                    channel.park();
                    return false;
                }
                let new = if channel.sent() == batch.from { all.clone() } else { frames.after(channel.sent()) };
                send(channel, new, channel.sent().max(batch.to), self.ticks);
                !channel.is_closed()
            });
        }
        if self.published == Some(batch.to) {
            return;
        }
        if self.published != Some(batch.from) {
            self.recent.clear();
            self.weight = 0;
        }
        self.published = Some(batch.to);
        self.weight += batch.weight();
        self.recent.push_back(batch);
        while self.weight > REMEMBERED && self.recent.len() > 1 {
            self.weight -= self.recent.pop_front().map_or(0, |oldest| oldest.weight());
        }
    }

    /// Lets a session that has read up to its channel's mark go live, if what came since is remembered.
    pub(crate) fn enter(&mut self, feed: Feed, channel: Rc<Channel>) {
        let reached = self.recent.front().is_some_and(|oldest| channel.sent() >= oldest.from);
        if self.stopping {
            return channel.end();
        }
        if !reached || channel.is_full() {
            return channel.park();
        }
        for batch in &self.recent {
            if channel.sent() < batch.to {
                send(&channel, batch.frames(feed).after(channel.sent()), batch.to, self.ticks);
            }
        }
        channel.touch(self.ticks);
        self.live.entry(feed).or_default().push(channel);
    }

    /// Writes a comment to who has heard nothing for a while, and forgets who has gone.
    fn tick(&mut self, quiet: u64) {
        self.ticks += 1;
        for channels in self.live.values_mut() {
            channels.retain(|channel| {
                if self.ticks - channel.active() >= quiet && !channel.is_full() {
                    // No blank line after it: some clients would dispatch an empty message.
                    send(channel, Bytes::from_static(b":\n"), channel.sent(), self.ticks);
                }
                !channel.is_closed()
            });
        }
        self.live.retain(|_, channels| !channels.is_empty());
    }

    /// Ends every stream that is up to date; the others end when they would enter.
    fn end(&mut self) {
        self.stopping = true;
        for channel in self.live.drain().flat_map(|(_, channels)| channels) {
            channel.end();
        }
    }
}

/// Adds to a channel and notes that it is not quiet.
fn send(channel: &Channel, bytes: Bytes, sent: Revision, now: u64) {
    if !bytes.is_empty() {
        channel.touch(now);
    }
    channel.push(bytes, sent);
}

/// Hands out events on one worker thread.
pub(crate) struct Hub {
    pub(crate) audience: Rc<RefCell<Audience>>,
    pub(crate) relay: Addr<Relay>,
    pub(crate) heartbeat: Duration,
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let tick = (self.heartbeat / 16).clamp(TICK.0, TICK.1);
        let quiet = u64::try_from(self.heartbeat.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u64::MAX);
        ctx.run_interval(tick, move |hub, _| hub.audience.borrow_mut().tick(quiet));
        self.relay.do_send(Join(ctx.address().recipient()));
    }
}

impl Handler<Published> for Hub {
    type Result = ();

    fn handle(&mut self, Published(batch): Published, _: &mut Self::Context) {
        self.audience.borrow_mut().publish(batch);
    }
}

/// End every stream, and let none begin.
pub(crate) struct Goodbye;

impl Message for Goodbye {
    type Result = ();
}

impl Handler<Goodbye> for Hub {
    type Result = ();

    fn handle(&mut self, _: Goodbye, _: &mut Self::Context) {
        self.audience.borrow_mut().end();
    }
}
