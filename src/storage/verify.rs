//! Compares the stored rows with what they follow from: the events of an aggregate, or the source of a derived
//! collection.

use std::fmt;
use std::path::Path;

use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;
use super::journal::{self, Folded};
use super::schema::{aggregates, collections, journal as events};
use super::{aggregates as rows, connection, registration};
use crate::domain::body::{Body, patch};
use crate::domain::collection::{Derivation, Journaled, Registry};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;

/// The result for one collection that follows from events or from another collection.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Verified {
    /// The collection's name.
    pub collection: &'static str,
    /// The number of aggregates that were compared.
    pub aggregates: u64,
    /// The number of domain events that were folded.
    pub events: u64,
    differing: Vec<Difference>,
}

/// A row that differs from what it follows from.
#[derive(Debug, Clone)]
struct Difference {
    key: Key,
    stored: State,
    expected: State,
}

#[derive(Debug, Clone)]
struct State {
    version: Version,
    body: Option<Body>,
}

/// Aggregates that are compared in one read transaction.
const AGGREGATES_PER_TRANSACTION: usize = 1000;

/// Verifies every collection that follows from something else. A service may be using the database.
pub(crate) fn verify(database: &Path, registry: &Registry) -> Result<Vec<Verified>, StoreError> {
    let mut connection = connection::open_foreign(database)?;
    let mut results = Vec::new();
    for id in registry.ids() {
        let collection = registry.get(id);
        if let Some(journaled) = collection.journaled() {
            results.push(verify_folded(&mut connection, registry, id, journaled)?);
        } else if let Some(derivation) = collection.derivation() {
            results.push(connection::read(&mut connection, |connection| {
                verify_derived(connection, registry, id, derivation)
            })?);
        }
    }
    Ok(results)
}

/// Compares the rows of an event-sourced collection with their events, some at a time.
fn verify_folded(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
    journaled: &dyn Journaled,
) -> Result<Verified, StoreError> {
    let name = registry.get(id).name();
    let mut verified = Verified::new(name);
    let mut last: Option<Key> = None;
    loop {
        let next = connection::read(connection, |connection| {
            check_rule(connection, registry, id)?;
            let folded = journal::fold_next(connection, name, journaled, last.as_ref(), AGGREGATES_PER_TRANSACTION)?;
            for Folded { key, body, version } in &folded {
                let row = rows::load(connection, name, key)?;
                // A tombstone may have been pruned.
                let stored = row.map_or(State { version: *version, body: None }, |row| State {
                    version: row.version,
                    body: row.body,
                });
                verified.aggregates += 1;
                verified.events += version.number().unsigned_abs();
                verified.compare(key, stored, State { version: *version, body: body.clone() });
            }
            if folded.is_empty() {
                verified.add_rows_without_events(connection)?;
            }
            Ok::<_, StoreError>(folded.last().map(|folded| folded.key.clone()))
        })?;
        if next.is_none() {
            return Ok(verified);
        }
        last = next;
    }
}

/// Compares the rows of a derived collection with those that follow from its source.
fn verify_derived(
    connection: &mut SqliteConnection,
    registry: &Registry,
    id: CollectionId,
    derivation: &dyn Derivation,
) -> Result<Verified, StoreError> {
    check_rule(connection, registry, id)?;
    let name = registry.get(id).name();
    let state = |body| State { version: Version::ZERO, body };
    let mut derived = registration::derive(connection, derivation)?;
    let mut verified = Verified { aggregates: derived.len() as u64, ..Verified::new(name) };
    rows::scan(connection, name, |key, _, body| {
        let key = Key::from_db(key);
        let expected = derived.remove(&key);
        verified.compare(&key, state(Some(Body::from_db(body.to_owned()))), state(expected));
        Ok::<_, StoreError>(())
    })?;
    for (key, body) in derived {
        verified.compare(&key, state(None), state(Some(body)));
    }
    Ok(verified)
}

/// Fails if the rows were written by another version of the program.
fn check_rule(connection: &mut SqliteConnection, registry: &Registry, id: CollectionId) -> Result<(), StoreError> {
    let collection = registry.get(id);
    let name = collection.name();
    let known: Option<i64> = collections::table.find(name).select(collections::version).first(connection).optional()?;
    if known == Some(collection.rule()) {
        return Ok(());
    }
    Err(StoreError::NotMigrated { found: format!("its {name} follow other rules") })
}

impl Verified {
    fn new(collection: &'static str) -> Self {
        Self { collection, aggregates: 0, events: 0, differing: Vec::new() }
    }

    /// The number of rows that differ from what they follow from.
    #[must_use]
    pub fn differing(&self) -> usize {
        self.differing.len()
    }

    fn compare(&mut self, key: &Key, stored: State, expected: State) {
        // The order of members does not matter: a write would not store such a change either.
        let is_same_body = matches!(patch(stored.body.as_ref(), expected.body.as_ref()), Ok(None));
        if stored.version != expected.version || !is_same_body {
            self.differing.push(Difference { key: key.clone(), stored, expected });
        }
    }

    /// Adds the rows of aggregates that have no events.
    fn add_rows_without_events(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        let of_row = events::collection.eq(aggregates::collection).and(events::key.eq(aggregates::key));
        let found: Vec<(String, i64, String)> = aggregates::table
            .filter(aggregates::collection.eq(self.collection).and(aggregates::body.is_not_null()))
            .filter(not(exists(events::table.filter(of_row))))
            .select((aggregates::key, aggregates::version, aggregates::body.assume_not_null()))
            .load(connection)?;
        for (key, version, body) in found {
            let stored = State { version: Version::from_raw(version), body: Some(Body::from_db(body)) };
            self.compare(&Key::from_db(&key), stored, State { version: Version::ZERO, body: None });
        }
        Ok(())
    }
}

/// The maximum number of differences of a collection that are displayed.
const MAX_DISPLAYED: usize = 20;

/// One line for the collection, and one for each difference.
impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collection, aggregates, events, differing } = self;
        write!(f, "{collection}: {aggregates} aggregates, {events} events, ")?;
        if differing.is_empty() {
            return f.write_str("all as stored");
        }
        write!(f, "{} not as stored", differing.len())?;
        for Difference { key, stored, expected } in differing.iter().take(MAX_DISPLAYED) {
            write!(f, "\n{collection}/{key}: stored is {stored}; it should be {expected}")?;
        }
        if differing.len() > MAX_DISPLAYED {
            write!(f, "\n… and {} more", differing.len() - MAX_DISPLAYED)?;
        }
        Ok(())
    }
}

/// The maximum number of characters of a state that are displayed.
const MAX_CHARACTERS: usize = 200;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.body.as_ref().map_or("nothing", Body::as_str);
        let end = text.char_indices().nth(MAX_CHARACTERS).map_or(text.len(), |(end, _)| end);
        let ellipsis = if end < text.len() { "…" } else { "" };
        write!(f, "{}{ellipsis} (version {})", &text[..end], self.version)
    }
}
