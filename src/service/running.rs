//! A service that runs: commands by their types, and the order in which everything stops.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::web;

use crate::delivery::hub::Shutdown;
use crate::delivery::relay::{Drain, Relay, Retention};
use crate::domain::clock::Clock;
use crate::domain::collection::{EventSourced, InvalidRegistration, handle};
use crate::domain::command::{Command, Rejection};
use crate::domain::json::ValidationError;
use crate::domain::key::{CollectionId, Key};
use crate::domain::precondition::Precondition;
use crate::http::server::Hubs;
use crate::http::shared::Shared;
use crate::read::pool::{FoldAggregate, ReadAggregates};
use crate::read_model::error::ProjectionError;
use crate::service::settings::Settings;
use crate::storage::connection::Database;
use crate::storage::error::StoreError;
use crate::write::aggregator::{Close, ExecuteError, execute};

/// A service that runs.
pub struct Running {
    pub(crate) addresses: Vec<SocketAddr>,
    /// `None` for one without HTTP.
    pub(crate) server: Option<ServerHandle>,
    pub(crate) hubs: Hubs,
    pub(crate) relay: Addr<Relay>,
    pub(crate) shared: web::Data<Shared>,
    pub(crate) database: Arc<Database>,
    pub(crate) arbiters: Vec<Arbiter>,
    pub(crate) settings: Settings,
    #[cfg_attr(not(feature = "test-hooks"), expect(dead_code, reason = "the hooks turn it"))]
    pub(crate) clock: Arc<Clock>,
}

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<T> {
    /// The identity of the aggregate.
    pub key: Key,
    /// The aggregate after the command; `None` when it is gone.
    pub state: Option<T>,
    /// The number of its domain events.
    pub version: i64,
    /// The revision of the document that shows it.
    pub revision: i64,
}

/// Why a command has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<E> {
    /// It would have broken a rule of the business.
    #[error(transparent)]
    Rejected(E),
    /// There is no aggregate with this key.
    #[error("there is no such aggregate")]
    NotFound,
    /// The key is none of this collection.
    #[error("{0}")]
    Invalid(#[source] ValidationError),
    /// Too many commands wait already; it was not taken.
    #[error("too many commands wait; this one was not taken")]
    Busy,
    /// Something failed; the log says what. Unless it was there before, whether the command was done is unknown.
    #[error("{0}")]
    Failed(String),
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Opens an event-sourced aggregate under a key that the service gives, and returns when it is on disk.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn open<T: EventSourced>(&self, command: T::Command) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.command(None, command).await
    }

    /// Does a command of an event-sourced aggregate, and returns when it is on disk; the same as over HTTP.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn execute<T: EventSourced>(
        &self,
        key: &Key,
        command: T::Command,
    ) -> Result<Outcome<T>, CommandError<T::Error>> {
        self.command(Some(key.clone()), command).await
    }

    async fn command<T: EventSourced>(
        &self,
        key: Option<Key>,
        command: T::Command,
    ) -> Result<Outcome<T>, CommandError<T::Error>> {
        let collection = self.collection::<T>().map_err(|error| CommandError::Failed(error.to_string()))?;
        let change = handle::<T>(command).map_err(|error| CommandError::Failed(error.to_string()))?;
        let command = Command { collection, key, precondition: Precondition::default(), change };
        let written = execute(&self.shared.aggregator, None, command).await.map_err(CommandError::of)?;
        let state = written.body.map(|body| body.decode()).transpose();
        let state = state.map_err(|corrupt| CommandError::Failed(corrupt.to_string()))?;
        let (version, revision) = (written.version.number(), written.revision.number());
        Ok(Outcome { key: written.key, state, version, revision })
    }

    /// An aggregate as its events say, read from the journal, and the number of them; `None` where there is none.
    ///
    /// # Errors
    /// The type is not registered, or an event cannot be read: then its position, kind and version are named.
    pub async fn rehydrate<T: EventSourced>(&self, key: &Key) -> Result<(Option<T>, i64), StartError> {
        let fold = FoldAggregate { collection: self.collection::<T>()?, key: key.clone(), up_to: None };
        let (_, folded) = self.shared.readers.send(fold).await.map_err(stopped)??;
        let state = folded.body.map(|body| body.decode()).transpose().map_err(StoreError::from)?;
        Ok((state, folded.version.number()))
    }

    /// An aggregate as it is now; `None` where there is none.
    ///
    /// # Errors
    /// The type is not registered, or the database cannot be read.
    pub async fn load<T: EventSourced>(&self, key: &Key) -> Result<Option<T>, StartError> {
        let read = ReadAggregates { collection: self.collection::<T>()?, keys: vec![key.clone()] };
        let (_, mut rows) = self.shared.readers.send(read).await.map_err(stopped)??;
        let body = rows.pop().and_then(|(_, row)| row.body);
        body.map(|body| body.decode()).transpose().map_err(|corrupt| StoreError::from(corrupt).into())
    }

    fn collection<T: EventSourced>(&self) -> Result<CollectionId, StoreError> {
        let id = self.shared.registry.id(T::NAME);
        id.ok_or_else(|| StoreError::Open(format!("{} is not registered", T::NAME)))
    }

    /// Stops: no new connections, then the streams end, the writes in flight are answered, the relay is drained, and
    /// the aggregator leaves one tidy database file behind.
    ///
    /// # Errors
    /// The database could not be tidied up. What was answered is safe all the same.
    pub async fn stop(self) -> Result<(), StartError> {
        let stopped = self.server.as_ref().map(|server| server.stop(true));
        let hubs = std::mem::take(&mut *self.hubs.lock().expect("nobody panics while pushing to a list"));
        for hub in &hubs {
            hub.do_send(Shutdown);
        }
        self.shared.journal.send_modify(|mark| mark.is_over = true);
        if let Some(stopped) = stopped {
            stopped.await;
            log::info!("connections are closed");
        }
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
        let _ = self.shared.aggregator.send(crate::write::aggregator::LoseWakeUps).await;
    }

    /// The next batch reaches no worker.
    pub async fn lose_batch(&self) {
        let _ = self.relay.send(crate::delivery::relay::LoseBatch).await;
    }

    /// Prunes as the relay does on its schedule.
    pub async fn prune(&self) {
        let retained = retention(&self.settings).at(self.clock.now());
        crate::delivery::relay::prune(&self.shared.aggregator, retained).await;
    }

    /// Moves the clock by this many milliseconds, back if negative.
    pub fn turn_clock(&self, milliseconds: i64) {
        self.clock.turn(milliseconds);
    }

    /// The number of session actors that run: one for each SSE client of a feed.
    #[must_use]
    pub fn session_actors(&self) -> usize {
        self.shared.sessions.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Streams that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.stream_limiter.count()
    }
}

