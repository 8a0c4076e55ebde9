//! Why a command has no result.

use super::error::{ReadError, StoreError};
use crate::domain::body::CorruptState;
use crate::domain::command::Rejection;

/// Why a command has no result.
pub(super) enum ExecuteError {
    /// The command is rejected. The batch continues.
    Rejected(Rejection),
    /// The database failed. The batch is rolled back.
    Store(StoreError),
    /// Something was not fetched that it reads. The batch is thrown away, and decided again.
    #[cfg(feature = "postgres")]
    Missing,
}

/// One aggregate that cannot be read must not fail the whole batch.
pub(super) fn reject_corrupt(error: ReadError) -> ExecuteError {
    match error {
        ReadError::Store(StoreError::Corrupt(why)) => Rejection::Corrupt(CorruptState::new(why)).into(),
        error => error.into(),
    }
}

impl From<ReadError> for ExecuteError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => Self::Store(error),
            #[cfg(feature = "postgres")]
            ReadError::Missing => Self::Missing,
        }
    }
}

impl From<Rejection> for ExecuteError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<StoreError> for ExecuteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
