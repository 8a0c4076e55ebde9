//! One place for all budgets of memory: what each is for, its limit, and how much of it is in use.

use std::sync::Arc;

use super::budget::{BudgetExceeded, MemoryBudget, Reservation};

/// What memory is used for. Bytes are charged once, to what made them, until their last holder drops them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Request bodies that are being read, parsed and queued commands, their batch and its answers.
    Commands,
    /// Bodies of whole collections that clients share.
    SharedBodies,
    /// Replayed events that consumers share.
    SharedEvents,
    /// What waits for the clients of streams.
    Streams,
    /// Other responses that are being made or sent.
    Answers,
    /// The keys that filter streams.
    Filters,
    /// The decoded states of aggregates that the writer keeps, in a batch and between batches.
    Aggregates,
    /// The pages of the database and of the projections that SQLite keeps.
    PageCaches,
}

impl Usage {
    pub(crate) const ALL: [Self; 8] = [
        Self::Commands,
        Self::SharedBodies,
        Self::SharedEvents,
        Self::Streams,
        Self::Answers,
        Self::Filters,
        Self::Aggregates,
        Self::PageCaches,
    ];

    /// As in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::SharedBodies => "shared-bodies",
            Self::SharedEvents => "shared-events",
            Self::Streams => "streams",
            Self::Answers => "answers",
            Self::Filters => "filters",
            Self::Aggregates => "aggregates",
            Self::PageCaches => "page-caches",
        }
    }
}

/// A budget for each usage.
#[derive(Debug)]
pub(crate) struct Ledger {
    budgets: [Arc<MemoryBudget>; Usage::ALL.len()],
    /// What counts as long as the ledger exists.
    charged: Vec<Reservation>,
}

impl Ledger {
    /// With the limit of each usage in bytes.
    pub(crate) fn new(limit: impl Fn(Usage) -> usize) -> Self {
        Self { budgets: Usage::ALL.map(|usage| MemoryBudget::new(limit(usage))), charged: Vec::new() }
    }

    pub(crate) fn of(&self, usage: Usage) -> &Arc<MemoryBudget> {
        &self.budgets[usage as usize]
    }

    /// Charges bytes for as long as the ledger exists.
    pub(crate) fn charge(&mut self, usage: Usage, bytes: usize) -> Result<(), BudgetExceeded> {
        let mut reservation = self.of(usage).reservation();
        reservation.resize(bytes)?;
        self.charged.push(reservation);
        Ok(())
    }
}
