//! The one place that wires: collections, actors, HTTP server, and the order in which they stop.

use std::cell::RefCell;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::middleware::Condition;
use actix_web::rt::net::TcpStream;
use actix_web::rt::signal::unix::{Signal, SignalKind, signal};
use actix_web::{App, HttpServer, web};

use crate::admission::Admission;
use crate::aggregator::{Aggregator, Close, Listen};
use crate::clock::Clock;
use crate::collection::{Derived, Document, InvalidRegistration, Registry};
use crate::http::{self, Shared};
use crate::hub::{Audience, Goodbye, Hub};
use crate::readers::Readers;
use crate::relay::{Drain, Relay, Retention};
use crate::settings::Settings;
use crate::store::{Database, Life, StoreError, Writer};

/// A service before it runs: its collections, in their order in the document.
///
/// ```no_run
/// use clap::Parser as _;
/// use duality::{Document, Service, Settings};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
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
}

/// How long connections that are still busy may keep a stopping service, in seconds.
const STOP_TIMEOUT: u64 = 1;

/// Connections that may wait to be accepted: many clients come back at once when the service does.
const BACKLOG: i32 = 4096;

/// What the kernel buffers for one client, in bytes; Linux takes twice as much.
const SEND_BUFFER: usize = 256 * 1024;

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

    /// Runs until SIGTERM or SIGINT; the whole of a `main`, the log included.
    ///
    /// The log goes to standard error, by default at level `info`; `RUST_LOG` says otherwise. What keeps the service
    /// from starting is one line there, and exit code 1.
    #[must_use]
    pub fn run(self, settings: Settings) -> ExitCode {
        let mut log = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn,duality=info"));
        // It reports a stream that we cut on purpose as an error; what really fails is in our own log.
        log.filter_module("actix_http::h1::dispatcher", log::LevelFilter::Off);
        // A program around this one may have a log already.
        drop(log.try_init());
        let outcome = System::new().block_on(async {
            let mut signals = Signals::new()?;
            let running = self.start(settings).await?;
            let name = signals.next().await;
            log::info!("{name}: stopping");
            std::thread::spawn(watchdog);
            running.stop().await
        });
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log::error!("{error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Starts the service inside a running [`actix::System`], and returns when it listens.
    ///
    /// # Errors
    /// The registrations do not fit together, the database cannot be opened, or the address is taken.
    pub async fn start(self, settings: Settings) -> Result<Running, StartError> {
        self.registry.check()?;
        // Before anything is started that would have to be stopped. Who connects already waits a moment.
        let listener = listen(&settings.listen).map_err(|error| StartError::Listen(settings.listen.clone(), error))?;
        let registry = Arc::new(self.registry);
        let clock = Arc::new(Clock::default());
        let database = Arc::new(Database::take(&settings.database)?);
        let life = if settings.new_epoch { Life::New } else { Life::Same };
        let writer = Writer::open(&database, Arc::clone(&registry), clock.now(), life)?;
        let (epoch, revision) = (writer.epoch().clone(), writer.revision());
        log::info!("database {} is open: epoch {epoch}, revision {revision}", database.path().display());

        let aggregator =
            Aggregator::new(Arc::clone(&database), Arc::clone(&registry), Arc::clone(&clock), writer, settings.queue);
        let committed = aggregator.committed();
        // A thread each: what they do blocks.
        let (writing, relaying) = (Arbiter::new(), Arbiter::new());
        let aggregator = Aggregator::start_in_arbiter(&writing.handle(), |_| aggregator);
        let relay = Relay {
            database: Arc::clone(&database),
            registry: Arc::clone(&registry),
            clock: Arc::clone(&clock),
            epoch: epoch.clone(),
            aggregator: aggregator.clone(),
            poll_interval: settings.poll_interval,
            prune_interval: settings.prune_interval,
            retention: retention(&settings),
            reader: None,
            last: revision,
            hubs: Vec::new(),
            #[cfg(feature = "test-hooks")]
            lose: 0,
        };
        let relay = Relay::start_in_arbiter(&relaying.handle(), |_| relay);
        aggregator.do_send(Listen(relay.clone().recipient()));

        let shared = web::Data::new(Shared {
            readers: Readers::start(settings.readers, &database, &registry),
            scanners: Readers::start(settings.readers, &database, &registry),
            spool_directory: database.directory().to_owned(),
            registry,
            epoch,
            committed,
            aggregator,
            max_body: settings.max_body,
            session_buffer: settings.session_buffer,
            admission: Admission::new(settings.max_sessions, settings.max_sessions_per_address),
        });
        let hubs = Arc::new(Mutex::new(Vec::new()));
        let (server, addresses) = serve(listener, &settings, &shared, &relay, &hubs)?;
        for address in &addresses {
            log::info!("listening on http://{address}");
        }
        Ok(Running { addresses, server, hubs, relay, shared, database, arbiters: [relaying, writing], settings, clock })
    }
}

fn retention(settings: &Settings) -> Retention {
    Retention { events: settings.retention, keep: settings.retention_events, tombstones: settings.tombstone_retention }
}

type Hubs = Arc<Mutex<Vec<Addr<Hub>>>>;

/// Starts the HTTP server; each of its threads gets a hub.
fn serve(
    listener: TcpListener,
    settings: &Settings,
    shared: &web::Data<Shared>,
    relay: &Addr<Relay>,
    hubs: &Hubs,
) -> Result<(ServerHandle, Vec<SocketAddr>), StartError> {
    let (shared, relay, hubs) = (shared.clone(), relay.clone(), Arc::clone(hubs));
    let origins = settings.cors_origin.clone();
    let (heartbeat, peer_timeout) = (settings.heartbeat, settings.peer_timeout);
    let app = move || {
        let audience = Rc::new(RefCell::new(Audience::new(shared.epoch.clone())));
        let hub = Hub { audience: Rc::clone(&audience), relay: relay.clone(), heartbeat }.start();
        hubs.lock().expect("nobody panics while pushing to a list").push(hub);
        App::new()
            .wrap(Condition::new(!origins.is_empty(), http::cors(&origins)))
            .app_data(shared.clone())
            .app_data(audience)
            .configure(|config| http::routes(config, &shared))
    };
    let mut server = HttpServer::new(app)
        .disable_signals()
        .shutdown_timeout(STOP_TIMEOUT)
        .tcp_nodelay(true)
        // A client that closes its side of a quiet stream has gone.
        .h1_allow_half_closed(false)
        .on_connect(move |connection, _| {
            if let Some(stream) = connection.downcast_ref::<TcpStream>() {
                bound_socket(stream, peer_timeout);
            }
        });
    if let Some(workers) = settings.workers {
        server = server.workers(workers);
    }
    let cannot = |error| StartError::Listen(settings.listen.clone(), error);
    let server = server.listen(listener).map_err(cannot)?;
    let addresses = server.addrs();
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    Ok((handle, addresses))
}

/// Takes the first of the address's forms that can be had.
fn listen(address: &str) -> std::io::Result<TcpListener> {
    let mut refused = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        let listener = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        listener.set_reuse_address(true)?;
        match listener.bind(&address.into()).and_then(|()| listener.listen(BACKLOG)) {
            Ok(()) => return Ok(listener.into()),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// A peer that does not answer is given up, and the kernel's share of a slow stream has a bound. Neither can fail in a
/// way that concerns the client.
fn bound_socket(stream: &TcpStream, peer_timeout: Duration) {
    let socket = socket2::SockRef::from(stream);
    drop(socket.set_tcp_user_timeout(Some(peer_timeout)));
    drop(socket.set_send_buffer_size(SEND_BUFFER));
}

/// A service that runs.
pub struct Running {
    addresses: Vec<SocketAddr>,
    server: ServerHandle,
    hubs: Hubs,
    relay: Addr<Relay>,
    shared: web::Data<Shared>,
    database: Arc<Database>,
    arbiters: [Arbiter; 2],
    #[cfg_attr(not(feature = "test-hooks"), expect(dead_code, reason = "the hooks look at it"))]
    settings: Settings,
    #[cfg_attr(not(feature = "test-hooks"), expect(dead_code, reason = "the hooks turn it"))]
    clock: Arc<Clock>,
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops: no new connections, then the streams end, the writes in flight are answered, the relay is drained, and
    /// the aggregator leaves one tidy database file behind.
    ///
    /// # Errors
    /// The database could not be tidied up. What was answered is safe all the same.
    pub async fn stop(self) -> Result<(), StartError> {
        let stopped = self.server.stop(true);
        let hubs = std::mem::take(&mut *self.hubs.lock().expect("nobody panics while pushing to a list"));
        for hub in &hubs {
            hub.do_send(Goodbye);
        }
        stopped.await;
        log::info!("connections are closed");
        // An actor that is gone already has nothing left to do.
        let _ = self.relay.send(Drain).await;
        let closed = self.shared.aggregator.send(Close).await;
        for arbiter in self.arbiters {
            arbiter.stop();
            drop(arbiter.join());
        }
        self.database.release();
        log::info!("stopped");
        closed.unwrap_or(Ok(())).map_err(StartError::Store)
    }
}

/// Steps and faults for tests.
#[cfg(feature = "test-hooks")]
impl Running {
    /// From now on, nobody tells the relay of a commit.
    pub async fn lose_wake_ups(&self) {
        let _ = self.shared.aggregator.send(crate::aggregator::LoseWakeUps).await;
    }

    /// The next batch reaches no worker.
    pub async fn lose_batch(&self) {
        let _ = self.relay.send(crate::relay::LoseBatch).await;
    }

    /// Prunes as the relay does on its schedule.
    pub async fn prune(&self) {
        let retained = retention(&self.settings).at(self.clock.now());
        crate::relay::prune(&self.shared.aggregator, retained).await;
    }

    /// Moves the clock by this many milliseconds, back if negative.
    pub fn turn_clock(&self, milliseconds: i64) {
        self.clock.turn(milliseconds);
    }

    /// Streams that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.admission.count()
    }
}

/// The requests to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::Signal);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Waits for one, and says which it was.
    async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|context| {
            if self.terminate.poll_recv(context).is_ready() {
                return std::task::Poll::Ready("SIGTERM");
            }
            self.interrupt.poll_recv(context).map(|_| "SIGINT")
        })
        .await
    }
}

/// Ends a process that does not manage to stop. Everything that was answered is on disk.
fn watchdog() {
    std::thread::sleep(Duration::from_secs(15));
    log::error!("stopping took too long");
    std::process::exit(1);
}

/// Why a service does not start, or did not stop as it should.
#[derive(Debug)]
pub enum StartError {
    /// The registrations do not fit together.
    Registration(InvalidRegistration),
    /// The database.
    Store(StoreError),
    /// The address cannot be listened on.
    Listen(String, std::io::Error),
    /// Signals cannot be waited for.
    Signal(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registration(invalid) => write!(f, "the collections do not fit together: {invalid}"),
            Self::Store(error) => error.fmt(f),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Signal(error) => write!(f, "cannot wait for signals: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<InvalidRegistration> for StartError {
    fn from(invalid: InvalidRegistration) -> Self {
        Self::Registration(invalid)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
