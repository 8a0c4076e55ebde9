//! At start: what a new or changed registration changes of the document, as writes with their revisions and events.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::counters::horizon;
use super::error::StoreError;
use super::journal::{self, Folded};
use super::schema::{collections, metadata};
use super::statements::SaveRevision;
use super::{aggregates, inline_projections, outbox};
use crate::domain::body::{Body, patch};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Derivation, Journaled, Registry};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, Revision, Version};
use crate::read_model::spec::ProjectionSpec;

/// Aggregates that are derived or folded anew in one revision, at most: an event has to fit into memory.
const AGGREGATES_PER_REVISION: usize = 1000;

/// Brings the database in line with the registry, in one transaction.
pub(super) fn register(
    connection: &mut SqliteConnection,
    registry: &Registry,
    inline: &[ProjectionSpec],
    now: Timestamp,
) -> Result<(), StoreError> {
    connection.immediate_transaction(|connection| {
        let state = create(connection)?;
        refuse_unknown(connection, registry)?;
        inline_projections::register(connection, registry, inline, now)?;
        let around = (registry, inline);
        for id in registry.ids() {
            let name = registry.get(id).name();
            let version = registry.get(id).rule();
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
            if known.is_none() && state == DatabaseState::Existing {
                let (revision, key, patch) = (revise(connection, name)?, Key::from_db(""), "{}".to_owned());
                let came = outbox::Change { revision, collection: id, key, patch, time: now };
                outbox::append(connection, registry, &came)?;
            }
            if let Some(derivation) = registry.get(id).derivation() {
                derive_again(connection, around, id, derivation, now)?;
            }
            if let Some(journaled) = registry.get(id).journaled() {
                refold(connection, around, id, journaled, now)?;
            }
        }
        Ok(())
    })
}

/// What is registered, and what follows from it in the same transaction.
type Around<'a> = (&'a Registry, &'a [ProjectionSpec]);

/// Whether a database was made just now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DatabaseState {
    New,
    Existing,
}

/// A database that was never started has no epoch yet.
fn create(connection: &mut SqliteConnection) -> Result<DatabaseState, StoreError> {
    if metadata::table.count().get_result::<i64>(connection)? > 0 {
        return Ok(DatabaseState::Existing);
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
    Ok(DatabaseState::New)
}

/// Counts the revision on, for a change of this collection.
fn revise(connection: &mut SqliteConnection, collection: &str) -> Result<Revision, StoreError> {
    let revision = horizon(connection)?.current.next();
    SaveRevision(revision.number()).execute(connection)?;
    let changed = collections::changed.eq(revision.number());
    diesel::update(collections::table.find(collection)).set(changed).execute(connection)?;
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
fn derive_again(
    connection: &mut SqliteConnection,
    (registry, inline): Around<'_>,
    id: CollectionId,
    derivation: &dyn Derivation,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = registry.get(id).name();
    let derived = derive(connection, derivation)?;
    let mut known: BTreeMap<Key, Body> = BTreeMap::new();
    aggregates::scan(connection, name, |key, _, body| {
        known.insert(Key::from_db(key), Body::from_db(body.to_owned()));
        Ok::<_, StoreError>(())
    })?;
    let gone = known.keys().filter(|key| !derived.contains_key(*key));
    let mut differing = Vec::new();
    for key in gone.chain(derived.keys()) {
        if let Some(patch) = patch(known.get(key), derived.get(key))? {
            let body = derived.get(key).cloned();
            differing.push(Differing { key: key.clone(), version: Version::ZERO, body, patch });
        }
    }
    for differing in differing.chunks(AGGREGATES_PER_REVISION) {
        write(connection, (registry, inline), id, differing, now)?;
    }
    Ok(())
}

/// A derived collection as all of its source makes it.
pub(super) fn derive(
    connection: &mut SqliteConnection,
    derivation: &dyn Derivation,
) -> Result<BTreeMap<Key, Body>, StoreError> {
    let mut derived: BTreeMap<Key, Body> = BTreeMap::new();
    aggregates::scan(connection, derivation.source(), |_, _, body| {
        let source = Body::from_db(body.to_owned());
        for key in derivation.touched(None, Some(&source))? {
            let row = derived.get(&key).cloned();
            match derivation.derive(&key, row.as_ref(), None, Some(&source))? {
                Some(group) => drop(derived.insert(key, group)),
                None => drop(derived.remove(&key)),
            }
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(derived)
}

/// Computes a collection from all of its domain events; what differs from its rows is written.
fn refold(
    connection: &mut SqliteConnection,
    (registry, inline): Around<'_>,
    id: CollectionId,
    journaled: &dyn Journaled,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = registry.get(id).name();
    let mut last: Option<Key> = None;
    loop {
        let folded = journal::fold_next(connection, (name, journaled), last.as_ref(), AGGREGATES_PER_REVISION)?;
        let Some(Folded { key, .. }) = folded.last() else { return Ok(()) };
        last = Some(key.clone());
        let mut differing = Vec::new();
        for Folded { key, body, version } in folded {
            let row = aggregates::load(connection, name, &key)?.and_then(|row| row.body);
            if let Some(patch) = patch(row.as_ref(), body.as_ref())? {
                differing.push(Differing { key, version, body, patch });
            }
        }
        write(connection, (registry, inline), id, &differing, now)?;
    }
}

/// An aggregate that is not as its row says.
struct Differing {
    key: Key,
    version: Version,
    body: Option<Body>,
    patch: String,
}

/// Writes what differs, as one revision.
fn write(
    connection: &mut SqliteConnection,
    (registry, inline): Around<'_>,
    id: CollectionId,
    differing: &[Differing],
    now: Timestamp,
) -> Result<(), StoreError> {
    if differing.is_empty() {
        return Ok(());
    }
    let name = registry.get(id).name();
    let (revision, mut changes) = (revise(connection, name)?, Vec::with_capacity(differing.len()));
    for Differing { key, version, body, patch } in differing {
        let row = aggregates::Row { revision, version: *version, body: body.clone() };
        aggregates::save(connection, name, key, &row, now)?;
        let (key, patch) = (key.clone(), patch.clone());
        let change = outbox::Change { revision, collection: id, key, patch, time: now };
        outbox::append(connection, registry, &change)?;
        changes.push(change);
    }
    inline_projections::project(connection, registry, inline, &[], &changes)
        .map_err(|error| StoreError::Corrupt(error.to_string()))
}
