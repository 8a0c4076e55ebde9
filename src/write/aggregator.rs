//! The actor that writes. All commands in its mailbox become one transaction, see [`Writer::commit`].
//!
//! It has a thread of its own, so that its blocking calls do not block other actors. It needs no timer: a single command
//! is committed immediately, and while a commit keeps the thread busy, the next batch accumulates in the mailbox. Only if a
//! batch is a round trip to a server, the next one waits a moment for those who have just been answered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::{oneshot, watch};

use crate::domain::clock::Clock;
use crate::domain::command::{Command, Rejection};
use crate::domain::error_chain::ErrorChain;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{JournalPosition, Revision};
use crate::memory::budget::Reservation;
use crate::memory::fair_shares::Share;
use crate::storage::commit_outcome::Written;
use crate::storage::database::{Database, Writers};
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::file_record::Patience;
use crate::storage::health::Part;
use crate::storage::outbox::Change;
use crate::storage::page::Progress;
use crate::storage::transaction::WriteError;
use crate::storage::writer::{Writer, WriterConfig};
use crate::write::attention::Attention;
use crate::write::committed_revision::{CommittedRevision, JournalMark};
use crate::write::erasure_retry::Retry;
use crate::write::gathering::{Ended, Gathering};
use crate::write::in_flight::InFlight;
use crate::write::refusal::Refusal;
use crate::write::replies::{ReplyBatch, ReplyQueue};
use crate::write::write_metrics::{Waiting, WriteMetrics};

/// The maximum number of commands in one transaction. The first of them waits for all.
const MAX_BATCH: usize = 512;

/// The memory that the commands of one transaction may take, in bytes; the last of them may exceed it.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The only writer of the main database.
pub(crate) struct Aggregator {
    pub(super) database: Arc<Database>,
    config: WriterConfig,
    pub(super) clock: Arc<Clock>,
    /// `None` after a failure. The next batch opens the database again.
    pub(super) writer: Option<Writer>,
    /// Commands for the next transaction.
    pending: Vec<Execute>,
    /// The memory that they take, in bytes.
    pending_bytes: usize,
    /// What the next batch waits for.
    gathering: Gathering,
    /// The capacity of the mailbox.
    queue: usize,
    committed: Arc<CommittedRevision>,
    journal: Arc<watch::Sender<JournalMark>>,
    pub(super) metrics: Arc<WriteMetrics>,
    /// The relay, which is notified of commits.
    pub(super) listener: Option<Recipient<Committed>>,
    /// Whether it has to be.
    attention: Arc<Attention>,
    /// Who waits for the end of an erasure.
    pub(super) erasing: Vec<AwaitedErasure>,
    /// When the next step of an erasure is done.
    pub(super) retry: Retry,
}

impl Aggregator {
    pub(crate) fn new(
        database: Arc<Database>,
        config: WriterConfig,
        clock: Arc<Clock>,
        writer: Writer,
        queue: usize,
    ) -> Self {
        let committed = Arc::new(CommittedRevision::new(&database, writer.revision(), &writer.changed()));
        let journal = watch::Sender::new(JournalMark { last: writer.position(), ..JournalMark::default() });
        let metrics = WriteMetrics::new();
        metrics.show_answers(writer.answers());
        metrics.max_answer_bytes.set(i64::try_from(config.answer_limit.bytes).unwrap_or(i64::MAX));
        metrics.erasures.set(writer.erasures());
        Self {
            database,
            config,
            clock,
            writer: Some(writer),
            pending: Vec::new(),
            pending_bytes: 0,
            gathering: Gathering::default(),
            queue,
            committed,
            journal: Arc::new(journal),
            metrics: Arc::new(metrics),
            listener: None,
            attention: Arc::default(),
            erasing: Vec::new(),
            retry: Retry::default(),
        }
    }

    pub(crate) fn committed(&self) -> Arc<CommittedRevision> {
        Arc::clone(&self.committed)
    }

    pub(crate) fn attention(&self) -> Arc<Attention> {
        Arc::clone(&self.attention)
    }

    pub(crate) fn metrics(&self) -> Arc<WriteMetrics> {
        Arc::clone(&self.metrics)
    }

    pub(crate) fn journal(&self) -> Arc<watch::Sender<JournalMark>> {
        Arc::clone(&self.journal)
    }

