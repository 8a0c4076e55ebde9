//! The counters that survive pruning, deletion and restarts.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;
use super::schema::{collections, metadata};
use super::statements::{SaveCollection, SaveRevision};
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, JournalPosition, Revision};

/// The numbers that the next write goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    /// Of the last domain event. Needs no row: the journal is never pruned.
    pub(super) position: JournalPosition,
    /// For each collection.
    collections: Vec<Counted>,
}

/// What is counted of one collection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    /// The number of the next key of its sequence.
    next_key: i64,
    /// The revision of its last change.
    changed: Revision,
}

impl Counters {
    /// The next revision.
    pub(super) fn revise(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// The place of the next domain event.
    pub(super) fn place(&mut self) -> JournalPosition {
        self.position = self.position.next();
        self.position
    }

    /// The next key of a collection's sequence.
    pub(super) fn next_key(&self, collection: CollectionId) -> Key {
        Key::of_number(self.collections[collection.index()].next_key)
    }

    /// The next key of a collection's sequence was used.
    pub(super) fn use_key(&mut self, collection: CollectionId) {
        self.collections[collection.index()].next_key += 1;
    }

    /// The revision of now changed something in a collection.
    pub(super) fn change(&mut self, collection: CollectionId) {
        self.collections[collection.index()].changed = self.revision;
    }

    /// For each collection, the revision of its last change.
    pub(super) fn changed(&self) -> impl Iterator<Item = Revision> {
        self.collections.iter().map(|counted| counted.changed)
    }

    /// Writes what moved on from `before`.
    pub(super) fn save(
        &self,
        before: &Self,
        connection: &mut SqliteConnection,
        registry: &Registry,
    ) -> Result<(), StoreError> {
        if self.revision != before.revision {
            SaveRevision(self.revision.number()).execute(connection)?;
        }
        for id in registry.ids().filter(|id| self.collections[id.index()] != before.collections[id.index()]) {
            let Counted { next_key, changed } = self.collections[id.index()];
            let collection = registry.get(id).name();
            SaveCollection { collection, next_key, changed: changed.number() }.execute(connection)?;
        }
        Ok(())
    }
}

/// The epoch and the counters of a database in which every collection is registered, and whose last domain event is at
/// `position`.
pub(super) fn load(
    connection: &mut SqliteConnection,
    registry: &Registry,
    position: JournalPosition,
) -> Result<(Epoch, Counters), StoreError> {
    let epoch = epoch(connection)?;
    let revision: i64 = metadata::table.select(metadata::revision).first(connection)?;
    let mut counted = Vec::new();
    for id in registry.ids() {
        let row = collections::table.find(registry.get(id).name());
        let (next_key, changed) = row.select((collections::next_key, collections::changed)).first(connection)?;
        counted.push(Counted { next_key, changed: Revision::from_raw(changed) });
    }
    Ok((epoch, Counters { revision: Revision::from_raw(revision), position, collections: counted }))
}

pub(super) fn epoch(connection: &mut SqliteConnection) -> Result<Epoch, StoreError> {
    let epoch: String = metadata::table.select(metadata::epoch).first(connection)?;
    epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch {epoch:?}")))
}

/// What a cursor is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Horizon {
    /// The last revision.
    pub(crate) current: Revision,
    /// The last revision whose change events were pruned.
    pub(crate) pruned: Revision,
    /// The last revision of a deletion whose tombstone was pruned.
    pub(crate) forgotten: Revision,
}

pub(super) fn horizon(connection: &mut SqliteConnection) -> Result<Horizon, StoreError> {
    let (current, pruned, forgotten): (i64, i64, i64) =
        metadata::table.select((metadata::revision, metadata::pruned, metadata::forgotten)).get_result(connection)?;
    let (current, pruned, forgotten) =
        (Revision::from_raw(current), Revision::from_raw(pruned), Revision::from_raw(forgotten));
    Ok(Horizon { current, pruned, forgotten })
}

/// The revision of the last change of a collection.
pub(super) fn last_change(connection: &mut SqliteConnection, collection: &str) -> Result<Revision, StoreError> {
    Ok(Revision::from_raw(collections::table.find(collection).select(collections::changed).first(connection)?))
}

/// Begins another life of the database, in which no cursor of before is known.
pub(super) fn begin_epoch(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let epoch = Epoch::mint().map_err(|error| StoreError::Open(format!("no random numbers for an epoch: {error}")))?;
    diesel::update(metadata::table).set(metadata::epoch.eq(epoch.as_str())).execute(connection)?;
    Ok(())
}
