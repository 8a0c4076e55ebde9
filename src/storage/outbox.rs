//! The table of change events: appended by a write, read by feeds, pruned by age.

use diesel::connection::LoadConnection;
use diesel::prelude::*;
use diesel::row::{Field, Row as _};
use diesel::sqlite::{SqliteConnection, SqliteValue};

use super::counters::horizon;
use super::error::StoreError;
use super::page::{PageLimit, Progress};
use super::schema::{metadata, outbox};
use super::statements::AppendChange;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::feed::{Feed, Member};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Revision;

/// What one revision changed of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// RFC 7396, as JSON text.
    pub(crate) patch: String,
    pub(crate) time: Timestamp,
}

impl Change {
    /// The change as a part of a patch.
    pub(crate) fn member(&self) -> Member<'_> {
        Member { collection: self.collection, key: self.key.as_str(), patch: &self.patch }
    }

    /// The memory that it takes, roughly, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.patch.len() + self.key.as_str().len() + size_of::<Self>()
    }
}

/// Some of the change events of a feed after a revision: all of them up to and including the revision `to`.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<Change>,
    pub(crate) to: Revision,
}

/// Revisions that a page looks at: a feed that few of them concern must not keep a read transaction open for long.
const PAGE_REVISIONS: i64 = 10_000;

/// What an event takes beside its key and its patch, in bytes, roughly.
const FRAME: usize = 32;

/// Events that are pruned in one transaction, so that no writer waits long.
const PRUNED_AT_ONCE: i64 = 10_000;

/// Adds a change event.
pub(super) fn append(
    connection: &mut SqliteConnection,
    registry: &Registry,
    change: &Change,
) -> Result<(), StoreError> {
    AppendChange {
        revision: change.revision.number(),
        collection: registry.get(change.collection).name(),
        key: change.key.as_str(),
        patch: &change.patch,
        time: change.time.milliseconds(),
    }
    .execute(connection)?;
    Ok(())
}

/// The change events of a feed after a revision, up to `current` at most, whole revisions at a time.
pub(super) fn changes(
    connection: &mut SqliteConnection,
    registry: &Registry,
    feed: &Feed,
    span: (Revision, Revision),
    limit: PageLimit,
) -> Result<Changes, StoreError> {
    let mut changes = Vec::new();
    let to = scan_rows(connection, registry, feed, span, limit, |revision, Member { collection, key, patch }, row| {
        let (key, patch) = (Key::from_db(key), patch.to_owned());
        let time = Timestamp::from_milliseconds(with_value(row, 4, |mut time| time.read_long())?);
        changes.push(Change { revision, collection, key, patch, time });
        Ok(())
    })?;
    Ok(Changes { changes, to })
}

/// The same events, each revision given to `each` from where it was read: nothing is kept, and nothing is allocated for
/// an event. Up to which revision these were all.
pub(super) fn replay(
    connection: &mut SqliteConnection,
    registry: &Registry,
    feed: &Feed,
    span: (Revision, Revision),
    limit: PageLimit,
    mut each: impl FnMut(Revision, &Members),
) -> Result<Revision, StoreError> {
    let (mut members, mut of) = (Members::default(), None);
    let to = scan_rows(connection, registry, feed, span, limit, |revision, member, _| {
        if let Some(complete) = of.replace(revision)
            && complete != revision
        {
            each(complete, &members);
            members.clear();
        }
        members.push(member);
        Ok(())
    })?;
    if let Some(complete) = of {
        each(complete, &members);
    }
    Ok(to)
}

/// What one revision changed of a feed.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// Keys and patches, one after another.
    text: String,
    /// Of each: where its key begins, where its patch begins, and where that ends.
    spots: Vec<(CollectionId, [usize; 3])>,
}

impl Members {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Member<'_>> + Clone {
        self.spots.iter().map(|(collection, [key, patch, end])| Member {
            collection: *collection,
            key: &self.text[*key..*patch],
            patch: &self.text[*patch..*end],
        })
    }

    fn push(&mut self, Member { collection, key, patch }: Member<'_>) {
        let start = self.text.len();
        self.text.push_str(key);
        self.text.push_str(patch);
        self.spots.push((collection, [start, start + key.len(), self.text.len()]));
    }

    fn clear(&mut self) {
        self.text.clear();
        self.spots.clear();
    }
}

/// A row as SQLite has it, so that texts need not be copied to be looked at.
type Found<'connection, 'query> = <SqliteConnection as LoadConnection>::Row<'connection, 'query>;

