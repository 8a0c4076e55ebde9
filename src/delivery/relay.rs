//! The actor that carries change events from the outbox to the workers, and has old ones pruned.
//!
//! It polls, so it is right alone, whatever wakes it or fails to; the aggregator's word of what it committed makes it fast.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use actix::prelude::*;

use crate::delivery::pending::PendingChanges;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::domain::cursor::{Epoch, Revision};
use crate::domain::error_chain::ErrorChain;
use crate::domain::feed::Feed;
use crate::events::sse::Frames;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Progress, Span};
use crate::storage::reader::Reader;
use crate::storage::writer::Retained;
use crate::write::aggregator::{Aggregator, Committed, Prune};

/// Under load the workers hand out for one part in so many of their time, and have the others for requests.
///
/// A delivery costs a write to a socket, several µs, however many events are in it: what counts is that writes are few
/// and large. With 1,000 subscribers and 16 writers on two cores, 3.8 million events were delivered in a second and 3,800
/// commands done, where publishing at once made 1.5 million and 1,500.
const IDLE_FACTOR: u32 = 4;

/// The longest that an event waits for others, unless handing out takes more than half of it: then as long again.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// The least time between two publications: each wakes every worker. After quiet nothing waits.
const MIN_WAIT: Duration = Duration::from_millis(2);

/// How often projections in the background are told that there is something. What a step costs hardly depends on how much
/// it takes: told of each commit, three projections had a lone writer wait for a processor twice as long as for the disk.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(20);

/// Batches of the aggregator that may wait.
const MAILBOX: usize = 256;

/// Reads the outbox and tells every worker.
pub(crate) struct Relay {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) epoch: Epoch,
    pub(crate) aggregator: Addr<Aggregator>,
    pub(crate) poll_interval: Duration,
    pub(crate) prune_interval: Duration,
    pub(crate) retention: Retention,
    /// `None` after a failure, until the next poll opens the database again.
    pub(crate) reader: Option<Reader>,
    /// Everything up to here was published.
    pub(crate) last: Revision,
    /// What comes next, as far as it was heard.
    pub(crate) pending: PendingChanges,
    /// The workers' hubs.
    pub(crate) hubs: Vec<RegisterHub>,
    /// How many revisions were last published together.
    pub(crate) last_batch_revisions: u32,
    /// When that was.
    pub(crate) published: Option<Instant>,
    /// A timer is set, by which everything will be published.
    pub(crate) publish_scheduled: bool,
    /// Who keeps a projection.
    pub(crate) projectors: Vec<Recipient<NewEvents>>,
    /// When they were last told that there is something.
    pub(crate) last_notified: Option<Instant>,
    /// A timer is set, by which they will be told.
    pub(crate) notify_scheduled: bool,
    /// Batches that no worker gets.
    #[cfg(feature = "test-hooks")]
    pub(crate) lose: usize,
}

impl Relay {
    /// Publishes at once after a while of quiet. Under load the next publication waits until the workers have rested from
    /// the last one, the longer the more events it had: one alone only waits until they are done with it.
    fn publish_soon(&mut self, ctx: &mut Context<Self>) {
        if self.publish_scheduled {
            return;
        }
        let handout_time = self.hubs.iter().map(|hub| hub.handout_time.get()).max().unwrap_or_default();
        let pause =
            (handout_time * IDLE_FACTOR.min(self.last_batch_revisions)).clamp(MIN_WAIT, MAX_WAIT.max(2 * handout_time));
        let wait = self.published.map_or(Duration::ZERO, |last| pause.saturating_sub(last.elapsed()));
        if wait.is_zero() {
            return self.publish_pending();
        }
        self.publish_scheduled = true;
        ctx.run_later(wait, |relay, _| {
            relay.publish_scheduled = false;
            relay.publish_pending();
        });
    }

    /// Publishes what the aggregator said; the outbox is read for the rest, if that was not all.
    fn publish_pending(&mut self) {
        if let Some((changes, to)) = self.pending.take() {
            self.publish(changes, to);
        }
        if self.pending.take_gap() {
            self.poll();
        }
    }

