//! The table of change events: appended by a write, read by feeds, pruned by age.

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::metadata::revisions;
use super::schema::{metadata, outbox};
use super::{ReadTransaction as _, StoreError};
use crate::clock::Timestamp;
use crate::collection::{CollectionId, Registry};
use crate::cursor::Revision;
use crate::key::Key;

/// What one revision changed of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: Revision,
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// RFC 7396, as JSON text.
    pub(crate) patch: String,
}

/// Some of the change events after a revision, read in one transaction.
#[derive(Debug)]
pub(crate) enum Page {
    /// Every change up to and including the revision `to`, in order; `to == current` when there are no more.
    Changes { changes: Vec<Change>, to: Revision, current: Revision },
    /// Events after that revision were pruned, or it is not there yet: what is retained begins with `oldest`.
    Outside { oldest: Revision, current: Revision },
}

/// What a step of pruning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// Everything that was old enough is gone.
    All,
    /// There is more.
    Some,
}

/// A page is full when its patches have this many bytes; it still takes the rest of its last revision.
const PAGE_BYTES: usize = 64 * 1024;

/// Revisions that a page looks at: a feed that few of them concern must not keep a read transaction open for long.
const PAGE_REVISIONS: i64 = 10_000;

/// Events that are pruned in one transaction, so that no writer waits long.
const PRUNED_AT_ONCE: i64 = 10_000;

/// Adds a change event.
pub(super) fn append(
    connection: &mut SqliteConnection,
    registry: &Registry,
    change: &Change,
    now: Timestamp,
) -> Result<(), StoreError> {
    diesel::insert_into(outbox::table)
        .values((
            outbox::revision.eq(change.revision.number()),
            outbox::collection.eq(registry.get(change.collection).name()),
            outbox::key.eq(change.key.as_str()),
            outbox::patch.eq(&change.patch),
            outbox::time.eq(now.milliseconds()),
        ))
        .execute(connection)?;
    Ok(())
}

/// The change events after a revision, of all collections or of one, whole revisions at a time.
pub(super) fn page(
    connection: &mut SqliteConnection,
    registry: &Registry,
    after: Revision,
    only: Option<CollectionId>,
) -> Result<Page, StoreError> {
    connection.read(|connection| {
        let (current, pruned) = revisions(connection)?;
        if after < pruned || after > current {
            return Ok(Page::Outside { oldest: pruned.next(), current });
        }
        let mut filling = Filling { registry, changes: Vec::new(), bytes: 0 };
        let last = current.min(Revision::stored(after.number() + PAGE_REVISIONS));
        let query = outbox::table
            .filter(outbox::revision.gt(after.number()).and(outbox::revision.le(last.number())))
            .order((outbox::revision, outbox::collection, outbox::key))
            .select((outbox::revision, outbox::collection, outbox::key, outbox::patch));
        let full = match only {
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
        Ok(Page::Changes { changes: filling.changes, to, current })
    })
}

type Columns = (i64, String, String, String);

/// A page while it is read.
struct Filling<'a> {
    registry: &'a Registry,
    changes: Vec<Change>,
    bytes: usize,
}

impl Filling<'_> {
    /// Takes rows until the page is full (`true`) or there are no more.
    fn fill(&mut self, rows: impl Iterator<Item = QueryResult<Columns>>) -> Result<bool, StoreError> {
        for row in rows {
            let (revision, collection, key, patch) = row?;
            let revision = Revision::stored(revision);
            if self.bytes >= PAGE_BYTES && self.changes.last().is_some_and(|last| last.revision < revision) {
                return Ok(true);
            }
            // A collection that is not registered any more has no feed.
            let Some(collection) = self.registry.id(&collection) else { continue };
            self.bytes += patch.len() + key.len();
            self.changes.push(Change { revision, collection, key: Key::stored(&key), patch });
        }
        Ok(false)
    }
}

/// Removes events that are older than this: whole revisions, oldest first, none after one that is kept, so that a
/// clock that jumps leaves no hole.
pub(super) fn prune(connection: &mut SqliteConnection, older_than: Timestamp) -> Result<Pruned, StoreError> {
    connection.immediate_transaction(|connection| {
        let oldest: Vec<(i64, i64)> = outbox::table
            .order((outbox::revision, outbox::collection, outbox::key))
            .select((outbox::revision, outbox::time))
            .limit(PRUNED_AT_ONCE)
            .load(connection)?;
        let old = oldest.iter().take_while(|(_, time)| *time < older_than.milliseconds());
        let Some((last, _)) = old.last() else { return Ok(Pruned::All) };
        diesel::delete(outbox::table.filter(outbox::revision.le(last))).execute(connection)?;
        diesel::update(metadata::table).set(metadata::pruned.eq(last)).execute(connection)?;
        let reached_limit = oldest.last().is_some_and(|(revision, _)| revision == last)
            && i64::try_from(oldest.len()).is_ok_and(|read| read == PRUNED_AT_ONCE);
        Ok(if reached_limit { Pruned::Some } else { Pruned::All })
    })
}
