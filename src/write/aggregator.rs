//! The actor that writes: everything that waits in its mailbox becomes one transaction of [`Writer::commit`].
//!
//! It has a thread of its own, so its blocking calls block nobody. No timer: a lone command is committed at once, and
//! while a commit keeps the thread busy, the next batch gathers in the mailbox.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::domain::command::{Command, Rejection};
use crate::domain::key::CollectionId;
use crate::domain::revision::{Epoch, HighWaterMark, JournalPosition, Revision};
use crate::read_model::spec::ProjectionSpec;
use crate::storage::commit::Written;
use crate::storage::connection::Database;
use crate::storage::error::StoreError;
use crate::storage::outbox::Change;
use crate::storage::page::Progress;
use crate::storage::writer::{Retained, Writer};
use crate::write::replies::{ReplyBatch, ReplyQueue};

/// Commands in one transaction, at most: what the first of them waits for.
const MAX_BATCH: usize = 512;

/// The only writer of the main database.
pub(crate) struct Aggregator {
    database: Arc<Database>,
    registry: Arc<Registry>,
    inline: Arc<[ProjectionSpec]>,
    clock: Arc<Clock>,
    epoch: Epoch,
    /// `None` after a failure, until the next batch opens the database again.
    writer: Option<Writer>,
    /// Commands that no transaction has taken yet.
    pending: Vec<Execute>,
    /// Commands that may wait in the mailbox.
    queue: usize,
    committed: Arc<CommittedRevision>,
    journal: Arc<watch::Sender<JournalMark>>,
    /// Who wants to know of commits: the relay.
    listener: Option<Recipient<Committed>>,
}

/// The last revision that is durable, and those of the last changes, for whoever asks; written by the aggregator only.
#[derive(Debug)]
pub(crate) struct CommittedRevision {
    revision: AtomicI64,
    high_water_mark: HighWaterMark,
    /// For each collection, the revision of its last change. Moved before `revision` is.
    changed: Box<[AtomicI64]>,
}

impl CommittedRevision {
    fn new(revision: Revision, changed: &[Revision], high_water_mark: HighWaterMark) -> Self {
        let changed = changed.iter().map(|changed| AtomicI64::new(changed.number())).collect();
        Self { revision: AtomicI64::new(revision.number()), high_water_mark, changed }
    }

    /// No earlier than the last write that was answered, and than what anybody was shown.
    pub(crate) fn get(&self) -> Revision {
        self.last_published().max(self.high_water_mark.last())
    }

    /// What the aggregator said last.
    fn last_published(&self) -> Revision {
        Revision::from_raw(self.revision.load(Ordering::Acquire))
    }

    /// A revision as [`Self::get`] gives it, and that of the collection's last change up to it; `None` where somebody was
    /// shown more than the aggregator has told yet, so that the database has to be asked.
    pub(crate) fn of(&self, collection: CollectionId) -> Option<(Revision, Revision)> {
        // In this order: the last change up to `revision` was stored before it was, so it is this one or an earlier one.
        let revision = self.last_published();
        let changed = Revision::from_raw(self.changed[collection.index()].load(Ordering::Acquire));
        // A commit may have come in between; then nothing is known of what is between this change and its last revision.
        let revision = revision.max(changed);
        (revision >= self.high_water_mark.last()).then_some((revision, changed))
    }

    fn set(&self, revision: Revision, changed: &[Revision]) {
        for (stored, changed) in self.changed.iter().zip(changed) {
            stored.store(changed.number(), Ordering::Release);
        }
        self.revision.store(revision.number(), Ordering::Release);
    }
}

/// What those who follow the journal wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JournalMark {
    /// The last position that is durable; moved by the aggregator only.
    pub(crate) last: JournalPosition,
    /// The service says goodbye.
    pub(crate) is_over: bool,
}

impl Aggregator {
    pub(crate) fn new(
        database: Arc<Database>,
        registry: Arc<Registry>,
        inline: Arc<[ProjectionSpec]>,
        clock: Arc<Clock>,
        writer: Writer,
        queue: usize,
    ) -> Self {
        let committed =
            Arc::new(CommittedRevision::new(writer.revision(), &writer.changed(), database.high_water_mark().clone()));
        let journal = watch::Sender::new(JournalMark { last: writer.position(), is_over: false });
        Self {
            database,
            registry,
            inline,
            clock,
            epoch: writer.epoch().clone(),
            writer: Some(writer),
            pending: Vec::new(),
            queue,
            committed,
            journal: Arc::new(journal),
            listener: None,
        }
    }

    pub(crate) fn committed(&self) -> Arc<CommittedRevision> {
        Arc::clone(&self.committed)
    }

    pub(crate) fn journal(&self) -> Arc<watch::Sender<JournalMark>> {
        Arc::clone(&self.journal)
    }

