//! The table of change events: written by commands, read by feeds, pruned by age and number.

use std::marker::PhantomData;

use diesel::connection::LoadConnection;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::row::Row;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::counters::horizon;
use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::in_place::{self, InPlace};
use super::maintained::{Effect, Maintained};
use super::page::{PageLimit, Progress, Span};
use super::portion::BYTES_PER_TRANSACTION;
use super::retained::Retained;
use super::schema::{self, outbox};
use super::sighting::{self, Rows, Sighting};
use super::spans::{Numbers, Pace, Spans};
use super::statement::rows;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::feed::{Feed, Member};
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::{Metadata, StoredMetadata};
use crate::domain::revision::Revision;

/// A change event: what one revision changed of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// A merge patch (RFC 7396), as JSON text.
    pub(crate) patch: String,
    pub(crate) time: Timestamp,
    /// `None` for what was written before there was any.
    pub(crate) metadata: Option<StoredMetadata>,
}

impl Change {
    /// The change as a member of a larger patch.
    pub(crate) fn member(&self) -> Member<'_> {
        Member { collection: self.collection, key: self.key.as_str(), patch: &self.patch }
    }

    /// The memory that it takes in bytes, approximately.
    pub(crate) fn weight(&self) -> usize {
        let metadata = self.metadata.as_ref().map_or(0, |metadata| metadata.as_str().len());
        self.patch.len() + self.key.as_str().len() + metadata + size_of::<Self>()
    }
}

/// Adds change events.
pub(super) fn append<'a>(
    connection: &mut AnyConnection,
    registry: &Registry,
    changes: impl IntoIterator<Item = &'a Change>,
) -> Result<(), StoreError> {
    let row = |change: &'a Change| AppendChange {
        revision: change.revision.number(),
        collection: registry.get(change.collection).name(),
        key: change.key.as_str(),
        patch: &change.patch,
        time: change.time.milliseconds(),
        metadata: change.metadata.as_ref().map(StoredMetadata::as_str),
    };
    let mut rows: Vec<_> = changes.into_iter().map(row).collect();
    // In the order of the primary key, SQLite appends each row to the one before.
    let place = |row: &AppendChange<'a>| (row.revision, row.collection, row.key);
    rows.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
    Ok(on!(connection, |engine| AppendChange::insert_all(&rows, engine))?)
}

/// Adds the change event which says that a collection is no part of the document any more.
pub(super) fn append_end(
    connection: &mut AnyConnection,
    collection: &str,
    revision: Revision,
    now: Timestamp,
) -> Result<(), StoreError> {
    let metadata = Metadata::of_service().stored();
    let append = AppendChange {
        revision: revision.number(),
        collection,
        key: "",
        patch: END,
        time: now.milliseconds(),
        metadata: metadata.as_ref().map(StoredMetadata::as_str),
    };
    Ok(on!(connection, |engine| AppendChange::insert_all(&[append], engine))?)
}

/// The last revision of which there is a change event of a collection; 0 without any.
pub(super) fn last_of(connection: &mut AnyConnection, collection: &str) -> Result<Revision, StoreError> {
    let events = outbox::table.filter(outbox::collection.eq(collection)).order(outbox::revision.desc());
    let last: Option<i64> = events.select(outbox::revision).limit(1).first(connection).optional()?;
    Ok(last.map_or(Revision::ZERO, Revision::from_raw))
}

/// The patch, without a key, of a collection that was dropped.
const END: &str = "null";

rows! {
    struct AppendChange<'a> {
        "outbox (revision, collection, key, patch, time, metadata)"
        revision: i64 as BigInt,
        collection: &'a str as Text,
        key: &'a str as Text,
        patch: &'a str as Text,
        time: i64 as BigInt,
        metadata: Option<&'a str> as Nullable<Text>,
    }
    ""
}

/// A page of the change events of a feed: all of them after a revision, up to and including the revision `to`.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<Change>,
    pub(crate) to: Revision,
}

/// Where change events are read from.
pub(super) struct Log<'a> {
    pub(super) connection: &'a mut AnyConnection,
    pub(super) registry: &'a Registry,
    /// What the pages before have had.
    pub(super) pace: &'a mut Pace,
}

/// The change events of a feed in a span of revisions, without those about collections that were dropped. Revisions are not
/// split.
pub(super) fn changes(log: Log<'_>, feed: &Feed, span: Span, limit: PageLimit) -> Result<Changes, StoreError> {
    let mut changes = Vec::new();
    let scan = Scan { feed, span, limit, columns: Columns::All };
    let to = scan_rows(log, scan, |revision, Member { collection, key, patch }, beside| {
        if collection == CollectionId::DROPPED {
            return Ok(0);
        }
        let Beside { time, metadata } = beside.read()?;
        let size = metadata.as_ref().map_or(0, |metadata| metadata.as_str().len());
        changes.push(Change { revision, collection, key: Key::from_db(key), patch: patch.to_owned(), time, metadata });
        Ok(size)
    })?;
    Ok(Changes { changes, to })
}

