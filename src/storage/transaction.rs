//! Transactions that write, and what is certain after one that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, TransactionManager as _};

use super::engine::AnyConnection;
use super::error::StoreError;

/// Why a transaction has no result.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The transaction did not begin, or it was rolled back: nothing was written.
    NotDone(StoreError),
    /// `COMMIT` failed, for example because the log could not be synced: the transaction may be on disk.
    Unknown(StoreError),
}

impl WriteError {
    /// The cause.
    pub(crate) fn into_cause(self) -> StoreError {
        match self {
            Self::NotDone(cause) | Self::Unknown(cause) => cause,
        }
    }

    /// The same outcome, with a better cause.
    pub(crate) fn because_of(self, cause: StoreError) -> Self {
        match self {
            Self::NotDone(_) => Self::NotDone(cause),
            Self::Unknown(_) => Self::Unknown(cause),
        }
    }

    /// The cause.
    pub(crate) fn cause(&self) -> &StoreError {
        match self {
            Self::NotDone(cause) | Self::Unknown(cause) => cause,
        }
    }
}

impl From<StoreError> for WriteError {
    /// An error outside of `COMMIT`.
    fn from(error: StoreError) -> Self {
        Self::NotDone(error)
    }
}

/// Runs `work` in a transaction that holds the lock for writing from its begin.
pub(super) fn write<T>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, WriteError> {
    type Manager = AnsiTransactionManager;
    Manager::begin_transaction_sql(connection.file(), "BEGIN IMMEDIATE").map_err(StoreError::from)?;
    // A panic here is as certain as an error. Anywhere else it could be one after `COMMIT`.
    let worked = catch_unwind(AssertUnwindSafe(|| work(connection)));
    match worked.unwrap_or(Err(StoreError::Panicked)) {
        Ok(done) => match Manager::commit_transaction(connection.file()).map_err(StoreError::from) {
            Ok(()) => Ok(done),
            // The last frame of the transaction, which commits it, did not get into the log as a whole.
            Err(error @ (StoreError::Full | StoreError::Busy)) => Err(WriteError::NotDone(error)),
            Err(error) => Err(WriteError::Unknown(error)),
        },
        Err(cause) => {
            // Whatever becomes of it: what was not committed is not read from the log.
            let _ = Manager::rollback_transaction(connection.file());
            Err(WriteError::NotDone(cause))
        }
    }
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    use diesel::sqlite::SqliteConnection;

    use super::*;

    #[derive(QueryableByName)]
    struct Rows {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        number: i64,
    }

    fn database(directory: &std::path::Path) -> AnyConnection {
        let connection = SqliteConnection::establish(directory.join("test.db").to_str().unwrap()).unwrap();
        let mut connection = AnyConnection::Sqlite(connection);
        connection.batch_execute("PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS t (x)").unwrap();
        connection
    }

    fn insert(connection: &mut AnyConnection, size: usize) -> Result<(), StoreError> {
        Ok(connection.batch_execute(&format!("INSERT INTO t VALUES (zeroblob({size}))"))?)
    }

    #[test]
    fn a_transaction_that_cannot_begin_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        let mut ours = database(directory.path());
        let mut theirs = database(directory.path());
        theirs.batch_execute("BEGIN IMMEDIATE").unwrap();
        let refused = write(&mut ours, |connection| insert(connection, 1));
        assert!(matches!(refused, Err(WriteError::NotDone(StoreError::Busy))), "{refused:?}");
        theirs.batch_execute("ROLLBACK").unwrap();
        write(&mut ours, |connection| insert(connection, 1)).unwrap();
    }

    #[test]
    fn a_transaction_without_room_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = database(directory.path());
        connection.batch_execute("PRAGMA max_page_count = 5").unwrap();
        let refused = write(&mut connection, |connection| insert(connection, 100_000));
        assert!(matches!(refused, Err(WriteError::NotDone(StoreError::Full))), "{refused:?}");
    }

    #[test]
    fn a_transaction_whose_work_panics_is_not_done() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = database(directory.path());
        let panicked: Result<(), _> = write(&mut connection, |connection| {
            insert(connection, 1)?;
            panic!("on purpose")
        });
        assert!(matches!(panicked, Err(WriteError::NotDone(StoreError::Panicked))), "{panicked:?}");
        let rows = diesel::sql_query("SELECT count(*) AS number FROM t").get_result::<Rows>(&mut connection).unwrap();
        assert_eq!(rows.number, 0);
    }

    #[test]
    fn a_transaction_whose_commit_fails_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = database(directory.path());
        let constraint = "CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED); PRAGMA foreign_keys = ON";
        connection.batch_execute(constraint).unwrap();
        let failed = write(&mut connection, |connection| {
            connection.batch_execute("INSERT INTO child VALUES (1)").map_err(StoreError::from)
        });
        assert!(matches!(failed, Err(WriteError::Unknown(StoreError::Query(_)))), "{failed:?}");
    }
}
