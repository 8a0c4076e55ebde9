//! The error of a projection.

use std::fmt;

use crate::domain::error_chain::ErrorChain;

/// Why a projection cannot apply an event. `?` converts every error type into one.
#[derive(Debug, Clone)]
pub struct ProjectionError(pub(crate) String);

impl ProjectionError {
    /// An error with this message, which is shown to those who operate the service.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Whether SQLite reports a file that is damaged, or not a database. Diesel does not expose its error codes.
    pub(crate) fn is_damage(&self) -> bool {
        self.0.contains("database disk image is malformed") || self.0.contains("file is not a database")
    }
}

impl fmt::Display for ProjectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for ProjectionError {
    fn from(error: E) -> Self {
        Self(ErrorChain(&error).to_string())
    }
}
