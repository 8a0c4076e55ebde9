//! The table of domain events: appended by commands, never pruned, and folded into states.

#[cfg(feature = "postgres")]
use diesel::dsl::max;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};

use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::page::PageLimit;
use super::portion::Portion;
use super::schema::journal;
use super::spans::{Numbers, Spans};
use super::statement::{rows, statement};
use crate::domain::body::{Body, CorruptState};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Fold, Journaled, Registry};
use crate::domain::command::RecordedEvent;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::StoredMetadata;
use crate::domain::revision::{JournalPosition, Version};

/// A domain event with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: JournalPosition,
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// The number of the event among those of its aggregate.
    pub(crate) version: Version,
    /// The version of the event's fields.
    pub(crate) schema: i64,
    pub(crate) event: RecordedEvent,
    pub(crate) time: Timestamp,
    /// `None` for what was written before there was any.
    pub(crate) metadata: Option<StoredMetadata>,
    /// Whether its content was overwritten, because the aggregate was erased.
    pub(crate) is_erased: bool,
}

/// The fields of an erased domain event.
pub(crate) const NO_FIELDS: &str = "{}";

/// The kind of the domain event that says that an aggregate was erased. It is the last one of the aggregate.
pub(super) const ERASED: &str = "Erased";

impl Entry {
    /// The memory that its texts take, in bytes.
    pub(crate) fn weight(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.as_str().len());
        self.event.fields.len() + self.key.as_str().len() + metadata
    }

    /// Whether it is the last event of an aggregate that was erased, which says so. Only this one has no version of its
    /// fields.
    pub(crate) fn is_erasure(&self) -> bool {
        self.is_erased && self.schema == 0 && self.event.kind == ERASED
    }
}

/// Adds events.
pub(super) fn append<'a>(
    connection: &mut AnyConnection,
    registry: &Registry,
    entries: impl IntoIterator<Item = &'a Entry>,
) -> Result<(), StoreError> {
    let row = |entry: &'a Entry| AppendEvent {
        position: entry.position.number(),
        collection: registry.get(entry.collection).name(),
        key: entry.key.as_str(),
        version: entry.version.number(),
        kind: &entry.event.kind,
        schema: entry.schema,
        body: &entry.event.fields,
        time: entry.time.milliseconds(),
        metadata: entry.metadata.as_ref().map(StoredMetadata::as_str),
    };
    let rows: Vec<_> = entries.into_iter().map(row).collect();
    Ok(on!(connection, |engine| AppendEvent::insert_all(&rows, engine))?)
}

rows! {
    struct AppendEvent<'a> {
        "journal (position, collection, key, version, kind, schema, body, time, metadata)"
        position: i64 as BigInt,
        collection: &'a str as Text,
        key: &'a str as Text,
        version: i64 as BigInt,
        kind: &'a str as Text,
        schema: i64 as BigInt,
        body: &'a str as Text,
        time: i64 as BigInt,
        metadata: Option<&'a str> as Nullable<Text>,
    }
    ""
}

/// The position of the last event.
pub(super) fn current(connection: &mut AnyConnection) -> Result<JournalPosition, StoreError> {
    let query = journal::table.select(journal::position).order(journal::position.desc());
    let last: Option<i64> = on!(connection, |engine| query.first(engine).optional())?;
    Ok(last.map_or(JournalPosition::ZERO, JournalPosition::from_raw))
}

/// A page of the journal: all requested events after a position, up to and including the position `to`.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) entries: Vec<Entry>,
    pub(crate) to: JournalPosition,
    /// The last position of the journal.
    pub(crate) current: JournalPosition,
}

/// The maximum number of positions that a page reads. A page with few of the requested events must not keep a read
/// transaction open for long.
const PAGE_POSITIONS: i64 = 10_000;

/// The events after a position, of some collections or of all.
pub(super) fn after(
    connection: &mut AnyConnection,
    registry: &Registry,
    only: Option<&[CollectionId]>,
    after: JournalPosition,
    limit: PageLimit,
) -> Result<Entries, StoreError> {
    let current = current(connection)?;
    let last = current.number().min(after.number().saturating_add(PAGE_POSITIONS));
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut is_full = false;
    let mut spans = Spans::new(connection, Numbers { after: after.number(), to: last }, limit);
    while let Some(Numbers { after, to }) = spans.next(bytes).filter(|_| !is_full) {
        let query = journal::table
            .filter(journal::position.gt(after).and(journal::position.le(to)))
            .order(journal::position)
            .select(journal::all_columns);
        on!(connection, |engine, Mode| {
            for row in query.load_iter::<Columns, Mode>(engine)? {
                let Some(entry) = entry(registry, row?) else { continue };
                if only.is_some_and(|only| !only.contains(&entry.collection)) {
                    continue;
                }
                bytes += entry.weight();
                entries.push(entry);
                is_full = bytes >= limit.bytes || entries.len() >= limit.items;
                if is_full {
                    break;
                }
            }
        });
    }
    let to = entries.last().filter(|_| is_full).map_or(JournalPosition::from_raw(last), |last: &Entry| last.position);
    Ok(Entries { entries, to, current })
}

