//! At start: what a new or changed registration changes of the document, as writes with their revisions and events.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::metadata::horizon;
use super::schema::{collections, metadata};
use super::statements::SaveRevision;
use super::{StoreError, aggregates, outbox};
use crate::clock::Timestamp;
use crate::collection::{Body, CollectionId, Derivation, Registry, patch};
use crate::cursor::{Epoch, Revision};
use crate::key::Key;

/// Aggregates that are derived anew in one revision, at most: an event has to fit into memory.
const DERIVED_AT_ONCE: usize = 1000;

/// Brings the database in line with the registry, in one transaction.
pub(super) fn register(
    connection: &mut SqliteConnection,
    registry: &Registry,
    now: Timestamp,
) -> Result<(), StoreError> {
    connection.immediate_transaction(|connection| {
        let fresh = create(connection)?;
        refuse_unknown(connection, registry)?;
        for id in registry.ids() {
            let name = registry.get(id).name();
            let derivation = registry.get(id).derivation();
            let version = derivation.map_or(0, Derivation::version);
            let known: Option<i64> =
                collections::table.find(name).select(collections::version).first(connection).optional()?;
            if known == Some(version) {
                continue;
            }
            diesel::insert_into(collections::table)
                .values((collections::name.eq(name), collections::version.eq(version), collections::next_key.eq(1)))
                .on_conflict(collections::name)
                .do_update()
                .set(collections::version.eq(version))
                .execute(connection)?;
            // In a new database every collection is there from the beginning.
            if known.is_none() && fresh == Fresh::No {
                let (revision, key, patch) = (revise(connection)?, Key::stored(""), "{}".to_owned());
                let came = outbox::Change { revision, collection: id, key, patch };
                outbox::append(connection, registry, &came, now)?;
            }
            if let Some(derivation) = derivation {
                derive_anew(connection, registry, id, derivation, now)?;
            }
        }
        Ok(())
    })
}

/// Whether a database was made just now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}

/// A database that was never started has no epoch yet.
fn create(connection: &mut SqliteConnection) -> Result<Fresh, StoreError> {
    if metadata::table.count().get_result::<i64>(connection)? > 0 {
        return Ok(Fresh::No);
    }
    let epoch = Epoch::mint().map_err(|error| StoreError::Open(format!("no random numbers for an epoch: {error}")))?;
    diesel::insert_into(metadata::table)
        .values((
            metadata::id.eq(1),
            metadata::epoch.eq(epoch.as_str()),
            metadata::revision.eq(0),
            metadata::pruned.eq(0),
        ))
        .execute(connection)?;
    Ok(Fresh::Yes)
}

/// Counts the revision on.
fn revise(connection: &mut SqliteConnection) -> Result<Revision, StoreError> {
    let revision = horizon(connection)?.current.next();
    SaveRevision(revision.number()).execute(connection)?;
    Ok(revision)
}

/// What this program does not know it could not keep up to date, nor leave out without a word.
fn refuse_unknown(connection: &mut SqliteConnection, registry: &Registry) -> Result<(), StoreError> {
    let names: Vec<String> = collections::table.select(collections::name).load(connection)?;
    match names.into_iter().find(|name| registry.id(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(StoreError::Open(format!(
            "the database has the collection {name:?}, which this program does not register"
        ))),
    }
}

/// Computes a derived collection from all of its source; what differs from its rows is written.
fn derive_anew(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
    derivation: &dyn Derivation,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = registry.get(id).name();
    let mut derived: BTreeMap<Key, Body> = BTreeMap::new();
    aggregates::scan(connection, derivation.source(), |_, _, body| {
        let source = Body::stored(body.to_owned());
        for key in derivation.touched(None, Some(&source))? {
            let row = derived.get(&key).cloned();
            match derivation.derive(&key, row.as_ref(), None, Some(&source))? {
                Some(group) => drop(derived.insert(key, group)),
                None => drop(derived.remove(&key)),
            }
        }
        Ok::<_, StoreError>(())
    })?;
    let mut known: BTreeMap<Key, Body> = BTreeMap::new();
    aggregates::scan(connection, name, |key, _, body| {
        known.insert(Key::stored(key), Body::stored(body.to_owned()));
        Ok::<_, StoreError>(())
    })?;
    write_difference(connection, registry, id, &known, &derived, now)
}

fn write_difference(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
    before: &BTreeMap<Key, Body>,
    after: &BTreeMap<Key, Body>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let mut changed = Vec::new();
    for key in gone.chain(after.keys()) {
        if let Some(patch) = patch(before.get(key), after.get(key))? {
            changed.push((key, patch));
        }
    }
    for changes in changed.chunks(DERIVED_AT_ONCE) {
        let revision = revise(connection)?;
        for (key, patch) in changes {
            let row = aggregates::Row { revision, version: 0, body: after.get(key).cloned() };
            aggregates::save(connection, registry.get(id).name(), key, &row, now)?;
            let (key, patch) = ((*key).clone(), patch.clone());
            outbox::append(connection, registry, &outbox::Change { revision, collection: id, key, patch }, now)?;
        }
    }
    Ok(())
}
