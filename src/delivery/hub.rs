//! The actor that hands events to the sessions of one worker thread.
//!
//! The relay wakes each worker once per batch; the hub then puts shared bytes into the channels of its own thread.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::delivery::relay::{Batch, HandoutTime, Published, RegisterHub, Relay};
use crate::delivery::send_queue::SendQueue;
use crate::domain::feed::Feed;
use crate::domain::revision::{Epoch, Revision};
use crate::events::sse::{Chunk, Frames, event, id};

/// Batches that may wait for a busy worker; it misses those after them, and its sessions catch up.
const MAILBOX: usize = 256;

/// Memory for batches that a session may still need which read from the database while they went out, in bytes.
const RECENT_BYTES: usize = 1024 * 1024;

/// The least and the most time between two looks for quiet sessions.
const TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(900));

/// The ticks between two looks for clients that have gone in silence: until then only their channels are kept.
const CLOSED_CHECK_TICKS: u64 = 16;

/// The streams of one worker thread that are up to date.
///
/// Shared on that thread by its hub, which brings the events, and its sessions, which enter when they have caught up.
pub(crate) struct LiveSubscribers {
    epoch: Epoch,
    /// Everything up to here went out; `None` until the relay has said where it is.
    published: Option<Revision>,
    /// The last batches, without a gap between them, and their weight.
    recent: VecDeque<Arc<Batch>>,
    weight: usize,
    /// Whom to tell of what changes of a collection or more.
    by_feed: HashMap<Feed, Vec<Subscriber>>,
    /// Whom to tell of one aggregate: looked up by what changed, not gone through.
    by_aggregate: HashMap<Feed, Vec<Subscriber>>,
    /// How often the hub has looked for quiet sessions.
    ticks: u64,
    stopping: bool,
}

/// A stream that is up to date.
struct Subscriber {
    channel: Rc<SendQueue>,
    /// The tick when it was last given something. It stands here and not in the channel, so that a look for quiet streams
    /// goes through these only: ten thousand channels are as many cache misses, which took 1.4 % of a core.
    active: u64,
}

impl LiveSubscribers {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            published: None,
            recent: VecDeque::new(),
            weight: 0,
            by_feed: HashMap::new(),
            by_aggregate: HashMap::new(),
            ticks: 0,
            stopping: false,
        }
    }

    /// Gives the batch to all who follow what it changes.
    pub(crate) fn publish(&mut self, batch: Arc<Batch>) {
        if self.published.is_some_and(|published| published < batch.from) {
            self.park_all();
        }
        let ticks = self.ticks;
        for (feed, subscribers) in &mut self.by_feed {
            deliver(&batch, feed, subscribers, ticks);
        }
        if !self.by_aggregate.is_empty() {
            for feed in batch.singles() {
                if let Some(subscribers) = self.by_aggregate.get_mut(&feed) {
                    deliver(&batch, &feed, subscribers, ticks);
                }
            }
        }
        self.remember(batch);
    }

    /// Keeps the batch for those who are about to enter.
    fn remember(&mut self, batch: Arc<Batch>) {
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
        while self.weight > RECENT_BYTES && self.recent.len() > 1 {
            self.weight -= self.recent.pop_front().map_or(0, |oldest| oldest.weight());
        }
    }

    /// There is a gap: everybody has everything up to what was published before it, and reads on from there.
    fn park_all(&mut self) {
        let published = self.published.unwrap_or(Revision::ZERO);
        for (_, subscribers) in self.by_feed.drain().chain(self.by_aggregate.drain()) {
            for Subscriber { channel, .. } in subscribers {
                channel.advance_to(published);
                channel.park();
            }
        }
    }

    /// Lets a session that has read up to its channel's mark go live, if what came since is remembered.
    pub(crate) fn add(&mut self, feed: Feed, channel: Rc<SendQueue>) {
        let reached = self.recent.front().is_some_and(|oldest| channel.sent_up_to() >= oldest.from);
        if self.stopping {
            return channel.end();
        }
        if !reached || channel.is_full() {
            return channel.park();
        }
        for batch in &self.recent {
            if channel.is_full() {
                return channel.park();
            }
            if channel.sent_up_to() < batch.to {
                send(batch, &batch.frames(&feed), &channel);
            }
        }
        let group = if matches!(feed, Feed::Aggregate(..)) { &mut self.by_aggregate } else { &mut self.by_feed };
        group.entry(feed).or_default().push(Subscriber { channel, active: self.ticks });
    }

    /// Says something to who has heard nothing for a while, and forgets who has gone.
    pub(crate) fn tick(&mut self, quiet: u64) {
        self.ticks += 1;
        let (ticks, published, epoch) = (self.ticks, self.published, &self.epoch);
        let is_looking_for_closed = ticks.is_multiple_of(CLOSED_CHECK_TICKS);
        // No blank line after a comment: some clients would dispatch an empty message.
        let comment = Chunk::new(":\n");
        for group in [&mut self.by_feed, &mut self.by_aggregate] {
            for (feed, subscribers) in group.iter_mut() {
                subscribers.retain_mut(|Subscriber { channel, active }| {
                    let is_quiet = ticks - *active >= quiet;
                    if (is_quiet || is_looking_for_closed) && channel.is_closed() {
                        return false;
                    }
                    if is_quiet && !channel.is_full() {
                        channel.send(bookmark(epoch, feed, channel, published).as_ref().unwrap_or(&comment));
                        *active = ticks;
                    }
                    true
                });
            }
            group.retain(|_, subscribers| !subscribers.is_empty());
        }
    }

    /// Ends every stream that is up to date; the others end when they would enter.
    pub(crate) fn end(&mut self) {
        self.stopping = true;
        for (feed, subscribers) in self.by_feed.drain().chain(self.by_aggregate.drain()) {
            for Subscriber { channel, .. } in subscribers {
                if let Some(bookmark) = bookmark(&self.epoch, &feed, &channel, self.published) {
                    channel.send(&bookmark);
                }
                channel.end();
            }
        }
    }
}

