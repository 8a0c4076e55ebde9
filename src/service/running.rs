//! A running service: typed commands and reads, and the order in which everything stops.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::{rt, web};

use crate::access::token_file::TokenFileError;
use crate::delivery::hub::Shutdown;
use crate::delivery::relay::{Drain, Relay, Retention};
use crate::domain::clock::Clock;
use crate::domain::collection::{EventSourced, InvalidRegistration, handle};
use crate::domain::command::{Command, Oversize, Rejection};
use crate::domain::error_chain::ErrorChain;
use crate::domain::json::ValidationError;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::http::server::Hubs;
use crate::http::shared::Shared;
use crate::read::pool::{FoldAggregate, ReadAggregate};
use crate::read_model::error::ProjectionError;
#[cfg(feature = "tls")]
use crate::service::certificate_watch::CertificateWatch;
use crate::service::control::ControlSocket;
use crate::service::memory_limits::InvalidMemory;
use crate::service::settings::{InvalidSetting, Settings};
use crate::storage::database::{Database, LastLife, Writers};
use crate::storage::error::StoreError;
use crate::write::aggregator::{ExecuteError, Submission, execute};
use crate::write::maintenance::Close;
use crate::write::refusal::Refusal;

/// A running service. It runs until [`Running::stop`].
pub struct Running {
    pub(super) addresses: Vec<SocketAddr>,
    /// None without HTTP.
    pub(super) servers: Vec<ServerHandle>,
    pub(super) hubs: Hubs,
    pub(super) relay: Addr<Relay>,
    pub(super) shared: web::Data<Shared>,
    pub(super) database: Arc<Database>,
    /// `None` for a private database, or if the socket cannot be created.
    pub(super) control: Option<ControlSocket>,
    /// `None` without TLS.
    #[cfg(feature = "tls")]
    pub(super) certificate: Option<CertificateWatch>,
    /// The thread of the aggregator.
    pub(super) writing: Arbiter,
    /// The threads of the relay and of the projections.
    pub(super) reading: Vec<Arbiter>,
    /// Cuts the streams when the database file was replaced. `None` without HTTP.
    pub(super) cutting: Option<rt::task::JoinHandle<()>>,
    /// Reads the file of the tokens again. `None` without one, or without HTTP.
    pub(super) reloading: Option<rt::task::JoinHandle<()>>,
    pub(super) settings: Settings,
    #[cfg_attr(not(feature = "test-hooks"), expect(dead_code, reason = "only the hooks change it"))]
    pub(super) clock: Arc<Clock>,
}

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome<T> {
    /// The identity of the aggregate.
    pub key: Key,
    /// The aggregate after the command. `None` if it does not exist any more.
    pub state: Option<T>,
    /// The number of its domain events.
    pub version: i64,
    /// The first revision of the document that has this state.
    pub revision: i64,
}

