//! The actor that delivers change events to the live streams of one worker thread.
//!
//! The relay wakes each worker once per batch; the hub puts shared bytes into the send queues of its own thread.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::WeakRecipient;
use actix::prelude::*;

use super::filtered_feeds::FilteredFeeds;
use super::reach::Reach;
use super::relay::{HandoutTime, Published, RegisterHub, Relay};
use super::send_queue::SendQueue;
use crate::domain::feed::Feed;
use crate::domain::revision::{Epoch, Revision};
use crate::events::batch::Batch;
use crate::events::sse::{Chunk, Frames, event, id};
use crate::memory::budget::BudgetExceeded;

/// Batches that may wait for a busy worker. It misses those that do not fit, and its sessions catch up.
const MAILBOX: usize = 256;

/// The memory for recent batches, in bytes. A session needs those that were published while it read from the database.
const RECENT_BYTES: usize = 1024 * 1024;

/// The shortest and the longest time between two checks for quiet streams.
const TICK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(900));

/// Every so many ticks the hub removes streams whose clients have disconnected. Until then it keeps their send queues.
const CLOSED_CHECK_TICKS: u64 = 16;

/// Delivers batches on one worker thread.
pub(crate) struct Hub {
    pub(crate) subscribers: Rc<RefCell<LiveSubscribers>>,
    pub(crate) relay: Addr<Relay>,
    pub(crate) heartbeat: Duration,
    /// Whether what the relay sends is all that there is.
    pub(crate) reach: Arc<Reach>,
    /// The relay reads it and leaves the worker time for requests.
    pub(crate) handout_time: Arc<HandoutTime>,
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        let tick = (self.heartbeat / 16).clamp(TICK.0, TICK.1);
        let quiet = u64::try_from(self.heartbeat.as_nanos().div_ceil(tick.as_nanos())).unwrap_or(u64::MAX);
        ctx.run_interval(tick, move |hub, _| {
            let mut subscribers = hub.subscribers.borrow_mut();
            if hub.reach.is_lost() {
                subscribers.suspend();
            } else {
                subscribers.resume();
            }
            subscribers.tick(quiet);
        });
        let (hub, handout_time) = (ctx.address().recipient(), Arc::clone(&self.handout_time));
        self.relay.do_send(RegisterHub { hub, handout_time });
    }
}

impl Handler<Published> for Hub {
    type Result = ();

    fn handle(&mut self, Published { batch, at }: Published, _: &mut Self::Context) {
        self.subscribers.borrow_mut().publish(batch);
        // The tasks of the subscribers that were woken run first, then this one.
        let handout_time = Arc::clone(&self.handout_time);
        actix_web::rt::spawn(async move { handout_time.set(at.elapsed()) });
    }
}

/// The streams of one worker thread that are up to date.
///
/// The hub and the sessions of the thread share it: the hub publishes batches, and a session adds its stream when it has
/// caught up.
pub(crate) struct LiveSubscribers {
    epoch: Epoch,
    /// Everything up to this revision has been delivered; `None` until the relay has sent its first batch.
    published: Option<Revision>,
    /// The last batches, with no gap between them.
    recent: VecDeque<Arc<Batch>>,
    /// Of `recent`, in bytes.
    recent_weight: usize,
    /// Subscribers of the whole document or of a whole collection.
    by_feed: HashMap<Feed, Vec<Subscriber>>,
    /// Subscribers of some aggregates or collections: found through what changed, not by a scan.
    filtered: FilteredFeeds<Vec<Subscriber>>,
    /// The number of checks for quiet streams so far.
    ticks: u64,
    phase: Phase,
}

/// A stream that is up to date.
pub(crate) struct Subscriber {
    queue: Rc<SendQueue>,
    /// `None` for a subscriber that only waits for the next event.
    session: Option<WeakRecipient<Park>>,
    /// The tick at which something was last sent. It is here and not in the queue, so that the check for quiet streams
    /// reads a contiguous list: ten thousand queues are as many cache misses, which took 1.4 % of a core.
    active: u64,
}

/// What became of a stream that was to go live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// The hub delivers its events from now on.
    Live,
    /// It has missed events that the hub no longer has, or its queue is full: it has to read from the outbox.
    Behind,
    /// The service stops, or does not reach its record: the stream has to end.
    Stopping,
}

/// Whether streams may be live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The record is out of reach.
    Suspended,
    Stopping,
}

