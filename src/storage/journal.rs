//! The table of domain events: appended by a write, folded into states, read by those who want to know what happened.

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;
use super::page::PageLimit;
use super::schema::journal;
use crate::domain::body::{Body, CorruptState};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Fold, Journaled, Registry};
use crate::domain::command::RecordedEvent;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{JournalPosition, Version};

/// A domain event in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: JournalPosition,
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) version: Version,
    /// The shape of its fields.
    pub(crate) schema: i64,
    pub(crate) event: RecordedEvent,
    pub(crate) time: Timestamp,
}

/// Some events of the journal: all that are wanted up to and including the position `to`.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) entries: Vec<Entry>,
    pub(crate) to: JournalPosition,
    /// The last position there is.
    pub(crate) current: JournalPosition,
}

/// An aggregate as its events say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folded {
    pub(crate) key: Key,
    /// `None` when it is gone.
    pub(crate) body: Option<Body>,
    pub(crate) version: Version,
}

/// Positions that a page looks at, at most: one that wants few of them must not keep a read transaction open for long.
const PAGE_POSITIONS: i64 = 10_000;

/// Adds an event.
pub(super) fn append(connection: &mut SqliteConnection, registry: &Registry, entry: &Entry) -> Result<(), StoreError> {
    diesel::insert_into(journal::table)
        .values((
            journal::position.eq(entry.position.number()),
            journal::collection.eq(registry.get(entry.collection).name()),
            journal::key.eq(entry.key.as_str()),
            journal::version.eq(entry.version.number()),
            journal::kind.eq(&entry.event.kind),
            journal::schema.eq(entry.schema),
            journal::body.eq(&entry.event.fields),
            journal::time.eq(entry.time.milliseconds()),
        ))
        .execute(connection)?;
    Ok(())
}

/// The position of the last event.
pub(super) fn current(connection: &mut SqliteConnection) -> Result<JournalPosition, StoreError> {
    let last: Option<i64> =
        journal::table.select(journal::position).order(journal::position.desc()).first(connection).optional()?;
    Ok(last.map_or(JournalPosition::ZERO, JournalPosition::from_raw))
}

/// The events after a position, of some collections or all.
pub(super) fn after(
    connection: &mut SqliteConnection,
    registry: &Registry,
    only: Option<&[CollectionId]>,
    after: JournalPosition,
    limit: PageLimit,
) -> Result<Entries, StoreError> {
    let current = current(connection)?;
    let last = current.number().min(after.number().saturating_add(PAGE_POSITIONS));
    let query = journal::table
        .filter(journal::position.gt(after.number()).and(journal::position.le(last)))
        .order(journal::position)
        .select(journal::all_columns);
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for row in query.load_iter::<Columns, DefaultLoadingMode>(connection)? {
        let Some(entry) = entry(registry, row?) else { continue };
        if only.is_some_and(|only| !only.contains(&entry.collection)) {
            continue;
        }
        bytes += entry.event.fields.len() + entry.key.as_str().len();
        entries.push(entry);
        if bytes >= limit.bytes || entries.len() >= limit.items {
            break;
        }
    }
    let full = bytes >= limit.bytes || entries.len() >= limit.items;
    let to = entries.last().filter(|_| full).map_or(JournalPosition::from_raw(last), |last: &Entry| last.position);
    Ok(Entries { entries, to, current })
}

/// The events of one aggregate after a version.
pub(super) fn of_aggregate(
    connection: &mut SqliteConnection,
    registry: &Registry,
    (collection, key): (CollectionId, &Key),
    after: Version,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let rows: Vec<Columns> = journal::table
        .filter(journal::collection.eq(registry.get(collection).name()).and(journal::key.eq(key.as_str())))
        .filter(journal::version.gt(after.number()))
        .order(journal::version)
        .limit(limit)
        .load(connection)?;
    Ok(rows.into_iter().filter_map(|row| entry(registry, row)).collect())
}

type Columns = (i64, String, String, i64, String, i64, String, i64);

