//! The rules by which the collections of a record are derived and folded: those of the program that has written it last.
//!
//! A program of another version may have raised one of them, or added a collection, while this one was connected. Whatever
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
    load(connection)?.iter().try_for_each(|rule| require_own(registry, rule))
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
