//! Reads of committed data, in read transactions of bounded length.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::aggregates::{self, Row, States};
use super::connection;
use super::counters::{self, Horizon};
use super::database::Database;
use super::database_file::MainConnection;
use super::dropping;
use super::engine::AnyConnection;
use super::erasure::{self, Erasure, InProgress};
use super::error::StoreError;
use super::fence::Fence;
use super::journal::{self, Entries, EntriesOfOne, Folded};
use super::outbox::{self, Changes, Log, Members};
use super::page::{PageLimit, Span};
#[cfg(feature = "postgres")]
use super::postgres::aggregate::{self, Found};
use super::spans::Pace;
use crate::domain::collection::Registry;
use crate::domain::feed::Feed;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, HighWaterMark, JournalPosition, Revision, Version};

/// A read-only connection.
pub(crate) struct Reader {
    connection: MainConnection,
    database: Arc<Database>,
    registry: Arc<Registry>,
    fence: Fence,
    /// Up to this revision, no collection of this program was dropped.
    checked: Revision,
    /// What the last pages of change events have had.
    pace: Pace,
}

impl Reader {
    pub(crate) fn open(database: &Arc<Database>, registry: Arc<Registry>) -> Result<Self, StoreError> {
        Ok(Self {
            connection: connect(database)?,
            database: Arc::clone(database),
            registry,
            fence: Fence::of(database),
            checked: Revision::ZERO,
            pace: Pace::default(),
        })
    }

    /// Runs several queries in one short read transaction, so that they see one state of the database.
    pub(crate) fn view<T>(
        &mut self,
        work: impl FnOnce(&mut View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transaction(work)
    }

    fn transaction<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut View<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let seen = self.database.high_water_mark().last();
        if let Err(error) = connection::begin(&mut self.connection) {
            self.reconnect_after(error)?;
            connection::begin(&mut self.connection)?;
        }
        let Self { connection, database, registry, fence, pace, checked } = self;
        connection::complete(connection, |connection| {
            let high_water_mark = database.high_water_mark();
            work(&mut View { connection, registry, fence, high_water_mark, pace, seen, checked })
        })
    }

    /// Replaces a connection that a server has closed, or that has failed in the middle of a transaction. Another error is
    /// returned.
    fn reconnect_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if !error.is_unreachable() {
            return Err(error);
        }
        self.connection = connect(&self.database)?;
        Ok(())
    }

    /// The revision of the document, and the row of an aggregate if it exists at that. A server is asked by one statement.
    pub(crate) fn aggregate(
        &mut self,
        collection: CollectionId,
        key: &Key,
    ) -> Result<(Revision, Option<Row>), StoreError> {
        #[cfg(feature = "postgres")]
        if let Some((seen, Found { sight, row })) = self.found(collection, key)? {
            let Horizon { current, dropped, .. } = self.fence.recognize_since(sight, seen)?;
            self.database.high_water_mark().observe(current);
            // Otherwise it remains to be seen which collection was dropped.
            if dropped <= self.checked {
                return Ok((current, row.filter(|row| row.body.is_some())));
            }
        }
        self.view(|view| Ok((view.horizon()?.current, view.aggregate(collection, key)?)))
    }

    /// What was seen before, and what one statement finds on a server. `None` for a file.
    #[cfg(feature = "postgres")]
    fn found(&mut self, collection: CollectionId, key: &Key) -> Result<Option<(Revision, Found)>, StoreError> {
        let seen = self.database.high_water_mark().last();
        let load = |reader: &mut Self| match &mut *reader.connection {
            AnyConnection::Postgres(server) => {
                aggregate::load(server, reader.registry.get(collection).name(), key).map(Some)
            }
            AnyConnection::Sqlite(_) => Ok(None),
        };
        let found = load(self).or_else(|error| {
            self.reconnect_after(error)?;
            load(self)
        })?;
        Ok(found.map(|found| (seen, found)))
    }

    /// Calls `each` with every selected aggregate, in order, at one revision. The read transaction lasts until the last
    /// row, so `each` must not block.
    pub(crate) fn collections<E: From<StoreError>>(
        &mut self,
        Excerpt { collections, keys }: Excerpt<'_>,
        mut each: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.transaction(|view| {
            let current = view.horizon()?.current;
            let View { connection, registry, .. } = view;
            let changed = last_change(connection, registry, collections)?;
            each(Part::Begin { document: current, changed })?;
            for (index, id) in collections.iter().enumerate() {
                each(Part::Collection { id: *id, first: index == 0 })?;
                let (name, mut first) = (registry.get(*id).name(), true);
                let mut add =
                    |key: &str, body: &str| each(Part::Aggregate { key, body, first: std::mem::take(&mut first) });
                match keys {
                    None => aggregates::scan(connection, name, |key, _, body| add(key, body))?,
                    Some(keys) => aggregates::each(connection, name, keys, add)?,
                }
                each(Part::CollectionEnd)?;
            }
            each(Part::End)
        })
    }
}

