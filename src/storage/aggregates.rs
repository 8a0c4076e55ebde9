//! The table of current states and tombstones.

use std::collections::BTreeMap;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};

use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::maintained::{Effect, Maintained};
use super::page::{PageLimit, Progress, Span, Wanted};
use super::portion::Portion;
use super::retained::Retained;
use super::schema::{aggregates, metadata};
use super::sighting::{self, Rows, Sighting};
use super::spans::{Numbers, Spans};
use super::statement::{rows, statement};
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
    /// The number of its domain events.
    pub(crate) version: Version,
    /// `None` for a tombstone.
    pub(crate) body: Option<Body>,
}

/// The row of an aggregate, which may be a tombstone. `None` if there is no row.
pub(super) fn load(connection: &mut AnyConnection, collection: &str, key: &Key) -> Result<Option<Row>, StoreError> {
    let query = FindAggregate { collection, rank: key.rank(), key: key.as_str() };
    let row: Option<(i64, i64, Option<String>)> = on!(connection, |engine| query.get_result(engine)).optional()?;
    Ok(row.map(|(revision, version, body)| Row {
        revision: Revision::from_raw(revision),
        version: Version::from_raw(version),
        body: body.map(Body::from_db),
    }))
}

statement! {
    /// Commands ask for it so often that building it from the columns would show.
    struct FindAggregate<'a> {
        "SELECT revision, version, body FROM aggregates WHERE collection = " collection: &'a str as Text,
        " AND rank = " rank: i32 as Integer,
        " AND key = " key: &'a str as Text,
    }
}

impl Query for FindAggregate<'_> {
    type SqlType = (BigInt, BigInt, Nullable<Text>);
}

/// The largest number that is the key of a row, tombstones included; 0 without any. Those of more than 15 digits do not count:
/// no sequence gets there.
pub(super) fn last_number(connection: &mut AnyConnection, collection: &str) -> Result<i64, StoreError> {
    let numbers = aggregates::table
        .filter(aggregates::collection.eq(collection))
        .filter(aggregates::rank.le(15))
        .order((aggregates::rank.desc(), aggregates::key.desc()))
        .select(aggregates::key)
        .limit(1);
    let last: Option<String> = on!(connection, |engine| numbers.get_result(engine)).optional()?;
    Ok(last.and_then(|last| last.parse().ok()).unwrap_or(0))
}

/// Whether the row of an aggregate still has the revision and the version that it had. Does not read its body.
pub(super) fn is_current(
    connection: &mut AnyConnection,
    collection: &str,
    key: &Key,
    row: &Row,
) -> Result<bool, StoreError> {
    let query = aggregates::table
        .find((collection, key.rank(), key.as_str()))
        .select((aggregates::revision, aggregates::version));
    let current: Option<(i64, i64)> = on!(connection, |engine| query.get_result(engine)).optional()?;
    Ok(current == Some((row.revision.number(), row.version.number())))
}

/// An aggregate whose row is to be written.
pub(super) struct SavedRow<'a> {
    pub(super) collection: &'a str,
    pub(super) key: &'a Key,
    pub(super) row: &'a Row,
    /// The table has no row with this key.
    pub(super) is_unused: bool,
}

/// Writes the rows of different aggregates.
pub(super) fn save<'a>(
    connection: &mut AnyConnection,
    saved: impl IntoIterator<Item = SavedRow<'a>>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (mut new, mut known) = (Vec::new(), Vec::new());
    for SavedRow { collection, key, row, is_unused } in saved {
        let (rank, key, deleted) = (key.rank(), key.as_str(), row.body.is_none().then_some(now.milliseconds()));
        let (revision, version) = (row.revision.number(), row.version.number());
        let body = row.body.as_ref().map(Body::as_str);
        if is_unused {
            new.push(InsertAggregate { collection, rank, key, revision, version, body, deleted });
        } else {
            known.push(UpsertAggregate { collection, rank, key, revision, version, body, deleted });
        }
    }
    // In the order of the primary key, SQLite goes on from the row before.
    new.sort_unstable_by_key(|row| (row.collection, row.rank, row.key));
    known.sort_unstable_by_key(|row| (row.collection, row.rank, row.key));
    on!(connection, |engine| InsertAggregate::insert_all(&new, engine))?;
    Ok(on!(connection, |engine| UpsertAggregate::insert_all(&known, engine))?)
}

