//! What pruning retains.

use crate::domain::clock::Timestamp;

/// What is retained at a point in time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retained {
    pub(crate) now: Timestamp,
    /// Change events from this time on …
    pub(crate) events: Timestamp,
    /// … but only those of this many revisions.
    pub(crate) keep: Option<i64>,
    /// Tombstones from this time on.
    pub(crate) tombstones: Timestamp,
    /// Answers to commands with an idempotency key from this time on.
    pub(crate) answers: Timestamp,
}
