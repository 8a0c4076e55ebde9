//! The last revision that the aggregator has committed, for readers.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::key::CollectionId;
use crate::domain::revision::{HighWaterMark, JournalPosition, Revision};
use crate::storage::database::{Database, Writers};

/// The last durable revision, and the revision of the last change of each collection. Only the aggregator writes it.
#[derive(Debug)]
pub(crate) struct CommittedRevision {
    revision: AtomicI64,
    high_water_mark: HighWaterMark,
    writers: Writers,
    /// By the index of the collection. Written before `revision`.
    changed: Box<[AtomicI64]>,
}

impl CommittedRevision {
    pub(super) fn new(database: &Database, revision: Revision, changed: &[Revision]) -> Self {
        let changed = changed.iter().map(|changed| AtomicI64::new(changed.number())).collect();
        let (high_water_mark, writers) = (database.high_water_mark().clone(), database.writers());
        Self { revision: AtomicI64::new(revision.number()), high_water_mark, writers, changed }
    }

    /// The last revision. It is not before the last answered command, nor before any revision that a reader has seen.
    pub(crate) fn get(&self) -> Revision {
        self.last_published().max(self.high_water_mark.last())
    }

    /// The revision of the last commit that the aggregator has completed.
    fn last_published(&self) -> Revision {
        Revision::from_raw(self.revision.load(Ordering::Acquire))
    }

    /// A revision not before any that was answered, and the revision of the last change of some collections up to it. `None` if
    /// a reader has seen a later revision than the aggregator has published here, or if other services write as well. The
    /// database has the answer then.
    pub(crate) fn of(&self, collections: &[CollectionId]) -> Option<(Revision, Revision)> {
        if self.writers == Writers::Many {
            return None;
        }
        // The order matters: the last changes up to `revision` were stored before `revision`, so none is older.
        let revision = self.last_published();
        let changed = |id: &CollectionId| Revision::from_raw(self.changed[id.index()].load(Ordering::Acquire));
        let changed = collections.iter().map(changed).max().unwrap_or(Revision::ZERO);
        // If another commit came in between, `changed` may be later than `revision`. It is the last known revision then.
        let revision = revision.max(changed);
        (revision >= self.high_water_mark.last()).then_some((revision, changed))
    }

    pub(super) fn set(&self, revision: Revision, changed: &[Revision]) {
        for (stored, changed) in self.changed.iter().zip(changed) {
            stored.store(changed.number(), Ordering::Release);
        }
        self.revision.store(revision.number(), Ordering::Release);
    }
}

/// What the streams of the journal wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JournalMark {
    /// The last durable position that is known. The aggregator moves it, and the relay if others write the database as well.
    pub(crate) last: JournalPosition,
    /// Whether the service is stopping.
    pub(crate) is_over: bool,
    /// How often domain events were overwritten since the start, as far as is known.
    pub(crate) overwritten: u64,
    /// See [`Horizon::erasures`](crate::storage::counters::Horizon), if others write the database as well and it was looked at.
    pub(super) erasures: Option<i64>,
}

impl JournalMark {
    /// Moves it to a later position; `false` if the position is not later.
    pub(crate) fn move_to(&mut self, last: JournalPosition) -> bool {
        let is_later = last > self.last;
        self.last = self.last.max(last);
        is_later
    }

    /// Notes how often something of the past was overwritten by all services; `false` if that was known.
    pub(crate) fn note_erasures(&mut self, erasures: i64) -> bool {
        let is_new = self.erasures.replace(erasures) != Some(erasures);
        self.overwritten += u64::from(is_new);
        is_new
    }
}