/// Gives the events of a batch to the followers of a feed, but for those who do not keep up.
fn deliver(batch: &Batch, feed: &Feed, subscribers: &mut Vec<Subscriber>, ticks: u64) {
    let frames = batch.frames(feed);
    if frames.is_empty() {
        return;
    }
    subscribers.retain_mut(|Subscriber { channel, active }| {
        // Its connection may be another response's by now.
        if channel.is_closed() {
            return false;
        }
        if channel.is_full() {
            channel.advance_to(batch.from);
            channel.park();
            return false;
        }
        if send(batch, &frames, channel) {
            *active = ticks;
        }
        true
    });
}

/// Adds what is new of a batch to a channel, if anything is (`true`).
fn send(batch: &Batch, frames: &Frames, channel: &SendQueue) -> bool {
    let new = frames.last().filter(|(named, _)| channel.sent_up_to() < *named);
    if let Some((named, presence)) = new {
        if channel.sent_up_to() <= batch.from {
            channel.send(frames.all());
        } else {
            channel.push(frames.after(channel.sent_up_to()));
        }
        channel.set_last_id(named, presence);
    }
    channel.advance_to(batch.to);
    new.is_some()
}

/// The id of all that a live channel was given, if its client does not know it yet, with a patch that changes nothing.
fn bookmark(epoch: &Epoch, feed: &Feed, channel: &SendQueue, published: Option<Revision>) -> Option<Chunk> {
    let reached = channel.sent_up_to().max(published?);
    if channel.last_id() >= reached {
        return None;
    }
    let presence = channel.presence();
    channel.set_last_id(reached, presence);
    Some(Chunk::new(&event(Some(id(epoch, reached)), feed.unchanged(presence).to_owned())))
}

/// Hands out events on one worker thread.
pub(crate) struct Hub {
    pub(crate) subscribers: Rc<RefCell<LiveSubscribers>>,
    pub(crate) relay: Addr<Relay>,
    pub(crate) heartbeat: Duration,
    /// Read by the relay, which gives the worker time for other things.
    pub(crate) handout_time: Arc<HandoutTime>,
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let tick = (self.heartbeat / 16).clamp(TICK.0, TICK.1);
        let quiet = u64::try_from(self.heartbeat.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u64::MAX);
        ctx.run_interval(tick, move |hub, _| hub.subscribers.borrow_mut().tick(quiet));
        self.relay
            .do_send(RegisterHub { hub: ctx.address().recipient(), handout_time: Arc::clone(&self.handout_time) });
    }
}

impl Handler<Published> for Hub {
    type Result = ();

    fn handle(&mut self, Published { batch, at }: Published, _: &mut Self::Context) {
        self.subscribers.borrow_mut().publish(batch);
        // The subscribers were woken, and take their turns in order. Behind the last of them comes this.
        let handout_time = Arc::clone(&self.handout_time);
        actix_web::rt::spawn(async move { handout_time.set(at.elapsed()) });
    }
}

/// End every stream, and let none begin.
pub(crate) struct Shutdown;

impl Message for Shutdown {
    type Result = ();
}

impl Handler<Shutdown> for Hub {
    type Result = ();

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) {
        self.subscribers.borrow_mut().end();
    }
}