/// Declares how rows of this table are written; `$end` ends the statement.
macro_rules! saving {
    ($(#[$attribute:meta])* $name:ident $end:literal) => {
        rows! {
            $(#[$attribute])*
            struct $name<'a> {
                "aggregates (collection, rank, key, revision, version, body, deleted)"
                collection: &'a str as Text,
                rank: i32 as Integer,
                key: &'a str as Text,
                revision: i64 as BigInt,
                version: i64 as BigInt,
                body: Option<&'a str> as Nullable<Text>,
                deleted: Option<i64> as Nullable<BigInt>,
            }
            $end
        }
    };
}

saving! {
    /// New rows, many at once.
    InsertAggregate
    ""
}

saving! {
    UpsertAggregate
    " ON CONFLICT (collection, rank, key) DO UPDATE SET \
     revision = excluded.revision, version = excluded.version, body = excluded.body, deleted = excluded.deleted"
}

/// Calls `each` with every aggregate of a collection, in key order. Only one row is in memory at a time.
pub(super) fn scan<E: From<StoreError>>(
    connection: &mut AnyConnection,
    collection: &str,
    mut each: impl FnMut(&str, Revision, &str) -> Result<(), E>,
) -> Result<(), E> {
    let mut place = Place::START;
    loop {
        let last = scan_next(connection, collection, &place, |Found { key, revision, body, .. }| {
            each(&key, Revision::from_raw(revision), &body).map(|()| Wanted::More)
        })?;
        let Some(last) = last else { return Ok(()) };
        place = last;
    }
}

/// The next aggregates of a collection after a key, in key order: as many as the limit and one statement allow, and at least
/// one if there is one.
pub(super) fn next(
    connection: &mut AnyConnection,
    collection: &str,
    after: Option<&Key>,
    limit: PageLimit,
) -> Result<Vec<(Key, Row)>, StoreError> {
    let place = after.map_or(Place::START, Place::of);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    scan_next(connection, collection, &place, |Found { key, revision, version, body, .. }| {
        bytes += key.len() + body.len();
        let row = Row {
            revision: Revision::from_raw(revision),
            version: Version::from_raw(version),
            body: Some(Body::from_db(body)),
        };
        rows.push((Key::from_db(&key), row));
        let is_full = rows.len() >= limit.items || bytes >= limit.bytes;
        Ok::<_, StoreError>(if is_full { Wanted::Enough } else { Wanted::More })
    })?;
    Ok(rows)
}

/// A place in the key order of a collection.
#[derive(Debug)]
struct Place {
    rank: i32,
    key: String,
}

impl Place {
    /// Before the first key.
    const START: Self = Self { rank: -1, key: String::new() };

    fn of(key: &Key) -> Self {
        Self { rank: key.rank(), key: key.as_str().to_owned() }
    }
}

statement! {
    /// A range of the primary key. With `OR`, the engines would read the collection from its beginning. The number of rows is
    /// in the text, so that a server plans for it.
    struct NextAggregates<'a> {
        "SELECT rank, key, revision, version, body FROM aggregates WHERE collection = " collection: &'a str as Text,
        " AND (rank, key) > (" rank: i32 as Integer,
        ", " key: &'a str as Text,
    }
    ") AND body IS NOT NULL ORDER BY rank, key LIMIT 1000"
}

/// The maximum number of rows of [`NextAggregates`].
const SCANNED: usize = 1000;

impl Query for NextAggregates<'_> {
    type SqlType = (Integer, Text, BigInt, BigInt, Text);
}

/// An aggregate that a scan has found.
#[derive(Queryable)]
struct Found {
    rank: i32,
    key: String,
    revision: i64,
    version: i64,
    body: String,
}