/// What of the document is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Excerpt<'a> {
    pub(crate) collections: &'a [CollectionId],
    /// Only these aggregates of each collection; `None` for all of them.
    pub(crate) keys: Option<&'a [Key]>,
}

/// A part of some collections, in the order of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// The revision of the document, and that of the last change of the collections.
    Begin {
        document: Revision,
        changed: Revision,
    },
    Collection {
        id: CollectionId,
        first: bool,
    },
    Aggregate {
        key: &'a str,
        body: &'a str,
        first: bool,
    },
    CollectionEnd,
    End,
}

/// The database during one read transaction.
pub(crate) struct View<'a> {
    connection: &'a mut AnyConnection,
    registry: &'a Registry,
    fence: &'a Fence,
    high_water_mark: &'a HighWaterMark,
    pace: &'a mut Pace,
    /// What was seen before the transaction began.
    seen: Revision,
    /// Up to this revision, no collection of this program was dropped.
    checked: &'a mut Revision,
}

impl<'a> View<'a> {
    pub(crate) fn registry(&self) -> &'a Registry {
        self.registry
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, StoreError> {
        counters::epoch(self.connection)
    }

    pub(crate) fn horizon(&mut self) -> Result<Horizon, StoreError> {
        let horizon = self.fence.horizon_since(self.connection, self.seen)?;
        self.high_water_mark.observe(horizon.current);
        // Its rows go without change events.
        if horizon.dropped > *self.checked {
            dropping::reject_dropped(self.connection, self.registry)?;
            *self.checked = horizon.dropped;
        }
        Ok(horizon)
    }

    /// A page of the change events of a feed. None of the span may have been pruned.
    pub(crate) fn changes(&mut self, feed: &Feed, span: Span, limit: PageLimit) -> Result<Changes, StoreError> {
        outbox::changes(self.log(), feed, span, limit)
    }

    /// The same page, but calls `each` for every revision with borrowed text. Returns the last revision of the page.
    pub(crate) fn replay(
        &mut self,
        feed: &Feed,
        span: Span,
        limit: PageLimit,
        each: impl FnMut(Revision, &Members),
    ) -> Result<Revision, StoreError> {
        outbox::replay(self.log(), feed, span, limit, each)
    }

