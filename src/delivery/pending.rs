//! Committed changes that the relay has not published yet.
//!
//! The aggregator sends them with its notification, so that the relay need not read them from the outbox: under load, that
//! second read of each event, on another thread while the aggregator writes, cost the aggregator a tenth of its rate. The
//! outbox stays the truth: the relay reads from it whatever is missing here.

use crate::domain::collection::Registry;
use crate::domain::revision::Revision;
use crate::storage::outbox::Change;
use crate::write::aggregator::Committed;

/// The memory for pending changes, in bytes. Beyond it, the relay reads from the outbox.
const MAX_BYTES: usize = 256 * 1024;

/// Changes that follow on the published ones without a gap.
#[derive(Debug, Default)]
pub(super) struct PendingChanges {
    changes: Vec<Change>,
    /// Of `changes`, in bytes.
    weight: usize,
    /// All changes up to this revision are here; zero if none is.
    to: Revision,
    /// Later changes exist that are only in the outbox.
    has_gap: bool,
}

impl PendingChanges {
    /// Adds what was committed, if it follows on what is published or pending.
    pub(super) fn push(&mut self, published: Revision, registry: &Registry, committed: Committed) {
        let known = published.max(self.to);
        if committed.to <= known {
            return;
        }
        if self.has_gap || committed.from != known || self.weight > MAX_BYTES {
            self.has_gap = true;
            return;
        }
        let mut changes = committed.changes;
        sort(&mut changes, registry);
        self.weight += changes.iter().map(Change::weight).sum::<usize>();
        self.changes.append(&mut changes);
        self.to = committed.to;
    }

    /// Takes the pending changes, and the revision up to which they are complete.
    pub(super) fn take(&mut self) -> Option<(Vec<Change>, Revision)> {
        self.weight = 0;
        let to = std::mem::take(&mut self.to);
        (to > Revision::ZERO).then(|| (std::mem::take(&mut self.changes), to))
    }

    /// Whether the outbox has to be read; resets the mark.
    pub(super) fn take_gap(&mut self) -> bool {
        std::mem::take(&mut self.has_gap)
    }

    /// Discards the pending changes: the outbox is read instead.
    pub(super) fn clear(&mut self) {
        let _ = self.take();
    }
}

/// Sorts the changes as the outbox does, so that an event has the same bytes whichever way it takes.
fn sort(changes: &mut [Change], registry: &Registry) {
    let name = |change: &Change| registry.get(change.collection).name();
    for revision in changes.chunk_by_mut(|one, other| one.revision == other.revision) {
        revision.sort_by(|one, other| (name(one), one.key.as_str()).cmp(&(name(other), other.key.as_str())));
    }
}
