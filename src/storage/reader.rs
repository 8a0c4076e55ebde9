//! What was committed, in read transactions of bounded length.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diesel::result::Error as QueryError;
use diesel::sqlite::SqliteConnection;

use super::aggregates::{self, Row, States};
use super::connection::{self, Database};
use super::counters::{self, Horizon};
use super::error::StoreError;
use super::journal::{self, Entries, Entry, Folded};
use super::outbox::{self, Changes, Members};
use super::page::PageLimit;
use super::verification::{self, Checked};
use crate::domain::collection::Registry;
use crate::domain::feed::Feed;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, HighWaterMark, JournalPosition, Revision, Version};

/// A read-only connection.
pub(crate) struct Reader {
    connection: SqliteConnection,
    registry: Arc<Registry>,
    high_water_mark: HighWaterMark,
}

impl Reader {
    pub(crate) fn open(database: &Database, registry: Arc<Registry>) -> Result<Self, StoreError> {
        Ok(Self {
            connection: database.connect_for_reading()?,
            registry,
            high_water_mark: database.high_water_mark().clone(),
        })
    }

    /// Opens a database that this process does not hold: another one may be using it.
    pub(crate) fn open_foreign(path: &Path, registry: Arc<Registry>) -> Result<Self, StoreError> {
        Ok(Self { connection: connection::open_foreign(path)?, registry, high_water_mark: HighWaterMark::default() })
    }

    /// One state of the database for several questions, in one short read transaction.
    pub(crate) fn view<T>(
        &mut self,
        work: impl FnOnce(&mut View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (registry, high_water_mark) = (&self.registry, &self.high_water_mark);
        self.connection.read(|connection| work(&mut View { connection, registry, high_water_mark }))
    }

    /// Every aggregate of some collections, in order, at one revision: in one read transaction, which ends as soon as
    /// the last row is taken. So `each` must not wait for anybody. The head is given that revision, and that of the last
    /// change of the collection, if it is one only.
    pub(crate) fn collections<E: From<StoreError>>(
        &mut self,
        collections: &[CollectionId],
        head: impl FnOnce(Revision, Revision),
        mut each: impl FnMut(Part<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (registry, high_water_mark) = (&self.registry, &self.high_water_mark);
        self.connection.read(|connection| {
            let current = counters::horizon(connection)?.current;
            high_water_mark.observe(current);
            let changed = match collections {
                [only] => counters::last_change(connection, registry.get(*only).name())?,
                _ => current,
            };
            head(current, changed);
            each(Part::Begin)?;
            for (index, id) in collections.iter().enumerate() {
                each(Part::Collection { id: *id, first: index == 0 })?;
                let mut first = true;
                aggregates::scan(connection, registry.get(*id).name(), |key, _, body| {
                    each(Part::Aggregate { key, body, first: std::mem::take(&mut first) })
                })?;
                each(Part::CollectionEnd)?;
            }
            each(Part::End)
        })
    }
}

/// A piece of some collections, in their order.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    Begin,
    Collection { id: CollectionId, first: bool },
    Aggregate { key: &'a str, body: &'a str, first: bool },
    CollectionEnd,
    End,
}

/// The database as it is during one read transaction.
pub(crate) struct View<'a> {
    connection: &'a mut SqliteConnection,
    registry: &'a Registry,
    high_water_mark: &'a HighWaterMark,
}

