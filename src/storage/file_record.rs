//! The transactions of the writer of a database file: each is one in the write-ahead log, and finds what this process left.

use std::sync::Arc;
use std::time::Duration;

use super::connection;
use super::database::Database;
use super::database_file::{DatabaseFile, MainConnection};
use super::engine::AnyConnection;
use super::error::StoreError;
use super::fence::Fence;
use super::maintained::Maintained;
use super::transaction::WriteError;
use super::write_ahead_log::WriteAheadLog;
use crate::domain::history::History;
use crate::domain::revision::Revision;

/// A database file that only this process writes.
pub(super) struct FileRecord {
    pub(super) fence: Fence,
    pub(super) log: WriteAheadLog,
    patience: Patience,
}

impl FileRecord {
    /// Takes over the log, and begins an epoch with the first transaction, which is `write`.
    pub(super) fn open(
        database: &Database,
        file: &Arc<DatabaseFile>,
        connection: &mut AnyConnection,
        write: impl FnOnce(&mut AnyConnection) -> Result<History, StoreError>,
    ) -> Result<Self, StoreError> {
        let mut log = WriteAheadLog::open(file, connection)?;
        database.set_history(log.write(connection, write).map_err(WriteError::into_cause)?);
        Ok(Self { fence: Fence::of(database), log, patience: Patience::Long })
    }

    /// Continues after the writer had to open the database again.
    pub(super) fn reopen(
        database: &Database,
        file: &Arc<DatabaseFile>,
        connection: &mut AnyConnection,
    ) -> Result<Self, StoreError> {
        let log = WriteAheadLog::reopen(file, connection)?;
        Ok(Self { fence: Fence::of(database), log, patience: Patience::Long })
    }

    /// Runs `work` in a transaction that follows on this revision.
    pub(super) fn maintain<T>(
        &mut self,
        connection: &mut AnyConnection,
        revision: Revision,
        work: impl FnOnce(&mut AnyConnection) -> Result<Maintained<T>, StoreError>,
    ) -> Result<T, WriteError> {
        let Self { fence, log, .. } = self;
        log.write(connection, |connection| {
            fence.check(connection, revision)?;
            Ok(work(connection)?.done)
        })
    }

    /// Changes how long a connection waits for the lock of another process.
    pub(super) fn wait_for_lock(
        &mut self,
        connection: &mut AnyConnection,
        patience: Patience,
    ) -> Result<(), StoreError> {
        if self.patience != patience {
            connection::set_busy_timeout(connection.file(), patience.timeout())?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Moves the log into the file. If all other connections are closed, all of its data is in one file then.
    pub(super) fn close(self, mut connection: MainConnection) -> Result<(), StoreError> {
        self.log.close();
        if self.log.is_being_checked() {
            log::info!("the check of the file is not complete; the next start begins it again");
            connection::set_busy_timeout(connection.file(), Duration::ZERO)?;
        }
        connection::tidy(connection.file())
    }
}

/// How long a transaction waits for the lock of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as every connection does.
    Long,
    /// After a transaction waited in vain: the commands that have been queued meanwhile must not wait one after another.
    Short,
}

impl Patience {
    fn timeout(self) -> Duration {
        match self {
            Self::Long => connection::BUSY_TIMEOUT,
            Self::Short => Duration::from_millis(100),
        }
    }
}
