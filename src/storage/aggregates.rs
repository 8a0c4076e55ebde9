//! The table of current state.

use std::collections::BTreeMap;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::sqlite::{Sqlite, SqliteConnection};

use super::error::StoreError;
use super::page::{PageLimit, Progress};
use super::schema::{aggregates, metadata};
use super::statements::UpsertAggregate;
use crate::domain::body::Body;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::feed::Feed;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Revision, Version};

/// The row of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The revision of its last change.
    pub(crate) revision: Revision,
    /// The number of its domain events so far.
    pub(crate) version: Version,
    /// `None` for a tombstone.
    pub(crate) body: Option<Body>,
}

/// The row of an aggregate, which may be a tombstone; `None` where there never was one.
pub(super) fn load(connection: &mut SqliteConnection, collection: &str, key: &Key) -> Result<Option<Row>, StoreError> {
    let row: Option<(i64, i64, Option<String>)> = aggregates::table
        .find((collection, key.rank(), key.as_str()))
        .select((aggregates::revision, aggregates::version, aggregates::body))
        // Not `first`, whose `LIMIT ?` has SQLite prepare the statement anew each time.
        .get_result(connection)
        .optional()?;
    Ok(row.map(|(revision, version, body)| Row {
        revision: Revision::from_raw(revision),
        version: Version::from_raw(version),
        body: body.map(Body::from_db),
    }))
}

/// Writes the row of an aggregate.
pub(super) fn save(
    connection: &mut SqliteConnection,
    collection: &str,
    key: &Key,
    row: &Row,
    now: Timestamp,
) -> Result<(), StoreError> {
    UpsertAggregate {
        collection,
        rank: key.rank(),
        key: key.as_str(),
        revision: row.revision.number(),
        version: row.version.number(),
        body: row.body.as_ref().map(Body::as_str),
        deleted: row.body.is_none().then_some(now.milliseconds()),
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
        each(&key, Revision::from_raw(revision), &body)?;
    }
    Ok(())
}

/// An aggregate as it is, for those who know how it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// Of its last change.
    pub(crate) revision: Revision,
    /// `None` when it was deleted.
    pub(crate) body: Option<String>,
}

/// Some of the aggregates of a feed that changed after a revision, in the order of their last changes.
#[derive(Debug)]
pub(crate) struct States {
    pub(crate) states: Vec<State>,
    /// Every one that last changed at or before this revision is among them; `None` when these are all.
    pub(crate) to: Option<Revision>,
}

/// Aggregates that a page looks at, at most, but for the rest of its last revision.
const PAGE_ROWS: usize = 10_000;

/// The aggregates of a feed that changed after a revision, deleted ones among them.
pub(super) fn changed(
    connection: &mut SqliteConnection,
    registry: &Registry,
    feed: &Feed,
    after: Revision,
    limit: PageLimit,
) -> Result<States, StoreError> {
    if let (Some(collection), Some(keys)) = (feed.collection(), feed.keys()) {
        let mut states = Vec::new();
        for key in keys {
            let row = load(connection, registry.get(collection).name(), key)?;
            states.extend(row.filter(|row| row.revision > after).map(|row| State {
                collection,
                key: key.clone(),
                revision: row.revision,
                body: row.body.map(|body| body.as_str().to_owned()),
            }));
        }
        states.sort_by_key(|state| state.revision);
        return fill(feed, states.into_iter().map(Ok), limit);
    }
    // Through the index by revision, so that the cost follows what changed; a filter by collection would tempt SQLite
    // to go through all of the collection instead.
    let query = aggregates::table.filter(aggregates::revision.gt(after.number())).order(aggregates::revision).select((
        aggregates::collection,
        aggregates::key,
        aggregates::revision,
        aggregates::body,
    ));
    let rows = query.load_iter::<(String, String, i64, Option<String>), DefaultLoadingMode>(connection)?;
    let states = rows.filter_map(|row| match row {
        Ok((collection, key, revision, body)) => {
            let collection = registry.id(&collection)?;
            Some(Ok(State { collection, key: Key::from_db(&key), revision: Revision::from_raw(revision), body }))
        }
        Err(error) => Some(Err(StoreError::from(error))),
    });
    fill(feed, states, limit)
}

