//! The epochs of a database, and which of their revisions and positions belong to its history.
//!
//! A copy of a database continues in an epoch of its own, and so does the original. Therefore what a client remembers of
//! an epoch is good up to where the next epoch of this database began; later numbers of it belong to another history.
//! `PostgreSQL` keeps its timelines in the same way.

use std::collections::HashMap;

use crate::domain::revision::{Epoch, JournalPosition, Revision};

/// All epochs of a database that it remembers.
#[derive(Debug, Clone)]
pub(crate) struct History {
    current: Epoch,
    /// Oldest first; the last one is the current.
    epochs: Vec<EpochStart>,
    /// The index of each epoch in `epochs`.
    index: HashMap<Epoch, usize>,
}

/// An epoch and where it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EpochStart {
    pub(crate) epoch: Epoch,
    /// The first revision that can be of this epoch.
    pub(crate) first_revision: Revision,
    /// The first position of the journal that can be of this epoch.
    pub(crate) first_position: JournalPosition,
}

impl History {
    /// The history whose current epoch follows on these earlier ones, oldest first.
    pub(crate) fn new(mut earlier: Vec<EpochStart>, current: EpochStart) -> Self {
        let epoch = current.epoch.clone();
        earlier.push(current);
        let index = earlier.iter().enumerate().map(|(index, start)| (start.epoch.clone(), index)).collect();
        Self { current: epoch, epochs: earlier, index }
    }

    /// The epoch in which this process writes.
    pub(crate) fn epoch(&self) -> &Epoch {
        &self.current
    }

    /// The first revision that this process can write.
    pub(crate) fn first_revision(&self) -> Revision {
        self.epochs.last().map_or(Revision::ZERO, |current| current.first_revision)
    }

    /// The last revision of an epoch that belongs to this database; `None` if it does not know the epoch. The current epoch
    /// has no end.
    pub(crate) fn end_of(&self, epoch: &Epoch) -> Option<Revision> {
        self.next_start(epoch).map(|next| next.map_or(Revision::MAX, |next| next.first_revision.previous()))
    }

    /// Whether the state at this revision of an epoch is one that this database had. For the current epoch it is always
    /// true: only the database knows its last revision.
    pub(crate) fn has_revision(&self, epoch: &Epoch, revision: Revision) -> bool {
        self.end_of(epoch).is_some_and(|end| revision <= end)
    }

    /// The same for a position of the journal.
    pub(crate) fn has_position(&self, epoch: &Epoch, position: JournalPosition) -> bool {
        self.end_of_positions(epoch).is_some_and(|end| position <= end)
    }

    /// The last position of an epoch that belongs to this database; `None` if it does not know the epoch. The current epoch
    /// has no end.
    pub(crate) fn end_of_positions(&self, epoch: &Epoch) -> Option<JournalPosition> {
        let end = |next: &EpochStart| JournalPosition::from_raw(next.first_position.number() - 1);
        self.next_start(epoch).map(|next| next.map_or(JournalPosition::MAX, end))
    }

    /// The epoch in which a revision was made: the oldest one that is remembered, for a revision before all of them.
    pub(crate) fn epoch_of(&self, revision: Revision) -> &Epoch {
        let later = self.epochs.partition_point(|start| start.first_revision <= revision);
        &self.epochs[later.saturating_sub(1)].epoch
    }

    /// Where the epoch after this one began: `Some(None)` for the current one, `None` for an unknown one.
    fn next_start(&self, epoch: &Epoch) -> Option<Option<&EpochStart>> {
        self.index.get(epoch).map(|index| self.epochs.get(index + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(name: &str) -> Epoch {
        name.parse().unwrap()
    }

    fn start(name: &str, first_revision: i64, first_position: i64) -> EpochStart {
        EpochStart {
            epoch: epoch(name),
            first_revision: Revision::from_raw(first_revision),
            first_position: JournalPosition::from_raw(first_position),
        }
    }

    #[test]
    fn what_a_client_remembers_of_an_epoch_is_good_up_to_where_the_next_one_began() {
        // Nothing was written in the second.
        let earlier = vec![start("00000001", 1, 1), start("00000002", 5, 3), start("00000003", 5, 3)];
        let history = History::new(earlier, start("00000004", 9, 3));
        for (name, last) in [("00000001", 4), ("00000002", 4), ("00000003", 8)] {
            assert!(history.has_revision(&epoch(name), Revision::from_raw(last)), "{name}");
            assert!(!history.has_revision(&epoch(name), Revision::from_raw(last + 1)), "{name}");
            assert!(history.has_position(&epoch(name), JournalPosition::from_raw(2)), "{name}");
            assert!(!history.has_position(&epoch(name), JournalPosition::from_raw(3)), "{name}");
        }
        assert!(history.has_revision(&epoch("00000004"), Revision::from_raw(1000)));
        assert!(!history.has_revision(&epoch("0therepoch"), Revision::ZERO));
        for (revision, name) in [(0, "00000001"), (4, "00000001"), (5, "00000003"), (8, "00000003"), (9, "00000004")] {
            assert_eq!(history.epoch_of(Revision::from_raw(revision)), &epoch(name), "{revision}");
        }
    }
}
