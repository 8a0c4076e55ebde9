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