/// Takes states until there is no more room, whole revisions at a time.
fn fill(
    feed: &Feed,
    states: impl Iterator<Item = Result<State, StoreError>>,
    limit: PageLimit,
) -> Result<States, StoreError> {
    let (mut taken, mut bytes, mut looked_at, mut last) = (Vec::new(), 0, 0, None);
    for state in states {
        let state = state?;
        let full = bytes >= limit.bytes || taken.len() >= limit.items || looked_at >= PAGE_ROWS;
        if full && last.is_some_and(|last| last < state.revision) {
            return Ok(States { states: taken, to: last });
        }
        last = Some(state.revision);
        looked_at += 1;
        if feed.selects(state.collection, state.key.as_str()) {
            bytes += state.body.as_ref().map_or(0, String::len) + 2 * state.key.as_str().len();
            taken.push(state);
        }
    }
    Ok(States { states: taken, to: None })
}

/// The aggregates of one collection that changed after a revision, through the index by revision. A query of one constant
/// text, which is prepared once.
struct ChangedOf<'a> {
    collection: &'a str,
    after: i64,
}

impl QueryFragment<Sqlite> for ChangedOf<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("SELECT key, body FROM aggregates WHERE revision > ");
        out.push_bind_param::<BigInt, _>(&self.after)?;
        // The sign keeps SQLite from going through all of the collection instead.
        out.push_sql(" AND +collection = ");
        out.push_bind_param::<Text, _>(self.collection)
    }
}

impl QueryId for ChangedOf<'_> {
    type QueryId = ChangedOf<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for ChangedOf<'_> {
    type SqlType = (Text, Nullable<Text>);
}

impl RunQueryDsl<SqliteConnection> for ChangedOf<'_> {}

/// The aggregates of one collection that changed after a revision, as they are, those that are gone among them; `None`
/// where there is no room for all.
pub(super) fn changed_of(
    connection: &mut SqliteConnection,
    collection: &str,
    after: Revision,
    limit: PageLimit,
) -> Result<Option<BTreeMap<Key, Option<String>>>, StoreError> {
    let query = ChangedOf { collection, after: after.number() };
    let (mut changed, mut bytes) = (BTreeMap::new(), 0);
    for row in query.load_iter::<(String, Option<String>), DefaultLoadingMode>(connection)? {
        let (key, body) = row?;
        bytes += key.len() + body.as_ref().map_or(0, String::len);
        changed.insert(Key::from_db(&key), body);
        if changed.len() > limit.items || bytes > limit.bytes {
            return Ok(None);
        }
    }
    Ok(Some(changed))
}

/// Whether at least so many aggregates changed after a revision: SQLite counts them on its way through the index.
pub(super) fn has_changed(
    connection: &mut SqliteConnection,
    after: Revision,
    at_least: i64,
) -> Result<bool, StoreError> {
    if at_least < 1 {
        return Ok(true);
    }
    let last: Option<i64> = aggregates::table
        .filter(aggregates::revision.gt(after.number()))
        .order(aggregates::revision)
        .select(aggregates::revision)
        .offset(at_least - 1)
        .limit(1)
        .first(connection)
        .optional()?;
    Ok(last.is_some())
}

/// Deletions that are forgotten in one transaction, so that no writer waits long.
const FORGOTTEN_AT_ONCE: u16 = 1000;

/// Forgets deletions that are older than this, oldest first, a bounded number of them.
pub(super) fn forget(connection: &mut SqliteConnection, older_than: Timestamp) -> Result<Progress, StoreError> {
    connection.immediate_transaction(|connection| {
        let oldest: Vec<(String, i32, String, i64, Option<i64>)> = aggregates::table
            .filter(aggregates::body.is_null())
            .order(aggregates::revision)
            .select((
                aggregates::collection,
                aggregates::rank,
                aggregates::key,
                aggregates::revision,
                aggregates::deleted,
            ))
            .limit(FORGOTTEN_AT_ONCE.into())
            .load(connection)?;
        let is_old = |deleted: &Option<i64>| deleted.is_some_and(|deleted| deleted < older_than.milliseconds());
        let old = oldest.iter().take_while(|(.., deleted)| is_old(deleted)).count();
        let Some((.., last, _)) = oldest[..old].last() else { return Ok(Progress::Done) };
        for (collection, rank, key, ..) in &oldest[..old] {
            diesel::delete(aggregates::table.find((collection, rank, key))).execute(connection)?;
        }
        diesel::update(metadata::table).set(metadata::forgotten.eq(last)).execute(connection)?;
        Ok(if old == usize::from(FORGOTTEN_AT_ONCE) { Progress::More } else { Progress::Done })
    })
}
