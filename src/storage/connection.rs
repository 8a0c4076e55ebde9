//! Connections to the database file.

use std::path::Path;
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::result::Error as QueryError;
use diesel::sqlite::SqliteConnection;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::database::cannot_open;
use super::error::StoreError;

/// SQLite's busy timeout, for every connection: another process may be reading the file, or the diesel CLI may use it.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a writer does with a file that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    Create,
    Fail,
}

/// The connection of the only writer.
pub(super) fn open_for_writing(path: &Path, if_missing: IfMissing) -> Result<SqliteConnection, StoreError> {
    let mode = match if_missing {
        IfMissing::Create => "rwc",
        IfMissing::Fail => "rw",
    };
    // FULL: a commit survives a power failure. Only this connection has a large page cache: 64 MiB at most.
    let pragmas = [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA journal_size_limit = 67108864",
        "PRAGMA cache_size = -65536",
    ];
    connect(path, mode, &pragmas)
}

/// A read-only connection to the main database or to a sidecar.
pub(crate) fn open_read_only(path: &Path) -> Result<SqliteConnection, StoreError> {
    connect(path, "ro", &[])
}

/// A connection to a database next to the main one, which has one writer as well. The file is created if necessary.
///
/// NORMAL: a power failure may undo the last transactions, as a whole; their data is read from the main database again.
/// So a sidecar never makes the main writer wait for the disk.
pub(crate) fn open_sidecar(path: &Path) -> Result<SqliteConnection, StoreError> {
    let pragmas = [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        // Deleted rows are overwritten with zeros, because they may contain personal data.
        "PRAGMA secure_delete = ON",
    ];
    connect(path, "rwc", &pragmas)
}

/// A read-only connection to a file that nobody writes while it is open. SQLite creates no other file beside it.
pub(super) fn open_immutable(path: &Path) -> Result<SqliteConnection, StoreError> {
    connect(path, "ro&immutable=1", &[])
}

/// A connection to a file that is no database in use yet: the copy of one. It has a rollback journal.
pub(super) fn open_copy(path: &Path) -> Result<SqliteConnection, StoreError> {
    connect(path, "rw", &[])
}

fn connect(file: &Path, mode: &str, pragmas: &[&str]) -> Result<SqliteConnection, StoreError> {
    let path = utf8_percent_encode(file.to_str().unwrap_or_default(), NOT_IN_A_PATH).to_string();
    let connection = SqliteConnection::establish(&format!("file:{path}?mode={mode}"));
    let mut connection = connection.map_err(|error| cannot_open(file, error))?;
    set_busy_timeout(&mut connection, BUSY_TIMEOUT).map_err(|error| cannot_open(file, error))?;
    for pragma in pragmas {
        connection.batch_execute(pragma).map_err(|error| cannot_open(file, error))?;
    }
    Ok(connection)
}

/// Changes how long a connection waits for the lock of another one.
pub(super) fn set_busy_timeout(connection: &mut SqliteConnection, timeout: Duration) -> QueryResult<()> {
    connection.batch_execute(&format!("PRAGMA busy_timeout = {}", timeout.as_millis()))
}

/// The characters that would end or change the path in a URI.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// Lets SQLite update its statistics, and moves the write-ahead log into the database file. If this is the last
/// connection, closing it removes the log.
pub(super) fn tidy(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    connection.batch_execute("PRAGMA optimize")?;
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}

/// Runs `work` in a read transaction: all of its queries see one state of the database.
pub(super) fn read<T, E: From<StoreError>>(
    connection: &mut SqliteConnection,
    work: impl FnOnce(&mut SqliteConnection) -> Result<T, E>,
) -> Result<T, E> {
    let mut outcome = None;
    // Diesel requires an error type that it can create itself, which the caller's may not be.
    let transaction = connection.transaction::<_, QueryError, _>(|connection| {
        outcome = Some(work(connection));
        Ok(())
    });
    match (outcome, transaction) {
        (Some(Err(error)), _) => Err(error),
        (_, Err(error)) => Err(StoreError::from(error).into()),
        (outcome, Ok(())) => outcome.expect("a transaction that succeeded has run its work"),
    }
}
