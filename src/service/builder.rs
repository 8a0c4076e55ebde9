//! The one place that wires: collections, actors, HTTP server, and the order in which they stop.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::{rt, web};

use crate::access::tokens::Tokens;
use crate::delivery::connection_limiter::ConnectionLimiter;
use crate::delivery::journal_watch::JournalWatch;
use crate::delivery::relay::{Relay, RelayConfig};
use crate::delivery::relay_metrics::RelayMetrics;
use crate::delivery::stream_limiter::StreamLimiter;
use crate::delivery::watch::Watch;
use crate::domain::clock::Clock;
use crate::domain::collection::{Derived, Document, EventSourced, Registry};
use crate::domain::error_chain::ErrorChain;
use crate::events::journal_pages::JournalPages;
use crate::events::replay_cache::ReplayCache;
use crate::http::origin::AccessPolicy;
use crate::http::request_body::BodyLimits;
use crate::http::request_metrics::RequestMetrics;
use crate::http::shared::Shared;
use crate::memory::fair_shares::FairShares;
use crate::memory::ledger::Usage;
use crate::projector;
use crate::projector::registry::{ProjectionSet, Projections};
use crate::publish::carrier::{Carrier, Output};
use crate::publish::outputs::{Outputs, PublishContext};
use crate::read::collection_cache::CollectionCache;
use crate::read::pool::{PoolConfig, ReadMetrics, Readers};
use crate::read::shared_spools::SharedSpools;
use crate::read::spool_directory::{SpoolDirectory, SpoolLimits};
use crate::read_model::projection::Projection;
use crate::read_model::sink::Tables;
use crate::read_model::spec::ProjectionSpec;
#[cfg(feature = "tls")]
use crate::service::certificate_watch::CertificateWatch;
use crate::service::cli;
use crate::service::control::ControlSocket;
use crate::service::descriptors::{Capacity, raise_limit};
use crate::service::listeners::Listeners;
use crate::service::log_output;
use crate::service::memory_limits::MemoryLimits;
use crate::service::progress::{LogProgress, StartProgress};
use crate::service::running::{Running, StartError, cut_streams, retention};
use crate::service::settings::{Settings, Task, bytes};
use crate::service::signals::{Hangup, Request, Signals};
use crate::service::start_report::warn_about_readers;
use crate::storage::answer_room::AnswerLimit;
use crate::storage::backup::CopyObserver;
use crate::storage::database::{Database, FILES, Writers};
use crate::storage::disk::Disk;
use crate::storage::error::explained;
use crate::storage::file_check;
use crate::storage::page_caches::Connections;
use crate::storage::preparation;
use crate::storage::verified::Verified;
use crate::storage::writer::{Writer, WriterConfig};
use crate::threads::named_arbiter;
use crate::write::aggregator::{Aggregator, Listen};

/// A service before it runs: its collections, in their order in the document.
///
/// ```no_run
/// use duality::schemars::{self, JsonSchema};
/// use duality::{Document, Service, Settings};
///
/// #[derive(serde::Serialize, serde::Deserialize, JsonSchema)]
/// struct Task {
///     title: String,
/// }
///
/// impl Document for Task {
///     const NAME: &'static str = "tasks";
/// }
///
/// fn main() -> std::process::ExitCode {
///     Service::new().document::<Task>().run(Settings::parse())
/// }
/// ```
#[derive(Default)]
pub struct Service {
    registry: Registry,
    projections: ProjectionSet,
    outputs: Outputs,
}

impl Service {
    /// A service without collections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a collection of documents.
    #[must_use]
    pub fn document<T: Document>(mut self) -> Self {
        self.registry.document::<T>();
        self
    }

    /// Adds a collection that is derived from one that was added before.
    #[must_use]
    pub fn derived<T: Derived>(mut self) -> Self {
        self.registry.derived::<T>();
        self
    }

    /// Adds a collection of event-sourced aggregates.
    #[must_use]
    pub fn event_sourced<T: EventSourced>(mut self) -> Self {
        self.registry.event_sourced::<T>();
        self
    }

    /// Adds a projection that is kept in the transactions of the commands. It can be of tables only.
    #[must_use]
    pub fn inline<P: Projection<Sink = Tables>>(mut self) -> Self {
        self.projections.inline.push(ProjectionSpec::of::<P>());
        self
    }

    /// Adds a projection that is kept in the background, with a checkpoint of its own.
    #[must_use]
    pub fn background<P: Projection>(mut self) -> Self {
        self.projections.background.push(Arc::new(ProjectionSpec::of::<P>()));
        self
    }