/// Calls `each` with the next aggregates of a collection, until it has enough. Returns the place to go on at if there may be
/// more.
fn scan_next<E: From<StoreError>>(
    connection: &mut AnyConnection,
    collection: &str,
    after: &Place,
    mut each: impl FnMut(Found) -> Result<Wanted, E>,
) -> Result<Option<Place>, E> {
    let query = NextAggregates { collection, rank: after.rank, key: &after.key };
    on!(connection, |engine, Mode| {
        let rows = query.load_iter::<Found, Mode>(engine).map_err(StoreError::from)?;
        for (number, row) in (1..).zip(rows) {
            let row = row.map_err(StoreError::from)?;
            let place = (number == SCANNED).then(|| Place { rank: row.rank, key: row.key.clone() });
            if each(row)? == Wanted::Enough || place.is_some() {
                return Ok(place);
            }
        }
    });
    Ok(None)
}

/// Calls `each` with those of some aggregates of a collection that exist. Only one row is in memory at a time.
pub(super) fn each<E: From<StoreError>>(
    connection: &mut AnyConnection,
    collection: &str,
    keys: &[Key],
    mut each: impl FnMut(&str, &str) -> Result<(), E>,
) -> Result<(), E> {
    for key in keys {
        if let Some(body) = load(connection, collection, key)?.and_then(|row| row.body) {
            each(key.as_str(), body.as_str())?;
        }
    }
    Ok(())
}

/// The current state of an aggregate, for a catch-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// The revision of its last change.
    pub(crate) revision: Revision,
    /// `None` if it was deleted.
    pub(crate) body: Option<String>,
}

/// A page of the aggregates of a feed that changed after a revision, in the order of their last changes.
#[derive(Debug)]
pub(crate) struct States {
    pub(crate) states: Vec<State>,
    /// The page has every aggregate that last changed at or before this revision. `None` if the page is the last one.
    pub(crate) to: Option<Revision>,
}

/// An aggregate, and the revision of its last change.
struct Changed {
    revision: Revision,
    key: Key,
}

/// The revision of the last change of an aggregate, if it has a row.
fn revision_of(connection: &mut AnyConnection, collection: &str, key: &Key) -> Result<Option<Revision>, StoreError> {
    let row = aggregates::table.find((collection, key.rank(), key.as_str())).select(aggregates::revision);
    Ok(on!(connection, |engine| row.get_result(engine)).optional()?.map(Revision::from_raw))
}

/// The maximum number of rows that a page reads, apart from the rest of its last revision. A page of a feed with few
/// aggregates must not keep a read transaction open for long.
const PAGE_ROWS: usize = 10_000;

/// The aggregates of a feed that changed within a span, which ends with the last revision, deleted ones included. Those of one
/// revision are in the order of bodies.
pub(super) fn changed(
    connection: &mut AnyConnection,
    registry: &Registry,
    feed: &Feed,
    Span { after, to }: Span,
    limit: PageLimit,
) -> Result<States, StoreError> {
    let mut page = OpenStates { feed, limit, states: Vec::new(), bytes: 0, rows: 0, last: None };
    if let (Some(collection), Some(keys)) = (feed.collection(), feed.keys()) {
        let name = registry.get(collection).name();
        let mut found = Vec::new();
        for key in keys {
            let revision = revision_of(connection, name, &key)?.filter(|revision| *revision > after);
            found.extend(revision.map(|revision| Changed { revision, key: key.clone() }));
        }
        found.sort_by_key(|changed| changed.revision);
        // Only the states of the page are in memory, not those of all keys.
        let states = found.into_iter().map(|Changed { revision, key }| {
            let body = load(connection, name, &key)?.and_then(|row| row.body).map(|body| body.as_str().to_owned());
            Ok(State { collection, key, revision, body })
        });
        let to = page.fill(states)?;
        return Ok(States { states: page.states, to });
    }
    // Uses the index on the revision, so that the cost depends on the number of changes. With a filter on the collection,
    // SQLite might scan the whole collection instead.
    let query = |Numbers { after, to }| {
        aggregates::table
            .filter(aggregates::revision.gt(after).and(aggregates::revision.le(to)))
            .order((aggregates::revision, aggregates::collection, aggregates::rank, aggregates::key))
            .select((aggregates::collection, aggregates::key, aggregates::revision, aggregates::body))
    };
    let state = |row: QueryResult<(String, String, i64, Option<String>)>| match row {
        Ok((collection, key, revision, body)) => {
            let collection = registry.id(&collection)?;
            Some(Ok(State { collection, key: Key::from_db(&key), revision: Revision::from_raw(revision), body }))
        }
        Err(error) => Some(Err(StoreError::from(error))),
    };
    let mut spans = Spans::new(connection, Numbers { after: after.number(), to: to.number() }, limit);
    while let Some(span) = spans.next(page.bytes) {
        let query = query(span);
        let to = on!(connection, |engine, Mode| page.fill(query.load_iter::<_, Mode>(engine)?.filter_map(state))?);
        if to.is_some() {
            return Ok(States { states: page.states, to });
        }
    }
    Ok(States { states: page.states, to: None })
}