    /// Publishes everything that is in the outbox by now.
    fn poll(&mut self) {
        drop(self.pending.take());
        loop {
            match self.next_page() {
                Ok(Some((changes, to, more))) => {
                    self.publish(changes, to);
                    if !more {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    log::error!("the outbox cannot be read: {}", ErrorChain(&error));
                    self.reader = None;
                    return;
                }
            }
        }
    }

    /// What comes next, up to which revision, and whether there was more; `None` when nothing moved.
    fn next_page(&mut self) -> Result<Option<(Vec<Change>, Revision, bool)>, StoreError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.database, Arc::clone(&self.registry))?);
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let (horizon, read) = reader.view(|view| {
            let horizon = view.horizon()?;
            let after = self.last.max(horizon.pruned);
            Ok((horizon, view.changes(&Feed::Everything(None), Span { after, to: horizon.current }, PageLimit::PAGE)?))
        })?;
        // Pruned before it was published: those who are behind notice the gap and read on from the database.
        self.last = self.last.max(horizon.pruned);
        Ok((read.to > self.last).then(|| (read.changes, read.to, read.to < horizon.current)))
    }

    fn publish(&mut self, changes: Vec<Change>, to: Revision) {
        let last_batch_revisions = to.number() - self.last.number();
        let batch = Arc::new(Batch::new(self.last, to, changes, self.epoch.clone(), Arc::clone(&self.registry)));
        self.last = to;
        #[cfg(feature = "test-hooks")]
        if self.lose > 0 && batch.from < batch.to {
            self.lose -= 1;
            return;
        }
        // A worker that does not keep up misses a batch, sees the gap at the next one (there is one every poll interval,
        // if only an empty one), and its sessions catch up.
        let now = Instant::now();
        if batch.from < batch.to {
            self.published = Some(now);
            self.last_batch_revisions = u32::try_from(last_batch_revisions).unwrap_or(u32::MAX);
        }
        self.hubs.retain(|RegisterHub { hub, .. }| {
            let published = Published { batch: Arc::clone(&batch), at: now };
            !matches!(hub.try_send(published), Err(SendError::Closed(_)))
        });
    }
}

impl Relay {
    /// Tells the projections that there is something: at once after a while of quiet.
    fn schedule_notify(&mut self, ctx: &mut Context<Self>) {
        if self.notify_scheduled {
            return;
        }
        let wait = self
            .last_notified
            .map_or(Duration::ZERO, |last_notified| NOTIFY_INTERVAL.saturating_sub(last_notified.elapsed()));
        if wait.is_zero() {
            return self.notify();
        }
        self.notify_scheduled = true;
        ctx.run_later(wait, |relay, _| {
            relay.notify_scheduled = false;
            relay.notify();
        });
    }

    fn notify(&mut self) {
        self.last_notified = Some(Instant::now());
        // One that has not listened yet need not be told twice.
        self.projectors.retain(|projector| !matches!(projector.try_send(NewEvents), Err(SendError::Closed(_))));
    }
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(self.poll_interval, |relay, _| {
            relay.poll();
            relay.publish(Vec::new(), relay.last);
        });
        ctx.run_interval(self.prune_interval, |relay, ctx| {
            let (aggregator, retained) = (relay.aggregator.clone(), relay.retention.at(relay.clock.now()));
            ctx.spawn(async move { prune(&aggregator, retained).await }.into_actor(relay));
        });
    }
}

/// How long what is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) events: Duration,
    /// No more than the last so many revisions.
    pub(crate) keep: Option<i64>,
    pub(crate) tombstones: Duration,
}

impl Retention {
    /// What is retained at this time.
    pub(crate) fn at(&self, now: Timestamp) -> Retained {
        Retained { events: now.minus(self.events), keep: self.keep, tombstones: now.minus(self.tombstones) }
    }
}

/// Has everything removed that is old enough, in steps, between which the aggregator does commands.
pub(crate) async fn prune(aggregator: &Addr<Aggregator>, retained: Retained) {
    loop {
        match aggregator.send(Prune(retained)).await {
            Ok(Ok(Progress::More)) => {}
            Ok(Err(error)) => return log::error!("the outbox was not pruned: {}", ErrorChain(&error)),
            Ok(Ok(Progress::Done)) | Err(_) => return,
        }
    }
}

/// Change events between two revisions, encoded once for each feed that somebody follows.
pub(crate) struct Batch {
    /// The batch follows upon this revision.
    pub(crate) from: Revision,
    /// Everything up to here is in it.
    pub(crate) to: Revision,
    changes: Vec<Change>,
    epoch: Epoch,
    registry: Arc<Registry>,
    /// Of the whole document, then of each collection: the feeds that most follow, shared by all workers.
    frames: Vec<OnceLock<Arc<Frames>>>,
}

