//! The table of current state.

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::schema::aggregates;
use super::statements::UpsertAggregate;
use crate::collection::Body;
use crate::cursor::Revision;
use crate::key::Key;

/// The row of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The revision of its last change.
    pub(crate) revision: Revision,
    /// The number of its domain events so far.
    pub(crate) version: i64,
    /// `None` for a tombstone.
    pub(crate) body: Option<Body>,
}

/// The row of an aggregate, which may be a tombstone; `None` where there never was one.
pub(super) fn load(connection: &mut SqliteConnection, collection: &str, key: &Key) -> Result<Option<Row>, StoreError> {
    let row: Option<(i64, i64, Option<String>)> = aggregates::table
        .find((collection, key.rank(), key.as_str()))
        .select((aggregates::revision, aggregates::version, aggregates::body))
        .first(connection)
        .optional()?;
    Ok(row.map(|(revision, version, body)| Row {
        revision: Revision::stored(revision),
        version,
        body: body.map(Body::stored),
    }))
}

/// Writes the row of an aggregate.
pub(super) fn save(
    connection: &mut SqliteConnection,
    collection: &str,
    key: &Key,
    row: &Row,
) -> Result<(), StoreError> {
    UpsertAggregate {
        collection,
        rank: key.rank(),
        key: key.as_str(),
        revision: row.revision.number(),
        version: row.version,
        body: row.body.as_ref().map(Body::as_str),
    }
    .execute(connection)?;
    Ok(())
}

/// Every aggregate of a collection that is there, in key order, one row in memory at a time.
pub(super) fn scan<E: From<StoreError>>(
    connection: &mut SqliteConnection,
    collection: &str,
    mut each: impl FnMut(&str, Revision, &str) -> Result<(), E>,
) -> Result<(), E> {
    let query = aggregates::table
        .filter(aggregates::collection.eq(collection).and(aggregates::body.is_not_null()))
        .order((aggregates::rank, aggregates::key))
        .select((aggregates::key, aggregates::revision, aggregates::body.assume_not_null()));
    for row in query.load_iter::<(String, i64, String), DefaultLoadingMode>(connection).map_err(StoreError::from)? {
        let (key, revision, body) = row.map_err(StoreError::from)?;
        each(&key, Revision::stored(revision), &body)?;
    }
    Ok(())
}