/// The same page, but calls `each` for every revision with borrowed text, so that nothing is allocated per event.
/// Returns the last revision of the page.
pub(super) fn replay(
    log: Log<'_>,
    feed: &Feed,
    span: Span,
    limit: PageLimit,
    mut each: impl FnMut(Revision, &Members),
) -> Result<Revision, StoreError> {
    let mut members = Members::default();
    let mut current = None;
    let scan = Scan { feed, span, limit, columns: Columns::Member };
    let to = scan_rows(log, scan, |revision, member, _| {
        if let Some(complete) = current.replace(revision)
            && complete != revision
        {
            each(complete, &members);
            members.clear();
        }
        members.push(member);
        Ok(0)
    })?;
    if let Some(complete) = current {
        each(complete, &members);
    }
    Ok(to)
}

/// The changes of one revision to a feed.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Keys and patches, one after another.
    text: String,
    spots: Vec<Spot>,
}

/// The place of a member in the text.
#[derive(Debug, Clone, Copy)]
struct Spot {
    collection: CollectionId,
    key_start: usize,
    patch_start: usize,
    patch_end: usize,
}

impl Members {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Member<'_>> + Clone {
        self.spots.iter().map(|spot| Member {
            collection: spot.collection,
            key: &self.text[spot.key_start..spot.patch_start],
            patch: &self.text[spot.patch_start..spot.patch_end],
        })
    }

    fn push(&mut self, Member { collection, key, patch }: Member<'_>) {
        let key_start = self.text.len();
        self.text.push_str(key);
        let patch_start = self.text.len();
        self.text.push_str(patch);
        self.spots.push(Spot { collection, key_start, patch_start, patch_end: self.text.len() });
    }

    fn clear(&mut self) {
        self.text.clear();
        self.spots.clear();
    }
}

/// The maximum number of revisions that a page reads. A page of a feed with few events must not keep a read transaction
/// open for long.
const PAGE_REVISIONS: i64 = 10_000;

/// The bytes of an event apart from its key and its patch, approximately.
const EVENT_OVERHEAD: usize = 32;

/// The rows that [`scan_rows`] reads.
#[derive(Clone, Copy)]
struct Scan<'a> {
    feed: &'a Feed,
    span: Span,
    limit: PageLimit,
    columns: Columns,
}

/// What is read of each row. Some have more beside the member than in it.
#[derive(Clone, Copy)]
enum Columns {
    Member,
    All,
}

/// What a row has beside its member, read only if it is asked for.
trait ReadBeside {
    fn read(&self) -> Result<Beside, StoreError>;
}

struct Beside {
    time: Timestamp,
    /// `None` for what was written before there was any.
    metadata: Option<StoredMetadata>,
}

/// A row of the query in [`scan_rows`], in the memory of the engine's library.
struct InEngine<'a, Engine, Of>(&'a Of, PhantomData<Engine>);

impl<'row, Engine: InPlace, Of: Row<'row, Engine>> ReadBeside for InEngine<'_, Engine, Of> {
    fn read(&self) -> Result<Beside, StoreError> {
        let time = Timestamp::from_milliseconds(in_place::long(self.0, TIME)?);
        Ok(Beside { time, metadata: in_place::optional_text(self.0, METADATA, StoredMetadata::from_db)? })
    }
}

// The columns of the queries in `scan_rows`, as far as they have them.
const REVISION: usize = 0;
const KEY: usize = 1;
const PATCH: usize = 2;
const COLLECTION: usize = 3;
const TIME: usize = 4;
const METADATA: usize = 5;