impl Running {
    /// The addresses on which the service listens: that for clients, and that for operators if they have one. Empty without
    /// HTTP.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Creates an event-sourced aggregate with a key that the service chooses, and returns when it is on disk.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn open<T: EventSourced>(&self, command: T::Command) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.command(None, command, Metadata::new()).await
    }

    /// Executes a command of an event-sourced aggregate, and returns when it is on disk. It has the same effect as over
    /// HTTP.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn execute<T: EventSourced>(
        &self,
        key: &Key,
        command: T::Command,
    ) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.command(Some(key.clone()), command, Metadata::new()).await
    }

    /// The commands that are executed through the returned value have this metadata. Without it, each command has a
    /// correlation of its own.
    #[must_use]
    pub fn with_metadata(&self, metadata: Metadata) -> WithMetadata<'_> {
        WithMetadata { running: self, metadata }
    }

    async fn command<T: EventSourced>(
        &self,
        key: Option<Key>,
        command: T::Command,
        metadata: Metadata,
    ) -> Result<Outcome<T>, CommandError<T::Error>> {
        let collection = self.collection::<T>().ok_or(CommandError::NotRegistered(T::NAME))?;
        let change = handle::<T>(command).map_err(CommandError::Encoding)?;
        let command =
            Command { collection, key, precondition: Precondition::default(), idempotency: None, change, metadata };
        let submission =
            Submission { command, replies: None, waiting: self.shared.writes.wait(0), in_flight: None, charge: None };
        let written = execute(&self.shared.aggregator, submission).await.map_err(CommandError::of)?;
        let state = written.body.map(|body| body.decode()).transpose();
        let state = state.map_err(|corrupt| CommandError::Corrupt(corrupt.to_string()))?;
        let version = written.version.number();
        Ok(Outcome { key: written.key, state, version, revision: written.revision.number() })
    }

    /// The current state of an aggregate. `None` if it does not exist.
    ///
    /// # Errors
    /// The type is not registered, or the database cannot be read.
    pub async fn load<T: EventSourced>(&self, key: &Key) -> Result<Option<T>, ReadError> {
        let collection = self.collection::<T>().ok_or(ReadError::NotRegistered(T::NAME))?;
        let read = ReadAggregate { collection, key: key.clone() };
        let (_, row) = self.shared.readers.send(read).await.map_err(|_| ReadError::Stopped)??;
        let body = row.and_then(|row| row.body);
        Ok(body.map(|body| body.decode()).transpose().map_err(StoreError::from)?)
    }

    /// The state of an aggregate that follows from its events in the journal, and the number of these events. The state
    /// is `None` if the aggregate does not exist.
    ///
    /// # Errors
    /// The type is not registered, the database cannot be read, or an event cannot be read. The error then names the
    /// event's position, kind and version.
    pub async fn rehydrate<T: EventSourced>(&self, key: &Key) -> Result<(Option<T>, i64), ReadError> {
        let collection = self.collection::<T>().ok_or(ReadError::NotRegistered(T::NAME))?;
        let fold = FoldAggregate { collection, key: key.clone(), up_to: None };
        let (_, folded) = self.shared.readers.send(fold).await.map_err(|_| ReadError::Stopped)??;
        let state = folded.body.map(|body| body.decode()).transpose().map_err(StoreError::from)?;
        Ok((state, folded.version.number()))
    }

    fn collection<T: EventSourced>(&self) -> Option<CollectionId> {
        self.shared.registry.id(T::NAME)
    }

    /// Waits until the database file has been replaced under the running service: removed, overwritten, truncated, or
    /// exchanged for another one; or until the record on a server is found in another place, such as on a promoted standby, or
    /// in another epoch. From then on nothing succeeds, so that the caller should stop the service, and may start it again. The
    /// log has the cause. [`Service::run`](crate::Service::run) does so by itself. Usually this never happens.
    pub async fn replaced(&self) {
        self.database.health().wait_until_replaced().await;
    }

    /// Whether the record can be moved, so that a service can go on with it: it is on a server.
    pub(super) fn may_move(&self) -> bool {
        self.database.writers() == Writers::Many
    }

    /// What this life knows of its record.
    pub(super) fn last_life(&self) -> LastLife {
        LastLife { epoch: self.database.history().epoch().clone(), revision: self.shared.committed.get() }
    }

    /// Reads again what is read from files that may change while the service runs: the certificate with its private key, and the
    /// tokens. What cannot be read stays as it was, and the log and `/healthz` say so. The service looks for changes by itself
    /// as well.
    pub fn reload(&self) {
        #[cfg(feature = "tls")]
        self.certificate.iter().for_each(CertificateWatch::reload);
        if let Some(tokens) = &self.shared.tokens {
            tokens.reload();
        }
    }

    /// Stops the service: it accepts no more connections, cuts the streams, answers the commands in flight, drains the
    /// relay, and leaves all data in one file.
    ///
    /// # Errors
    /// The write-ahead log could not be moved into the database file. All answered commands are on disk nevertheless. Or
    /// the database file was replaced, and nothing is changed any more.
    pub async fn stop(self) -> Result<(), StoreError> {
        self.database.health().stop();
        let stopped: Vec<_> = self.servers.iter().map(|server| server.stop(true)).collect();
        cut_streams(&self.hubs, &self.shared);
        for task in self.cutting.iter().chain(&self.reloading) {
            task.abort();
        }
        for stopped in stopped {
            stopped.await;
            log::info!("connections are closed");
        }
        // An actor that has already stopped has nothing left to do.
        let _ = self.relay.send(Drain).await;
        if let Some(control) = self.control {
            control.close();
        }
        self.reading.into_iter().for_each(end);
        self.shared.readers.stop();
        self.shared.scanners.stop();
        // Last, because only the last connection to a database removes its write-ahead log, and only if it may write.
        let closed = self.shared.aggregator.send(Close).await;
        end(self.writing);
        self.database.release();
        log::info!("stopped");
        closed.unwrap_or(Ok(()))
    }
}

/// A running service, and the metadata of the commands that it gets. See [`Running::with_metadata`].
pub struct WithMetadata<'a> {
    running: &'a Running,
    metadata: Metadata,
}