impl<'a> View<'a> {
    pub(crate) fn registry(&self) -> &'a Registry {
        self.registry
    }

    pub(crate) fn epoch(&mut self) -> Result<Epoch, StoreError> {
        counters::epoch(self.connection)
    }

    pub(crate) fn horizon(&mut self) -> Result<Horizon, StoreError> {
        counters::horizon(self.connection).inspect(|horizon| self.high_water_mark.observe(horizon.current))
    }

    /// The change events of a feed after a revision, of which none may have been pruned.
    pub(crate) fn changes(
        &mut self,
        feed: &Feed,
        after: Revision,
        current: Revision,
        limit: PageLimit,
    ) -> Result<Changes, StoreError> {
        outbox::changes(self.connection, self.registry, feed, (after, current), limit)
    }

    /// The same events, each revision given to `each` from where it was read; up to which revision these were all.
    pub(crate) fn replay(
        &mut self,
        feed: &Feed,
        span: (Revision, Revision),
        limit: PageLimit,
        each: impl FnMut(Revision, &Members),
    ) -> Result<Revision, StoreError> {
        outbox::replay(self.connection, self.registry, feed, span, limit, each)
    }

    /// The aggregates of a feed that changed after a revision, as they are.
    pub(crate) fn states(&mut self, feed: &Feed, after: Revision, limit: PageLimit) -> Result<States, StoreError> {
        aggregates::changed(self.connection, self.registry, feed, after, limit)
    }

    /// The revision of the last change of a collection.
    pub(crate) fn last_change(&mut self, collection: CollectionId) -> Result<Revision, StoreError> {
        counters::last_change(self.connection, self.registry.get(collection).name())
    }

    /// The aggregates of a collection that changed after a revision, as they are, those that are gone among them; `None`
    /// where there is no room for all.
    pub(crate) fn changed_of(
        &mut self,
        collection: CollectionId,
        after: Revision,
        limit: PageLimit,
    ) -> Result<Option<BTreeMap<Key, Option<String>>>, StoreError> {
        aggregates::changed_of(self.connection, self.registry.get(collection).name(), after, limit)
    }

    /// Every aggregate of a collection, in order.
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

    /// Whether at least so many aggregates changed after a revision.
    pub(crate) fn has_changed(&mut self, after: Revision, at_least: i64) -> Result<bool, StoreError> {
        aggregates::has_changed(self.connection, after, at_least)
    }

    /// Those of some aggregates that are there.
    pub(crate) fn aggregates(
        &mut self,
        collection: CollectionId,
        keys: Vec<Key>,
    ) -> Result<Vec<(Key, Row)>, StoreError> {
        let name = self.registry.get(collection).name();
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let row = aggregates::load(self.connection, name, &key)?;
            found.extend(row.filter(|row| row.body.is_some()).map(|row| (key, row)));
        }
        Ok(found)
    }

    /// An aggregate as its first events say, up to a version, or as all of them do; nothing, where it has none.
    pub(crate) fn fold(
        &mut self,
        collection: CollectionId,
        key: &Key,
        up_to: Option<Version>,
    ) -> Result<Folded, StoreError> {
        let collection = self.registry.get(collection);
        match collection.journaled() {
            Some(journaled) => journal::fold(self.connection, (collection.name(), journaled), key, up_to),
            None => Ok(Folded { key: key.clone(), body: None, version: Version::ZERO }),
        }
    }

    /// Compares rows with what they follow from: all of a derived collection, or the next of an event-sourced one.
    pub(crate) fn check(
        &mut self,
        collection: CollectionId,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Checked, StoreError> {
        verification::check_rule(self.connection, self.registry, collection)?;
        if self.registry.get(collection).derivation().is_some() {
            return verification::derived(self.connection, self.registry, collection);
        }
        verification::folded(self.connection, self.registry, collection, after, limit)
    }

    /// The domain events of one aggregate after a version.
    pub(crate) fn events_of(
        &mut self,
        collection: CollectionId,
        key: &Key,
        after: Version,
        limit: i64,
    ) -> Result<Vec<Entry>, StoreError> {
        journal::of_aggregate(self.connection, self.registry, (collection, key), after, limit)
    }

    /// The position of the last domain event.
    pub(crate) fn position(&mut self) -> Result<JournalPosition, StoreError> {
        journal::current(self.connection)
    }

    /// The domain events after a position, of some collections or all.
    pub(crate) fn journal(
        &mut self,
        only: Option<&[CollectionId]>,
        after: JournalPosition,
        limit: PageLimit,
    ) -> Result<Entries, StoreError> {
        journal::after(self.connection, self.registry, only, after, limit)
    }

    /// Whether an aggregate is there.
    pub(crate) fn exists(&mut self, collection: CollectionId, key: &Key) -> Result<bool, StoreError> {
        let row = aggregates::load(self.connection, self.registry.get(collection).name(), key)?;
        Ok(row.is_some_and(|row| row.body.is_some()))
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
