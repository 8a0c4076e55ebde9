//! The actor that carries change events from the outbox to the hubs, and prunes old ones.
//!
//! It polls, so it is correct on its own; the aggregator's notifications make it fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::watch;

use super::interest::{Commits, Interest, Interested, NewEvents};
use super::journal_watch::JournalWatch;
use super::pacing::pause;
use super::pending::PendingChanges;
use super::reach::Reach;
use super::relay_metrics::RelayMetrics;
use super::watch::Watch;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::domain::error_chain::ErrorChain;
use crate::domain::feed::Feed;
use crate::domain::revision::{Epoch, Revision};
use crate::events::batch::Batch;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::health::Part;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Progress, Span};
use crate::storage::reader::Reader;
use crate::storage::retained::Retained;
use crate::write::aggregator::{Aggregator, Committed};
use crate::write::attention::Attention;
use crate::write::committed_revision::{CommittedRevision, JournalMark};
use crate::write::maintenance::Prune;

/// The shortest time between two notifications of the projectors. The cost of a step hardly depends on the number of its
/// events: with a notification for each commit, three projections kept a lone writer waiting for a processor twice as
/// long as for the disk. While there are many events, each of them rests for longer.
const NOTIFY_INTERVAL: Duration = Duration::from_millis(20);

/// Commits that may wait in the mailbox.
const MAILBOX: usize = 256;

/// What a relay works with.
pub(crate) struct RelayConfig {
    pub(crate) database: Arc<Database>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) epoch: Epoch,
    /// The only writer: it prunes for the relay.
    pub(crate) aggregator: Addr<Aggregator>,
    /// What it has committed: the last revision, the last domain event, and who has to know at once.
    pub(crate) committed: Arc<CommittedRevision>,
    pub(crate) committed_journal: watch::Receiver<JournalMark>,
    pub(crate) attention: Arc<Attention>,
    pub(crate) poll_interval: Duration,
    pub(crate) prune_interval: Duration,
    pub(crate) retention: Retention,
    /// The last revision that need not be published.
    pub(crate) published: Revision,
    pub(crate) metrics: Arc<RelayMetrics>,
    pub(crate) reach: Arc<Reach>,
    pub(crate) watch: Watch,
    /// `None` if only this process writes the database.
    pub(crate) journal: Option<JournalWatch>,
}

/// Reads the outbox and publishes batches of change events to the hub of every worker thread.
pub(crate) struct Relay {
    config: RelayConfig,
    /// `None` after a failure, until the next poll reopens the database.
    reader: Option<Reader>,
    /// Everything up to this revision has been published.
    published: Revision,
    /// Committed changes that follow, as far as the aggregator has sent them.
    pending: PendingChanges,
    hubs: Vec<RegisterHub>,
    /// The number of revisions in the last batch.
    last_batch_revisions: u32,
    last_published_at: Option<Instant>,
    /// A timer runs that will publish what is pending.
    publish_scheduled: bool,
    projectors: Vec<Interested>,
    commits: Commits,
    last_notified: Option<Instant>,
    /// A timer runs that will notify the projectors.
    notify_scheduled: bool,
    /// A timer runs that will end a rest.
    is_resting: bool,
    /// Batches that no hub will get.
    #[cfg(feature = "test-hooks")]
    lose: usize,
}

impl Relay {
    pub(crate) fn new(config: RelayConfig) -> Self {
        Self {
            published: config.published,
            commits: Commits { committed: Arc::clone(&config.committed), journal: config.committed_journal.clone() },
            config,
            reader: None,
            pending: PendingChanges::default(),
            hubs: Vec::new(),
            last_batch_revisions: 0,
            last_published_at: None,
            publish_scheduled: false,
            projectors: Vec::new(),
            last_notified: None,
            notify_scheduled: false,
            is_resting: false,
            #[cfg(feature = "test-hooks")]
            lose: 0,
        }
    }

    /// Publishes what is pending: now, or when the pause after the last publication is over.
    fn schedule_publish(&mut self, ctx: &mut Context<Self>) {
        if self.publish_scheduled {
            return;
        }
        let handout_time = self.hubs.iter().map(|hub| hub.handout_time.get()).max().unwrap_or_default();
        let pause = pause(handout_time, self.last_batch_revisions);
        let wait = self.last_published_at.map_or(Duration::ZERO, |last| pause.saturating_sub(last.elapsed()));
        if wait.is_zero() {
            return self.publish_pending();
        }
        self.publish_scheduled = true;
        ctx.run_later(wait, |relay, _| {
            relay.publish_scheduled = false;
            relay.publish_pending();
        });
    }

