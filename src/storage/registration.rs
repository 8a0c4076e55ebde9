//! At start: writes the consequences of new or changed registrations, as revisions with change events.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use diesel::prelude::*;

use super::aggregates::SavedRow;
use super::counters::{horizon, save_revision};
use super::drop_command::drop_command;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::event_kinds::{self, Examined};
use super::journal::{self, Folded};
use super::outbox::Change;
use super::schema::{collections, metadata};
use super::{aggregates, dropping, epochs, erasure, inline_projections, outbox, shapes, upgrade};
use crate::domain::body::{Body, patch};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Derivation, Evolution, Journaled, Keys, Registry};
use crate::domain::history::History;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::revision::{Revision, Version};
use crate::read_model::spec::ProjectionSpec;

/// The maximum number of aggregates that one revision recomputes: an event must fit into memory.
const AGGREGATES_PER_REVISION: usize = 1000;

/// What a program registers, and the time of its start.
#[derive(Clone, Copy)]
pub(super) struct Registration<'a> {
    pub(super) registry: &'a Arc<Registry>,
    pub(super) inline: &'a [ProjectionSpec],
    /// What the database is called.
    pub(super) database: &'a Path,
    pub(super) now: Timestamp,
}

impl Registration<'_> {
    /// Begins an epoch, and brings the database in line with the program, within one transaction.
    pub(super) fn write(self, connection: &mut AnyConnection) -> Result<History, StoreError> {
        let state = initialize(connection)?;
        let history = epochs::begin(connection)?;
        reject_unregistered(connection, self.registry, self.database)?;
        inline_projections::register(connection, self.registry, self.inline, self.now)?;
        self.write_all(connection, state)?;
        Ok(history)
    }

    /// Brings a database on a server in line with the program, within one transaction.
    ///
    /// # Errors
    /// There are inline projections, or the database has a collection that is not registered.
    #[cfg(feature = "postgres")]
    pub(super) fn write_collections(
        self,
        connection: &mut AnyConnection,
        state: DatabaseState,
    ) -> Result<(), StoreError> {
        if let Some(projection) = self.inline.first() {
            return Err(StoreError::NotInline { name: projection.name });
        }
        reject_unregistered(connection, self.registry, self.database)?;
        self.write_all(connection, state)
    }

    fn write_all(self, connection: &mut AnyConnection, state: DatabaseState) -> Result<(), StoreError> {
        self.registry.ids().try_for_each(|id| {
            self.write_collection(connection, id, state)?;
            let collection = self.registry.get(id);
            if collection.keys() == Keys::Sequence { skip_used_keys(connection, collection.name()) } else { Ok(()) }
        })
    }

    fn write_collection(
        self,
        connection: &mut AnyConnection,
        id: CollectionId,
        state: DatabaseState,
    ) -> Result<(), StoreError> {
        let collection = self.registry.get(id);
        let (name, version) = (collection.name(), collection.rule());
        let known: Option<i64> =
            collections::table.find(name).select(collections::version).first(connection).optional()?;
        if let Some(evolution) = collection.evolution() {
            self.evolve(connection, name, evolution, known)?;
        }
        if let Some(journaled) = collection.journaled() {
            self.examine_events(connection, name, journaled)?;
        }
        if known == Some(version) {
            return Ok(());
        }
        if known.is_some() {
            let raised = collections::version.eq(version);
            diesel::update(collections::table.find(name)).set(raised).execute(connection)?;
        } else {
            let shape = collection.evolution().map(Evolution::shape);
            let shape = shape.or_else(|| collection.journaled().map(Journaled::shape));
            let first = (
                collections::name.eq(name),
                (collections::version.eq(version), collections::shape.eq(shape)),
                collections::next_key.eq(dropping::take_back(connection, name, self.database)?),
            );
            diesel::insert_into(collections::table).values(first).execute(connection)?;
        }
        // In a new database, the empty document already has every collection.
        if known.is_none() && state == DatabaseState::Existing {
            let revision = next_revision(connection, name)?;
            let added = self.change(revision, id, Key::from_db(""), "{}".to_owned());
            outbox::append(connection, self.registry, [&added])?;
        }
        if let Some(derivation) = collection.derivation()
            // Otherwise it is derived at the end of that, when all documents have their new members.
            && !upgrade::is_in_progress(connection, derivation.source())?
        {
            self.rederive(connection, id, derivation)?;
        }
        if let Some(journaled) = collection.journaled() {
            self.refold(connection, id, journaled)?;
        }
        Ok(())
    }

    /// Finds out whether the stored documents are those of the type, and begins to convert them if they are older.
    fn evolve(
        self,
        connection: &mut AnyConnection,
        name: &'static str,
        evolution: &dyn Evolution,
        known: Option<i64>,
    ) -> Result<(), StoreError> {
        let Some(version) = known else { return Ok(()) };
        let shape = evolution.shape();
        upgrade::require_known(name, evolution, version)?;
        let begun = upgrade::unfinished(connection, name, evolution)?;
        if shapes::find(connection, name)?.as_ref() == Some(&shape) && version == evolution.version() {
            return Ok(());
        }
        if version < evolution.version() {
            upgrade::begin(connection, name, evolution, version)?;
        } else if begun.is_none() {
            upgrade::require_fit(connection, name, evolution)?;
        }
        shapes::save(connection, name, &shape)
    }

    /// Finds out whether this program can read the events that are stored.
    fn examine_events(
        self,
        connection: &mut AnyConnection,
        name: &'static str,
        journaled: &dyn Journaled,
    ) -> Result<(), StoreError> {
        match event_kinds::examine(connection, name, journaled)? {
            Examined::Before => Ok(()),
            Examined::Now => shapes::save(connection, name, &journaled.shape()),
        }
    }

    /// A change by the service itself.
    fn change(self, revision: Revision, collection: CollectionId, key: Key, patch: String) -> Change {
        Change { revision, collection, key, patch, time: self.now, metadata: Metadata::of_service().stored() }
    }

    /// Computes a derived collection from its source, and writes the rows that differ.
    pub(super) fn rederive(
        self,
        connection: &mut AnyConnection,
        id: CollectionId,
        derivation: &dyn Derivation,
    ) -> Result<(), StoreError> {
        let derived = derive(connection, derivation)?;
        let mut known: BTreeMap<Key, Body> = BTreeMap::new();
        aggregates::scan(connection, self.registry.get(id).name(), |key, _, body| {
            known.insert(Key::from_db(key), Body::from_db(body.to_owned()));
            Ok::<_, StoreError>(())
        })?;
        let gone = known.keys().filter(|key| !derived.contains_key(*key));
        let mut recomputed = Vec::new();
        for key in gone.chain(derived.keys()) {
            if let Some(patch) = patch(known.get(key), derived.get(key))? {
                let body = derived.get(key).cloned();
                recomputed.push(Recomputed { key: key.clone(), version: Version::ZERO, body, patch });
            }
        }
        recomputed.chunks(AGGREGATES_PER_REVISION).try_for_each(|chunk| self.write_revision(connection, id, chunk))
    }

    /// Folds all domain events of a collection, and writes the rows that differ.
    fn refold(
        self,
        connection: &mut AnyConnection,
        id: CollectionId,
        journaled: &dyn Journaled,
    ) -> Result<(), StoreError> {
        let name = self.registry.get(id).name();
        let mut last: Option<Key> = None;
        loop {
            let folded = journal::fold_next(connection, name, journaled, last.as_ref(), AGGREGATES_PER_REVISION)?;
            let Some(Folded { key, .. }) = folded.last() else { return Ok(()) };
            last = Some(key.clone());
            let mut recomputed = Vec::new();
            for Folded { key, body, version, .. } in folded {
                let row = aggregates::load(connection, name, &key)?.and_then(|row| row.body);
                if let Some(patch) = patch(row.as_ref(), body.as_ref())? {
                    recomputed.push(Recomputed { key, version, body, patch });
                }
            }
            self.write_revision(connection, id, &recomputed)?;
        }
    }

    /// Writes recomputed aggregates as one revision.
    pub(super) fn write_revision(
        self,
        connection: &mut AnyConnection,
        id: CollectionId,
        recomputed: &[Recomputed],
    ) -> Result<(), StoreError> {
        if recomputed.is_empty() {
            return Ok(());
        }
        let name = self.registry.get(id).name();
        let revision = next_revision(connection, name)?;
        let row = |one: &Recomputed| aggregates::Row { revision, version: one.version, body: one.body.clone() };
        let rows: Vec<_> = recomputed.iter().map(row).collect();
        let saved = recomputed.iter().zip(&rows).map(|(one, row)| SavedRow {
            collection: name,
            key: &one.key,
            row,
            is_unused: false,
        });
        aggregates::save(connection, saved, self.now)?;
        let change = |one: &Recomputed| self.change(revision, id, one.key.clone(), one.patch.clone());
        let changes: Vec<_> = recomputed.iter().map(change).collect();
        outbox::append(connection, self.registry, &changes)?;
        inline_projections::project(connection, self.registry, self.inline, &[], &changes)
            .map_err(|error| StoreError::Projection(error.to_string()))
    }
}