/// A page of the events of one aggregate.
#[derive(Debug)]
pub(crate) struct EntriesOfOne {
    pub(crate) entries: Vec<Entry>,
    pub(crate) has_more: bool,
}

/// A page of the events of one aggregate after a version.
pub(super) fn of_aggregate(
    connection: &mut AnyConnection,
    registry: &Registry,
    collection: CollectionId,
    key: &Key,
    after: Version,
    limit: PageLimit,
) -> Result<EntriesOfOne, StoreError> {
    let name = registry.get(collection).name();
    let mut page = EntriesOfOne { entries: Vec::new(), has_more: false };
    let mut bytes = 0;
    let last = match connection {
        // All events are one span.
        AnyConnection::Sqlite(_) => i64::MAX,
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(server) => last_version(server, name, key)?,
    };
    let mut spans = Spans::new(connection, Numbers { after: after.number(), to: last }, limit);
    while let Some(Numbers { after, to }) = spans.next(bytes) {
        let query = journal::table
            .filter(journal::collection.eq(name).and(journal::key.eq(key.as_str())))
            .filter(journal::version.gt(after).and(journal::version.le(to)))
            .order(journal::version)
            .select(journal::all_columns);
        on!(connection, |engine, Mode| {
            for row in query.load_iter::<Columns, Mode>(engine)? {
                if bytes >= limit.bytes || page.entries.len() >= limit.items {
                    page.has_more = true;
                    return Ok(page);
                }
                let Some(entry) = entry(registry, row?) else { continue };
                bytes += entry.weight();
                page.entries.push(entry);
            }
        });
    }
    Ok(page)
}

/// The version of the last event of an aggregate; 0 without any.
#[cfg(feature = "postgres")]
fn last_version(server: &mut PgConnection, collection: &str, key: &Key) -> Result<i64, StoreError> {
    let of_one = journal::collection.eq(collection).and(journal::key.eq(key.as_str()));
    let last: Option<i64> = journal::table.filter(of_one).select(max(journal::version)).first(server)?;
    Ok(last.unwrap_or(0))
}

type Columns = (i64, String, String, i64, String, i64, String, i64, Option<String>, i32);

/// `None` if the collection is not registered. A service does not start on a database with such a collection.
fn entry(registry: &Registry, row: Columns) -> Option<Entry> {
    let (position, collection, key, version, kind, schema, fields, time, metadata, erased) = row;
    Some(Entry {
        position: JournalPosition::from_raw(position),
        collection: registry.id(&collection)?,
        key: Key::from_db(&key),
        version: Version::from_raw(version),
        schema,
        event: RecordedEvent { kind, fields },
        time: Timestamp::from_milliseconds(time),
        metadata: metadata.as_deref().map(StoredMetadata::from_db),
        is_erased: erased != 0,
    })
}

/// The maximum number of events at which one transaction looks that empties some.
const LOOKED_AT_PER_TRANSACTION: i64 = 5000;

/// What `erased` is of an event whose collection was dropped. It is 1 if its aggregate was erased.
const OF_DROPPED: i32 = 2;

/// Removes the content of the events of a collection, as many as one transaction takes, beginning after a position. Returns the
/// position to begin after the next time; `None` if there are no more.
pub(super) fn empty_some(
    connection: &mut AnyConnection,
    collection: &str,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let bytes = sql::<BigInt>("CASE WHEN collection = ").bind::<Text, _>(collection);
    let bytes = bytes.sql(" THEN CAST(octet_length(body) + coalesce(octet_length(metadata), 0) AS BIGINT) ELSE 0 END");
    let next: Vec<(i64, i64)> = journal::table
        .filter(journal::position.gt(after))
        .order(journal::position)
        .select((journal::position, bytes))
        .limit(LOOKED_AT_PER_TRANSACTION)
        .load(connection)?;
    let Some(Portion { last, .. }) = Portion::of(next) else { return Ok(None) };
    let some = journal::table.filter(journal::position.gt(after).and(journal::position.le(last)));
    diesel::update(some.filter(journal::collection.eq(collection)))
        .set((journal::body.eq(NO_FIELDS), journal::metadata.eq(None::<String>), journal::erased.eq(OF_DROPPED)))
        .execute(connection)?;
    Ok(Some(last))
}

/// The state of an aggregate that follows from its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) key: Key,
    /// `None` if the aggregate does not exist.
    pub(crate) body: Option<Body>,
    pub(crate) version: Version,
    /// Whether it was erased, so that it never exists again.
    pub(crate) is_erased: bool,
}

impl Folded {
    /// An aggregate without events.
    pub(super) fn nothing(key: &Key) -> Self {
        Self { key: key.clone(), body: None, version: Version::ZERO, is_erased: false }
    }
}