    /// Publishes the changes that the aggregator sent, and reads the outbox if it sent only some.
    fn publish_pending(&mut self) {
        if let Some((changes, to)) = self.pending.take() {
            self.publish(changes, to);
        }
        if self.pending.take_gap() {
            self.poll();
        }
    }

    /// Publishes everything that is in the outbox. Nothing, if the database is not the one that was opened.
    fn poll(&mut self) {
        self.pending.clear();
        let database = Arc::clone(&self.config.database);
        if database.examine().is_err() {
            self.reader = None;
            return;
        }
        let health = database.health();
        loop {
            match self.next_page() {
                Ok(Some(page)) => {
                    self.publish(page.changes, page.to);
                    if page.progress == Progress::Done {
                        return health.recover(Part::Relay);
                    }
                }
                Ok(None) => {
                    // What cannot be read for one client only is in the log then, and the service goes on.
                    health.recover(Part::Reader);
                    return health.recover(Part::Relay);
                }
                Err(error) => {
                    health.fail(Part::Relay, &format!("cannot read the outbox: {}", ErrorChain(&error)));
                    self.reader = None;
                    return;
                }
            }
        }
    }

    /// The changes after the last published revision; `None` if there is no later revision.
    fn next_page(&mut self) -> Result<Option<OutboxPage>, StoreError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.config.database, Arc::clone(&self.config.registry))?);
        }
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let journal = &self.config.journal;
        let (horizon, read) = reader.view(|view| {
            let horizon = view.horizon()?;
            journal.as_ref().map_or(Ok(()), |journal| journal.look(view, &horizon))?;
            let after = self.published.max(horizon.pruned);
            Ok((horizon, view.changes(&Feed::Everything(None), Span { after, to: horizon.current }, PageLimit::PAGE)?))
        })?;
        // If revisions were pruned before they were published, the hubs see the gap and their sessions catch up.
        self.published = self.published.max(horizon.pruned);
        self.config.reach.note();
        self.config.metrics.polled(&horizon, self.published);
        let progress = if read.to < horizon.current { Progress::More } else { Progress::Done };
        Ok((read.to > self.published).then_some(OutboxPage { changes: read.changes, to: read.to, progress }))
    }

    /// Sends a batch up to this revision to every hub, if anybody follows.
    fn publish(&mut self, changes: Vec<Change>, to: Revision) {
        let revisions = to.number() - self.published.number();
        let batch = self.batch(changes, to);
        self.published = to;
        #[cfg(feature = "test-hooks")]
        if self.lose > 0 && revisions > 0 {
            self.lose -= 1;
            return;
        }
        let now = Instant::now();
        if revisions > 0 {
            self.config.metrics.published(to, now);
            self.last_published_at = Some(now);
            self.last_batch_revisions = u32::try_from(revisions).unwrap_or(u32::MAX);
        }
        if !self.config.attention.is_followed() {
            return;
        }
        // A hub with a full mailbox misses the batch. It sees the gap at the next one (at each poll there is one, even if
        // it is empty), and its sessions catch up.
        self.hubs.retain(|RegisterHub { hub, .. }| {
            let published = Published { batch: Arc::clone(&batch), at: now };
            !matches!(hub.try_send(published), Err(SendError::Closed(_)))
        });
    }

    fn batch(&self, changes: Vec<Change>, to: Revision) -> Arc<Batch> {
        let RelayConfig { epoch, registry, .. } = &self.config;
        Arc::new(Batch::new(self.published, to, changes, epoch.clone(), Arc::clone(registry)))
    }

    /// Notifies the projectors of new events: now, or when the interval since the last notification is over.
    fn schedule_notify(&mut self, ctx: &mut Context<Self>) {
        if self.notify_scheduled {
            return;
        }
        let wait = self.last_notified.map_or(Duration::ZERO, |last| NOTIFY_INTERVAL.saturating_sub(last.elapsed()));
        if wait.is_zero() {
            return self.notify(ctx);
        }
        self.notify_scheduled = true;
        ctx.run_later(wait, |relay, ctx| {
            relay.notify_scheduled = false;
            relay.notify(ctx);
        });
    }

    fn notify(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.last_notified = Some(now);
        let Self { projectors, commits, .. } = self;
        projectors.retain_mut(|projector| projector.notify(commits, now));
        if self.projectors.iter().any(Interested::is_waiting) {
            self.schedule_notify(ctx);
        }
    }

    /// Lets commits pass while nobody follows. What the projectors miss, they find after the usual interval.
    fn rest(&mut self, ctx: &mut Context<Self>) {
        if self.is_resting {
            return;
        }
        self.is_resting = true;
        self.config.attention.rest();
        ctx.run_later(NOTIFY_INTERVAL, |relay, ctx| {
            relay.is_resting = false;
            if relay.config.attention.wake_up() {
                relay.pass_over(relay.config.committed.get());
                relay.schedule_notify(ctx);
                relay.rest(ctx);
            }
        });
    }

    /// Omits what was committed up to this revision, unless somebody follows. Whoever begins to follow now reads it from the
    /// database.
    fn pass_over(&mut self, to: Revision) {
        if self.config.attention.is_followed() {
            return self.poll();
        }
        if to > self.published {
            self.pending.clear();
            self.published = to;
            self.config.metrics.published(to, Instant::now());
        }
    }
}

