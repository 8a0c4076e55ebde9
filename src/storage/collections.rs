//! The table of the collections of the document, as operators see it.

use std::fmt;
use std::path::Path;

use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::select;

use super::at_rest::read_undisturbed;
use super::dropping::{self, Dropped};
use super::engine::AnyConnection;
use super::error::StoreError;
use super::identity::identify;
use super::migrations;
use super::schema::{aggregates, collections, journal};
use crate::domain::collection::{Collection, Registry};

/// What a database has.
pub(crate) struct Collections {
    pub(crate) listed: Vec<ListedCollection>,
    /// Those of which only a rest is there, which the next start removes.
    pub(crate) dropped: Vec<Dropped>,
}

/// A collection of a database.
pub(crate) struct ListedCollection {
    pub(crate) name: String,
    /// `None` if nothing shows it.
    kind: Option<&'static str>,
    version: i64,
    aggregates: i64,
    is_registered: bool,
}

/// The collections of a database, which a service may be using. Changes nothing.
///
/// # Errors
/// The database cannot be read, or a newer version of this program has migrated it.
pub(crate) fn list(database: &Path, registry: &Registry) -> Result<Collections, StoreError> {
    read_undisturbed(database, |connection| {
        identify(connection, database)?;
        let is_current = migrations::pending(connection)?.is_empty();
        let rows: Vec<(String, i64)> = collections::table
            .order(collections::name)
            .select((collections::name, collections::version))
            .load(connection)?;
        let listed = rows.into_iter().map(|(name, version)| {
            let registered = registry.id(&name).map(|id| registry.get(id));
            let kind = match registered {
                Some(collection) => Some(kind_of(collection)),
                None if is_current => stored_kind(connection, &name)?,
                None => None,
            };
            let there = aggregates::table.filter(aggregates::collection.eq(&name).and(aggregates::body.is_not_null()));
            let aggregates = there.count().get_result(connection)?;
            Ok(ListedCollection { name, kind, version, aggregates, is_registered: registered.is_some() })
        });
        let listed = listed.collect::<Result<_, StoreError>>()?;
        let dropped = if is_current { dropping::unfinished(connection)? } else { Vec::new() };
        Ok(Collections { listed, dropped })
    })
}

/// Fails if a database has no such collection, and has had none that was dropped.
pub(crate) fn require(database: &Path, name: &str) -> Result<(), StoreError> {
    read_undisturbed(database, |connection| {
        identify(connection, database)?;
        let is_current = migrations::pending(connection)?.is_empty();
        let names: Vec<String> =
            collections::table.order(collections::name).select(collections::name).load(connection)?;
        if names.iter().any(|known| known == name) || (is_current && dropping::find(connection, name)?.is_some()) {
            return Ok(());
        }
        Err(StoreError::NoCollection { name: name.to_owned(), known: names.join(", ") })
    })
}

fn kind_of(collection: &dyn Collection) -> &'static str {
    match (collection.journaled(), collection.derivation()) {
        (Some(_), _) => EVENT_SOURCED,
        (None, Some(_)) => "derived",
        (None, None) => DOCUMENTS,
    }
}

/// What the rows of a collection show that no type describes.
fn stored_kind(connection: &mut AnyConnection, name: &str) -> Result<Option<&'static str>, StoreError> {
    let shape: Option<String> = collections::table.find(name).select(collections::shape).first(connection)?;
    if let Some(shape) = shape {
        return Ok(Some(if shape.starts_with(EVENTS) { EVENT_SOURCED } else { DOCUMENTS }));
    }
    let has_events = select(exists(journal::table.filter(journal::collection.eq(name)))).get_result(connection)?;
    Ok(if has_events { Some(EVENT_SOURCED) } else { None })
}

/// The digest of events begins with it.
const EVENTS: &str = "events ";

const DOCUMENTS: &str = "documents";
const EVENT_SOURCED: &str = "event-sourced";

/// `persons              documents      version 1    2 aggregates, registered`
impl fmt::Display for ListedCollection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kind, version, aggregates, is_registered } = self;
        let kind = kind.unwrap_or("-");
        let registered = if *is_registered { "registered" } else { "not registered" };
        write!(f, "{name:<20} {kind:<14} version {version:<4} {aggregates} aggregates, {registered}")
    }
}