impl LiveSubscribers {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            published: None,
            recent: VecDeque::new(),
            recent_weight: 0,
            by_feed: HashMap::new(),
            filtered: FilteredFeeds::default(),
            ticks: 0,
            phase: Phase::Open,
        }
    }

    /// Delivers a batch to the subscribers of everything that it changes.
    pub(crate) fn publish(&mut self, batch: Arc<Batch>) {
        if let Some(published) = self.published.filter(|published| *published < batch.from) {
            self.park_behind(published, batch.from);
        }
        let ticks = self.ticks;
        for (feed, subscribers) in &mut self.by_feed {
            deliver(&batch, &batch.frames(feed), subscribers, ticks);
        }
        if !self.filtered.is_empty() {
            self.publish_filtered(&batch);
        }
        self.remember(batch);
    }

    /// Delivers a batch to the subscribers that follow some of the aggregates that it changes.
    fn publish_filtered(&mut self, batch: &Batch) {
        let changes = batch.changes();
        for touched in self.filtered.touched(changes).chunk_by(|one, other| one.feed == other.feed) {
            let number = touched[0].feed;
            let Some((feed, subscribers)) = self.filtered.get_mut(number) else { continue };
            let changes: Vec<_> = touched.iter().map(|touch| &changes[touch.change as usize]).collect();
            deliver(batch, &batch.frames_of(feed, &changes), subscribers, self.ticks);
            if subscribers.is_empty() {
                self.filtered.remove(number);
            }
        }
    }

    /// Keeps a batch for the sessions that are about to go live.
    fn remember(&mut self, batch: Arc<Batch>) {
        if self.published == Some(batch.to) {
            return;
        }
        if self.published != Some(batch.from) {
            self.recent.clear();
            self.recent_weight = 0;
        }
        self.published = Some(batch.to);
        self.recent_weight += batch.weight();
        self.recent.push_back(batch);
        while self.recent_weight > RECENT_BYTES && self.recent.len() > 1 {
            self.recent_weight -= self.recent.pop_front().map_or(0, |oldest| oldest.weight());
        }
    }

    /// After missed batches: every subscriber has everything up to the last published revision, and reads on from there. Those
    /// that read more than that from the database before they went live have missed nothing: no batches are sent while nobody
    /// follows.
    fn park_behind(&mut self, published: Revision, needed: Revision) {
        let park = |subscribers: &mut Vec<Subscriber>| {
            subscribers.retain(|subscriber| {
                subscriber.queue.advance_to(published);
                let is_complete = subscriber.queue.sent_up_to() >= needed;
                if !is_complete {
                    subscriber.park();
                }
                is_complete
            });
            subscribers.is_empty()
        };
        self.by_feed.retain(|_, subscribers| !park(subscribers));
        let filtered = self.filtered.iter_mut();
        let left: Vec<_> = filtered.filter_map(|(number, _, group)| park(group).then_some(number)).collect();
        left.into_iter().for_each(|number| self.filtered.remove(number));
    }

    /// Lets a stream go live that has everything up to its queue's mark, if the batches since are still here.
    pub(crate) fn add(&mut self, feed: Feed, queue: &Rc<SendQueue>, session: Option<WeakRecipient<Park>>) -> Added {
        if self.phase != Phase::Open {
            return Added::Stopping;
        }
        let is_recent = self.recent.front().is_some_and(|oldest| queue.sent_up_to() >= oldest.from);
        if !is_recent || queue.is_full() {
            return Added::Behind;
        }
        for batch in &self.recent {
            if queue.is_full() {
                return Added::Behind;
            }
            if queue.sent_up_to() < batch.to && send(batch, &batch.frames(&feed), queue).is_err() {
                return Added::Behind;
            }
        }
        let subscriber = Subscriber { queue: Rc::clone(queue), session, active: self.ticks };
        let group = match feed {
            Feed::Everything(None) | Feed::Collection(_, None) => self.by_feed.entry(feed).or_default(),
            _ => self.filtered.entry(feed),
        };
        group.push(subscriber);
        Added::Live
    }

    /// Sends a comment or a bookmark to every stream that has been quiet for this many ticks, and removes those whose
    /// clients have disconnected.
    pub(crate) fn tick(&mut self, quiet: u64) {
        self.ticks += 1;
        let ticks = self.ticks;
        let (published, epoch) = (self.published, &self.epoch);
        let checks_closed = ticks.is_multiple_of(CLOSED_CHECK_TICKS);
        // No blank line after a comment: some clients would dispatch an empty message.
        let comment = Chunk::new(":\n");
        let check = |feed: &Feed, subscribers: &mut Vec<Subscriber>| {
            subscribers.retain_mut(|Subscriber { queue, active, .. }| {
                let is_quiet = ticks - *active >= quiet;
                if (is_quiet || checks_closed) && queue.is_closed() {
                    return false;
                }
                if is_quiet && !queue.is_full() {
                    if !send_bookmark(epoch, feed, queue, published) {
                        queue.send_note(&comment);
                    }
                    *active = ticks;
                }
                true
            });
            subscribers.is_empty()
        };
        self.by_feed.retain(|feed, subscribers| !check(feed, subscribers));
        let filtered = self.filtered.iter_mut();
        let left: Vec<_> = filtered.filter_map(|(number, feed, group)| check(feed, group).then_some(number)).collect();
        left.into_iter().for_each(|number| self.filtered.remove(number));
    }

    /// Ends every stream that is up to date. The others end when they are about to go live.
    pub(crate) fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.end_all();
    }

    /// Ends every stream, and lets none begin until the record is reached again.
    pub(crate) fn suspend(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Suspended;
            self.end_all();
        }
    }

    /// Lets streams begin, unless the service stops.
    pub(crate) fn resume(&mut self) {
        if self.phase == Phase::Suspended {
            self.phase = Phase::Open;
        }
    }

    fn end_all(&mut self) {
        for (feed, subscribers) in self.by_feed.drain().chain(self.filtered.drain()) {
            for Subscriber { queue, .. } in subscribers {
                send_bookmark(&self.epoch, &feed, &queue, self.published);
                queue.end();
            }
        }
    }
}

