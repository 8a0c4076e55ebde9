//! The counters of the document and of each collection. They survive pruning, deletion and restarts.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::schema::{collections, metadata};
use super::statement::statement;
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, JournalPosition, Revision};

/// The numbers that the next write continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    /// The position of the last domain event. It is not stored, because the journal is never pruned.
    pub(super) position: JournalPosition,
    /// By the index of the collection.
    collections: Vec<CollectionCounters>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CollectionCounters {
    /// The number of the next key, if the collection has numbers as keys.
    next_key: i64,
    /// The revision of its last change.
    changed: Revision,
}

impl Counters {
    /// Reads the counters of a database in which every collection is registered.
    pub(super) fn load(
        connection: &mut AnyConnection,
        registry: &Registry,
        position: JournalPosition,
    ) -> Result<Self, StoreError> {
        let revision: i64 = metadata::table.select(metadata::revision).first(connection)?;
        let mut counters = Vec::new();
        for id in registry.ids() {
            let row = collections::table.find(registry.get(id).name());
            let (next_key, changed) = row.select((collections::next_key, collections::changed)).first(connection)?;
            counters.push(CollectionCounters { next_key, changed: Revision::from_raw(changed) });
        }
        Ok(Self { revision: Revision::from_raw(revision), position, collections: counters })
    }

    /// Those of a database in which every collection has its own, as `of` says.
    #[cfg(feature = "postgres")]
    pub(super) fn of_collections(
        registry: &Registry,
        revision: Revision,
        position: JournalPosition,
        of: impl Fn(&str) -> Result<CollectionCounters, StoreError>,
    ) -> Result<Self, StoreError> {
        let collections = registry.ids().map(|id| of(registry.get(id).name())).collect::<Result<_, _>>()?;
        Ok(Self { revision, position, collections })
    }

    /// The counters of the collections that differ from `before`.
    #[cfg(feature = "postgres")]
    pub(super) fn changed_collections<'a>(
        &'a self,
        before: &'a Self,
        registry: &'a Registry,
    ) -> impl Iterator<Item = ChangedCollection> + 'a {
        let differs = |id: &CollectionId| self.collections[id.index()] != before.collections[id.index()];
        registry.ids().filter(differs).map(|id| {
            let CollectionCounters { next_key, changed } = self.collections[id.index()];
            ChangedCollection { name: registry.get(id).name(), next_key, changed: changed.number() }
        })
    }

    /// Increments the revision, and returns it.
    pub(super) fn next_revision(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// Increments the position of the journal, and returns it.
    pub(super) fn next_position(&mut self) -> JournalPosition {
        self.position = self.position.next();
        self.position
    }

    /// The next key of a collection that has numbers as keys.
    pub(super) fn next_key(&self, collection: CollectionId) -> Key {
        Key::of_number(self.collections[collection.index()].next_key)
    }

    /// Notes that the next key of a collection was used.
    pub(super) fn use_key(&mut self, collection: CollectionId) {
        self.collections[collection.index()].next_key += 1;
    }

    /// Notes that the current revision changed a collection.
    pub(super) fn change(&mut self, collection: CollectionId) {
        self.collections[collection.index()].changed = self.revision;
    }

    /// The revision of the last change of each collection.
    pub(super) fn changed(&self) -> impl Iterator<Item = Revision> {
        self.collections.iter().map(|counters| counters.changed)
    }

    /// Writes the counters of the collections that differ from `before`.
    pub(super) fn save_collections(
        &self,
        before: &Self,
        connection: &mut AnyConnection,
        registry: &Registry,
    ) -> Result<(), StoreError> {
        for id in registry.ids().filter(|id| self.collections[id.index()] != before.collections[id.index()]) {
            let CollectionCounters { next_key, changed } = self.collections[id.index()];
            let name = registry.get(id).name();
            let statement = SaveCollection { next_key, changed: changed.number(), name };
            on!(connection, |engine| statement.execute(engine))?;
        }
        Ok(())
    }
}

#[cfg(feature = "postgres")]
impl CollectionCounters {
    pub(super) fn new(next_key: i64, changed: i64) -> Self {
        Self { next_key, changed: Revision::from_raw(changed) }
    }
}

/// The row of a collection after a batch that changes it.
#[cfg(feature = "postgres")]
pub(super) struct ChangedCollection {
    pub(super) name: &'static str,
    pub(super) next_key: i64,
    pub(super) changed: i64,
}

