//! The state that all worker threads share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use actix::Addr;
use tokio::sync::watch;

use super::forwarded::TrustedProxies;
use super::origin::AccessPolicy;
use super::request_body::BodyLimits;
use super::request_metrics::RequestMetrics;
use crate::access::tokens::Tokens;
use crate::delivery::connection_limiter::ConnectionLimiter;
use crate::delivery::reach::Reach;
use crate::delivery::relay_metrics::RelayMetrics;
use crate::delivery::stream_limiter::StreamLimiter;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::history::History;
use crate::domain::revision::Epoch;
use crate::events::journal_pages::JournalPages;
use crate::memory::fair_shares::FairShares;
use crate::memory::ledger::Ledger;
use crate::metrics::Gauge;
use crate::projector::registry::Projections;
use crate::publish::status::Status;
use crate::read::collection_cache::CollectionCache;
use crate::read::last_changes::LastChanges;
use crate::read::pool::{PageReaders, ReadMetrics, Readers};
use crate::read::shared_spools::SharedSpools;
use crate::storage::database::Database;
use crate::storage::disk::Disk;
use crate::write::aggregator::Aggregator;
use crate::write::attention::Attention;
use crate::write::committed_revision::{CommittedRevision, JournalMark};
use crate::write::in_flight::RequestsInFlight;
use crate::write::write_metrics::WriteMetrics;

/// The state that all worker threads share.
pub(crate) struct Shared {
    /// Which requests may be answered.
    pub(crate) access: AccessPolicy,
    /// The tokens of those who may send them; `None` if everybody may.
    pub(crate) tokens: Option<Arc<Tokens>>,
    /// All registered collections.
    pub(crate) registry: Arc<Registry>,
    /// The database file, and what works of it.
    pub(crate) database: Arc<Database>,
    /// The epochs of the database.
    pub(crate) history: Arc<History>,
    /// The last committed revision.
    pub(crate) committed: Arc<CommittedRevision>,
    /// Whether anybody follows what is committed.
    pub(crate) attention: Arc<Attention>,
    /// The projections and their reports.
    pub(crate) projections: Arc<Projections>,
    /// The statuses of what is published to message brokers.
    pub(crate) outputs: Vec<Status>,
    /// The last position of the journal; journal consumers wait for it to change.
    pub(crate) journal: Arc<watch::Sender<JournalMark>>,
    /// Pages of the journal that its streams share.
    pub(crate) journal_pages: JournalPages,
    /// The maximum number of commands that wait for it.
    pub(crate) queue: usize,
    /// Executes commands. All threads share one address, because the mailbox is bounded per address.
    pub(crate) aggregator: Addr<Aggregator>,
    /// The requests with an idempotency key that wait for their answers.
    pub(crate) in_flight: Arc<RequestsInFlight>,
    /// What the aggregator counts.
    pub(crate) writes: Arc<WriteMetrics>,
    /// Reads pages and single aggregates.
    pub(crate) readers: Readers,
    /// When the collections have changed last, if only the database knows.
    pub(crate) last_changes: LastChanges,
    /// Reads whole collections, which takes longer: a page must not wait for them.
    pub(crate) scanners: Readers,
    /// Whole collections in memory.
    pub(crate) collections: Arc<CollectionCache>,
    /// What takes memory, and how much it may take.
    pub(crate) memory: Ledger,
    /// Bodies that are made while they are sent.
    pub(crate) spools: Arc<SharedSpools>,
    /// What request bodies may take.
    pub(crate) bodies: BodyLimits,
    /// The size of the buffer of one stream, in bytes.
    pub(crate) session_buffer: usize,
    /// The idle time after which a stream gets a comment line.
    pub(crate) heartbeat: Duration,
    pub(crate) stream_limiter: Arc<StreamLimiter>,
    pub(crate) connection_limiter: Arc<ConnectionLimiter>,
    /// The memory of what waits for the clients of streams.
    pub(crate) streams: Arc<FairShares>,
    /// The number of session actors that run.
    pub(crate) sessions: Arc<AtomicUsize>,
    /// The number of those that are parked.
    pub(crate) parked: Arc<Gauge>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) relay: Arc<RelayMetrics>,
    /// Whether the record is still reached.
    pub(crate) reach: Arc<Reach>,
    /// How often the relay polls.
    pub(crate) poll_interval: Duration,
    /// What the reading threads count.
    pub(crate) reads: Arc<ReadMetrics>,
    pub(crate) requests: RequestMetrics,
    /// The proxies that may say who their clients are.
    pub(crate) proxies: TrustedProxies,
    /// When the service was started.
    pub(crate) started: Timestamp,
}

impl Shared {
    /// The threads that read pages of feeds.
    pub(crate) fn page_readers(&self) -> PageReaders {
        PageReaders { short: self.readers.clone(), long: self.scanners.clone() }
    }

    /// The epoch in which this process writes.
    pub(crate) fn epoch(&self) -> &Epoch {
        self.history.epoch()
    }
}
