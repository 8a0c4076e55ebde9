//! At start: whether the program can read the events that are stored. It looks at the first event of each kind and schema,
//! and only after its events have changed.

use diesel::dsl::min;
use diesel::prelude::*;

use super::engine::AnyConnection;
use super::error::StoreError;
use super::schema::journal;
use super::shapes;
use crate::domain::collection::Journaled;

/// When the program has looked at the events of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Examined {
    /// A program with the same events has done that.
    Before,
    Now,
}

/// Fails if the program does not know a kind of the stored events any more, or cannot read the first one of a kind. Reads the
/// kinds of the whole journal.
pub(super) fn examine(
    connection: &mut AnyConnection,
    collection: &str,
    journaled: &dyn Journaled,
) -> Result<Examined, StoreError> {
    if shapes::find(connection, collection)? == Some(journaled.shape()) {
        return Ok(Examined::Before);
    }
    // What was erased has no content.
    let firsts: Vec<Option<i64>> = journal::table
        .filter(journal::collection.eq(collection).and(journal::erased.eq(0)))
        .group_by((journal::kind, journal::schema))
        .select(min(journal::position))
        .load(connection)?;
    let mut firsts: Vec<i64> = firsts.into_iter().flatten().collect();
    firsts.sort_unstable();
    firsts.into_iter().try_for_each(|position| require_readable(connection, journaled, position))?;
    Ok(Examined::Now)
}

fn require_readable(
    connection: &mut AnyConnection,
    journaled: &dyn Journaled,
    position: i64,
) -> Result<(), StoreError> {
    let columns = (journal::collection, journal::key, journal::version, journal::kind, journal::schema, journal::body);
    let event: (String, String, i64, String, i64, String) =
        journal::table.find(position).select(columns).first(connection)?;
    let (collection, key, version, kind, schema, fields) = event;
    journaled.check(&kind, schema, &fields).map_err(|problem| StoreError::UnreadableEvent {
        place: format!("position {position} of the journal ({collection}/{key}, version {version})"),
        kind,
        schema,
        problem: problem.to_string(),
        next: journaled.schema().max(schema) + 1,
    })
}
