//! Whether the rows are what they follow from: the events of an aggregate, the sources of a group.

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;
use super::journal::{self, Folded};
use super::schema::{aggregates, collections, journal as events};
use super::{aggregates as rows, registration};
use crate::domain::body::{Body, patch};
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;

/// Some aggregates of a collection, looked at.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) aggregates: u64,
    pub(crate) events: u64,
    pub(crate) differing: Vec<Difference>,
    /// The last one, if there may be more after it.
    pub(crate) last: Option<Key>,
}

/// A row that is not what it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) key: Key,
    pub(crate) row: (Version, Option<Body>),
    pub(crate) truth: (Version, Option<Body>),
}

/// Refuses a database whose rows follow from another rule than this program's.
pub(super) fn check_rule(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
) -> Result<(), StoreError> {
    let collection = registry.get(id);
    let known: Option<i64> =
        collections::table.find(collection.name()).select(collections::version).first(connection).optional()?;
    if known == Some(collection.rule()) {
        return Ok(());
    }
    let name = collection.name();
    Err(StoreError::Open(format!("{name} are of another version of this program: start the service once")))
}

/// The next aggregates of an event-sourced collection after a key, beside the fold of their events.
pub(super) fn folded(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
    after: Option<&Key>,
    limit: usize,
) -> Result<Checked, StoreError> {
    let collection = registry.get(id);
    let Some(journaled) = collection.journaled() else { return Ok(Checked::default()) };
    let mut checked = Checked::default();
    for Folded { key, body, version } in journal::fold_next(connection, (collection.name(), journaled), after, limit)? {
        let row = rows::load(connection, collection.name(), &key)?;
        // A deletion may be forgotten.
        let row = row.map_or((version, None), |row| (row.version, row.body));
        checked.aggregates += 1;
        checked.events += version.number().unsigned_abs();
        checked.note(key.clone(), row, (version, body));
        checked.last = Some(key);
    }
    if checked.last.is_none() {
        checked.note_unfounded(connection, collection.name())?;
    }
    Ok(checked)
}

/// The groups of a derived collection, beside those that their sources make.
pub(super) fn derived(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
) -> Result<Checked, StoreError> {
    let collection = registry.get(id);
    let Some(derivation) = collection.derivation() else { return Ok(Checked::default()) };
    let mut derived = registration::derive(connection, derivation)?;
    let mut checked = Checked { aggregates: derived.len() as u64, ..Checked::default() };
    rows::scan(connection, collection.name(), |key, _, body| {
        let (key, body) = (Key::from_db(key), Body::from_db(body.to_owned()));
        let truth = derived.remove(&key);
        checked.note(key, (Version::ZERO, Some(body)), (Version::ZERO, truth));
        Ok::<_, StoreError>(())
    })?;
    for (key, body) in derived {
        checked.note(key, (Version::ZERO, None), (Version::ZERO, Some(body)));
    }
    Ok(checked)
}

impl Checked {
    fn note(&mut self, key: Key, row: (Version, Option<Body>), truth: (Version, Option<Body>)) {
        // What was written in another order is the same state, and no change that a write would store.
        if row.0 != truth.0 || !matches!(patch(row.1.as_ref(), truth.1.as_ref()), Ok(None)) {
            self.differing.push(Difference { key, row, truth });
        }
    }

    /// Notes the rows that no event says anything of.
    fn note_unfounded(&mut self, connection: &mut SqliteConnection, collection: &str) -> Result<(), StoreError> {
        let of_row = events::collection.eq(aggregates::collection).and(events::key.eq(aggregates::key));
        let unfounded: Vec<(String, i64, String)> = aggregates::table
            .filter(aggregates::collection.eq(collection).and(aggregates::body.is_not_null()))
            .filter(not(exists(events::table.filter(of_row))))
            .select((aggregates::key, aggregates::version, aggregates::body.assume_not_null()))
            .load(connection)?;
        for (key, version, body) in unfounded {
            let row = (Version::from_raw(version), Some(Body::from_db(body)));
            self.note(Key::from_db(&key), row, (Version::ZERO, None));
        }
        Ok(())
    }
}