/// `None` for one of a collection that is not registered; no database with such a one is opened.
fn entry(registry: &Registry, row: Columns) -> Option<Entry> {
    let (position, collection, key, version, kind, schema, fields, time) = row;
    Some(Entry {
        position: JournalPosition::from_raw(position),
        collection: registry.id(&collection)?,
        key: Key::from_db(&key),
        version: Version::from_raw(version),
        schema,
        event: RecordedEvent { kind, fields },
        time: Timestamp::from_milliseconds(time),
    })
}

/// An aggregate as its first events say, up to a version, or as all of them do.
pub(super) fn fold(
    connection: &mut SqliteConnection,
    (collection, journaled): (&str, &dyn Journaled),
    key: &Key,
    up_to: Option<Version>,
) -> Result<Folded, StoreError> {
    let query = journal::table
        .filter(journal::collection.eq(collection).and(journal::key.eq(key.as_str())))
        .filter(journal::version.le(up_to.map_or(i64::MAX, Version::number)))
        .order(journal::version)
        .select(FOLDED);
    let mut folding = Folding { collection, journaled, of: None };
    for row in query.load_iter::<FoldedColumns, DefaultLoadingMode>(connection)? {
        folding.apply(row?)?;
    }
    Ok(folding.finish()?.unwrap_or(Folded { key: key.clone(), body: None, version: Version::ZERO }))
}

/// The next aggregates after a key, in bytewise order, as all of their events say: at most so many, none if there are no
/// more.
pub(super) fn fold_next(
    connection: &mut SqliteConnection,
    (collection, journaled): (&str, &dyn Journaled),
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Folded>, StoreError> {
    let query = journal::table
        .filter(journal::collection.eq(collection).and(journal::key.gt(after.map_or("", Key::as_str))))
        .order((journal::key, journal::version))
        .select(FOLDED);
    let (mut folding, mut folded) = (Folding { collection, journaled, of: None }, Vec::new());
    for row in query.load_iter::<FoldedColumns, DefaultLoadingMode>(connection)? {
        folded.extend(folding.apply(row?)?);
        if folded.len() >= limit {
            return Ok(folded);
        }
    }
    folded.extend(folding.finish()?);
    Ok(folded)
}

type FoldedColumns = (i64, String, i64, String, i64, String);

const FOLDED: (journal::position, journal::key, journal::version, journal::kind, journal::schema, journal::body) =
    (journal::position, journal::key, journal::version, journal::kind, journal::schema, journal::body);

/// A fold of aggregates whose events come one after another.
struct Folding<'a> {
    collection: &'a str,
    journaled: &'a dyn Journaled,
    of: Option<(Key, Version, Box<dyn Fold>)>,
}

impl Folding<'_> {
    /// Takes the next event; if it is of another aggregate, the one before is done.
    fn apply(&mut self, row: FoldedColumns) -> Result<Option<Folded>, StoreError> {
        let (position, key, version, kind, schema, fields) = row;
        let done = if self.of.as_ref().is_some_and(|(of, ..)| of.as_str() != key) { self.finish()? } else { None };
        let (_, last, fold) = self.of.get_or_insert_with(|| (Key::from_db(&key), Version::ZERO, self.journaled.fold()));
        let outcome = if last.next().number() == version {
            fold.apply(&kind, schema, &fields)
        } else {
            Err(CorruptState::new(format!("version {} is missing", last.next())))
        };
        *last = Version::from_raw(version);
        outcome.map_err(|why| {
            let place = format!("position {position} of the journal ({}/{key}, version {version})", self.collection);
            StoreError::Corrupt(format!("{place} has an event {kind:?} that cannot be read: {why}"))
        })?;
        Ok(done)
    }

    fn finish(&mut self) -> Result<Option<Folded>, StoreError> {
        let Some((key, version, fold)) = self.of.take() else { return Ok(None) };
        Ok(Some(Folded { body: fold.body()?, key, version }))
    }
}