/// Gives the rows of a feed in a span of revisions to `take`, whole revisions, as many as there is room for. Up to which
/// revision these were all.
fn scan_rows(
    connection: &mut SqliteConnection,
    registry: &Registry,
    feed: &Feed,
    (after, current): (Revision, Revision),
    limit: PageLimit,
    mut take: impl FnMut(Revision, Member<'_>, &Found<'_, '_>) -> Result<(), StoreError>,
) -> Result<Revision, StoreError> {
    let last = current.min(Revision::from_raw(after.number() + PAGE_REVISIONS));
    let query = outbox::table
        .filter(outbox::revision.gt(after.number()).and(outbox::revision.le(last.number())))
        .order((outbox::revision, outbox::collection, outbox::key))
        .select((outbox::revision, outbox::key, outbox::patch, outbox::collection, outbox::time));
    let mut filling = Filling { registry, feed, limit, bytes: 0, revisions: 0, last: None };
    let is_full = match feed.collection() {
        None => filling.fill(connection.load(query)?, &mut take)?,
        Some(only) => {
            // Told that it is one collection, SQLite would sort each revision by key, which the primary key has done.
            let name = registry.get(only).name();
            let query = query.filter(outbox::collection.between(name, name));
            filling.fill(connection.load(query)?, &mut take)?
        }
    };
    Ok(filling.last.filter(|_| is_full).unwrap_or(last))
}

/// A page while it is read.
struct Filling<'a> {
    registry: &'a Registry,
    feed: &'a Feed,
    limit: PageLimit,
    bytes: usize,
    revisions: usize,
    last: Option<Revision>,
}

impl Filling<'_> {
    /// Takes rows until the page is full (`true`) or there are no more.
    fn fill<'connection, 'query: 'connection>(
        &mut self,
        rows: impl Iterator<Item = QueryResult<Found<'connection, 'query>>>,
        take: &mut impl FnMut(Revision, Member<'_>, &Found<'_, '_>) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        for row in rows {
            let row = &row?;
            let revision = Revision::from_raw(with_value(row, 0, |mut revision| revision.read_long())?);
            let collection = match self.feed.collection() {
                Some(only) => only,
                // No database with another collection is opened.
                None => match with_value(row, 3, |mut name| self.registry.id(name.read_text()))? {
                    Some(collection) => collection,
                    None => continue,
                },
            };
            let fits = with_value(row, 1, |mut key| {
                let key = key.read_text();
                if !self.feed.selects(collection, key) {
                    return Ok(true);
                }
                if !self.fits(revision) {
                    return Ok(false);
                }
                with_value(row, 2, |mut patch| {
                    let patch = patch.read_text();
                    self.bytes += FRAME + key.len() + patch.len();
                    take(revision, Member { collection, key, patch }, row).map(|()| true)
                })?
            })?;
            if !fits? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a change of this revision has a place: the last revision is taken whole.
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

/// Looks at a value of a row.
fn with_value<'row, T>(
    row: &Found<'row, '_>,
    column: usize,
    look: impl FnOnce(SqliteValue<'_, '_, '_>) -> T,
) -> Result<T, StoreError> {
    let field = row.get(column);
    let value = field.as_ref().and_then(Field::value);
    value.map(look).ok_or_else(|| StoreError::Corrupt(format!("column {column} of a change event is null")))
}

/// Removes events that are older than this, or that come before the last `keep` revisions: whole revisions, oldest
/// first, none after one that is kept, so that a clock that jumps leaves no hole.
pub(super) fn prune(
    connection: &mut SqliteConnection,
    older_than: Timestamp,
    keep: Option<i64>,
) -> Result<Progress, StoreError> {
    connection.immediate_transaction(|connection| {
        let current = horizon(connection)?.current.number();
        let beyond = keep.map_or(i64::MIN, |keep| current.saturating_sub(keep));
        let oldest: Vec<(i64, i64)> = outbox::table
            .order((outbox::revision, outbox::collection, outbox::key))
            .select((outbox::revision, outbox::time))
            .limit(PRUNED_AT_ONCE)
            .load(connection)?;
        let old = oldest.iter().take_while(|(revision, time)| *revision <= beyond || *time < older_than.milliseconds());
        let Some((last, _)) = old.last() else { return Ok(Progress::Done) };
        diesel::delete(outbox::table.filter(outbox::revision.le(last))).execute(connection)?;
        diesel::update(metadata::table).set(metadata::pruned.eq(last)).execute(connection)?;
        let reached_limit = oldest.last().is_some_and(|(revision, _)| revision == last)
            && i64::try_from(oldest.len()).is_ok_and(|read| read == PRUNED_AT_ONCE);
        Ok(if reached_limit { Progress::More } else { Progress::Done })
    })
}
