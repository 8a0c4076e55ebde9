//! Why the database did not do something.

use std::fmt;

use diesel::result::{ConnectionError, Error as QueryError};

use crate::domain::body::CorruptState;

/// Why the database did not do something.
#[derive(Debug)]
pub enum StoreError {
    /// It cannot be opened: no such directory, no permission, in use by another process, no database, a newer schema.
    Open(String),
    /// A statement failed: a full disk, an input/output error.
    Query(QueryError),
    /// It holds something that this program cannot have written.
    Corrupt(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(why) => f.write_str(why),
            Self::Query(error) => write!(f, "the database failed: {error}"),
            Self::Corrupt(what) => write!(f, "the database holds something unexpected: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<QueryError> for StoreError {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<ConnectionError> for StoreError {
    fn from(error: ConnectionError) -> Self {
        Self::Open(error.to_string())
    }
}

impl From<CorruptState> for StoreError {
    fn from(corrupt: CorruptState) -> Self {
        Self::Corrupt(corrupt.to_string())
    }
}