    /// Commits the pending commands, then replies: in several transactions if one would take too much memory.
    pub(super) fn flush(&mut self) {
        while !self.pending.is_empty() {
            self.commit();
            // Only now, so that nobody waits for it.
            if self.writer.as_mut().is_some_and(Writer::is_log_long) {
                self.checkpoint();
            }
        }
    }

    /// Moves the write-ahead log into the file. `None` if that failed.
    pub(super) fn checkpoint(&mut self) -> Option<Progress> {
        let writer = self.writer.as_mut()?;
        let health = self.database.health();
        match writer.checkpoint() {
            Ok(progress) => {
                health.recover(Part::Checkpoint);
                return Some(progress);
            }
            Err(StoreError::Replaced { .. }) => self.writer = None,
            Err(error) => {
                let path = self.database.name();
                let path = path.display();
                let reason = format!("{path}: the write-ahead log cannot be moved into it: {}", ErrorChain(&error));
                health.fail(Part::Checkpoint, &reason);
            }
        }
        None
    }

    /// Commits the pending commands, or as many of the first of them as one transaction takes. The others stay pending.
    fn commit(&mut self) {
        self.pending_bytes = 0;
        let pending = self.pending.drain(..);
        let (commands, requests): (Vec<_>, Vec<_>) =
            pending.map(|Execute { command, request }| (command, request)).unzip();
        let (mut commands, mut requests) = (commands.into_iter(), requests.into_iter());
        let mut replies = ReplyBatch::new();
        let now = self.clock.now();
        let started = Instant::now();
        let outcome = self.with_writer(|writer| writer.commit(&mut commands, now));
        let took = started.elapsed();
        self.metrics.latency.observe_time(took);
        self.gathering.end();
        #[cfg(feature = "test-hooks")]
        hold_answers();
        match outcome {
            Ok(committed) => {
                self.metrics.count_batch(&committed.answers);
                self.metrics.count_kept(committed.kept);
                self.committed.set(committed.revision, &committed.changed);
                self.move_mark(committed.position);
                let answered = committed.answers.len();
                for (answer, request) in committed.answers.into_iter().zip(&mut requests) {
                    request.answer(&mut replies, answer.map_err(ExecuteError::Rejected));
                }
                self.put_back(commands, requests, &mut replies);
                replies.send();
                self.gather(answered, took);
                // The relay comes second: clients wait for replies, but not for events.
                let (from, to) = (committed.after, committed.revision);
                self.notify(Committed { from, to, changes: committed.events, _charge: committed.charge });
            }
            Err(error) => {
                self.metrics.count_failure(&error);
                let read = requests.len() - commands.len();
                for request in requests.by_ref().take(read) {
                    request.answer(&mut replies, Err(ExecuteError::of(&error)));
                }
                // The transaction ended before these: whatever became of it, they were not executed.
                for request in requests {
                    request.answer(&mut replies, Err(ExecuteError::NotDone(Refusal::of(error.cause()))));
                }
                replies.send();
            }
        }
    }

    /// On a server, the next batch waits for those who got these answers.
    fn gather(&mut self, answered: usize, took: Duration) {
        if self.database.writers() == Writers::Many {
            let commands = i64::try_from(answered).unwrap_or(i64::MAX).saturating_add(self.metrics.waiting());
            self.gathering.after(Ended { commands, took, at: Instant::now() });
        }
    }

    /// Executes a command before all that wait, and returns when it is on disk.
    pub(super) fn execute_now(&mut self, command: Command) -> Result<Written, ExecuteError> {
        self.flush();
        let (reply_to, mut answered) = oneshot::channel();
        let _waiting = self.metrics.wait(0);
        let request = Request { replies: None, reply_to, _waiting, in_flight: None, charge: None };
        self.pending.push(Execute { command, request });
        self.flush();
        answered.try_recv().unwrap_or(Err(ExecuteError::Unknown))
    }

