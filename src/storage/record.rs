//! How the transactions of a writer follow on what it knows: in a file that nobody else writes, or on a server.

use std::sync::Arc;

use super::commit::Batch;
use super::commit_outcome::Committable;
use super::counters::Counters;
use super::database::{Database, Place};
use super::database_file::MainConnection;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::file_record::{FileRecord, Patience};
use super::maintained::Maintained;
use super::page::Progress;
#[cfg(feature = "postgres")]
use super::postgres::server_record::ServerRecord;
use super::registration::Registration;
use super::transaction::WriteError;
use crate::domain::collection::Registry;
use crate::domain::revision::Revision;
use crate::memory::budget::MemoryBudget;

/// What a writer writes.
pub(super) enum Record {
    File(FileRecord),
    #[cfg(feature = "postgres")]
    Server(Box<ServerRecord>),
}

impl Record {
    /// Writes the consequences of new or changed registrations, and notes the epochs of the database. What is known of a
    /// server's rows counts against a budget.
    pub(super) fn open(
        database: &Database,
        connection: &mut AnyConnection,
        registration: Registration<'_>,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "a file has its page cache"))]
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self, StoreError> {
        Ok(match &**database.place() {
            Place::File(file) => {
                let write = |connection: &mut _| registration.write(connection);
                Self::File(FileRecord::open(database, file.file(), connection, write)?)
            }
            #[cfg(feature = "postgres")]
            Place::Server(server) => {
                Self::Server(Box::new(ServerRecord::open(database, server, connection, registration, memory)?))
            }
        })
    }

    /// Continues after the writer had to open the database again.
    pub(super) fn reopen(
        database: &Database,
        connection: &mut AnyConnection,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "a file has one program"))]
        registry: &Arc<Registry>,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "a file has its page cache"))]
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self, StoreError> {
        Ok(match &**database.place() {
            Place::File(file) => Self::File(FileRecord::reopen(database, file.file(), connection)?),
            #[cfg(feature = "postgres")]
            Place::Server(_) => Self::Server(Box::new(ServerRecord::reopen(database, registry, memory))),
        })
    }

    /// Runs `work`, which changes something beside the commands, in a transaction that follows on this revision. On a server,
    /// it follows on whatever others have written, and they learn that what they know is out of date.
    pub(super) fn maintain<T>(
        &mut self,
        connection: &mut AnyConnection,
        revision: Revision,
        work: impl FnOnce(&mut AnyConnection) -> Result<Maintained<T>, StoreError>,
    ) -> Result<T, WriteError> {
        match self {
            Self::File(file) => file.maintain(connection, revision, work),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.maintain(connection, work),
        }
    }

    /// Executes a batch of commands, in a transaction that follows on these counters. On a server, it follows on what the
    /// counters are by then.
    pub(super) fn commit(
        &mut self,
        connection: &mut AnyConnection,
        counters: &Counters,
        batch: Batch<'_>,
    ) -> Result<Committable, WriteError> {
        match self {
            Self::File(file) => file.log.write(connection, |connection| batch.commit(connection, counters)),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.commit(connection, batch),
        }
    }

    /// Whether the record is a file of this process.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Notes that a transaction has changed this many rows.
    pub(super) fn grow(&mut self, rows: usize) {
        match self {
            Self::File(file) => file.log.grow(rows),
            #[cfg(feature = "postgres")]
            Self::Server(_) => {}
        }
    }

    /// Whether the write-ahead log is so long that it has to be moved into the database file.
    pub(super) fn is_log_long(&mut self, connection: &mut AnyConnection) -> bool {
        match self {
            Self::File(file) => file.log.is_long(connection),
            #[cfg(feature = "postgres")]
            Self::Server(_) => false,
        }
    }

    /// Moves the write-ahead log into the database file, as far as nobody reads from it. A server does that itself.
    pub(super) fn checkpoint(&mut self, connection: &mut AnyConnection) -> Result<Progress, StoreError> {
        match self {
            Self::File(file) => file.log.checkpoint(connection),
            #[cfg(feature = "postgres")]
            Self::Server(_) => Ok(Progress::Done),
        }
    }

    /// Moves the write-ahead log into the database file, and empties it, unless somebody reads from it.
    pub(super) fn truncate_log(&mut self, connection: &mut AnyConnection) -> Result<Progress, StoreError> {
        match self {
            Self::File(file) => file.log.truncate(connection),
            #[cfg(feature = "postgres")]
            Self::Server(_) => Ok(Progress::Done),
        }
    }

    /// Changes how long a connection waits for the lock of another process. On a server it always is the same time.
    pub(super) fn wait_for_lock(
        &mut self,
        connection: &mut AnyConnection,
        patience: Patience,
    ) -> Result<(), StoreError> {
        match self {
            Self::File(file) => file.wait_for_lock(connection, patience),
            #[cfg(feature = "postgres")]
            Self::Server(_) => Ok(()),
        }
    }

    /// Forgets what nobody asks for any more.
    pub(super) fn prune(
        &mut self,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "a file has nothing else to forget"))]
        connection: &mut AnyConnection,
    ) -> Result<Progress, WriteError> {
        match self {
            Self::File(_) => Ok(Progress::Done),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.prune(connection),
        }
    }

    pub(super) fn close(self, connection: MainConnection) -> Result<(), StoreError> {
        match self {
            Self::File(file) => file.close(connection),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.close(connection),
        }
    }
}