/// An aggregate whose row differs from its events or its source.
pub(super) struct Recomputed {
    pub(super) key: Key,
    pub(super) version: Version,
    pub(super) body: Option<Body>,
    pub(super) patch: String,
}

/// Whether a service has ever started on the database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DatabaseState {
    New,
    Existing,
}

/// Gives a new database its counters.
fn initialize(connection: &mut AnyConnection) -> Result<DatabaseState, StoreError> {
    if metadata::table.count().get_result::<i64>(connection)? > 0 {
        return Ok(DatabaseState::Existing);
    }
    diesel::insert_into(metadata::table)
        .values((
            metadata::id.eq(1),
            metadata::epoch.eq(""),
            metadata::revision.eq(0),
            metadata::pruned.eq(0),
            // Since the first page, what is deleted is overwritten.
            metadata::overwritten.eq(1),
        ))
        .execute(connection)?;
    Ok(DatabaseState::New)
}

/// Increments the revision for a change of this collection, and returns it.
fn next_revision(connection: &mut AnyConnection, collection: &str) -> Result<Revision, StoreError> {
    let revision = horizon(connection)?.current.next();
    save_revision(connection, revision)?;
    let changed = collections::changed.eq(revision.number());
    diesel::update(collections::table.find(collection)).set(changed).execute(connection)?;
    Ok(revision)
}

