//! What a projection writes into, as a type for those who declare one, and as a value for the service.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::sqlite::SqliteConnection;

use super::csv_file::{CsvFile, FileMark};
use super::error::ProjectionError;

/// Tables of SQLite: a connection of [Diesel](https://diesel.rs), in the transaction that also writes the checkpoint.
pub type Tables = SqliteConnection;

/// What a projection writes into: [`Tables`] or a [`CsvFile`](crate::CsvFile).
///
/// Implemented in this crate only; the hidden methods are for the service.
pub trait Sink: Sized + Send + sealed::Sealed + 'static {
    /// What a new one is created with: SQL for tables, the header for a file.
    type Setup: Copy + Send + Sync;

    /// The setup without its type.
    #[doc(hidden)]
    fn erase(setup: Self::Setup) -> SinkSetup;

    /// The sink with its type; `None` for the other kind.
    #[doc(hidden)]
    fn downcast(sink: SinkMut<'_>) -> Option<&mut Self>;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::SqliteConnection {}
    impl Sealed for super::CsvFile {}
}

impl Sink for SqliteConnection {
    type Setup = &'static str;

    fn erase(sql: &'static str) -> SinkSetup {
        SinkSetup::Tables { sql }
    }

    fn downcast(sink: SinkMut<'_>) -> Option<&mut Self> {
        match sink {
            SinkMut::Tables(tables) => Some(tables),
            SinkMut::Csv(_) => None,
        }
    }
}

impl Sink for CsvFile {
    type Setup = &'static [&'static str];

    fn erase(header: &'static [&'static str]) -> SinkSetup {
        SinkSetup::Csv { header }
    }

    fn downcast(sink: SinkMut<'_>) -> Option<&mut Self> {
        match sink {
            SinkMut::Csv(file) => Some(file),
            SinkMut::Tables(_) => None,
        }
    }
}

/// The kind of a sink, and what a new one is created with.
#[derive(Debug, Clone, Copy)]
pub enum SinkSetup {
    Tables { sql: &'static str },
    Csv { header: &'static [&'static str] },
}

/// A sink that an event is applied to. The tables of an inline projection are a connection of the writer.
pub enum SinkMut<'a> {
    Tables(&'a mut SqliteConnection),
    Csv(&'a mut CsvFile),
}

/// The sink of one generation of a background projection.
pub(crate) enum SinkHandle {
    Tables(SqliteConnection),
    Csv(CsvFile),
}

impl SinkHandle {
    /// Opens the sink of a generation: `connection` is to its database, `file` the path of its file, of which `mark` is
    /// checkpointed.
    pub(crate) fn open(
        setup: SinkSetup,
        connection: SqliteConnection,
        file: &Path,
        mark: FileMark,
    ) -> Result<Self, ProjectionError> {
        match setup {
            SinkSetup::Tables { .. } => Ok(Self::Tables(connection)),
            SinkSetup::Csv { .. } => Ok(Self::Csv(CsvFile::open(connection, file, mark)?)),
        }
    }

    /// Creates the tables, or the header of the file.
    pub(crate) fn set_up(&mut self, setup: SinkSetup) -> Result<(), ProjectionError> {
        match (self, setup) {
            (Self::Tables(tables), SinkSetup::Tables { sql }) => Ok(tables.batch_execute(sql)?),
            (Self::Csv(file), SinkSetup::Csv { header }) => file.set_up(header),
            _ => Err(ProjectionError::new("the sink has another kind than its setup")),
        }
    }

    /// The database of the generation, in whose transactions the sink takes part.
    pub(crate) fn connection(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Tables(tables) => tables,
            Self::Csv(file) => file.connection(),
        }
    }

    pub(crate) fn as_mut(&mut self) -> SinkMut<'_> {
        match self {
            Self::Tables(tables) => SinkMut::Tables(tables),
            Self::Csv(file) => SinkMut::Csv(file),
        }
    }

    /// Fails if somebody else has removed, replaced or changed the file, of which `mark` is checkpointed.
    pub(crate) fn check(&mut self, file: &Path, mark: FileMark) -> Result<(), ProjectionError> {
        match self {
            Self::Tables(_) => Ok(()),
            Self::Csv(csv) => csv.check(file, mark),
        }
    }

    /// Writes and syncs what is not part of the database.
    pub(crate) fn write_out(&mut self) -> Result<FileMark, ProjectionError> {
        match self {
            Self::Tables(_) => Ok(FileMark::default()),
            Self::Csv(file) => file.write_out(),
        }
    }

    /// Discards what was not checkpointed.
    pub(crate) fn discard(&mut self, mark: FileMark) {
        match self {
            Self::Tables(_) => {}
            Self::Csv(file) => file.discard(mark),
        }
    }
}
