//! The table of change events: appended by a write, read by feeds, pruned by age.

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::metadata::horizon;
use super::schema::{metadata, outbox};
use super::statements::AppendChange;
use crate::clock::Timestamp;
use crate::collection::{CollectionId, Registry};
use crate::cursor::Revision;
use crate::feed::{Feed, Member};
use crate::key::Key;

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
        Member { collection: self.collection, key: &self.key, patch: &self.patch }
    }
}

/// Some of the change events of a feed after a revision: all of them up to and including the revision `to`.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) changes: Vec<Change>,
    pub(crate) to: Revision,
}

/// How much is read at once; the last revision is always read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Events of the log, or aggregates of a catch-up.
    pub(crate) items: usize,
    /// Of JSON text.
    pub(crate) bytes: usize,
}

impl Room {
    /// A page of a stream.
    pub(crate) const PAGE: Self = Self { items: usize::MAX, bytes: 64 * 1024 };
}

/// What a step of pruning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// Everything that was old enough is gone.
    All,
    /// There is more.
    Some,
}

/// Revisions that a page looks at: a feed that few of them concern must not keep a read transaction open for long.
const PAGE_REVISIONS: i64 = 10_000;

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
    after: Revision,
    current: Revision,
    room: Room,
) -> Result<Changes, StoreError> {
    let last = current.min(Revision::stored(after.number() + PAGE_REVISIONS));
    let query = outbox::table
        .filter(outbox::revision.gt(after.number()).and(outbox::revision.le(last.number())))
        .order((outbox::revision, outbox::collection, outbox::key))
        .select((outbox::revision, outbox::collection, outbox::key, outbox::patch, outbox::time));
    let mut filling = Filling { registry, feed, room, changes: Vec::new(), bytes: 0, revisions: 0 };
    let full = match feed.collection() {
        None => filling.fill(query.load_iter::<Columns, DefaultLoadingMode>(connection)?)?,
        Some(only) => {
            let query = query.filter(outbox::collection.eq(registry.get(only).name()));
            filling.fill(query.load_iter::<Columns, DefaultLoadingMode>(connection)?)?
        }
    };
    let to = match (full, filling.changes.last()) {
        (true, Some(last)) => last.revision,
        _ => last,
    };
    Ok(Changes { changes: filling.changes, to })
}

type Columns = (i64, String, String, String, i64);

/// A page while it is read.
struct Filling<'a> {
    registry: &'a Registry,
    feed: &'a Feed,
    room: Room,
    changes: Vec<Change>,
    bytes: usize,
    revisions: usize,
}

impl Filling<'_> {
    /// Takes rows until the page is full (`true`) or there are no more.
    fn fill(&mut self, rows: impl Iterator<Item = QueryResult<Columns>>) -> Result<bool, StoreError> {
        for row in rows {
            let (revision, collection, key, patch, time) = row?;
            let (revision, key) = (Revision::stored(revision), Key::stored(&key));
            // No database with another collection is opened.
            let Some(collection) = self.registry.id(&collection) else { continue };
            if !self.feed.selects(collection, &key) {
                continue;
            }
            if self.changes.last().is_none_or(|last| last.revision < revision) {
                if self.bytes >= self.room.bytes || self.revisions >= self.room.items {
                    return Ok(true);
                }
                self.revisions += 1;
            }
            self.bytes += patch.len() + key.as_str().len();
            let time = Timestamp::from_milliseconds(time);
            self.changes.push(Change { revision, collection, key, patch, time });
        }
        Ok(false)
    }
}

/// Removes events that are older than this, or that come before the last `keep` revisions: whole revisions, oldest
/// first, none after one that is kept, so that a clock that jumps leaves no hole.
pub(super) fn prune(
    connection: &mut SqliteConnection,
    older_than: Timestamp,
    keep: Option<i64>,
) -> Result<Pruned, StoreError> {
    connection.immediate_transaction(|connection| {
        let current = horizon(connection)?.current.number();
        let beyond = keep.map_or(i64::MIN, |keep| current.saturating_sub(keep));
        let oldest: Vec<(i64, i64)> = outbox::table
            .order((outbox::revision, outbox::collection, outbox::key))
            .select((outbox::revision, outbox::time))
            .limit(PRUNED_AT_ONCE)
            .load(connection)?;
        let old = oldest.iter().take_while(|(revision, time)| *revision <= beyond || *time < older_than.milliseconds());
        let Some((last, _)) = old.last() else { return Ok(Pruned::All) };
        diesel::delete(outbox::table.filter(outbox::revision.le(last))).execute(connection)?;
        diesel::update(metadata::table).set(metadata::pruned.eq(last)).execute(connection)?;
        let reached_limit = oldest.last().is_some_and(|(revision, _)| revision == last)
            && i64::try_from(oldest.len()).is_ok_and(|read| read == PRUNED_AT_ONCE);
        Ok(if reached_limit { Pruned::Some } else { Pruned::All })
    })
}