pub(super) fn save_revision(connection: &mut AnyConnection, revision: Revision) -> Result<(), StoreError> {
    SaveRevision { revision: revision.number() }.execute(connection)?;
    Ok(())
}

/// Writes the last revision, if the database has this epoch and the revision before it. Returns the number of changed
/// rows: 1, or 0.
pub(super) fn save_next_revision(
    connection: &mut AnyConnection,
    epoch: &Epoch,
    before: Revision,
    revision: Revision,
) -> Result<usize, StoreError> {
    let (revision, before, epoch) = (revision.number(), before.number(), epoch.as_str());
    Ok(match connection {
        AnyConnection::Sqlite(connection) => SaveNextRevision { revision, epoch, before }.execute(connection)?,
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(connection) => {
            let known = metadata::epoch.eq(epoch).and(metadata::revision.eq(before));
            let next = metadata::revision.eq(revision);
            diesel::update(metadata::table.filter(known)).set(next).execute(connection)?
        }
    })
}

statement! {
    /// `OR ROLLBACK`, since the transaction ends anyway if this fails: SQLite would keep a copy of the page otherwise, to take
    /// only this statement back.
    struct SaveNextRevision<'a> {
        "UPDATE OR ROLLBACK metadata SET revision = " revision: i64 as BigInt,
        " WHERE epoch = " epoch: &'a str as Text,
        " AND revision = " before: i64 as BigInt,
    }
}

statement! {
    struct SaveRevision {
        "UPDATE metadata SET revision = " revision: i64 as BigInt,
    }
}

statement! {
    struct SaveCollection<'a> {
        "UPDATE collections SET next_key = " next_key: i64 as BigInt,
        ", changed = " changed: i64 as BigInt,
        " WHERE name = " name: &'a str as Text,
    }
}

/// The revisions against which a cursor is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// The last revision.
    pub(crate) current: Revision,
    /// The last revision whose change events were pruned.
    pub(crate) pruned: Revision,
    /// The last revision of a deletion whose tombstone was pruned.
    pub(crate) forgotten: Revision,
    /// It grows when something of the past is overwritten. What was read before that must not be used after it.
    pub(crate) erasures: i64,
    /// The revision of the last collection that was dropped, on a server, where services that register it may be running.
    pub(crate) dropped: Revision,
}

/// What a statement sees of the record.
pub(super) struct Sight {
    /// `None` if the record is not in the place in which its epoch began.
    pub(super) epoch: Option<String>,
    pub(super) horizon: Horizon,
}

pub(super) fn horizon(connection: &mut AnyConnection) -> Result<Horizon, StoreError> {
    Ok(horizon_of_epoch(connection)?.1)
}

/// The epoch of the database, as text, and the revisions against which its cursors are compared.
pub(super) fn horizon_of_epoch(connection: &mut AnyConnection) -> Result<(String, Horizon), StoreError> {
    let columns = (metadata::epoch, metadata::revision, metadata::pruned, metadata::forgotten, metadata::erasures);
    let (epoch, current, pruned, forgotten, erasures): (String, i64, i64, i64, i64) =
        on!(connection, |engine| metadata::table.select(columns).get_result(engine))?;
    let horizon = Horizon {
        current: Revision::from_raw(current),
        pruned: Revision::from_raw(pruned),
        forgotten: Revision::from_raw(forgotten),
        erasures,
        dropped: Revision::ZERO,
    };
    Ok((epoch, horizon))
}

/// The revision of the last change of a collection.
pub(super) fn last_change(connection: &mut AnyConnection, collection: &str) -> Result<Revision, StoreError> {
    let row = collections::table.find(collection).select(collections::changed);
    Ok(Revision::from_raw(on!(connection, |engine| row.get_result(engine))?))
}

/// The revision of the last change of each collection, by its index.
pub(super) fn last_changes(connection: &mut AnyConnection, registry: &Registry) -> Result<Box<[Revision]>, StoreError> {
    let query = collections::table.select((collections::name, collections::changed));
    let rows: Vec<(String, i64)> = on!(connection, |engine| query.load(engine))?;
    let mut changed: Box<[Revision]> = registry.ids().map(|_| Revision::ZERO).collect();
    for (name, last) in rows {
        if let Some(id) = registry.id(&name) {
            changed[id.index()] = Revision::from_raw(last);
        }
    }
    Ok(changed)
}

pub(super) fn epoch(connection: &mut AnyConnection) -> Result<Epoch, StoreError> {
    let epoch: String = on!(connection, |engine| metadata::table.select(metadata::epoch).first(engine))?;
    epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch {epoch:?}")))
}