/// A page of states that is being read.
struct OpenStates<'a> {
    feed: &'a Feed,
    limit: PageLimit,
    states: Vec<State>,
    bytes: usize,
    /// Those that were read, of this feed or not.
    rows: usize,
    /// The revision of the last one.
    last: Option<Revision>,
}

impl OpenStates<'_> {
    /// Takes states until the page is full, and returns the revision up to which it has all of them then. Revisions are not
    /// split.
    fn fill(
        &mut self,
        states: impl Iterator<Item = Result<State, StoreError>>,
    ) -> Result<Option<Revision>, StoreError> {
        for state in states {
            let state = state?;
            let is_full =
                self.bytes >= self.limit.bytes || self.states.len() >= self.limit.items || self.rows >= PAGE_ROWS;
            if is_full && self.last.is_some_and(|last| last < state.revision) {
                return Ok(self.last);
            }
            self.last = Some(state.revision);
            self.rows += 1;
            if self.feed.selects(state.collection, state.key.as_str()) {
                self.bytes += state.body.as_ref().map_or(0, String::len) + 2 * state.key.as_str().len();
                self.states.push(state);
            }
        }
        Ok(None)
    }
}

statement! {
    /// Uses the index on the revision. Without the `||`, SQLite might scan the whole collection instead.
    struct ChangedOf<'a> {
        "SELECT key, body FROM aggregates WHERE revision > " after: i64 as BigInt,
        " AND revision <= " to: i64 as BigInt,
        " AND collection || '' = " collection: &'a str as Text,
    }
}

impl Query for ChangedOf<'_> {
    type SqlType = (Text, Nullable<Text>);
}

/// The aggregates of a collection that changed within a span, which ends with the last revision, with `None` for deleted ones.
/// Returns `None` if they exceed the limit.
pub(super) fn changed_of(
    connection: &mut AnyConnection,
    collection: &str,
    Span { after, to }: Span,
    limit: PageLimit,
) -> Result<Option<BTreeMap<Key, Option<String>>>, StoreError> {
    let mut changed = BTreeMap::new();
    let mut bytes = 0;
    let mut take = |row: QueryResult<(String, Option<String>)>| {
        let (key, body) = row?;
        bytes += key.len() + body.as_ref().map_or(0, String::len);
        changed.insert(Key::from_db(&key), body);
        Ok::<_, StoreError>((changed.len() <= limit.items && bytes <= limit.bytes).then_some(bytes))
    };
    let mut spans = Spans::new(connection, Numbers { after: after.number(), to: to.number() }, limit);
    let mut read = 0;
    while let Some(Numbers { after, to }) = spans.next(read) {
        let query = ChangedOf { after, to, collection };
        on!(connection, |engine, Mode| {
            for row in query.load_iter::<_, Mode>(engine)? {
                let Some(bytes) = take(row)? else { return Ok(None) };
                read = bytes;
            }
        });
    }
    Ok(Some(changed))
}