impl Batch {
    pub(crate) fn new(
        from: Revision,
        to: Revision,
        changes: Vec<Change>,
        epoch: Epoch,
        registry: Arc<Registry>,
    ) -> Self {
        let frames = std::iter::once(OnceLock::new()).chain(registry.ids().map(|_| OnceLock::new())).collect();
        Self { from, to, changes, epoch, registry, frames }
    }

    /// The events of a feed. Of a whole level they are encoded for the first who asks, and shared by the rest.
    pub(crate) fn frames(&self, feed: &Feed) -> Arc<Frames> {
        let encode = || Arc::new(Frames::encode(feed, &self.registry, &self.epoch, &self.changes));
        match feed {
            Feed::Everything(None) => Arc::clone(self.frames[0].get_or_init(encode)),
            Feed::Collection(id, None) => Arc::clone(self.frames[1 + id.index()].get_or_init(encode)),
            _ => encode(),
        }
    }

    /// The feeds of the single aggregates that it changes.
    pub(crate) fn singles(&self) -> HashSet<Feed> {
        self.changes.iter().map(|change| Feed::Aggregate(change.collection, change.key.clone())).collect()
    }

    /// The memory that it takes, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.changes.iter().map(Change::weight).sum()
    }
}

/// These events are durable, and come next.
pub(crate) struct Published {
    pub(crate) batch: Arc<Batch>,
    pub(crate) at: Instant,
}

impl Message for Published {
    type Result = ();
}

impl Handler<Committed> for Relay {
    type Result = ();

    fn handle(&mut self, committed: Committed, ctx: &mut Self::Context) {
        // Another poll may have published it already.
        if committed.to > self.last {
            self.pending.push(self.last, &self.registry, committed);
            self.publish_soon(ctx);
        }
        self.schedule_notify(ctx);
    }
}

/// There is something new.
pub(crate) struct NewEvents;

impl Message for NewEvents {
    type Result = ();
}

/// Tell this projector that there is something, whenever there is.
pub(crate) struct RegisterProjector(pub(crate) Recipient<NewEvents>);

impl Message for RegisterProjector {
    type Result = ();
}

impl Handler<RegisterProjector> for Relay {
    type Result = ();

    fn handle(&mut self, RegisterProjector(projector): RegisterProjector, _: &mut Self::Context) {
        self.projectors.push(projector);
    }
}

/// Tell this hub of everything from now on.
pub(crate) struct RegisterHub {
    pub(crate) hub: Recipient<Published>,
    /// How long it took to hand out what it was last told.
    pub(crate) handout_time: Arc<HandoutTime>,
}

impl Message for RegisterHub {
    type Result = ();
}

impl Handler<RegisterHub> for Relay {
    type Result = ();

    fn handle(&mut self, join: RegisterHub, _: &mut Self::Context) {
        // An empty batch tells it where it joined.
        let here = Batch::new(self.last, self.last, Vec::new(), self.epoch.clone(), Arc::clone(&self.registry));
        join.hub.do_send(Published { batch: Arc::new(here), at: Instant::now() });
        self.hubs.push(join);
    }
}

/// How long a worker took for a batch, from its publication until the last of its subscribers had its turn.
#[derive(Debug, Default)]
pub(crate) struct HandoutTime(AtomicU64);

impl HandoutTime {
    pub(crate) fn set(&self, handout_time: Duration) {
        self.0.store(u64::try_from(handout_time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Publish what there is, and stop.
pub(crate) struct Drain;

impl Message for Drain {
    type Result = ();
}

impl Handler<Drain> for Relay {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.poll();
        ctx.stop();
    }
}

/// Let no worker have the next batch, as if their mailboxes were full.
#[cfg(feature = "test-hooks")]
pub(crate) struct LoseBatch;

#[cfg(feature = "test-hooks")]
impl Message for LoseBatch {
    type Result = ();
}

#[cfg(feature = "test-hooks")]
impl Handler<LoseBatch> for Relay {
    type Result = ();

    fn handle(&mut self, _: LoseBatch, _: &mut Self::Context) {
        self.lose += 1;
    }
}
