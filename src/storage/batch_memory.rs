//! How much memory one batch of commands takes, and when it has enough.
//!
//! A command of a few bytes can load an aggregate of a mebibyte, change it, and answer with all of it. So a batch counts what
//! its commands have loaded and made, and ends when that is too much.

use std::sync::Arc;

use crate::memory::budget::{MemoryBudget, Reservation};

/// The most that a batch takes, in bytes of JSON text; its last command may exceed it. That is much more than a commit
/// needs to be worth its sync.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What a batch takes, while it is executed.
pub(super) struct BatchMemory {
    budget: Arc<MemoryBudget>,
    /// What the transaction holds, in bytes: the states that were read, patches and events.
    held: usize,
    /// As much as that was after the last command.
    charge: Reservation,
    /// The states in the answers, in bytes. They are charged one by one, because each lives until its response is made.
    answers: usize,
}

impl BatchMemory {
    pub(super) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), held: 0, charge: budget.reservation(), answers: 0 }
    }

    /// Counts bytes that the batch holds.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held += bytes;
    }

    /// Counts the state in an answer, with this number of bytes, until the return value is dropped.
    pub(super) fn answer(&mut self, bytes: usize) -> Reservation {
        self.answers += bytes;
        let mut charge = self.budget.reservation();
        charge.exceed(bytes);
        charge
    }

    /// Charges what the last command has added, and says whether the batch has to end. An eighth of the budget leaves room
    /// for the bodies that arrive meanwhile.
    pub(super) fn is_full(&mut self) -> bool {
        // It exists already, so it counts in any case.
        self.charge.exceed(self.held);
        self.held + self.answers >= MAX_BYTES.min(self.budget.limit() / 8)
    }

    /// What is left to count when the transaction is over: this number of bytes.
    pub(super) fn keep(&mut self, bytes: usize) -> Reservation {
        let mut kept = self.budget.reservation();
        std::mem::swap(&mut kept, &mut self.charge);
        // It was more until now.
        let _ = kept.resize(bytes);
        kept
    }
}
