//! The domain events that other services have written to the same database, for the streams of this one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::reader::View;
use crate::write::committed_revision::JournalMark;

/// Moves the mark of the journal, as the aggregator does for the commits of this process.
pub(crate) struct JournalWatch {
    mark: Arc<watch::Sender<JournalMark>>,
}

impl JournalWatch {
    pub(crate) fn new(mark: Arc<watch::Sender<JournalMark>>) -> Self {
        Self { mark }
    }

    /// Looks at the journal in a read transaction, and wakes its streams if there is something new.
    pub(super) fn look(&self, view: &mut View<'_>, horizon: &Horizon) -> Result<(), StoreError> {
        let last = view.position()?;
        self.mark.send_if_modified(|mark| {
            let is_overwritten = mark.note_erasures(horizon.erasures);
            mark.move_to(last) || is_overwritten
        });
        Ok(())
    }
}
