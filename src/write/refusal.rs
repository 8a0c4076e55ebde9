//! Why a command was certainly not executed, although there is nothing wrong with it.

use crate::storage::error::StoreError;

/// Why nothing was done. The same command may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Too many commands are waiting.
    #[error("too many commands are waiting")]
    QueueFull,
    /// Another process holds the lock for writing.
    #[error("another process has locked the database for writing")]
    Locked,
    /// The disk of the database is full.
    #[error("the disk of the database is full")]
    DiskFull,
    /// The database cannot be written, for example because its disk is read-only. The log has the cause.
    #[error("the database cannot be written; the log of the service contains the cause")]
    Unavailable,
    /// The database file is not the one that was opened at the start.
    #[error("the database file was replaced")]
    Replaced,
    /// On a server, another version of this program has changed the rules of collections, or added one. `/readyz` names it.
    #[error("another version of this program has changed the rules of its collections; writes go through that version")]
    Outdated,
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopping,
    /// Stored data cannot be read, or the code of an aggregate panicked. The log has the cause.
    #[error("the transaction failed; the log of the service contains the cause")]
    Failed,
}

impl Refusal {
    /// What a failed transaction means for its commands.
    pub(super) fn of(cause: &StoreError) -> Self {
        match cause {
            StoreError::Busy => Self::Locked,
            StoreError::Full => Self::DiskFull,
            StoreError::Replaced { .. } => Self::Replaced,
            error if error.is_of_other_version() => Self::Outdated,
            error if error.is_of_file() => Self::Unavailable,
            _ => Self::Failed,
        }
    }
}
