//! The counters that survive pruning, deletion and restarts.

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::schema::{collections, metadata};
use super::statements::{SaveNextKey, SaveRevision};
use crate::collection::{CollectionId, Registry};
use crate::cursor::{Epoch, Revision};
use crate::key::Key;

/// The numbers that the next write goes on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) revision: Revision,
    /// For each collection, the number of the next key of its sequence.
    next_keys: Vec<i64>,
}

impl Counters {
    /// The next revision.
    pub(super) fn revise(&mut self) -> Revision {
        self.revision = self.revision.next();
        self.revision
    }

    /// The next key of a collection's sequence.
    pub(super) fn number(&mut self, collection: CollectionId) -> Key {
        let next = &mut self.next_keys[collection.index()];
        let key = Key::of_number(*next);
        *next += 1;
        key
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
    let (epoch, revision): (String, i64) =
        metadata::table.select((metadata::epoch, metadata::revision)).first(connection)?;
    let epoch = epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch {epoch:?}")))?;
    let next_keys = registry
        .ids()
        .map(|id| collections::table.find(registry.get(id).name()).select(collections::next_key).first(connection))
        .collect::<QueryResult<_>>()?;
    Ok((epoch, Counters { revision: Revision::stored(revision), next_keys }))
}

/// The last revision, and the last one whose change events were pruned.
pub(super) fn revisions(connection: &mut SqliteConnection) -> Result<(Revision, Revision), StoreError> {
    let (revision, pruned) = metadata::table.select((metadata::revision, metadata::pruned)).first(connection)?;
    Ok((Revision::stored(revision), Revision::stored(pruned)))
}