/// Calls `take` with the rows of a feed in a span of revisions, until the page is full. `take` returns the bytes that it has
/// read beside the member, which is there if all columns are read. Returns the last revision of the page.
fn scan_rows(
    Log { connection, registry, pace }: Log<'_>,
    Scan { feed, span: Span { after, to }, limit, columns }: Scan<'_>,
    mut take: impl FnMut(Revision, Member<'_>, &dyn ReadBeside) -> Result<usize, StoreError>,
) -> Result<Revision, StoreError> {
    let last = to.min(Revision::from_raw(after.number() + PAGE_REVISIONS));
    let mut page = OpenPage { registry, feed, limit, bytes: 0, revisions: 0, last: None };
    let mut spans = Spans::at(pace, connection, Numbers { after: after.number(), to: last.number() }, limit);
    let begin = after.number();
    macro_rules! fill {
        ($query:expr) => {
            on!(connection, |engine, Mode| page.fill(LoadConnection::<Mode>::load(engine, $query)?, &mut take)?)
        };
    }
    while let Some(Numbers { after, to }) = spans.next(page.bytes) {
        let events = outbox::table.filter(outbox::revision.gt(after).and(outbox::revision.le(to))).order((
            outbox::revision,
            outbox::collection,
            outbox::key,
        ));
        let all = (outbox::revision, outbox::key, outbox::patch, outbox::collection, outbox::time, outbox::metadata);
        let member = (outbox::revision, outbox::key, outbox::patch);
        let named = (outbox::revision, outbox::key, outbox::patch, outbox::collection);
        // With `=`, SQLite would sort each revision by key, although the primary key already has that order.
        let of = |name| outbox::collection.between(name, name);
        let name = feed.collection().map(|only| registry.get(only).name());
        let filled = match (name, columns) {
            (None, Columns::Member) => fill!(events.select(named)),
            (None, Columns::All) => fill!(events.select(all)),
            (Some(name), Columns::Member) => fill!(events.filter(of(name)).select(member)),
            (Some(name), Columns::All) => fill!(events.filter(of(name)).select(all)),
        };
        if filled == Filled::Full {
            let last = page.last.unwrap_or(last);
            pace.note(last.number() - begin, page.bytes);
            return Ok(last);
        }
    }
    pace.note(last.number() - begin, page.bytes);
    Ok(last)
}

/// A page that is being read.
struct OpenPage<'a> {
    registry: &'a Registry,
    feed: &'a Feed,
    limit: PageLimit,
    bytes: usize,
    revisions: usize,
    last: Option<Revision>,
}

/// Why a page takes no more rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filled {
    /// The next row exceeds the limit.
    Full,
    /// There are no more rows.
    Exhausted,
}

impl OpenPage<'_> {
    fn fill<'row, Engine: InPlace, Of: Row<'row, Engine>>(
        &mut self,
        rows: impl Iterator<Item = QueryResult<Of>>,
        take: &mut impl FnMut(Revision, Member<'_>, &dyn ReadBeside) -> Result<usize, StoreError>,
    ) -> Result<Filled, StoreError> {
        for row in rows {
            let row = &row?;
            let revision = Revision::from_raw(in_place::long(row, REVISION)?);
            let Some(collection) = self.collection_of(row)? else { continue };
            // The member of a collection that was dropped is that of the document.
            let key_column = if collection == CollectionId::DROPPED { COLLECTION } else { KEY };
            let fits = in_place::text(row, key_column, |key| {
                if !self.feed.selects(collection, key) {
                    return Ok(true);
                }
                if !self.fits(revision) {
                    return Ok(false);
                }
                in_place::text(row, PATCH, |patch| {
                    let member = Member { collection, key, patch };
                    take(revision, member, &InEngine(row, PhantomData)).map(|beside| {
                        self.bytes += EVENT_OVERHEAD + key.len() + patch.len() + beside;
                        true
                    })
                })?
            })?;
            if !fits? {
                return Ok(Filled::Full);
            }
        }
        Ok(Filled::Exhausted)
    }

    /// The collection of a row. `None` if no consumer of this program has it: services of other versions have written that.
    fn collection_of<'row, Engine: InPlace>(
        &self,
        row: &impl Row<'row, Engine>,
    ) -> Result<Option<CollectionId>, StoreError> {
        if let Some(only) = self.feed.collection() {
            return Ok(Some(only));
        }
        let is_end = in_place::text(row, KEY, str::is_empty)? && in_place::text(row, PATCH, |patch| patch == END)?;
        if is_end {
            return Ok(Some(CollectionId::DROPPED));
        }
        in_place::text(row, COLLECTION, |name| self.registry.id(name))
    }

    /// Whether the page has room for a change of this revision. The last revision is not split.
    fn fits(&mut self, revision: Revision) -> bool {
        if self.last == Some(revision) {
            return true;
        }
        if self.bytes >= self.limit.bytes || self.revisions >= self.limit.items {
            return false;
        }
        self.revisions += 1;
        self.last = Some(revision);
        true
    }
}

