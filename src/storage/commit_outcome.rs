//! What a batch of commands results in.

use super::answer_room::StoredAnswers;
use super::answers::ExecutedCommand;
use super::counters::Counters;
use super::hot_states::{HotState, Place};
use super::outbox::Change;
use crate::domain::body::Body;
use crate::domain::command::Rejection;
use crate::domain::key::Key;
use crate::domain::revision::{Epoch, JournalPosition, Revision, Version};
use crate::memory::budget::Reservation;

/// What is true once the transaction of a batch is committed.
pub(super) struct Committable {
    pub(super) outcome: CommitOutcome,
    pub(super) counters: Counters,
    pub(super) stored: StoredAnswers,
    /// The states of the event-sourced aggregates of the batch.
    pub(super) states: Vec<(Place, HotState)>,
}

/// The result of a batch. It is durable once the transaction is.
#[derive(Debug)]
pub(crate) struct CommitOutcome {
    /// One answer for each command that was executed, in the order of the commands.
    pub(crate) answers: Vec<Result<Written, Rejection>>,
    /// The last revision before the batch.
    pub(crate) after: Revision,
    /// The last revision of the batch.
    pub(crate) revision: Revision,
    /// Whether the batch changes the database.
    #[cfg(feature = "postgres")]
    pub(super) has_changes: bool,
    /// How many rows the batch has written, at most.
    pub(super) rows: usize,
    /// What became of the commands with an idempotency key.
    pub(crate) kept: KeptAnswers,
    /// How many erasures it has begun.
    pub(super) erased: usize,
    /// The change events of these revisions.
    pub(crate) events: Vec<Change>,
    /// The memory that they take.
    pub(crate) charge: Reservation,
    /// The last position of the journal.
    pub(crate) position: JournalPosition,
    /// The revision of the last change of each collection.
    pub(crate) changed: Vec<Revision>,
}

/// How many commands with an idempotency key got which kind of answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct KeptAnswers {
    /// Answers that are stored now.
    pub(crate) kept: usize,
    /// Those that were given again.
    pub(crate) repeated: usize,
    /// Commands whose key belongs to another request.
    pub(crate) refused: usize,
    /// Commands for whose answer there is no room.
    pub(crate) without_room: usize,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: Key,
    /// The aggregate after the command. `None` if it does not exist any more.
    pub(crate) body: Option<Body>,
    /// The revision that the command created, or the last revision if it changed nothing.
    pub(crate) revision: Revision,
    /// The revision of the last change of the aggregate.
    pub(crate) changed: Revision,
    /// The number of domain events of the aggregate.
    pub(crate) version: Version,
    /// Whether the aggregate exists, and did not before. For an erasure: whether the database had neither a row nor events of
    /// it.
    pub(crate) is_new: bool,
    /// For a repeated command, which was not executed again: the epoch in which it was.
    pub(crate) repeats: Option<Epoch>,
    /// The memory that `body` takes. It may be the only holder of it.
    pub(crate) charge: Reservation,
}

impl Written {
    /// What is stored of it.
    pub(super) fn stored(&self) -> ExecutedCommand {
        let Self { key, body, changed, version, is_new, .. } = self;
        ExecutedCommand { key: key.clone(), body: body.clone(), changed: *changed, version: *version, is_new: *is_new }
    }
}