/// Whether at least `at_least` aggregates changed after a revision. SQLite counts them in the index.
pub(super) fn has_changed(connection: &mut AnyConnection, after: Revision, at_least: i64) -> Result<bool, StoreError> {
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

/// The maximum number of rows that one transaction deletes of a collection that is dropped.
const DELETED_PER_TRANSACTION: i64 = 5000;

/// Deletes the first rows of a collection, tombstones included, as many as one transaction takes.
pub(super) fn delete_some(connection: &mut AnyConnection, collection: &str) -> Result<Progress, StoreError> {
    let all = || aggregates::table.filter(aggregates::collection.eq(collection));
    let bytes = sql::<BigInt>("CAST(coalesce(octet_length(body), 0) AS BIGINT)");
    let next: Vec<(i32, String, i64)> = all()
        .order((aggregates::rank, aggregates::key))
        .select((aggregates::rank, aggregates::key, bytes))
        .limit(DELETED_PER_TRANSACTION)
        .load(connection)?;
    let Some(Portion { rows, .. }) = Portion::of(next.iter().map(|(.., bytes)| (0, *bytes))) else {
        return Ok(Progress::Done);
    };
    let (rank, key, _) = &next[rows - 1];
    diesel::delete(all().filter(aggregates::rank.lt(rank))).execute(connection)?;
    diesel::delete(all().filter(aggregates::rank.eq(rank).and(aggregates::key.le(key)))).execute(connection)?;
    Ok(Progress::More)
}

/// The maximum number of tombstones that one transaction deletes, so that no command waits for long.
const TOMBSTONES_PER_TRANSACTION: u16 = 1000;

/// Tombstones that were deleted.
#[derive(Debug, Clone, Copy)]
pub(super) struct PrunedTombstones {
    pub(super) number: u64,
    pub(super) progress: Progress,
}

/// Deletes the oldest tombstones that are not retained, up to a maximum number.
pub(super) fn prune_tombstones(
    connection: &mut AnyConnection,
    retained: Retained,
) -> Result<Maintained<PrunedTombstones>, StoreError> {
    let Retained { now, tombstones: older_than, .. } = retained;
    connection.transaction(|connection| {
        let sighting = Sighting::load(connection, Rows::Tombstones)?;
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
            .limit(TOMBSTONES_PER_TRANSACTION.into())
            .load(connection)?;
        let mut forgotten = None;
        let mut number = 0;
        let mut progress = Progress::More;
        let mut effect = Effect::Nothing;
        for (collection, rank, key, revision, deleted) in &oldest {
            // A tombstone without a time is one from the future.
            let deleted = Timestamp::from_milliseconds(deleted.unwrap_or(i64::MAX));
            let written = sighting.written(*revision, deleted, now);
            if written.unwrap_or(now) >= older_than {
                if written.is_none() {
                    sighting::save(connection, Rows::Tombstones, now)?;
                    effect = Effect::Changed;
                }
                progress = Progress::Done;
                break;
            }
            let row = aggregates::table.find((collection, rank, key));
            // On a server, whoever creates it again waits for this. A row that is live stays in any case.
            let tombstone = row.filter(aggregates::revision.eq(revision).and(aggregates::body.is_null()));
            diesel::delete(tombstone).execute(connection)?;
            number += 1;
            forgotten = Some(*revision);
        }
        if let Some(last) = forgotten {
            effect = Effect::Changed;
            // A collection that was dropped may have gone further.
            let before = metadata::table.filter(metadata::forgotten.lt(last));
            diesel::update(before).set(metadata::forgotten.eq(last)).execute(connection)?;
        }
        let has_more = oldest.len() == usize::from(TOMBSTONES_PER_TRANSACTION);
        let progress = if has_more { progress } else { Progress::Done };
        Ok(Maintained { done: PrunedTombstones { number, progress }, effect })
    })
}