impl WithMetadata<'_> {
    /// See [`Running::open`].
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn open<T: EventSourced>(&self, command: T::Command) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.running.command(None, command, self.metadata.clone()).await
    }

    /// See [`Running::execute`].
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn execute<T: EventSourced>(
        &self,
        key: &Key,
        command: T::Command,
    ) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.running.command(Some(key.clone()), command, self.metadata.clone()).await
    }
}

/// Ends all streams, and lets none begin.
pub(super) fn cut_streams(hubs: &Hubs, shared: &Shared) {
    for hub in hubs.lock().expect("no thread panics while it holds this lock").iter() {
        hub.do_send(Shutdown);
    }
    shared.journal.send_modify(|mark| mark.is_over = true);
}

/// Stops a thread with its actors, and waits for its end.
fn end(thread: Arbiter) {
    thread.stop();
    // A thread that panicked has ended, too.
    let _ = thread.join();
}

/// Steps and faults for tests.
#[cfg(feature = "test-hooks")]
impl Running {
    /// From now on, the aggregator does not notify the relay of commits.
    pub async fn lose_wake_ups(&self) {
        let _ = self.shared.aggregator.send(crate::write::maintenance::LoseWakeUps).await;
    }

    /// No command is executed until the return value is dropped.
    #[must_use]
    pub fn hold_writes(&self) -> std::sync::mpsc::Sender<()> {
        let (holding, released) = std::sync::mpsc::channel();
        self.shared.aggregator.do_send(crate::write::maintenance::HoldWrites(released));
        holding
    }

    /// The relay does not hand the next batch to the workers.
    pub async fn lose_batch(&self) {
        let _ = self.relay.send(crate::delivery::relay::LoseBatch).await;
    }

    /// Prunes as the relay does on its schedule.
    pub async fn prune(&self) {
        let retained = retention(&self.settings).at(self.clock.now());
        crate::delivery::relay::prune(&self.shared.aggregator, retained).await;
    }

    /// Moves the clock by this many milliseconds, backwards if negative.
    pub fn turn_clock(&self, milliseconds: i64) {
        self.clock.turn(milliseconds);
    }

    /// The number of bytes that count against `--shared-bodies`.
    #[must_use]
    pub fn shared_body_bytes(&self) -> usize {
        self.shared.memory.of(crate::memory::ledger::Usage::SharedBodies).used()
    }

    /// The bytes that wait in the service for the clients of all streams.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.memory.of(crate::memory::ledger::Usage::Streams).used()
    }

    /// The number of session actors that run: one for each SSE client of a feed.
    #[must_use]
    pub fn session_actors(&self) -> usize {
        self.shared.sessions.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The number of open streams.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.stream_limiter.count()
    }
}

