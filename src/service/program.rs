//! What a service is made of apart from its settings, and the one place that wires: actors, HTTP server, and the order in which
//! they start. A program can be started again and again.

use std::io;
use std::sync::Arc;

use actix::prelude::*;
use actix_web::{rt, web};

use crate::access::tokens::Tokens;
use crate::delivery::connection_limiter::ConnectionLimiter;
use crate::delivery::journal_watch::JournalWatch;
use crate::delivery::reach::Reach;
use crate::delivery::relay::{Relay, RelayConfig};
use crate::delivery::relay_metrics::RelayMetrics;
use crate::delivery::stream_limiter::StreamLimiter;
use crate::delivery::watch::Watch;
use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::events::journal_pages::JournalPages;
use crate::events::replay_cache::ReplayCache;
use crate::http::origin::AccessPolicy;
use crate::http::request_body::BodyLimits;
use crate::http::request_metrics::RequestMetrics;
use crate::http::shared::Shared;
use crate::memory::fair_shares::FairShares;
use crate::memory::ledger::Usage;
use crate::projector::registry::{ProjectionSet, Projections};
use crate::publish::outputs::{Outputs, PublishContext};
use crate::read::collection_cache::CollectionCache;
use crate::read::last_changes::LastChanges;
use crate::read::pool::{PoolConfig, ReadMetrics, Readers};
use crate::read::shared_spools::SharedSpools;
use crate::read::spool_directory::{SpoolDirectory, SpoolLimits};
use crate::read_model::spec::ProjectionSpec;
#[cfg(feature = "tls")]
use crate::service::certificate_watch::CertificateWatch;
use crate::service::control::ControlSocket;
use crate::service::descriptors::{Capacity, raise_limit};
use crate::service::listeners::Listeners;
use crate::service::memory_limits::MemoryLimits;
use crate::service::running::{Running, StartError, cut_streams, retention};
use crate::service::settings::{Settings, bytes};
use crate::service::start_report::warn_about_readers;
use crate::service::waiting_room::WaitingRoom;
use crate::storage::answer_room::AnswerLimit;
use crate::storage::backup::CopyObserver;
use crate::storage::database::{Database, LastLife, Writers};
use crate::storage::disk::Disk;
use crate::storage::error::explained;
use crate::storage::file_check;
use crate::storage::page_caches::Connections;
use crate::storage::preparation;
use crate::storage::writer::{Writer, WriterConfig};
use crate::threads::named_arbiter;
use crate::write::aggregator::{Aggregator, Listen};

/// The collections, projections and outputs of a service. They fit together.
#[derive(Clone)]
pub(super) struct Program {
    registry: Arc<Registry>,
    inline: Arc<[ProjectionSpec]>,
    background: Vec<Arc<ProjectionSpec>>,
    outputs: Outputs,
    /// What time it is, if a test says so.
    #[cfg(feature = "test-hooks")]
    clock: Option<Arc<std::sync::atomic::AtomicI64>>,
}

/// How a life of a service begins.
pub(super) struct Beginning<'a> {
    /// Follows the copy that is made before a migration.
    pub(super) observer: &'a dyn CopyObserver,
    /// What this process knows of the record; `None` at its start.
    pub(super) last_life: Option<LastLife>,
}

impl Program {
    pub(super) fn new(registry: Registry, projections: ProjectionSet, outputs: Outputs) -> Self {
        let ProjectionSet { inline, background } = projections;
        Self {
            registry: Arc::new(registry),
            inline: inline.into(),
            background,
            outputs,
            #[cfg(feature = "test-hooks")]
            clock: None,
        }
    }

    /// Lets a test say what time it is, in milliseconds since 1970.
    #[cfg(feature = "test-hooks")]
    pub(super) fn with_clock(self, clock: Option<Arc<std::sync::atomic::AtomicI64>>) -> Self {
        Self { clock, ..self }
    }

    /// Starts the service on these listeners, and returns when it serves.
    pub(super) async fn start(
        &self,
        settings: Settings,
        listeners: Listeners,
        beginning: Beginning<'_>,
    ) -> Result<Running, StartError> {
        raise_limit();
        let waiting = WaitingRoom::open(listeners.doors(&settings)?).map_err(StartError::Thread)?;
        let mut running = self.open(settings, beginning)?;
        waiting.close();
        let capacity = Capacity::of_process(self.background.len(), &running.settings)
            .map_err(|error| StartError::Descriptors(error.to_string()))?;
        running.shared.stream_limiter.lower_to(capacity.streams, capacity.streams_per_address);
        running.shared.connection_limiter.lower_to(capacity.connections_per_address);
        listeners.serve(&mut running, capacity).await?;
        let (database, hubs, shared) =
            (Arc::clone(&running.database), Arc::clone(&running.hubs), running.shared.clone());
        running.reloading = running.shared.tokens.clone().map(|tokens| {
            // A stream ends within a heartbeat when its token is taken away.
            let interval = running.settings.poll_interval.min(running.settings.heartbeat);
            rt::spawn(async move {
                loop {
                    rt::time::sleep(interval).await;
                    tokens.reload();
                }
            })
        });
        running.cutting = Some(rt::spawn(async move {
            database.health().wait_until_replaced().await;
            cut_streams(&hubs, &shared);
        }));
        Ok(running)
    }