/// An earlier version of the program may have let clients choose the keys, numbers among them: those are not given again.
fn skip_used_keys(connection: &mut AnyConnection, collection: &str) -> Result<(), StoreError> {
    let last = aggregates::last_number(connection, collection)?.max(erasure::last_number(connection, collection)?);
    let behind = collections::table.find(collection).filter(collections::next_key.le(last));
    diesel::update(behind).set(collections::next_key.eq(last + 1)).execute(connection)?;
    Ok(())
}

/// The program could not keep an unknown collection up to date, and leaving it out silently would hide data.
pub(super) fn reject_unregistered(
    connection: &mut AnyConnection,
    registry: &Registry,
    database: &Path,
) -> Result<(), StoreError> {
    let names: Vec<String> = collections::table.order(collections::name).select(collections::name).load(connection)?;
    match names.into_iter().find(|name| registry.id(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let command = drop_command(&name, database);
            Err(StoreError::UnregisteredCollection { name, command })
        }
    }
}

/// Computes a derived collection from its source.
pub(super) fn derive(
    connection: &mut AnyConnection,
    derivation: &dyn Derivation,
) -> Result<BTreeMap<Key, Body>, StoreError> {
    let mut derived: BTreeMap<Key, Body> = BTreeMap::new();
    aggregates::scan(connection, derivation.source(), |_, _, body| {
        let source = Body::from_db(body.to_owned());
        let change = derivation.follow(None, Some(&source))?;
        for key in change.touched() {
            if let Some(group) = change.derive(&key, derived.get(&key))? {
                derived.insert(key, group);
            } else {
                derived.remove(&key);
            }
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(derived)
}
