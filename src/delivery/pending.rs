//! What the aggregator says that it committed: the next change events, without a look into the outbox.
//!
//! The outbox is the truth, and has what was not heard. But under load, reading each event once more, on a thread of its
//! own while the writer writes, took the writer a tenth of its rate.

use crate::domain::collection::Registry;
use crate::domain::revision::Revision;
use crate::storage::outbox::Change;
use crate::write::aggregator::Committed;

/// Memory for what waits, in bytes; beyond it, the rest is read from the outbox.
const MAX_BYTES: usize = 256 * 1024;

/// Change events that follow upon what was published, without a gap.
#[derive(Debug, Default)]
pub(crate) struct PendingChanges {
    changes: Vec<Change>,
    weight: usize,
    /// They are all up to here; zero when nothing waits.
    to: Revision,
    /// There is more than was heard: the outbox has it.
    has_gap: bool,
}

impl PendingChanges {
    /// Takes what was committed, if it follows upon what was published and heard before.
    pub(crate) fn push(&mut self, published: Revision, registry: &Registry, committed: Committed) {
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

    /// What waits, and up to which revision that is.
    pub(crate) fn take(&mut self) -> Option<(Vec<Change>, Revision)> {
        self.weight = 0;
        let to = std::mem::take(&mut self.to);
        (to > Revision::ZERO).then(|| (std::mem::take(&mut self.changes), to))
    }

    /// Whether the outbox has to be read; it will be.
    pub(crate) fn take_gap(&mut self) -> bool {
        std::mem::take(&mut self.has_gap)
    }
}

/// The order of the outbox: an event is the same bytes, whoever reads it, whenever.
fn sort(changes: &mut [Change], registry: &Registry) {
    let name = |change: &Change| registry.get(change.collection).name();
    for revision in changes.chunk_by_mut(|one, other| one.revision == other.revision) {
        revision.sort_by(|one, other| (name(one), one.key.as_str()).cmp(&(name(other), other.key.as_str())));
    }
}