    /// Commits what is pending, then answers.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let (commands, reply_to): (Vec<_>, Vec<_>) =
            self.pending.drain(..).map(|execute| (execute.command, (execute.answers, execute.reply_to))).unzip();
        let mut answers = ReplyBatch::new();
        let now = self.clock.now();
        match self.with_writer(|writer| writer.commit(commands, now)) {
            Ok(committed) => {
                self.committed.set(committed.revision, &committed.changed);
                self.journal.send_if_modified(|mark| {
                    std::mem::replace(&mut mark.last, committed.position) != committed.position
                });
                for ((place, reply_to), answer) in reply_to.into_iter().zip(committed.answers) {
                    answers.add(place.as_ref(), reply_to, answer.map_err(ExecuteError::Rejected));
                }
                answers.send();
                // The relay comes second: a writer waits for its answer, and nobody for an event.
                if let Some(listener) = &self.listener {
                    let (from, to, changes) = (committed.after, committed.revision, committed.events);
                    // One that it has no room for is a gap to it: it reads on from the outbox.
                    drop(listener.try_send(Committed { from, to, changes }));
                }
            }
            Err(error) => {
                log::error!("{} commands were not done: {error}", reply_to.len());
                for (place, reply_to) in reply_to {
                    answers.add(place.as_ref(), reply_to, Err(ExecuteError::Failed));
                }
                answers.send();
            }
        }
    }

    /// Lends the writer; after a failure or a panic its connection is not trusted any more.
    fn with_writer<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let (registry, inline) = (Arc::clone(&self.registry), Arc::clone(&self.inline));
                let writer = Writer::reopen(&self.database, registry, inline, &self.epoch, self.committed.get())?;
                // What failed may have been committed all the same.
                self.committed.set(writer.revision(), &writer.changed());
                writer
            }
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut writer)))
            .unwrap_or_else(|_| Err(StoreError::Corrupt("a panic, see above".to_owned())));
        if outcome.is_ok() {
            self.writer = Some(writer);
        }
        outcome
    }
}

impl Actor for Aggregator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.queue);
    }
}

/// Do this command, and answer when it is on disk.
pub(crate) struct Execute {
    command: Command,
    /// `None` for one that is answered by itself.
    answers: Option<CommandReplies>,
    reply_to: oneshot::Sender<Result<Written, ExecuteError>>,
}

/// Where the outcomes of a thread's commands arrive.
pub(crate) type CommandReplies = ReplyQueue<Result<Written, ExecuteError>>;

/// Why a command has no outcome to show.
#[derive(Debug)]
pub(crate) enum ExecuteError {
    /// It was decided, and refused.
    Rejected(Rejection),
    /// Too many commands wait already; it was not taken.
    Busy,
    /// The database failed; the log says how. Whether the command was done is unknown.
    Failed,
}

/// Sends a command and waits until it is durable or refused. `aggregator` is the one shared address: actix bounds a
/// mailbox per address, so a clone of it would have a place of its own in the queue.
pub(crate) async fn execute(
    aggregator: &Addr<Aggregator>,
    answers: Option<&CommandReplies>,
    command: Command,
) -> Result<Written, ExecuteError> {
    let (reply_to, answered) = oneshot::channel();
    match aggregator.try_send(Execute { command, answers: answers.cloned(), reply_to }) {
        Ok(()) => answered.await.unwrap_or(Err(ExecuteError::Failed)),
        Err(SendError::Full(_)) => Err(ExecuteError::Busy),
        Err(SendError::Closed(_)) => Err(ExecuteError::Failed),
    }
}

impl Message for Execute {
    type Result = ();
}

impl Handler<Execute> for Aggregator {
    type Result = ();

    fn handle(&mut self, execute: Execute, ctx: &mut Self::Context) {
        if self.pending.is_empty() {
            // The mailbox is drained before a notification is handled, so the batch is all that waits now.
            ctx.notify(Flush);
        }
        self.pending.push(execute);
        if self.pending.len() >= MAX_BATCH {
            self.flush();
        }
    }
}

/// The mailbox is drained.
struct Flush;

impl Message for Flush {
    type Result = ();
}

impl Handler<Flush> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: Flush, _: &mut Self::Context) {
        self.flush();
    }
}

/// Some revisions are durable, and perhaps domain events as well.
pub(crate) struct Committed {
    /// The revisions after this one …
    pub(crate) from: Revision,
    /// … up to this one.
    pub(crate) to: Revision,
    /// What they changed.
    pub(crate) changes: Vec<Change>,
}

impl Message for Committed {
    type Result = ();
}

/// Tell this one of commits from now on.
pub(crate) struct Listen(pub(crate) Recipient<Committed>);

impl Message for Listen {
    type Result = ();
}

impl Handler<Listen> for Aggregator {
    type Result = ();

    fn handle(&mut self, Listen(listener): Listen, _: &mut Self::Context) {
        self.listener = Some(listener);
    }
}

/// Remove some of what is not retained.
pub(crate) struct Prune(pub(crate) Retained);

impl Message for Prune {
    type Result = Result<Progress, StoreError>;
}

impl Handler<Prune> for Aggregator {
    type Result = Result<Progress, StoreError>;

    fn handle(&mut self, Prune(retained): Prune, _: &mut Self::Context) -> Self::Result {
        self.flush();
        self.with_writer(|writer| writer.prune(retained))
    }
}

/// Build an inline projection anew; commands wait for that long.
pub(crate) struct RebuildInline(pub(crate) &'static str);

impl Message for RebuildInline {
    type Result = Result<(), StoreError>;
}

impl Handler<RebuildInline> for Aggregator {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, RebuildInline(name): RebuildInline, _: &mut Self::Context) -> Self::Result {
        self.flush();
        let now = self.clock.now();
        self.with_writer(|writer| writer.rebuild(name, now))
    }
}

/// Commit what waits, leave a tidy file behind, and stop.
pub(crate) struct Close;

impl Message for Close {
    type Result = Result<(), StoreError>;
}

impl Handler<Close> for Aggregator {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) -> Self::Result {
        self.flush();
        ctx.stop();
        self.writer.take().map_or(Ok(()), Writer::close)
    }
}

/// Forget who wants to know of commits: a wake-up that is lost for good.
#[cfg(feature = "test-hooks")]
pub(crate) struct LoseWakeUps;

#[cfg(feature = "test-hooks")]
impl Message for LoseWakeUps {
    type Result = ();
}

#[cfg(feature = "test-hooks")]
impl Handler<LoseWakeUps> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: LoseWakeUps, _: &mut Self::Context) {
        self.listener = None;
    }
}