    pub(super) fn collection_name(&self, collection: CollectionId) -> &'static str {
        self.config.registry.get(collection).name()
    }

    /// Tells whoever has something of the past in memory that it was overwritten, and that there may be a domain event.
    pub(super) fn note_overwritten(&mut self) {
        let Some(writer) = &self.writer else { return };
        let (position, revision) = (writer.position(), writer.revision());
        let before = self.journal.borrow().last;
        self.journal.send_modify(|mark| {
            mark.move_to(position);
            mark.overwritten += 1;
        });
        if position != before {
            let (changes, charge) = (Vec::new(), self.config.batches.reservation());
            self.notify(Committed { from: revision, to: revision, changes, _charge: charge });
        }
    }

    /// Notifies the relay of a commit, if somebody has to know of it at once.
    fn notify(&self, committed: Committed) {
        if let Some(listener) = &self.listener
            && !self.attention.passes_over()
        {
            // If its mailbox is full, the relay sees a gap and reads these revisions from the outbox.
            let _ = listener.try_send(committed);
        }
    }

    /// Keeps the commands for which the last transaction had no memory. Without any memory they are refused, because the
    /// answers of earlier transactions are still being sent.
    fn put_back(
        &mut self,
        commands: impl Iterator<Item = Command>,
        requests: impl Iterator<Item = Request>,
        replies: &mut ReplyBatch<Result<Written, ExecuteError>>,
    ) {
        let is_room = self.config.batches.free() > 0;
        for (command, request) in commands.zip(requests) {
            if is_room {
                self.pending_bytes += request.size();
                self.pending.push(Execute { command, request });
            } else {
                request.answer(replies, Err(ExecuteError::NotDone(Refusal::QueueFull)));
            }
        }
    }

    /// Wakes the streams of the journal if there is something new.
    fn move_mark(&self, last: JournalPosition) {
        self.journal.send_if_modified(|mark| mark.move_to(last));
    }

    /// Runs `work` with the writer. The outcome is in its health.
    pub(super) fn with_writer<T>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let outcome = self.use_writer(work);
        let health = self.database.health();
        let path = self.database.path().display();
        match &outcome {
            Ok(_) => health.recover(Part::Writer),
            // It is in the health of the file.
            Err(error) if matches!(error.cause(), StoreError::Replaced { .. }) => {}
            Err(error) if error.cause().is_of_file() => {
                health.fail(Part::Writer, &format!("{path}: {}", ErrorChain(error.cause())));
            }
            Err(error) => log::error!("a transaction on {path} failed: {}", ErrorChain(error.cause())),
        }
        outcome
    }

    /// Runs `work` with the writer. After a failure or a panic, its connection is closed, unless only another process was
    /// in the way, or has changed the rules.
    pub(super) fn use_writer<T>(
        &mut self,
        work: impl FnOnce(&mut Writer) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        if self.database.health().is_replaced() {
            return Err(self.database.replaced().into());
        }
        let outcome = self.writer().and_then(|mut writer| {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut writer)))
                // One in the transaction, before its `COMMIT`, was caught there.
                .unwrap_or(Err(WriteError::Unknown(StoreError::Panicked)));
            let patience = match outcome.as_ref().map_err(WriteError::cause) {
                Ok(_) => Patience::Long,
                Err(StoreError::Busy) => Patience::Short,
                Err(error) if error.is_of_other_version() => Patience::Long,
                Err(_) => return outcome,
            };
            self.metrics.show_answers(writer.answers());
            self.metrics.erasures.set(writer.erasures());
            if writer.wait_for_lock(patience).is_ok() {
                self.writer = Some(writer);
            }
            outcome
        });
        // Perhaps it failed because the files are not there any more.
        outcome.map_err(|error| match self.database.examine() {
            Ok(()) => error,
            Err(replaced) => error.because_of(replaced),
        })
    }

    /// The writer, which is opened again after a failure.
    pub(super) fn writer(&mut self) -> Result<Writer, WriteError> {
        if let Some(writer) = self.writer.take() {
            return Ok(writer);
        }
        let writer = Writer::reopen(&self.database, self.config.clone(), self.committed.get())?;
        // The transaction that failed may have been committed nevertheless.
        self.committed.set(writer.revision(), &writer.changed());
        self.move_mark(writer.position());
        Ok(writer)
    }
}

/// Answers nothing more if the environment says so, so that a test can kill the process between a commit and its answers.
#[cfg(feature = "test-hooks")]
fn hold_answers() {
    static IS_HELD: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("TEST_HOLD_ANSWERS").is_some());
    if *IS_HELD {
        loop {
            thread::park();
        }
    }
}

