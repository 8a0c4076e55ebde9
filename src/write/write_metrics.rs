//! What the aggregator counts, once for each batch.

use std::sync::Arc;

use crate::domain::command::Rejection;
use crate::metrics::{BATCH, Counter, Gauge, Held, Histogram, MICROSECONDS};
use crate::storage::answer_room::StoredAnswers;
use crate::storage::commit_outcome::{KeptAnswers, Written};
use crate::storage::transaction::WriteError;

/// What the aggregator counts.
#[derive(Debug)]
pub(crate) struct WriteMetrics {
    /// Commands for each committed transaction.
    pub(crate) batch: Histogram,
    /// How long each transaction took, in microseconds, whatever became of it.
    pub(crate) latency: Histogram,
    /// Transactions of which nothing was written.
    pub(crate) refused: Counter,
    /// Transactions whose `COMMIT` failed.
    pub(crate) unknown: Counter,
    /// Commands that a business rule, a precondition or their validation rejected.
    pub(crate) rejected: Counter,
    /// Stored answers to commands with an idempotency key.
    pub(crate) answers: Gauge,
    /// What they take, in bytes.
    pub(crate) answer_bytes: Gauge,
    /// What they may take, in bytes.
    pub(crate) max_answer_bytes: Gauge,
    /// Aggregates of which the database may still have something, although they were erased.
    pub(crate) erasures: Gauge,
    /// Stored answers that were given again.
    pub(crate) repeated: Counter,
    /// Commands whose idempotency key belongs to another request.
    pub(crate) key_reused: Counter,
    /// Commands for whose answer there was no room.
    pub(crate) answers_full: Counter,
    /// Commands that wait.
    waiting: Arc<Gauge>,
    /// The request bodies of these commands, in bytes.
    waiting_bytes: Arc<Gauge>,
    /// Tombstones that were deleted.
    pub(crate) pruned_tombstones: Counter,
}

impl WriteMetrics {
    pub(crate) fn new() -> Self {
        Self {
            batch: Histogram::new(BATCH),
            latency: Histogram::new(MICROSECONDS),
            refused: Counter::default(),
            unknown: Counter::default(),
            rejected: Counter::default(),
            answers: Gauge::default(),
            answer_bytes: Gauge::default(),
            max_answer_bytes: Gauge::default(),
            erasures: Gauge::default(),
            repeated: Counter::default(),
            key_reused: Counter::default(),
            answers_full: Counter::default(),
            waiting: Arc::default(),
            waiting_bytes: Arc::default(),
            pruned_tombstones: Counter::default(),
        }
    }

    /// Counts a batch that was committed.
    pub(super) fn count_batch(&self, answers: &[Result<Written, Rejection>]) {
        self.batch.observe(answers.len() as u64);
        let rejected = answers.iter().filter(|answer| answer.is_err()).count();
        if rejected > 0 {
            self.rejected.add(rejected as u64);
        }
    }

    /// Counts what became of the commands of a batch that have an idempotency key.
    pub(super) fn count_kept(&self, kept: KeptAnswers) {
        if kept != KeptAnswers::default() {
            self.repeated.add(kept.repeated as u64);
            self.key_reused.add(kept.refused as u64);
            self.answers_full.add(kept.without_room as u64);
        }
    }

    /// Shows how many answers are stored.
    pub(super) fn show_answers(&self, answers: StoredAnswers) {
        self.answers.set(answers.number);
        self.answer_bytes.set(answers.bytes());
    }

    /// Counts a batch that was not.
    pub(super) fn count_failure(&self, error: &WriteError) {
        match error {
            WriteError::NotDone(_) => self.refused.add(1),
            WriteError::Unknown(_) => self.unknown.add(1),
        }
    }

    /// A command waits until the return value is dropped.
    pub(crate) fn wait(&self, bytes: usize) -> Waiting {
        Waiting { _command: self.waiting.hold(1), _bytes: self.waiting_bytes.hold(bytes) }
    }

    /// The number of transactions that were committed.
    pub(crate) fn commits(&self) -> u64 {
        self.batch.ranges().map(|(_, count)| count).sum()
    }

    /// The number of commands that wait.
    pub(crate) fn waiting(&self) -> i64 {
        self.waiting.get()
    }

    /// The request bodies of the commands that wait, in bytes.
    pub(crate) fn waiting_bytes(&self) -> i64 {
        self.waiting_bytes.get()
    }
}

/// One command that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    _command: Held,
    _bytes: Held,
}
