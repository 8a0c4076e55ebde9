//! What every worker thread shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix::Addr;
use tokio::sync::watch;

use crate::delivery::stream_limiter::StreamLimiter;
use crate::domain::collection::Registry;
use crate::domain::revision::Epoch;
use crate::projector::registry::Projections;
use crate::read::collection_cache::CollectionCache;
use crate::read::pool::Readers;
use crate::write::aggregator::{Aggregator, CommittedRevision, JournalMark};

/// What every worker shares.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) epoch: Epoch,
    pub(crate) committed: Arc<CommittedRevision>,
    pub(crate) projections: Arc<Projections>,
    /// How far the journal is.
    pub(crate) journal: Arc<watch::Sender<JournalMark>>,
    /// One address for all: its mailbox is bounded per address.
    pub(crate) aggregator: Addr<Aggregator>,
    /// For pages and single aggregates.
    pub(crate) readers: Readers,
    /// For whole collections, which take long: they must not keep a page waiting.
    pub(crate) scanners: Readers,
    pub(crate) collections: Arc<CollectionCache>,
    /// Where a body that is not taken fast enough waits.
    pub(crate) spool_directory: PathBuf,
    /// The longest request body, in bytes.
    pub(crate) max_body: usize,
    /// What may wait for one stream, in bytes.
    pub(crate) session_buffer: usize,
    /// After how much quiet a stream gets a comment line.
    pub(crate) heartbeat: Duration,
    pub(crate) stream_limiter: Arc<StreamLimiter>,
    /// The number of session actors that run.
    pub(crate) sessions: Arc<AtomicUsize>,
}
