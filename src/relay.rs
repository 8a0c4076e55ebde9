//! The actor that carries change events from the outbox to the workers, and has old ones pruned.
//!
//! It polls, so it is right alone, whatever wakes it or fails to; the aggregator's word that it committed makes it fast.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::prelude::*;

use crate::aggregator::{Aggregator, Committed, Prune};
use crate::clock::{Clock, Timestamp};
use crate::collection::Registry;
use crate::cursor::{Epoch, Revision};
use crate::feed::Feed;
use crate::frames::Frames;
use crate::store::{Change, Database, Pruned, Reader, Retained, Room, StoreError};

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
    /// The workers' hubs.
    pub(crate) hubs: Vec<Recipient<Published>>,
    /// Who keeps a projection.
    pub(crate) projectors: Vec<Recipient<Advanced>>,
    /// Batches that no worker gets.
    #[cfg(feature = "test-hooks")]
    pub(crate) lose: usize,
}

impl Relay {
    /// Publishes everything that is in the outbox by now.
    fn poll(&mut self) {
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
                    log::error!("the outbox cannot be read: {error}");
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
            Ok((horizon, view.changes(&Feed::Everything(None), after, horizon.current, Room::PAGE)?))
        })?;
        // Pruned before it was published: those who are behind notice the gap and read on from the database.
        self.last = self.last.max(horizon.pruned);
        Ok((read.to > self.last).then(|| (read.changes, read.to, read.to < horizon.current)))
    }

    fn publish(&mut self, changes: Vec<Change>, to: Revision) {
        let batch = Arc::new(Batch::new(self.last, to, changes, self.epoch.clone(), Arc::clone(&self.registry)));
        self.last = to;
        #[cfg(feature = "test-hooks")]
        if self.lose > 0 && batch.from < batch.to {
            self.lose -= 1;
            return;
        }
        // A worker that does not keep up misses a batch, sees the gap at the next one (there is one every poll interval,
        // if only an empty one), and its sessions catch up.
        self.hubs.retain(|hub| !matches!(hub.try_send(Published(Arc::clone(&batch))), Err(SendError::Closed(_))));
    }
}

impl Actor for Relay {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
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
        Retained { events: now.before(self.events), keep: self.keep, tombstones: now.before(self.tombstones) }
    }
}

/// Has everything removed that is old enough, in steps, between which the aggregator does commands.
pub(crate) async fn prune(aggregator: &Addr<Aggregator>, retained: Retained) {
    loop {
        match aggregator.send(Prune(retained)).await {
            Ok(Ok(Pruned::Some)) => {}
            Ok(Err(error)) => return log::error!("the outbox was not pruned: {error}"),
            Ok(Ok(Pruned::All)) | Err(_) => return,
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
        self.changes.iter().map(|change| change.patch.len() + change.key.as_str().len() + size_of::<Change>()).sum()
    }
}

/// These events are durable, and come next.
pub(crate) struct Published(pub(crate) Arc<Batch>);

impl Message for Published {
    type Result = ();
}

impl Handler<Committed> for Relay {
    type Result = ();

    fn handle(&mut self, Committed { revision }: Committed, _: &mut Self::Context) {
        // Many of these may wait by the time that one poll has published for all of them.
        if revision > self.last {
            self.poll();
        }
        // One that has not listened yet need not be told twice.
        self.projectors.retain(|projector| !matches!(projector.try_send(Advanced), Err(SendError::Closed(_))));
    }
}

/// There is something new.
pub(crate) struct Advanced;

impl Message for Advanced {
    type Result = ();
}

/// Tell this projector that there is something, whenever there is.
pub(crate) struct Wake(pub(crate) Recipient<Advanced>);

impl Message for Wake {
    type Result = ();
}

impl Handler<Wake> for Relay {
    type Result = ();

    fn handle(&mut self, Wake(projector): Wake, _: &mut Self::Context) {
        self.projectors.push(projector);
    }
}

/// Tell this hub of everything from now on.
pub(crate) struct Join(pub(crate) Recipient<Published>);

impl Message for Join {
    type Result = ();
}

impl Handler<Join> for Relay {
    type Result = ();

    fn handle(&mut self, Join(hub): Join, _: &mut Self::Context) {
        // An empty batch tells it where it joined.
        let here = Batch::new(self.last, self.last, Vec::new(), self.epoch.clone(), Arc::clone(&self.registry));
        hub.do_send(Published(Arc::new(here)));
        self.hubs.push(hub);
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