/// Change events as they were read from the outbox.
struct OutboxPage {
    changes: Vec<Change>,
    /// All changes up to this revision are in the page.
    to: Revision,
    progress: Progress,
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
        ctx.run_interval(self.config.poll_interval, |relay, _| {
            relay.poll();
            relay.publish(Vec::new(), relay.published);
            relay.config.watch.look();
        });
        ctx.run_interval(self.config.prune_interval, |relay, ctx| {
            let aggregator = relay.config.aggregator.clone();
            let retained = relay.config.retention.at(relay.config.clock.now());
            ctx.spawn(async move { prune(&aggregator, retained).await }.into_actor(relay));
        });
    }
}

/// The aggregator has committed.
impl Handler<Committed> for Relay {
    type Result = ();

    fn handle(&mut self, committed: Committed, ctx: &mut Self::Context) {
        if !self.config.attention.is_followed() {
            self.pass_over(committed.to);
            self.rest(ctx);
        } else if committed.to > self.published {
            // A poll has not published it already.
            self.pending.push(self.published, &self.config.registry, committed);
            self.schedule_publish(ctx);
        }
        self.schedule_notify(ctx);
    }
}

/// These change events are durable, and follow on those that were published before.
pub(crate) struct Published {
    pub(crate) batch: Arc<Batch>,
    pub(crate) at: Instant,
}

impl Message for Published {
    type Result = ();
}

/// Send every batch from now on to this hub.
pub(crate) struct RegisterHub {
    pub(crate) hub: Recipient<Published>,
    pub(crate) handout_time: Arc<HandoutTime>,
}

impl Message for RegisterHub {
    type Result = ();
}

impl Handler<RegisterHub> for Relay {
    type Result = ();

    fn handle(&mut self, register: RegisterHub, _: &mut Self::Context) {
        // An empty batch lets the hub know after which revision it joins.
        let batch = self.batch(Vec::new(), self.published);
        register.hub.do_send(Published { batch, at: Instant::now() });
        self.hubs.push(register);
    }
}

/// How long a worker took for a batch, from its publication until its last subscriber's task ran.
#[derive(Debug, Default)]
pub(crate) struct HandoutTime(AtomicU64);

impl HandoutTime {
    pub(crate) fn set(&self, time: Duration) {
        self.0.store(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Notify this projector of new events from now on.
pub(crate) struct RegisterProjector {
    pub(crate) projector: Recipient<NewEvents>,
    pub(crate) interest: Interest,
}

impl Message for RegisterProjector {
    type Result = ();
}

impl Handler<RegisterProjector> for Relay {
    type Result = ();

    fn handle(&mut self, RegisterProjector { projector, interest }: RegisterProjector, _: &mut Self::Context) {
        self.projectors.push(Interested::new(projector, interest));
    }
}

/// How long change events, tombstones and answers are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) events: Duration,
    /// The number of the latest revisions whose events are kept at most.
    pub(crate) keep: Option<i64>,
    pub(crate) tombstones: Duration,
    /// Of commands with an idempotency key.
    pub(crate) answers: Duration,
}

impl Retention {
    /// What is kept at this time.
    pub(crate) fn at(&self, now: Timestamp) -> Retained {
        Retained {
            now,
            events: now.minus(self.events),
            keep: self.keep,
            tombstones: now.minus(self.tombstones),
            answers: now.minus(self.answers),
        }
    }
}

/// Prunes in steps, so that the aggregator can execute commands between them.
pub(crate) async fn prune(aggregator: &Addr<Aggregator>, retained: Retained) {
    loop {
        match aggregator.send(Prune(retained)).await {
            Ok(Ok(Progress::More)) => {}
            // The aggregator has logged the error.
            Ok(Err(_) | Ok(Progress::Done)) | Err(_) => return,
        }
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

/// Send the next batch to no hub, as if their mailboxes were full.
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