impl Subscriber {
    /// From now on the session brings the events.
    fn park(&self) {
        self.queue.notify_when_drained();
        if let Some(session) = self.session.as_ref().and_then(WeakRecipient::upgrade) {
            session.do_send(Park);
        }
    }
}

/// Delivers the events of a batch to the subscribers of a feed, and parks those that do not keep up.
fn deliver(batch: &Batch, frames: &Frames, subscribers: &mut Vec<Subscriber>, ticks: u64) {
    if frames.is_empty() {
        return;
    }
    subscribers.retain_mut(|subscriber| {
        let queue = &subscriber.queue;
        // The connection may serve another response by now.
        if queue.is_closed() {
            return false;
        }
        match if queue.is_full() { Err(BudgetExceeded) } else { send(batch, frames, queue) } {
            Ok(Sent::New) => subscriber.active = ticks,
            Ok(Sent::Nothing) => {}
            Err(BudgetExceeded) => {
                queue.advance_to(batch.from);
                subscriber.park();
                return false;
            }
        }
        true
    });
}

/// Whether a batch had anything new for a stream.
enum Sent {
    New,
    Nothing,
}

/// Sends the events of a batch that are new to a stream.
///
/// # Errors
/// There is no memory for them. Nothing was sent.
fn send(batch: &Batch, frames: &Frames, queue: &SendQueue) -> Result<Sent, BudgetExceeded> {
    let new = frames.last().filter(|(last, _)| queue.sent_up_to() < *last);
    if let Some((last, presence)) = new {
        if queue.sent_up_to() <= batch.from {
            queue.send(frames.all())?;
        } else {
            queue.push(frames.after(queue.sent_up_to()))?;
        }
        queue.set_last_id(last, presence);
    }
    queue.advance_to(batch.to);
    Ok(if new.is_some() { Sent::New } else { Sent::Nothing })
}

/// Sends a message that changes nothing, with the id of everything that a stream was sent, unless its client has that id.
/// Returns whether it was sent.
fn send_bookmark(epoch: &Epoch, feed: &Feed, queue: &SendQueue, published: Option<Revision>) -> bool {
    let sent_up_to = published.map_or(Revision::ZERO, |published| queue.sent_up_to().max(published));
    if queue.last_id() >= sent_up_to {
        return false;
    }
    let presence = queue.presence();
    queue.send_note(&Chunk::new(&event(Some(&id(epoch, sent_up_to)), feed.unchanged(presence))));
    queue.set_last_id(sent_up_to, presence);
    true
}

/// The hub no longer delivers to this session: its client is too slow, or a batch was missed.
pub(crate) struct Park;

impl Message for Park {
    type Result = ();
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
