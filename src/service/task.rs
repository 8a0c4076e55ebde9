//! How a task of the command line ends.

use std::io::Write as _;

use crate::read_model::error::ProjectionError;
use crate::service::control::ControlError;
use crate::storage::error::StoreError;

/// How a task ended that has printed its result.
pub(super) enum TaskOutcome {
    Success,
    Failure,
    /// There is something to do.
    Pending,
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum TaskError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Token(Box<dyn std::error::Error>),
    #[error("{0}")]
    Projection(ProjectionError),
    #[error("{0}")]
    Erase(String),
    #[error("{0}")]
    Drop(String),
    #[error(
        "a database on a server is copied and restored with the tools of PostgreSQL: {0}; or with the base backups and the \
         archived log of the server"
    )]
    OfServer(&'static str),
    #[error("cannot handle signals")]
    Signal(#[source] std::io::Error),
    #[error("cannot write to standard output")]
    Print(#[source] std::io::Error),
}

impl From<ProjectionError> for TaskError {
    fn from(error: ProjectionError) -> Self {
        Self::Projection(error)
    }
}

/// Prints a line. A closed standard output is no error.
pub(super) fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
