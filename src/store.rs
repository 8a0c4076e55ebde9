//! All that is SQL: the database file, its tables, and the one transaction of a write.
//!
//! [`Writer`] is the only writer of the main database and belongs to the aggregator; a [`Reader`] sees what was
//! committed, in read transactions of bounded length.

mod aggregates;
mod commit;
mod connection;
mod metadata;
mod outbox;
mod registration;
mod schema;
mod statements;

pub(crate) use aggregates::Row;
pub(crate) use commit::{Committed, Written};
pub(crate) use connection::Database;
pub(crate) use outbox::{Change, Page, Pruned};

use std::fmt;
use std::sync::Arc;

use diesel::result::{ConnectionError, Error as QueryError};
use diesel::sqlite::SqliteConnection;

use crate::clock::Timestamp;
use crate::collection::{CollectionId, Command, Corrupt, Registry};
use crate::cursor::{Epoch, Revision};
use crate::key::Key;
use metadata::Counters;

/// The only writer of the main database.
pub(crate) struct Writer {
    connection: SqliteConnection,
    registry: Arc<Registry>,
    epoch: Epoch,
    /// What the database's counter row says; the next batch counts on from here.
    counters: Counters,
}

impl Writer {
    /// Opens the database, brings its tables up to date, and writes what a new registration changes.
    pub(crate) fn open(database: &Database, registry: Arc<Registry>, now: Timestamp) -> Result<Self, StoreError> {
        let mut connection = database.connect_for_writing(connection::Mode::Create)?;
        connection::migrate(&mut connection)?;
        registration::register(&mut connection, &registry, now)?;
        let (epoch, counters) = metadata::load(&mut connection, &registry)?;
        Ok(Self { connection, registry, epoch, counters })
    }

    /// Opens the database again after a failure. It must be the same one, and have everything that was answered.
    pub(crate) fn reopen(
        database: &Database,
        registry: Arc<Registry>,
        epoch: &Epoch,
        committed: Revision,
    ) -> Result<Self, StoreError> {
        let mut connection = database.connect_for_writing(connection::Mode::Existing)?;
        let (found, counters) = metadata::load(&mut connection, &registry)?;
        if found != *epoch || counters.revision < committed {
            return Err(StoreError::Open(format!("{} was replaced by another database", database.path().display())));
        }
        Ok(Self { connection, registry, epoch: found, counters })
    }

    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub(crate) fn revision(&self) -> Revision {
        self.counters.revision
    }

    /// Does the commands in order, in one transaction; each has its own answer. On an error none is done.
    pub(crate) fn commit(&mut self, commands: Vec<Command>, now: Timestamp) -> Result<Committed, StoreError> {
        let (committed, counters) =
            commit::commit(&mut self.connection, &self.registry, &self.counters, commands, now)?;
        self.counters = counters;
        Ok(committed)
    }

    /// Removes change events older than this, oldest first, a bounded number of them.
    pub(crate) fn prune(&mut self, older_than: Timestamp) -> Result<Pruned, StoreError> {
        outbox::prune(&mut self.connection, older_than)
    }

    /// Leaves one tidy file behind.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        connection::tidy(&mut self.connection)
    }
}

/// A read-only connection.
pub(crate) struct Reader {
    connection: SqliteConnection,
    registry: Arc<Registry>,
}

impl Reader {
    pub(crate) fn open(database: &Database, registry: Arc<Registry>) -> Result<Self, StoreError> {
        Ok(Self { connection: database.connect_for_reading()?, registry })
    }

    /// The change events after a revision; see [`outbox::page`].
    pub(crate) fn page(&mut self, after: Revision, only: Option<CollectionId>) -> Result<Page, StoreError> {
        outbox::page(&mut self.connection, &self.registry, after, only)
    }

    /// One aggregate if it is there, and the revision of the document that this shows.
    pub(crate) fn aggregate(
        &mut self,
        collection: CollectionId,
        key: &Key,
    ) -> Result<(Revision, Option<Row>), StoreError> {
        let name = self.registry.get(collection).name();
        self.connection.read(|connection| {
            let (revision, _) = metadata::revisions(connection)?;
            let row = aggregates::load(connection, name, key)?;
            Ok((revision, row.filter(|row| row.body.is_some())))
        })
    }

    /// Every aggregate of a collection, in key order, at one revision: in one read transaction, which ends as soon as
    /// the last row is taken. So `each` must not wait for anybody.
    pub(crate) fn collection<E: From<StoreError>>(
        &mut self,
        collection: CollectionId,
        head: impl FnOnce(Revision),
        mut each: impl FnMut(&str, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        let name = self.registry.get(collection).name();
        self.connection.read(|connection| {
            head(metadata::revisions(connection)?.0);
            aggregates::scan(connection, name, |key, _, body| each(key, body))
        })
    }
}

/// A read transaction: everything in it sees one state of the database.
trait ReadTransaction {
    fn read<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E>,
    ) -> Result<T, E>;
}

impl ReadTransaction for SqliteConnection {
    fn read<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E>,
    ) -> Result<T, E> {
        use diesel::Connection as _;
        let mut outcome = None;
        // Diesel wants an error that it can make of its own; ours may be the caller's.
        let transaction = self.transaction::<_, QueryError, _>(|connection| {
            outcome = Some(work(connection));
            Ok(())
        });
        match outcome {
            Some(Err(error)) => Err(error),
            Some(Ok(value)) => transaction.map(|()| value).map_err(|error| StoreError::from(error).into()),
            None => Err(StoreError::Corrupt("a read transaction did not begin".to_owned()).into()),
        }
    }
}

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

impl From<Corrupt> for StoreError {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.to_string())
    }
}
