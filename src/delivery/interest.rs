//! Which commits concern a projector, so that the others do not wake it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::watch;

use crate::domain::key::CollectionId;
use crate::write::committed_revision::{CommittedRevision, JournalMark};

/// What a projector reads.
#[derive(Debug)]
pub(crate) enum Interest {
    /// All that is committed.
    Everything,
    Journal,
    /// The change events of these collections.
    Changes(Arc<[CollectionId]>),
}

/// There are new events. The notification carries no data: the projector reads them.
pub(crate) struct NewEvents;

impl Message for NewEvents {
    type Result = ();
}

/// How long a projector is left alone after a notification of many events. The cost of a step hardly depends on the number
/// of its events.
const REST: Duration = Duration::from_millis(100);

/// So many revisions or positions since the notification before are many: others follow.
const MANY: i64 = 8;

/// A projector, and what it was notified of last. It polls as well, so a notification too few does no harm.
pub(super) struct Interested {
    projector: Recipient<NewEvents>,
    interest: Interest,
    rhythm: Rhythm,
}

/// When a projector is notified.
#[derive(Debug, Default)]
struct Rhythm {
    /// Of what it was notified last. `None` if that is not known.
    notified: Option<Mark>,
    /// The end of its rest.
    rests_until: Option<Instant>,
    /// There is something for it after its rest.
    is_waiting: bool,
}

/// How far what a projector reads has come: a revision or a position, and how often the past was overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    last: i64,
    overwritten: u64,
}

/// Where it is seen what was committed.
pub(super) struct Commits {
    pub(super) committed: Arc<CommittedRevision>,
    pub(super) journal: watch::Receiver<JournalMark>,
}

impl Interested {
    pub(super) fn new(projector: Recipient<NewEvents>, interest: Interest) -> Self {
        Self { projector, interest, rhythm: Rhythm::default() }
    }

    /// Notifies the projector, if there is something for it and it does not rest. Returns `false` if it is gone.
    pub(super) fn notify(&mut self, commits: &Commits, now: Instant) -> bool {
        if !self.rhythm.is_due(commits.mark(&self.interest), now) {
            return true;
        }
        // A full mailbox is fine: it holds a notification already.
        !matches!(self.projector.try_send(NewEvents), Err(SendError::Closed(_)))
    }

    /// Whether it is to be notified of something after its rest.
    pub(super) fn is_waiting(&self) -> bool {
        self.rhythm.is_waiting
    }
}

impl Rhythm {
    /// Whether the projector is notified now that what it reads has come so far.
    fn is_due(&mut self, mark: Option<Mark>, now: Instant) -> bool {
        if mark.is_some() && mark == self.notified {
            return false;
        }
        let known = mark.zip(self.notified);
        // Whoever erases something waits for the projector.
        let is_erasure = known.is_some_and(|(mark, before)| mark.overwritten != before.overwritten);
        self.is_waiting = !is_erasure && self.rests_until.is_some_and(|end| now < end);
        if self.is_waiting {
            return false;
        }
        let is_much = known.is_some_and(|(mark, before)| mark.last >= before.last + MANY);
        self.rests_until = is_much.then(|| now + REST);
        self.notified = mark;
        true
    }
}

impl Commits {
    /// `None` for a projector that reads everything, and where other services write as well.
    fn mark(&self, interest: &Interest) -> Option<Mark> {
        let JournalMark { last, overwritten, .. } = *self.journal.borrow();
        let last = match interest {
            Interest::Everything => return None,
            Interest::Journal => last.number(),
            Interest::Changes(collections) => self.committed.of(collections)?.1.number(),
        };
        Some(Mark { last, overwritten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projector_rests_after_many_events_and_is_told_at_once_of_few_and_of_erasures() {
        let (mut rhythm, began) = (Rhythm::default(), Instant::now());
        for (milliseconds, last, overwritten, is_due, is_waiting) in [
            (0, 100, 0, true, false),
            (20, 100, 0, false, false),
            (40, 101, 0, true, false),
            (60, 101 + MANY - 1, 0, true, false),
            (80, 150, 0, true, false),
            // Many follow.
            (100, 151, 0, false, true),
            (179, 190, 0, false, true),
            (180, 190, 0, true, false),
            // Nothing follows.
            (200, 190, 0, false, false),
            (220, 191, 0, false, true),
            (240, 192, 1, true, false),
            (260, 193, 1, true, false),
        ] {
            let mark = Mark { last, overwritten };
            let due = rhythm.is_due(Some(mark), began + Duration::from_millis(milliseconds));
            assert_eq!((due, rhythm.is_waiting), (is_due, is_waiting), "{milliseconds}");
        }
        assert!(rhythm.is_due(None, began) && rhythm.is_due(None, began), "it is not known how much there is");
    }
}
