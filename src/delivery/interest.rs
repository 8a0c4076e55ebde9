//! Which commits concern a projector, so that the others do not wake it.

use std::sync::Arc;

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

/// A projector, and what it was notified of last. It polls as well, so a notification too few does no harm.
pub(super) struct Interested {
    projector: Recipient<NewEvents>,
    interest: Interest,
    /// `None` if that is not known.
    notified: Option<Mark>,
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
        Self { projector, interest, notified: None }
    }

    /// Notifies the projector, if there is something for it. Returns `false` if it is gone.
    pub(super) fn notify(&mut self, commits: &Commits) -> bool {
        let mark = commits.mark(&self.interest);
        if mark.is_some() && mark == self.notified {
            return true;
        }
        self.notified = mark;
        // A full mailbox is fine: it holds a notification already.
        !matches!(self.projector.try_send(NewEvents), Err(SendError::Closed(_)))
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
