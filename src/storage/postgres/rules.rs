//! The rules by which the collections of a record are derived and folded: those of the program that has written it last.
//!
//! A program of another version may have raised one of them, or added or dropped a collection, while this one was connected. Whatever
//! this one wrote then would follow from rules that are not those of the record.

use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::domain::collection::Registry;
use crate::storage::error::StoreError;
use crate::storage::schema::collections;

/// The rule of a collection as the record has it: 0 for one that has none.
#[derive(Debug, Queryable)]
pub(super) struct Rule {
    pub(super) collection: String,
    pub(super) version: i64,
}

/// Fails unless this is a collection of this program, with its rule.
pub(super) fn require_own(registry: &Registry, rule: &Rule) -> Result<(), StoreError> {
    let Rule { collection, version } = rule;
    match own(registry, collection) {
        Some(own) if own == *version => Ok(()),
        Some(own) => Err(StoreError::OtherRule { collection: collection.clone(), version: *version, own }),
        None => Err(StoreError::UnknownCollection { name: collection.clone() }),
    }
}

/// Fails unless all collections of the record are those of this program, with their rules.
pub(super) fn require_all_own(connection: &mut PgConnection, registry: &Registry) -> Result<(), StoreError> {
    let rules = load(connection)?;
    rules.iter().try_for_each(|rule| require_own(registry, rule))?;
    require_there(registry, |name| rules.iter().any(|rule| rule.collection == name))
}

/// Fails if the record lacks a collection of this program: another program has dropped it, and it must not come back by what this
/// one writes.
fn require_there(registry: &Registry, is_there: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    match registry.ids().map(|id| registry.get(id).name()).find(|name| !is_there(name)) {
        Some(name) => Err(StoreError::DroppedCollection { name: name.to_owned() }),
        None => Ok(()),
    }
}

/// Fails if another program has dropped a collection since a service of this one has registered it.
pub(super) fn reject_dropped(connection: &mut PgConnection, registry: &Registry) -> Result<(), StoreError> {
    let rules = load(connection)?;
    require_there(registry, |name| rules.iter().any(|rule| rule.collection == name))
}

/// Fails if a newer program has raised a rule: to start nevertheless would take back what it has written. Documents have
/// their own check.
pub(super) fn reject_newer(connection: &mut PgConnection, registry: &Registry) -> Result<(), StoreError> {
    load(connection)?.into_iter().try_for_each(|Rule { collection, version }| match own(registry, &collection) {
        Some(own) if own < version && !is_document(registry, &collection) => {
            Err(StoreError::NewerRule { collection, version, own })
        }
        _ => Ok(()),
    })
}

fn load(connection: &mut PgConnection) -> Result<Vec<Rule>, StoreError> {
    Ok(collections::table.select((collections::name, collections::version)).load(connection)?)
}

fn is_document(registry: &Registry, collection: &str) -> bool {
    registry.id(collection).is_some_and(|id| registry.get(id).evolution().is_some())
}

/// The rule that this program has for a collection.
fn own(registry: &Registry, collection: &str) -> Option<i64> {
    registry.id(collection).map(|id| registry.get(id).rule())
}
