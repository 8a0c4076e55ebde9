//! What the aggregator does besides commands: it prunes, rebuilds, tries again what has failed, and closes the database. Each
//! commits the pending commands first.

use std::sync::Arc;

use actix::prelude::*;

use super::aggregator::Aggregator;
use crate::storage::database::Writers;
use crate::storage::error::StoreError;
use crate::storage::health::Part;
use crate::storage::page::Progress;
use crate::storage::retained::Retained;
use crate::storage::transaction::WriteError;
use crate::storage::writer::Writer;

/// Deletes change events and tombstones that are not retained, up to a maximum number.
pub(crate) struct Prune(pub(crate) Retained);

impl Message for Prune {
    type Result = Result<Progress, StoreError>;
}

impl Handler<Prune> for Aggregator {
    type Result = Result<Progress, StoreError>;

    fn handle(&mut self, Prune(retained): Prune, ctx: &mut Self::Context) -> Self::Result {
        self.flush();
        if self.database.writers() == Writers::Many {
            // Another service may have left erasures, and may not come back.
            self.continue_erasing(ctx);
        }
        let metrics = Arc::clone(&self.metrics);
        let pruned = self.with_writer(|writer| writer.prune(retained, &metrics.pruned_tombstones));
        pruned.map_err(WriteError::into_cause)
    }
}

/// Rebuilds an inline projection. Commands wait meanwhile.
pub(crate) struct RebuildInline(pub(crate) &'static str);

impl Message for RebuildInline {
    type Result = Result<(), StoreError>;
}

impl Handler<RebuildInline> for Aggregator {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, RebuildInline(name): RebuildInline, _: &mut Self::Context) -> Self::Result {
        self.flush();
        let now = self.clock.now();
        let rebuilt = self.with_writer(|writer| writer.rebuild(name, now));
        rebuilt.map_err(WriteError::into_cause)
    }
}

/// Tries again what has failed: without it, a service that gets no commands any more because it is not ready would never be
/// ready, and one that gets none would never correct a log without a tag.
pub(crate) struct Probe {
    /// Dropped when it is known.
    pub(crate) _running: Arc<()>,
}

impl Message for Probe {
    type Result = ();
}

impl Handler<Probe> for Aggregator {
    type Result = ();

    fn handle(&mut self, _probe: Probe, _: &mut Self::Context) {
        self.flush();
        if self.writer.is_none() || self.database.health().is_failing(Part::Writer) {
            // The outcome is in the health of the writer.
            let _ = self.with_writer(Writer::probe);
        }
        if self.database.is_log_untagged() {
            // The log that begins then has a tag.
            if self.checkpoint() == Some(Progress::Done) {
                let _ = self.with_writer(Writer::probe);
            }
        } else if self.database.health().is_failing(Part::Checkpoint) {
            self.checkpoint();
        }
    }
}

/// Commits the pending commands, closes the database, and stops. All other connections must be closed, for one file to have
/// everything.
pub(crate) struct Close;

impl Message for Close {
    type Result = Result<(), StoreError>;
}

impl Handler<Close> for Aggregator {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) -> Self::Result {
        self.flush();
        ctx.stop();
        self.database.examine()?;
        // After a failure there is no writer, and the log would stay beside the file.
        self.writer().map_err(WriteError::into_cause)?.close()
    }
}

/// Stops notifying the relay of commits.
#[cfg(feature = "test-hooks")]
pub(crate) struct LoseWakeUps;

#[cfg(feature = "test-hooks")]
impl Message for LoseWakeUps {
    type Result = ();
}

#[cfg(feature = "test-hooks")]
impl Handler<LoseWakeUps> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: LoseWakeUps, _: &mut Self::Context) {
        self.listener = None;
    }
}

/// Blocks the thread of the aggregator until the other end is dropped. Commands wait meanwhile.
#[cfg(feature = "test-hooks")]
pub(crate) struct HoldWrites(pub(crate) std::sync::mpsc::Receiver<()>);

#[cfg(feature = "test-hooks")]
impl Message for HoldWrites {
    type Result = ();
}

#[cfg(feature = "test-hooks")]
impl Handler<HoldWrites> for Aggregator {
    type Result = ();

    fn handle(&mut self, HoldWrites(released): HoldWrites, _: &mut Self::Context) {
        let _ = released.recv();
    }
}