/// Deletes the events up to a revision, whatever is retained, as many as one transaction takes.
pub(super) fn prune_until(connection: &mut AnyConnection, last: i64) -> Result<Progress, StoreError> {
    let Deleted { last: deleted, progress } = delete_oldest(connection, |revision, _| revision <= last)?;
    let until = if progress == Progress::Done { Some(last) } else { deleted };
    if let Some(until) = until {
        let behind = schema::metadata::table.filter(schema::metadata::pruned.lt(until));
        diesel::update(behind).set(schema::metadata::pruned.eq(until)).execute(connection)?;
    }
    Ok(progress)
}

/// Deletes the events that are not retained, as many as one transaction takes. It stops at the first revision that is retained,
/// so that a clock that jumps leaves no gap.
pub(super) fn prune(connection: &mut AnyConnection, retained: Retained) -> Result<Maintained<Progress>, StoreError> {
    let Retained { now, events: older_than, keep, .. } = retained;
    connection.transaction(|connection| {
        let current = horizon(connection)?.current.number();
        let beyond = keep.map_or(i64::MIN, |keep| current.saturating_sub(keep));
        let sighting = Sighting::load(connection, Rows::ChangeEvents)?;
        let mut is_unseen = false;
        let Deleted { last, progress } = delete_oldest(connection, |revision, time| {
            let written = sighting.written(revision, time, now);
            let is_due = revision <= beyond || written.is_some_and(|written| written < older_than);
            is_unseen = !is_due && written.is_none();
            is_due
        })?;
        if is_unseen {
            sighting::save(connection, Rows::ChangeEvents, now)?;
        }
        if let Some(last) = last {
            diesel::update(schema::metadata::table).set(schema::metadata::pruned.eq(last)).execute(connection)?;
        }
        let effect = if is_unseen || last.is_some() { Effect::Changed } else { Effect::Nothing };
        Ok(Maintained { done: progress, effect })
    })
}

/// The maximum number of events that one transaction reads in order to delete them, so that no command waits for long.
const EVENTS_PER_TRANSACTION: i64 = 10_000;

/// What one transaction has deleted.
struct Deleted {
    /// The last revision whose events are gone.
    last: Option<i64>,
    progress: Progress,
}

/// Deletes whole revisions, oldest first, up to the first one that is not due by its number and time, or as many as one
/// transaction takes.
fn delete_oldest(
    connection: &mut AnyConnection,
    mut is_due: impl FnMut(i64, Timestamp) -> bool,
) -> Result<Deleted, StoreError> {
    // Mostly nothing is due, and one row says so.
    let mut due = find_due(connection, 1, &mut is_due)?;
    if due.span.is_some() && due.progress == Progress::More {
        due = find_due(connection, EVENTS_PER_TRANSACTION, &mut is_due)?;
    }
    if let Some(Numbers { after, to }) = due.span {
        // A server sees by the first one that it needs the index.
        let gone = outbox::table.filter(outbox::revision.gt(after).and(outbox::revision.le(to)));
        diesel::delete(gone).execute(connection)?;
    }
    Ok(Deleted { last: due.span.map(|span| span.to), progress: due.progress })
}

/// The oldest revisions, as far as they are due.
struct Due {
    /// `None` if there are none.
    span: Option<Numbers>,
    /// Whether more of them may be due.
    progress: Progress,
}

/// Looks at this many rows at most.
fn find_due(
    connection: &mut AnyConnection,
    rows: i64,
    is_due: &mut impl FnMut(i64, Timestamp) -> bool,
) -> Result<Due, StoreError> {
    let bytes = sql::<BigInt>("CAST(octet_length(patch) + coalesce(octet_length(metadata), 0) AS BIGINT)");
    let oldest = outbox::table
        .order((outbox::revision, outbox::collection, outbox::key))
        .select((outbox::revision, outbox::time, bytes))
        .limit(rows);
    let (mut first, mut last, mut taken, mut read) = (None, None, 0, 0);
    on!(connection, |engine, Mode| {
        for row in oldest.load_iter::<(i64, i64, i64), Mode>(engine)? {
            let (revision, time, bytes) = row?;
            if last != Some(revision) {
                let is_full = taken >= BYTES_PER_TRANSACTION;
                if is_full || !is_due(revision, Timestamp::from_milliseconds(time)) {
                    let progress = if is_full { Progress::More } else { Progress::Done };
                    return Ok(Due { span: span(first, last), progress });
                }
            }
            first = first.or(Some(revision));
            last = Some(revision);
            taken += bytes;
            read += 1;
        }
    });
    let progress = if read < rows { Progress::Done } else { Progress::More };
    Ok(Due { span: span(first, last), progress })
}

/// The revisions from one to another.
fn span(first: Option<i64>, last: Option<i64>) -> Option<Numbers> {
    Some(Numbers { after: first? - 1, to: last? })
}