pub(super) fn retention(settings: &Settings) -> Retention {
    Retention {
        events: settings.retention,
        keep: settings.retention_events,
        tombstones: settings.tombstone_retention,
        answers: settings.idempotency_retention,
    }
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The command violates a business rule.
    #[error(transparent)]
    Rejected(E),
    /// No aggregate has this key.
    #[error("there is no such aggregate")]
    NotFound,
    /// The aggregate was erased, so that its key is never used again.
    #[error("the aggregate was erased, and its key is never used again")]
    Erased,
    /// The collection does not allow this key for a new aggregate.
    #[error(transparent)]
    Invalid(ValidationError),
    /// The state after the command would be larger than [`Settings::max_aggregate`]. The command was not executed.
    #[error("the state would have {size} bytes, more than the limit of {limit} bytes")]
    TooLarge {
        /// In bytes of JSON text.
        size: usize,
        /// In bytes of JSON text.
        limit: usize,
    },
    /// The command was not executed, for a reason that has nothing to do with it. The same command may succeed later.
    #[error("nothing was done: {0}")]
    NotDone(Refusal),
    /// The type is not registered with the service.
    #[error("{0} is not registered")]
    NotRegistered(&'static str),
    /// The command cannot be serialized. It was not executed.
    #[error("the command cannot be serialized")]
    Encoding(#[source] serde_json::Error),
    /// The aggregate or one of its events cannot be read, or an inline projection rejected the change. Unless the
    /// state after the command cannot be read, the command was not executed.
    #[error("{0}")]
    Corrupt(String),
    /// The aggregate's own code panicked. The command was not executed. The panic is in the log.
    #[error("the code of the aggregate panicked")]
    Panicked,
    /// The commit failed, or went into a file that was replaced. The cause is in the log.
    #[error("it is unknown whether the command was executed; the log has the cause")]
    Unknown,
}

impl<E: 'static> CommandError<E> {
    fn of(error: ExecuteError) -> Self {
        match error {
            ExecuteError::Rejected(Rejection::RuleBroken(broken)) => {
                broken.into_any().downcast().map_or(Self::Unknown, |broken| Self::Rejected(*broken))
            }
            ExecuteError::Rejected(Rejection::NotFound | Rejection::Derived) => Self::NotFound,
            ExecuteError::Rejected(Rejection::Erased) => Self::Erased,
            ExecuteError::Rejected(Rejection::Invalid(invalid)) => Self::Invalid(invalid),
            ExecuteError::Rejected(Rejection::TooLarge(Oversize { size, limit, .. })) => Self::TooLarge { size, limit },
            ExecuteError::Rejected(Rejection::Corrupt(corrupt)) => Self::Corrupt(corrupt.to_string()),
            ExecuteError::Rejected(Rejection::Panicked) => Self::Panicked,
            // Typed commands have no precondition and no idempotency key, so only the last of these happens.
            ExecuteError::Rejected(
                Rejection::PreconditionFailed(_)
                | Rejection::Kept(_)
                | Rejection::KeyReused
                | Rejection::AnswersFull(_)
                | Rejection::AnswerErased,
            )
            | ExecuteError::Unknown => Self::Unknown,
            ExecuteError::NotDone(refusal) => Self::NotDone(refusal),
        }
    }
}

/// Why an aggregate cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The type is not registered with the service.
    #[error("{0} is not registered")]
    NotRegistered(&'static str),
    /// The service has stopped.
    #[error("the service has stopped")]
    Stopped,
    /// The database cannot be read, or has unexpected data.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The registrations do not fit together.
    #[error("the collections do not fit together: {0}")]
    Registration(InvalidRegistration),
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(InvalidSetting),
    /// The parts of the memory do not fit into it.
    #[error("{0}")]
    Memory(String),
    /// The limit of file descriptors is too low for the number of threads.
    #[error("{0}")]
    Descriptors(String),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another program listens on the address.
    #[error("cannot listen on {address}: another program does; stop that one, or use another port: {setting} {other}")]
    AddressInUse {
        /// The setting that has the address.
        setting: &'static str,
        /// The address as it is in the settings.
        address: String,
        /// The same with the next port that is free.
        other: String,
    },
    /// Other machines can reach the address, and nothing says who may do what.
    #[error(
        "{address} can be reached from other machines, and nothing says who may do what: give clients tokens (--tokens \
         FILE, made by `duality token new`), or let everybody read and write everything (--insecure)"
    )]
    Exposed {
        /// The address as it is in the settings.
        address: String,
    },
    /// The service cannot listen on its address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address as it is in the settings.
        address: String,
        /// What the operating system reports.
        source: std::io::Error,
    },
    /// A projection cannot start.
    #[error("cannot start a projection: {0}")]
    Projection(ProjectionError),
    /// The operating system does not start a thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Temporary files cannot be written where the settings say.
    #[error("--spool (DUALITY_SPOOL): temporary files cannot be written into {}", directory.display())]
    Spool {
        /// The directory as it is in the settings.
        directory: PathBuf,
        /// What the operating system reports.
        source: std::io::Error,
    },
    /// The file of `--tokens` cannot be used.
    #[error("{0}")]
    Tokens(String),
    /// The certificate, or what TLS needs besides, cannot be had.
    #[error("cannot begin with TLS: {0}")]
    Certificate(String),
    /// The process cannot handle signals.
    #[error("cannot handle signals")]
    Signal(#[source] std::io::Error),
}

impl StartError {
    pub(super) fn of_tokens(error: &TokenFileError) -> Self {
        Self::Tokens(ErrorChain(error).to_string())
    }
}

impl From<InvalidMemory> for StartError {
    fn from(invalid: InvalidMemory) -> Self {
        Self::Memory(invalid.to_string())
    }
}

impl From<InvalidRegistration> for StartError {
    fn from(invalid: InvalidRegistration) -> Self {
        Self::Registration(invalid)
    }
}

impl From<InvalidSetting> for StartError {
    fn from(invalid: InvalidSetting) -> Self {
        Self::Setting(invalid)
    }
}

impl From<ProjectionError> for StartError {
    fn from(error: ProjectionError) -> Self {
        Self::Projection(error)
    }
}