    /// Publishes the change events, or the domain events, into a stream of a message broker. The carrier is made on the
    /// thread that publishes, in its tokio runtime. For NATS JetStream there is the setting `--publish`;
    /// `examples/publish_mqtt.rs` has a carrier for a real broker, and [`Carrier`] the smallest one.
    #[must_use]
    pub fn publish<C: Carrier + 'static>(
        mut self,
        output: Output,
        carrier: impl FnOnce() -> C + Send + 'static,
    ) -> Self {
        self.outputs.add(output, move |_: &Database| carrier());
        self
    }

    /// Runs until SIGTERM or SIGINT; the whole of a `main`, the log included. If the database file is replaced meanwhile, it
    /// ends with exit code 1.
    ///
    /// The log goes to standard error, by default at level `info`; `RUST_LOG` adds to that or replaces it, and [`Settings::log_format`] is its form. What keeps the
    /// service from starting is one line there, and exit code 1.
    #[must_use]
    pub fn run(self, settings: Settings) -> ExitCode {
        log_output::start(settings.log_format);
        if settings.task.as_ref().is_none_or(Task::reads_settings) {
            Settings::unknown_variables().iter().for_each(|line| log::warn!("{line}"));
        }
        if let Some(task) = settings.task.clone() {
            if let Err(error) = self.check() {
                log::error!("{}", ErrorChain(&error));
                return ExitCode::FAILURE;
            }
            return cli::run(&task, &settings, self.registry, self.projections);
        }
        let outcome = System::new().block_on(async {
            let mut signals = Signals::new(hangup(&settings)).map_err(StartError::Signal)?;
            let heartbeat = settings.heartbeat;
            let running = self.start_observed(settings, &StartProgress::new()).await?;
            let why = reason_to_stop(&running, &mut signals, heartbeat).await;
            log::info!("{why}: stopping");
            std::thread::spawn(watchdog);
            Ok::<_, StartError>(running.stop().await?)
        });
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{}", ErrorChain(&error));
                ExitCode::FAILURE
            }
        }
    }

    /// Checks the database file, its counters, states, events and projections against each other. Changes nothing. A
    /// service may use the database. The database is sound if all results are.
    ///
    /// # Errors
    /// The registrations do not fit together, or the database cannot be read or belongs to another version of the program.
    pub fn verify(self, database: &Path) -> Result<Vec<Verified>, StartError> {
        self.check()?;
        Ok(projector::verify::verify(database, Path::new(FILES), &self.registry, &self.projections)?)
    }

    /// Starts the service inside a running [`actix::System`], and returns when it serves: the caller may use a client that
    /// blocks.
    ///
    /// # Errors
    /// The registrations do not fit together, a setting is out of its range, the database cannot be opened, or the address
    /// is in use.
    pub async fn start(self, settings: Settings) -> Result<Running, StartError> {
        self.start_observed(settings, &LogProgress::new()).await
    }

    async fn start_observed(self, settings: Settings, observer: &dyn CopyObserver) -> Result<Running, StartError> {
        self.check()?;
        settings.check()?;
        // Before anything is started that would have to be stopped. Who connects already waits a moment.
        let listeners = Listeners::bind(&settings)?;
        raise_limit();
        let projections = self.projections.background.len();
        let mut running = self.open_observed(settings, observer)?;
        let capacity = Capacity::of_process(projections, &running.settings)
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

    fn check(&self) -> Result<(), StartError> {
        self.registry.check()?;
        Ok(self.projections.check(&self.registry)?)
    }

    /// Starts the service inside a running [`actix::System`], without HTTP: it does the commands that it is given by
    /// [`Running::execute`].
    ///
    /// # Errors
    /// The registrations do not fit together, a setting is out of its range, or the database cannot be opened.
    pub fn open(self, settings: Settings) -> Result<Running, StartError> {
        self.open_observed(settings, &LogProgress::new())
    }

    #[expect(clippy::too_many_lines, reason = "all wiring is in one function, in the order of the start")]
    fn open_observed(self, settings: Settings, observer: &dyn CopyObserver) -> Result<Running, StartError> {
        self.check()?;
        settings.check()?;
        check_spool(&settings)?;
        let (registry, projections) = (Arc::new(self.registry), self.projections);
        let outputs = settings.with_broker(self.outputs);
        let (memory, page_caches) =
            MemoryLimits::of(&settings)?.into_ledger(connections(&settings, &projections, &outputs))?;
        let clock = Arc::new(Clock::default());
        let tokens = settings.tokens.as_ref().map(|file| Tokens::open(file, &registry, &clock));
        let tokens = tokens.transpose().map_err(|error| StartError::of_tokens(&error))?.map(Arc::new);
        preparation::reject_foreign_file(&settings.database)?;
        let database = Arc::new(Database::open_beside(&settings.database, &settings.files)?);
        database.limit_caches(page_caches);
        preparation::prepare(&database, &registry, settings.copy_before(), observer)?;
        let inline: Arc<[ProjectionSpec]> = projections.inline.into();
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
        let context = Projections::context(&projections.background, &database, &registry, &clock);
        let (history, revision) = (Arc::clone(writer.history()), writer.revision());
        let epoch = history.epoch().clone();
        log::info!("database {} is open: epoch {epoch}, revision {revision}", database.name().display());
        warn_about_readers(database.path());

        let aggregator =
            Aggregator::new(Arc::clone(&database), config, Arc::clone(&clock), writer, settings.queue.get());
        let (committed, journal, writes) = (aggregator.committed(), aggregator.journal(), aggregator.metrics());
        // A thread each: what they do blocks.
        let (writing, relaying) = (named_arbiter("duality-writer"), named_arbiter("duality-relay"));
        let aggregator = Aggregator::start_in_arbiter(&writing.handle(), |_| aggregator);
        let disk = Arc::new(Disk::new(database.directory().to_owned(), settings.min_free.as_u64()));
        let spool = SpoolDirectory::new(settings.spool.as_deref(), spool_limits(&settings), &database);
        disk.check(database.health());
        let published = Arc::new(RelayMetrics::new(revision));
        let relay = Relay::new(RelayConfig {
            metrics: Arc::clone(&published),
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
            poll_interval: settings.poll_interval,
            prune_interval: settings.prune_interval,
            retention: retention(&settings),
            published: revision,
            journal: (database.writers() == Writers::Many).then(|| JournalWatch::new(Arc::clone(&journal))),
        });
        let relay = Relay::start_in_arbiter(&relaying.handle(), |_| relay);
        aggregator.do_send(Listen(relay.clone().recipient()));
        let (projections, projecting) =
            Projections::start(&inline, &projections.background, &context, &relay, settings.poll_interval);
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
            scanners: start_readers("duality-scan", settings.scan_queue.get())?,
            collections: Arc::new(CollectionCache::new(registry.ids().count(), memory.of(Usage::SharedBodies))),
            spools: Arc::new(SharedSpools::new(spool, memory.of(Usage::Answers))),
            journal_pages: JournalPages::new(memory.of(Usage::SharedEvents)),
            parked: Arc::default(),
            in_flight: Arc::default(),
            database: Arc::clone(&database),
            disk,
            relay: published,
            poll_interval: settings.poll_interval,
            reads,
            requests: RequestMetrics::default(),
            proxies: settings.trusted_proxies(),
            started: clock.now(),
            registry,
            history,
            committed,
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

/// Waits until there is a reason to stop, and does what other signals ask for meanwhile.
async fn reason_to_stop(running: &Running, signals: &mut Signals, heartbeat: Duration) -> &'static str {
    let mut replaced = pin!(async {
        running.replaced().await;
        // Until then, clients and load balancers are answered why.
        rt::time::sleep(heartbeat).await;
    });
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop(name) => return name,
                Request::Reload => running.reload(),
            },
            () = &mut replaced => return "the database file was replaced",
        }
    }
}

/// What SIGHUP asks a service with these settings for.
fn hangup(settings: &Settings) -> Hangup {
    if settings.tokens.is_some() || settings.tls_cert.is_some() { Hangup::Reloads } else { Hangup::Stops }
}

/// The connections that a service has at most.
fn connections(settings: &Settings, projections: &ProjectionSet, outputs: &Outputs) -> Connections {
    let (readers, projections) = (settings.readers.get(), projections.background.len());
    Connections {
        // Pages and collections, one for each projection and each output, the one that watches the file, and the check of the
        // file.
        readers: 2 * readers + projections + outputs.len() + 2,
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

/// Ends a process that does not manage to stop. Everything that was answered is on disk.
fn watchdog() {
    std::thread::sleep(Duration::from_secs(15));
    log::error!("stopping took too long");
    std::process::exit(1);
}
