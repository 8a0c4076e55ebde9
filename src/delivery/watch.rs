//! What the relay looks at with each poll, so that no request has to.

use std::sync::Arc;

use actix::Addr;

use crate::read::spool_directory::SpoolDirectory;
use crate::storage::database::Database;
use crate::storage::disk::Disk;
use crate::storage::health::Part;
use crate::write::aggregator::Aggregator;
use crate::write::maintenance::Probe;

/// What the relay looks at with each poll.
pub(crate) struct Watch {
    pub(crate) database: Arc<Database>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) spool: Arc<SpoolDirectory>,
    pub(crate) aggregator: Addr<Aggregator>,
    /// Shared with the attempt of the aggregator that is on its way.
    pub(crate) probing: Arc<()>,
}

impl Watch {
    /// Looks at the disk, and tries what has failed: a service without requests recovers as well.
    pub(super) fn look(&self) {
        let health = self.database.health();
        self.disk.check(health);
        let has_failed = health.is_failing(Part::Writer) || health.is_failing(Part::Checkpoint);
        if has_failed || self.database.is_log_untagged() {
            // One at a time: an attempt may wait for the lock of another process for longer than a poll takes. With a full
            // mailbox, there are commands enough to find out.
            if Arc::strong_count(&self.probing) == 1 {
                let _ = self.aggregator.try_send(Probe { _running: Arc::clone(&self.probing) });
            }
        }
        if health.is_failing(Part::Spool) {
            self.spool.probe();
        }
    }
}