    fn log(&mut self) -> Log<'_> {
        Log { connection: self.connection, registry: self.registry, pace: self.pace }
    }

    /// A page of the current states of the aggregates of a feed that changed within a span, which ends with the last revision.
    pub(crate) fn states(&mut self, feed: &Feed, span: Span, limit: PageLimit) -> Result<States, StoreError> {
        aggregates::changed(self.connection, self.registry, feed, span, limit)
    }

    /// The revision of the last change of some collections.
    pub(crate) fn last_change(&mut self, collections: &[CollectionId]) -> Result<Revision, StoreError> {
        last_change(self.connection, self.registry, collections)
    }

    /// The revision of the last change of each collection, by its index.
    pub(crate) fn last_changes(&mut self) -> Result<Box<[Revision]>, StoreError> {
        counters::last_changes(self.connection, self.registry)
    }

    /// The aggregates of a collection that changed within a span, which ends with the last revision, with `None` for deleted
    /// ones. Returns `None` if they exceed the limit.
    pub(crate) fn changed_of(
        &mut self,
        collection: CollectionId,
        span: Span,
        limit: PageLimit,
    ) -> Result<Option<BTreeMap<Key, Option<String>>>, StoreError> {
        aggregates::changed_of(self.connection, self.registry.get(collection).name(), span, limit)
    }

    /// Calls `each` with every aggregate of a collection, in order.
    pub(crate) fn scan<E: From<StoreError>>(
        &mut self,
        collection: CollectionId,
        mut each: impl FnMut(&str, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        aggregates::scan(self.connection, self.registry.get(collection).name(), |key, _, body| each(key, body))
    }

    /// Every aggregate of a collection with the revision of its last change, in key order.
    pub(crate) fn scan_with_revisions<E: From<StoreError>>(
        &mut self,
        collection: CollectionId,
        each: impl FnMut(&str, Revision, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        aggregates::scan(self.connection, self.registry.get(collection).name(), each)
    }

    /// Whether at least `at_least` aggregates changed after a revision.
    pub(crate) fn has_changed(&mut self, after: Revision, at_least: i64) -> Result<bool, StoreError> {
        aggregates::has_changed(self.connection, after, at_least)
    }

    /// The row of an aggregate, unless it does not exist.
    fn aggregate(&mut self, collection: CollectionId, key: &Key) -> Result<Option<Row>, StoreError> {
        let row = aggregates::load(self.connection, self.registry.get(collection).name(), key)?;
        Ok(row.filter(|row| row.body.is_some()))
    }

    /// The names of the collections that were dropped after a revision.
    pub(crate) fn dropped_after(&mut self, revision: Revision) -> Result<Vec<String>, StoreError> {
        dropping::after(self.connection, revision)
    }

    /// Whether an aggregate exists.
    pub(crate) fn exists(&mut self, collection: CollectionId, key: &Key) -> Result<bool, StoreError> {
        Ok(self.aggregate(collection, key)?.is_some())
    }

    /// Folds the events of an aggregate, up to a version or all of them.
    pub(crate) fn fold(
        &mut self,
        collection: CollectionId,
        key: &Key,
        up_to: Option<Version>,
    ) -> Result<Folded, StoreError> {
        let collection = self.registry.get(collection);
        match collection.journaled() {
            Some(journaled) => journal::fold(self.connection, collection.name(), journaled, key, up_to),
            None => Ok(Folded::nothing(key)),
        }
    }

    /// The erasure of an aggregate, if it was erased.
    pub(crate) fn erasure(&mut self, collection: CollectionId, key: &Key) -> Result<Option<Erasure>, StoreError> {
        erasure::find(self.connection, self.registry.get(collection).name(), key.as_str())
    }

    /// The aggregates of which some events may still be there, although they were erased.
    pub(crate) fn erasures_in_progress(&mut self) -> Result<InProgress, StoreError> {
        erasure::in_progress(self.connection)
    }

    /// The next aggregates that were erased after a revision, at most this many.
    pub(crate) fn erasures_after(&mut self, revision: Revision, limit: i64) -> Result<Vec<Erasure>, StoreError> {
        erasure::after(self.connection, revision, limit)
    }

    /// A page of the domain events of one aggregate after a version.
    pub(crate) fn events_of(
        &mut self,
        collection: CollectionId,
        key: &Key,
        after: Version,
        limit: PageLimit,
    ) -> Result<EntriesOfOne, StoreError> {
        journal::of_aggregate(self.connection, self.registry, collection, key, after, limit)
    }

    /// Lends the connection to a query of other tables: those of inline projections. Fails if the database is another one.
    pub(crate) fn query<T>(&mut self, work: impl FnOnce(&mut AnyConnection) -> T) -> Result<T, StoreError> {
        self.horizon()?;
        Ok(work(self.connection))
    }

    /// The position of the last domain event.
    pub(crate) fn position(&mut self) -> Result<JournalPosition, StoreError> {
        journal::current(self.connection)
    }

    /// A page of the domain events after a position, of some collections or of all.
    pub(crate) fn journal(
        &mut self,
        only: Option<&[CollectionId]>,
        after: JournalPosition,
        limit: PageLimit,
    ) -> Result<Entries, StoreError> {
        journal::after(self.connection, self.registry, only, after, limit)
    }
}

/// The revision of the last change of some collections.
fn last_change(
    connection: &mut AnyConnection,
    registry: &Registry,
    collections: &[CollectionId],
) -> Result<Revision, StoreError> {
    let mut last = Revision::ZERO;
    for id in collections {
        last = last.max(counters::last_change(connection, registry.get(*id).name())?);
    }
    Ok(last)
}

/// A connection that reads.
fn connect(database: &Database) -> Result<MainConnection, StoreError> {
    // SQLite removes the log of a file that was emptied when it opens that.
    database.examine()?;
    database.open_for_reading()
}