impl Actor for Aggregator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.queue);
        // What another process has begun.
        self.continue_erasing(ctx);
    }
}

/// Executes a command, and replies when it is on disk.
pub(crate) struct Execute {
    command: Command,
    request: Request,
}

/// Who waits for the reply to a command.
struct Request {
    /// `None` to wake the caller on its own.
    replies: Option<CommandReplies>,
    reply_to: oneshot::Sender<Result<Written, ExecuteError>>,
    _waiting: Waiting,
    /// For a command with an idempotency key.
    in_flight: Option<InFlight>,
    /// The memory that the command takes until it is answered; `None` if no client has sent it.
    charge: Option<Share>,
}

impl Request {
    /// The memory that its command takes, in bytes.
    fn size(&self) -> usize {
        self.charge.as_ref().map_or(0, Share::size)
    }

    fn answer(self, batch: &mut ReplyBatch<Result<Written, ExecuteError>>, answer: Result<Written, ExecuteError>) {
        // The answer is stored, if there is one: a client that repeats the request as soon as it has it gets it again.
        drop(self.in_flight);
        batch.add(self.replies.as_ref(), self.reply_to, answer);
    }
}

/// Who waits for the end of an erasure.
pub(super) struct AwaitedErasure {
    pub(super) collection: &'static str,
    pub(super) key: Key,
    pub(super) reply_to: oneshot::Sender<()>,
}

impl AwaitedErasure {
    pub(super) fn is_for(&self, erasure: &Erasure) -> bool {
        self.collection == erasure.collection && self.key.as_str() == erasure.key
    }

    pub(super) fn finish(self) {
        // Who waited for it may be gone.
        let _ = self.reply_to.send(());
    }
}

/// The replies to the commands of one worker thread.
pub(crate) type CommandReplies = ReplyQueue<Result<Written, ExecuteError>>;

/// Why a command has no result.
#[derive(Debug)]
pub(crate) enum ExecuteError {
    /// The command was rejected.
    Rejected(Rejection),
    /// The command was not executed, for a reason that has nothing to do with it.
    NotDone(Refusal),
    /// The commit failed, or went into a file that was replaced; the cause is in the log. It is unknown whether the command
    /// was executed.
    Unknown,
}

impl ExecuteError {
    fn of(error: &WriteError) -> Self {
        match error {
            WriteError::NotDone(cause) => Self::NotDone(Refusal::of(cause)),
            WriteError::Unknown(_) => Self::Unknown,
        }
    }
}

/// A command for the queue.
pub(crate) struct Submission<'a> {
    pub(crate) command: Command,
    /// The queue of the caller's thread; `None` to wake the caller on its own.
    pub(crate) replies: Option<&'a CommandReplies>,
    pub(crate) waiting: Waiting,
    /// For a command with an idempotency key.
    pub(crate) in_flight: Option<InFlight>,
    /// `None` if no client has sent it.
    pub(crate) charge: Option<Share>,
}

/// Sends a command, and waits until it is durable or rejected. `aggregator` must be the one shared address: actix bounds
/// a mailbox per address, so each clone of it could add a command beyond the capacity.
///
/// The command is sent at once, so that the future has no room for it.
pub(crate) fn execute(
    aggregator: &Addr<Aggregator>,
    Submission { command, replies, waiting, in_flight, charge }: Submission<'_>,
) -> impl Future<Output = Result<Written, ExecuteError>> + use<> {
    let (reply_to, answered) = oneshot::channel();
    let request = Request { replies: replies.cloned(), reply_to, _waiting: waiting, in_flight, charge };
    let sent = aggregator.try_send(Execute { command, request }).map_err(|error| match error {
        SendError::Full(_) => ExecuteError::NotDone(Refusal::QueueFull),
        SendError::Closed(_) => ExecuteError::NotDone(Refusal::Stopping),
    });
    async move {
        sent?;
        answered.await.unwrap_or(Err(ExecuteError::Unknown))
    }
}

impl Message for Execute {
    type Result = ();
}

impl Handler<Execute> for Aggregator {
    type Result = ();

