//! The counters that survive pruning, deletion and restarts.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::schema::{collections, metadata};
use super::statements::{SaveNextKey, SaveRevision};
use super::{StoreError, journal};
use crate::collection::{CollectionId, Registry};
use crate::cursor::{Epoch, JournalPosition, Revision};
use crate::key::Key;

/// The numbers that the next write goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    /// Of the last domain event. Needs no row: the journal is never pruned.
    pub(super) position: JournalPosition,
    /// For each collection, the number of the next key of its sequence.
    next_keys: Vec<i64>,
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
        Key::of_number(self.next_keys[collection.index()])
    }

    /// The next key of a collection's sequence was used.
    pub(super) fn use_key(&mut self, collection: CollectionId) {
        self.next_keys[collection.index()] += 1;
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
        for id in registry.ids().filter(|id| self.next_keys[id.index()] != before.next_keys[id.index()]) {
            let next_key = self.next_keys[id.index()];
            SaveNextKey { collection: registry.get(id).name(), next_key }.execute(connection)?;
        }
        Ok(())
    }
}

/// The epoch and the counters of a database in which every collection is registered.
pub(super) fn load(connection: &mut SqliteConnection, registry: &Registry) -> Result<(Epoch, Counters), StoreError> {
    let epoch = epoch(connection)?;
    let revision: i64 = metadata::table.select(metadata::revision).first(connection)?;
    let next_keys = registry
        .ids()
        .map(|id| collections::table.find(registry.get(id).name()).select(collections::next_key).first(connection))
        .collect::<QueryResult<_>>()?;
    let position = journal::current(connection)?;
    Ok((epoch, Counters { revision: Revision::stored(revision), position, next_keys }))
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
        (Revision::stored(current), Revision::stored(pruned), Revision::stored(forgotten));
    Ok(Horizon { current, pruned, forgotten })
}

/// Begins another life of the database, in which no cursor of before is known.
pub(super) fn begin_epoch(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let epoch = Epoch::mint().map_err(|error| StoreError::Open(format!("no random numbers for an epoch: {error}")))?;
    diesel::update(metadata::table).set(metadata::epoch.eq(epoch.as_str())).execute(connection)?;
    Ok(())
}
