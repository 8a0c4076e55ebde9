//! Connections to the database file.

use std::path::Path;
use std::time::Duration;

use diesel::connection::{SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer};
use diesel::sqlite::SqliteConnection;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open};
use super::file_lock::private;
use super::main_file::Tag;
use super::page::Progress;
use super::page_caches::SIDECAR_CACHE;

/// SQLite's busy timeout, for every connection: another process may be reading the file, or the diesel CLI may use it.
pub(super) const BUSY_TIMEOUT: Duration = if cfg!(feature = "test-hooks") {
    // Tests hold locks on purpose, until the wait ends in vain.
    Duration::from_secs(1)
} else {
    Duration::from_secs(5)
};

type Manager = <AnyConnection as Connection>::TransactionManager;

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
    // FULL: a commit survives a power failure.
    let pragmas = [
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        // Deleted rows are overwritten with zeros, because they may contain personal data.
        "PRAGMA secure_delete = ON",
        // The writer moves the log into the file itself, after it has answered.
        "PRAGMA wal_autocheckpoint = 0",
        "PRAGMA journal_size_limit = 67108864",
    ];
    connect(path, mode, &pragmas)
}

/// A read-only connection to the main database or to a sidecar.
pub(crate) fn open_read_only(path: &Path) -> Result<SqliteConnection, StoreError> {
    connect(path, "ro", &[])
}

/// A connection to a database next to the main one, which has one writer as well. The file is created if necessary; only
/// its owner can read it then.
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
    // A file that exists already must not be opened here: to close it would drop the locks of another connection.
    if let Err(error) = private().write(true).create_new(true).open(path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(cannot_open(path, error));
    }
    connect(path, "rw", &pragmas)
}

/// A read-only connection to a file that nobody writes while it is open, without its log. SQLite creates no other file
/// beside it. It takes no locks.
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
    if let Err(error) = limit_cache(&mut connection, SIDECAR_CACHE).map_err(StoreError::from) {
        // It reads the file. One that is damaged, or no database, is the error of the first query.
        if !error.is_damage() {
            return Err(cannot_open(file, error));
        }
    }
    for pragma in pragmas {
        connection.batch_execute(pragma).map_err(|error| cannot_open(file, error))?;
    }
    Ok(connection)
}

/// Changes how long a connection waits for the lock of another one.
pub(super) fn set_busy_timeout(connection: &mut SqliteConnection, timeout: Duration) -> QueryResult<()> {
    connection.batch_execute(&format!("PRAGMA busy_timeout = {}", timeout.as_millis()))
}

/// Limits the memory for pages that a connection keeps, in bytes.
pub(super) fn limit_cache(connection: &mut SqliteConnection, bytes: usize) -> QueryResult<()> {
    // A negative number is one of KiB.
    connection.batch_execute(&format!("PRAGMA cache_size = -{}", bytes / 1024))
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

/// How far the write-ahead log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogFrames {
    /// The pages that it has. A page that was written twice counts twice.
    pub(super) frames: u64,
    /// Those that are in the database file as well.
    pub(super) moved: u64,
}

#[derive(QueryableByName)]
struct LogRow {
    #[diesel(sql_type = Integer)]
    busy: i32,
    #[diesel(sql_type = Integer)]
    log: i32,
    #[diesel(sql_type = Integer)]
    checkpointed: i32,
}

/// How far the log is, without any work on it.
pub(super) fn log_frames(connection: &mut SqliteConnection) -> Result<LogFrames, StoreError> {
    let row: LogRow = diesel::sql_query("PRAGMA wal_checkpoint(NOOP)").get_result(connection)?;
    Ok(LogFrames::of(&row))
}

/// Moves as much of the log into the database file as nobody reads from, and waits for nobody.
pub(super) fn checkpoint(connection: &mut SqliteConnection) -> Result<Progress, StoreError> {
    let row: LogRow = diesel::sql_query("PRAGMA wal_checkpoint(PASSIVE)").get_result(connection)?;
    Ok(progress(&row))
}

/// Moves all of the log into the database file, and empties it. Waits for other processes, but not for ever.
pub(crate) fn truncate_log(connection: &mut SqliteConnection) -> Result<Progress, StoreError> {
    // Without a read before it, SQLite does not look for a log.
    number(connection, "SELECT count(*) AS number FROM sqlite_schema")?;
    let row: LogRow = diesel::sql_query("PRAGMA wal_checkpoint(TRUNCATE)").get_result(connection)?;
    Ok(progress(&row))
}

fn progress(row: &LogRow) -> Progress {
    let LogFrames { frames, moved } = LogFrames::of(row);
    if row.busy == 0 && frames == moved { Progress::Done } else { Progress::More }
}

impl LogFrames {
    fn of(row: &LogRow) -> Self {
        let number = |number: i32| u64::try_from(number).unwrap_or_default();
        Self { frames: number(row.log), moved: number(row.checkpointed) }
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    number: i64,
}

fn number(connection: &mut SqliteConnection, query: &str) -> Result<i64, StoreError> {
    Ok(diesel::sql_query(query).get_result::<Number>(connection)?.number)
}

/// The number of the first page of a table.
pub(super) fn root_page(connection: &mut SqliteConnection, table: &str) -> Result<u64, StoreError> {
    let page = number(connection, &format!("SELECT rootpage AS number FROM sqlite_schema WHERE name = '{table}'"))?;
    Ok(page.unsigned_abs())
}

/// It grows with each change of the schema.
pub(super) fn schema_version(connection: &mut SqliteConnection) -> Result<u32, StoreError> {
    let version = number(connection, "SELECT schema_version AS number FROM pragma_schema_version")?;
    Ok(u32::try_from(version & 0xffff_ffff).unwrap_or_default())
}

/// The tag of the database, the log included.
pub(super) fn tag(connection: &mut SqliteConnection) -> Result<Tag, StoreError> {
    let version = number(connection, "SELECT user_version AS number FROM pragma_user_version")?;
    Ok(Tag(i32::try_from(version).unwrap_or_default()))
}

pub(super) fn set_tag(connection: &mut SqliteConnection, Tag(tag): Tag) -> Result<(), StoreError> {
    Ok(connection.batch_execute(&format!("PRAGMA user_version = {tag}"))?)
}

/// Whether a table has a column.
pub(super) fn has_column(connection: &mut SqliteConnection, table: &str, column: &str) -> Result<bool, StoreError> {
    let query = format!("SELECT count(*) AS number FROM pragma_table_info('{table}') WHERE name = '{column}'");
    Ok(number(connection, &query)? > 0)
}

/// Begins a transaction: all of its queries see one state of the database.
pub(super) fn begin(connection: &mut AnyConnection) -> Result<(), StoreError> {
    Ok(Manager::begin_transaction(connection)?)
}

/// Runs `work` in the transaction that was begun, and ends it.
pub(super) fn complete<T, E: From<StoreError>>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, E>,
) -> Result<T, E> {
    let outcome = work(connection);
    let ended = Manager::commit_transaction(connection);
    let read = outcome?;
    ended.map_err(StoreError::from)?;
    Ok(read)
}

/// Runs `work` in a read transaction.
pub(super) fn read<T, E: From<StoreError>>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, E>,
) -> Result<T, E> {
    begin(connection)?;
    complete(connection, work)
}