    fn handle(&mut self, execute: Execute, ctx: &mut Self::Context) {
        if self.pending.is_empty() {
            // The mailbox is drained before a notification is handled, so the batch has all commands that wait now.
            ctx.notify(Flush);
        }
        self.pending_bytes += execute.request.size();
        self.pending.push(execute);
        if self.pending.len() >= MAX_BATCH || self.pending_bytes >= MAX_BATCH_BYTES {
            self.flush();
        }
    }
}

/// Commits the pending commands. Handled when the mailbox is drained.
struct Flush;

impl Message for Flush {
    type Result = ();
}

impl Handler<Flush> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) {
        match self.gathering.pause(self.metrics.waiting(), Instant::now()) {
            Some(pause) => {
                thread::sleep(pause);
                // The mailbox is drained before it is handled.
                ctx.notify(Flush);
            }
            None => self.flush(),
        }
    }
}

/// A batch is durable. It may have domain events without any revision.
pub(crate) struct Committed {
    /// The last revision before the batch.
    pub(crate) from: Revision,
    /// The last revision of the batch.
    pub(crate) to: Revision,
    /// The change events of these revisions.
    pub(crate) changes: Vec<Change>,
    /// The memory that they take until the relay has them.
    pub(crate) _charge: Reservation,
}

impl Message for Committed {
    type Result = ();
}

/// Registers the recipient that is notified of commits.
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

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::domain::collection::{Document, Registry};
    use crate::domain::command::Verb;
    use crate::domain::metadata::Metadata;
    use crate::domain::precondition::Precondition;
    use crate::memory::budget::MemoryBudget;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const NAME: &'static str = "notes";
    }

    /// What becomes of five large commands that wait together, and the number of transactions. Nobody takes the answers
    /// meanwhile.
    fn outcomes(budget: &Arc<MemoryBudget>) -> (Vec<String>, u64) {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&directory.path().join("test.db")).unwrap());
        let mut registry = Registry::default();
        registry.document::<Note>();
        let (registry, clock) = (Arc::new(registry), Arc::new(Clock::default()));
        let config = WriterConfig { batches: Arc::clone(budget), ..WriterConfig::new(&registry, &[].into()) };
        let writer = Writer::open(&database, config.clone(), clock.now()).unwrap();
        let mut aggregator = Aggregator::new(database, config, clock, writer, 100);
        let collection = registry.id("notes").unwrap();
        let send = |number| {
            let text = format!("{number}{}", "x".repeat(30_000));
            let change = registry.get(collection).change(Verb::Create, serde_json::json!({ "text": text })).unwrap();
            let (precondition, metadata) = (Precondition::default(), Metadata::default());
            let command = Command { collection, key: None, precondition, idempotency: None, change, metadata };
            let (reply_to, answered) = oneshot::channel();
            let waiting = aggregator.metrics.wait(0);
            let request = Request { replies: None, reply_to, _waiting: waiting, in_flight: None, charge: None };
            aggregator.pending.push(Execute { command, request });
            answered
        };
        let answers: Vec<_> = (1..=5).map(send).collect();
        aggregator.flush();
        let answers: Vec<_> = answers.into_iter().map(|mut answer| answer.try_recv().unwrap()).collect();
        let outcome = |answer: &Result<Written, ExecuteError>| match answer {
            Ok(Written { key, revision, .. }) => format!("{} at {revision:?}", key.as_str()),
            Err(error) => format!("{error:?}"),
        };
        (answers.iter().map(outcome).collect(), aggregator.metrics.commits())
    }

    fn done(number: i64) -> String {
        format!("{number} at {:?}", Revision::from_raw(number))
    }

    #[test]
    fn commands_that_wait_together_are_split_by_what_they_take_and_stay_in_order() {
        for (budget, commits) in [(10_000_000, 1), (8 * 100_000, 3), (8 * 10_000, 2)] {
            let budget = MemoryBudget::new(budget);
            let (outcomes, transactions) = outcomes(&budget);
            let mut expected: Vec<_> = (1..=5).map(done).collect();
            if commits == 2 {
                // The answers of two have all of the memory.
                expected[2..].fill("NotDone(QueueFull)".to_owned());
            }
            assert_eq!((outcomes, transactions), (expected, commits), "{budget:?}");
            assert!(budget.peak() >= budget.limit().min(5 * 30_000), "{budget:?}");
            assert_eq!(budget.used(), 0);
        }
    }
}