/// Folds the events of an aggregate, up to a version or all of them.
pub(super) fn fold(
    connection: &mut AnyConnection,
    collection: &str,
    journaled: &dyn Journaled,
    key: &Key,
    up_to: Option<Version>,
) -> Result<Folded, StoreError> {
    let query = journal::table
        .filter(journal::collection.eq(collection).and(journal::key.eq(key.as_str())))
        .filter(journal::version.le(up_to.map_or(i64::MAX, Version::number)))
        .order(journal::version)
        .select(FOLDED);
    let mut folding = Folding { collection, journaled, open: None };
    on!(connection, |engine, Mode| {
        for row in query.load_iter::<FoldedColumns, Mode>(engine)? {
            folding.apply(row?)?;
        }
    });
    Ok(folding.finish()?.unwrap_or_else(|| Folded::nothing(key)))
}

/// Folds all events of the next aggregates after a key, in bytewise order of the keys, up to a maximum number of
/// aggregates. The result is empty if there are no more.
pub(super) fn fold_next(
    connection: &mut AnyConnection,
    collection: &str,
    journaled: &dyn Journaled,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Folded>, StoreError> {
    let mut folding = Folding { collection, journaled, open: None };
    let mut folded = Vec::new();
    // After all events of that key.
    let mut last = (after.map_or("", Key::as_str).to_owned(), i64::MAX);
    loop {
        let query = NextEvents { collection, key: &last.0, version: last.1 };
        let mut end = None;
        on!(connection, |engine, Mode| {
            for (number, row) in (1..).zip(query.load_iter::<FoldedColumns, Mode>(engine)?) {
                let row = row?;
                end = (number == EVENTS_OF_A_STATEMENT).then(|| (row.1.clone(), row.2));
                folded.extend(folding.apply(row)?);
                if folded.len() >= limit {
                    return Ok(folded);
                }
            }
        });
        let Some(end) = end else { break };
        last = end;
    }
    folded.extend(folding.finish()?);
    Ok(folded)
}

statement! {
    /// The number of rows is in the text, so that a server plans for it.
    struct NextEvents<'a> {
        "SELECT position, key, version, kind, schema, body, erased FROM journal WHERE collection = "
        collection: &'a str as Text,
        " AND (key, version) > (" key: &'a str as Text,
        ", " version: i64 as BigInt,
    }
    ") ORDER BY key, version LIMIT 1000"
}

/// The maximum number of rows of [`NextEvents`].
const EVENTS_OF_A_STATEMENT: usize = 1000;

impl Query for NextEvents<'_> {
    type SqlType = (BigInt, Text, BigInt, Text, BigInt, Text, Integer);
}

/// What a state follows from: position, key, version, kind, schema, fields, and whether the event is erased.
type FoldedColumns = (i64, String, i64, String, i64, String, i32);

const FOLDED: (
    journal::position,
    journal::key,
    journal::version,
    journal::kind,
    journal::schema,
    journal::body,
    journal::erased,
) = (journal::position, journal::key, journal::version, journal::kind, journal::schema, journal::body, journal::erased);

/// Folds aggregates whose events come one aggregate after another.
struct Folding<'a> {
    collection: &'a str,
    journaled: &'a dyn Journaled,
    open: Option<OpenFold>,
}

/// The aggregate that is being folded.
struct OpenFold {
    key: Key,
    version: Version,
    /// `None` if the first event is erased: then the aggregate is, even if others are not overwritten yet.
    fold: Option<Box<dyn Fold>>,
}

impl Folding<'_> {
    /// Applies the next event. If it belongs to another aggregate, the previous one is complete and returned.
    fn apply(&mut self, row: FoldedColumns) -> Result<Option<Folded>, StoreError> {
        let (position, key, version, kind, schema, fields, erased) = row;
        let is_next = self.open.as_ref().is_some_and(|open| open.key.as_str() != key);
        let complete = if is_next { self.finish()? } else { None };
        let open = self.open.get_or_insert_with(|| OpenFold {
            key: Key::from_db(&key),
            version: Version::ZERO,
            fold: (erased == 0).then(|| self.journaled.fold()),
        });
        let expected = open.version.next();
        let applied = if expected.number() == version {
            open.fold.as_mut().map_or(Ok(()), |fold| fold.apply(&kind, schema, &fields))
        } else {
            Err(CorruptState::new(format!("version {expected} is missing")))
        };
        open.version = Version::from_raw(version);
        applied.map_err(|why| {
            let place = format!("position {position} of the journal ({}/{key}, version {version})", self.collection);
            StoreError::Corrupt(format!("{place} has an event {kind:?} that cannot be read: {why}"))
        })?;
        Ok(complete)
    }

    fn finish(&mut self) -> Result<Option<Folded>, StoreError> {
        let Some(OpenFold { key, version, fold }) = self.open.take() else { return Ok(None) };
        let body = fold.as_ref().map_or(Ok(None), |fold| fold.body())?;
        Ok(Some(Folded { body, key, version, is_erased: fold.is_none() }))
    }
}