fn stopped(error: MailboxError) -> StoreError {
    StoreError::Open(format!("the service has stopped: {error}"))
}

/// How long what is kept.
pub(crate) fn retention(settings: &Settings) -> Retention {
    Retention { events: settings.retention, keep: settings.retention_events, tombstones: settings.tombstone_retention }
}

impl<E: 'static> CommandError<E> {
    fn of(error: ExecuteError) -> Self {
        let failed = || Self::Failed("whether the command was done is unknown; the log says why".to_owned());
        match error {
            ExecuteError::Rejected(Rejection::RuleBroken(broken)) => {
                broken.into_any().downcast().map_or_else(|_| failed(), |broken| Self::Rejected(*broken))
            }
            ExecuteError::Rejected(Rejection::NotFound) => Self::NotFound,
            ExecuteError::Rejected(Rejection::Invalid(invalid)) => Self::Invalid(invalid),
            ExecuteError::Rejected(Rejection::Corrupt(corrupt)) => Self::Failed(corrupt.to_string()),
            ExecuteError::Rejected(Rejection::Panicked) => Self::Failed("its own code panicked".to_owned()),
            // Nothing was expected.
            ExecuteError::Rejected(Rejection::PreconditionFailed(_)) | ExecuteError::Failed => failed(),
            ExecuteError::Busy => Self::Busy,
        }
    }
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
    /// A projection cannot be kept.
    Projection(ProjectionError),
    /// Signals cannot be waited for.
    Signal(std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registration(invalid) => write!(f, "the collections do not fit together: {invalid}"),
            Self::Store(error) => error.fmt(f),
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Projection(error) => write!(f, "a projection cannot be kept: {error}"),
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

impl From<ProjectionError> for StartError {
    fn from(error: ProjectionError) -> Self {
        Self::Projection(error)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