    /// Starts the service without HTTP.
    #[expect(clippy::too_many_lines, reason = "all wiring is in one function, in the order of the start")]
    pub(super) fn open(
        &self,
        settings: Settings,
        Beginning { observer, last_life }: Beginning<'_>,
    ) -> Result<Running, StartError> {
        settings.check()?;
        check_spool(&settings)?;
        let Self { registry, inline, background, outputs, .. } = self.clone();
        let outputs = settings.with_broker(outputs);
        let (memory, page_caches) =
            MemoryLimits::of(&settings)?.into_ledger(connections(&settings, background.len(), outputs.len()))?;
        #[cfg(feature = "test-hooks")]
        let clock = Arc::new(Clock::of(self.clock.clone()));
        #[cfg(not(feature = "test-hooks"))]
        let clock = Arc::new(Clock::default());
        let tokens = settings.tokens.as_ref().map(|file| Tokens::open(file, &registry, &clock));
        let tokens = tokens.transpose().map_err(|error| StartError::of_tokens(&error))?.map(Arc::new);
        preparation::reject_foreign_file(&settings.database)?;
        let database = Arc::new(Database::open_beside(&settings.database, &settings.files)?.after(last_life));
        database.limit_caches(page_caches);
        preparation::prepare(&database, &registry, settings.copy_before(), observer)?;
        let config = WriterConfig {
            max_aggregate: bytes(settings.max_aggregate),
            answer_limit: AnswerLimit {
                bytes: settings.idempotency_size.as_u64(),
                retention: settings.idempotency_retention,
            },
            hot_states: Arc::clone(memory.of(Usage::Aggregates)),
            batches: Arc::clone(memory.of(Usage::Commands)),
            ..WriterConfig::new(&registry, &inline)
        };
        let writer = Writer::open(&database, config.clone(), clock.now())?;
        let context = Projections::context(&background, &database, &registry, &clock);
        let (history, revision) = (Arc::clone(writer.history()), writer.revision());
        let epoch = history.epoch().clone();
        log::info!("database {} is open: epoch {epoch}, revision {revision}", database.name().display());
        if database.writers() == Writers::Many {
            log::info!(
                "it has to be the server itself: a pooler that changes connections between transactions does not work"
            );
        }
        warn_about_readers(database.path());

        let aggregator =
            Aggregator::new(Arc::clone(&database), config, Arc::clone(&clock), writer, settings.queue.get());
        let (committed, journal, writes) = (aggregator.committed(), aggregator.journal(), aggregator.metrics());
        let attention = aggregator.attention();
        // A thread each: what they do blocks.
        let (writing, relaying) = (named_arbiter("duality-writer"), named_arbiter("duality-relay"));
        let aggregator = Aggregator::start_in_arbiter(&writing.handle(), |_| aggregator);
        let disk = Arc::new(Disk::new(database.directory().to_owned(), settings.min_free.as_u64()));
        let spool = SpoolDirectory::new(settings.spool.as_deref(), spool_limits(&settings), &database);
        disk.check(database.health());
        let published = Arc::new(RelayMetrics::new(revision));
        // It is asked once in an interval.
        let reach = Arc::new(Reach::new(database.writers(), settings.record_timeout + settings.poll_interval));
        let relay = Relay::new(RelayConfig {
            metrics: Arc::clone(&published),
            reach: Arc::clone(&reach),
            watch: Watch {
                database: Arc::clone(&database),
                disk: Arc::clone(&disk),
                spool: Arc::clone(&spool),
                aggregator: aggregator.clone(),
                probing: Arc::default(),
            },
            database: Arc::clone(&database),
            registry: Arc::clone(&registry),
            clock: Arc::clone(&clock),
            epoch: epoch.clone(),
            aggregator: aggregator.clone(),
            committed: Arc::clone(&committed),
            committed_journal: journal.subscribe(),
            attention: Arc::clone(&attention),
            poll_interval: settings.poll_interval,
            prune_interval: settings.prune_interval,
            retention: retention(&settings),
            published: revision,
            journal: (database.writers() == Writers::Many).then(|| JournalWatch::new(Arc::clone(&journal))),
        });
        let relay = Relay::start_in_arbiter(&relaying.handle(), |_| relay);
        aggregator.do_send(Listen(relay.clone().recipient()));
        let (projections, projecting) =
            Projections::start(&inline, &background, &context, &relay, settings.poll_interval);
        let (outputs, publishing) = outputs.start(&PublishContext {
            database: Arc::clone(&database),
            registry: Arc::clone(&registry),
            clock: Arc::clone(&clock),
            relay: relay.clone(),
            poll_interval: settings.poll_interval,
        })?;

        let replay_cache = Arc::new(ReplayCache::new(memory.of(Usage::SharedEvents)));
        let reads = Arc::new(ReadMetrics::default());
        let start_readers = |name, max_waiting| {
            let pool = PoolConfig { name, threads: settings.readers.get(), max_waiting };
            Readers::start(pool, &database, &registry, &replay_cache, &reads).map_err(StartError::Thread)
        };
        let shared = web::Data::new(Shared {
            access: AccessPolicy::new(&settings.addresses(), &settings.host, &settings.cors_origin),
            tokens,
            readers: start_readers("duality-read", usize::MAX)?,
            last_changes: LastChanges::default(),
            scanners: start_readers("duality-scan", settings.scan_queue.get())?,
            collections: Arc::new(CollectionCache::new(registry.ids().count(), memory.of(Usage::SharedBodies))),
            spools: Arc::new(SharedSpools::new(spool, memory.of(Usage::Answers))),
            journal_pages: JournalPages::new(memory.of(Usage::SharedEvents)),
            parked: Arc::default(),
            in_flight: Arc::default(),
            database: Arc::clone(&database),
            disk,
            relay: published,
            reach,
            poll_interval: settings.poll_interval,
            reads,
            requests: RequestMetrics::default(),
            proxies: settings.trusted_proxies(),
            started: clock.now(),
            registry,
            history,
            committed,
            attention,
            journal,
            projections: Arc::new(projections),
            outputs,
            aggregator,
            queue: settings.queue.get(),
            writes,
            bodies: BodyLimits {
                max: bytes(settings.max_body),
                timeout: settings.body_timeout,
                memory: FairShares::new(memory.of(Usage::Commands)),
            },
            session_buffer: bytes(settings.session_buffer),
            heartbeat: settings.heartbeat,
            stream_limiter: StreamLimiter::new(settings.max_sessions.get(), settings.max_sessions_per_address.get()),
            connection_limiter: ConnectionLimiter::new(usize::MAX),
            streams: FairShares::new(memory.of(Usage::Streams)),
            sessions: Arc::default(),
            memory,
        });
        file_check::begin(&database);
        #[cfg(feature = "tls")]
        let certificate = settings.certificate_files().map(|files| CertificateWatch::new(files, &database)).transpose();
        #[cfg(feature = "tls")]
        let certificate = certificate.map_err(|why| StartError::Certificate(why.to_string()))?;
        #[cfg(feature = "tls")]
        certificate.iter().for_each(|certificate| certificate.begin(&relaying.handle()));
        let control = ControlSocket::open(&database, shared.clone(), &relaying.handle());
        Ok(Running {
            addresses: Vec::new(),
            servers: Vec::new(),
            hubs: Arc::default(),
            relay,
            shared,
            database,
            control,
            #[cfg(feature = "tls")]
            certificate,
            writing,
            reading: std::iter::once(relaying).chain(projecting).chain(publishing).collect(),
            cutting: None,
            reloading: None,
            settings,
            clock,
        })
    }
}

/// The connections that a service has at most.
fn connections(settings: &Settings, projections: usize, outputs: usize) -> Connections {
    let readers = settings.readers.get();
    Connections {
        // Pages and collections, one for each projection and each output, the one that watches the file, and the check of the
        // file.
        readers: 2 * readers + projections + outputs + 2,
        // Two generations and a snapshot of each projection, the history, and reports.
        sidecars: 3 * projections + 1 + readers,
    }
}

/// The room for temporary files. A quarter is for one address, so that one client cannot take what all others need.
fn spool_limits(settings: &Settings) -> SpoolLimits {
    let total = settings.spool_size.as_u64();
    SpoolLimits { total, per_address: total / 4, min_free: settings.min_free.as_u64() }
}

/// Fails before anything is opened, if temporary files cannot be written where the settings say.
fn check_spool(settings: &Settings) -> Result<(), StartError> {
    let Some(directory) = &settings.spool else { return Ok(()) };
    let failed = |error: io::Error| {
        let source = io::Error::new(error.kind(), explained(&directory.join("file"), error.into()));
        StartError::Spool { directory: directory.clone(), source }
    };
    SpoolDirectory::check(directory).map_err(failed)
}
