//! What a `main` says: collections, projections and outputs, and what to do with them.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use actix::prelude::*;

use crate::domain::collection::{Derived, Document, EventSourced, Registry};
use crate::domain::error_chain::ErrorChain;
use crate::projector;
use crate::projector::registry::ProjectionSet;
use crate::publish::carrier::{Carrier, Output};
use crate::publish::outputs::Outputs;
use crate::read_model::projection::Projection;
use crate::read_model::sink::Tables;
use crate::read_model::spec::ProjectionSpec;
use crate::service::listeners::Listeners;
use crate::service::log_output;
use crate::service::program::{Beginning, Program};
use crate::service::progress::LogProgress;
use crate::service::running::{Running, StartError};
use crate::service::settings::{Settings, Task};
use crate::service::{cli, lives};
use crate::storage::database::{Database, FILES};
use crate::storage::verified::Verified;

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
    #[cfg(feature = "test-hooks")]
    clock: Option<Arc<std::sync::atomic::AtomicI64>>,
}

impl Service {
    /// A service without collections.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets a test say what time it is, in milliseconds since 1970.
    #[cfg(feature = "test-hooks")]
    #[must_use]
    pub fn with_clock(mut self, milliseconds: Arc<std::sync::atomic::AtomicI64>) -> Self {
        self.clock = Some(milliseconds);
        self
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
    /// thread that publishes, in its tokio runtime, and made again if the service goes on where its record was moved. For
    /// NATS JetStream there is the setting `--publish`; `examples/publish_mqtt.rs` has a carrier for a real broker, and
    /// [`Carrier`] the smallest one.
    #[must_use]
    pub fn publish<C: Carrier + 'static>(
        mut self,
        output: Output,
        carrier: impl Fn() -> C + Send + Sync + 'static,
    ) -> Self {
        self.outputs.add(output, move |_: &Database| carrier());
        self
    }

    /// Runs until SIGTERM or SIGINT; the whole of a `main`, the log included. If the database file is replaced meanwhile, it
    /// ends with exit code 1. If a record on a server was moved, such as to a promoted standby, the service starts again in
    /// this process, on the same listeners.
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
        let outcome = System::new().block_on(async { lives::live(self.into_program()?, settings).await });
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
        let program = self.into_program()?;
        settings.check()?;
        // Before anything is started that would have to be stopped. Who connects already waits a moment.
        let listeners = Listeners::bind(&settings)?;
        let observer = &LogProgress::new();
        program.start(settings, listeners, Beginning { observer, last_life: None }).await
    }

    fn into_program(self) -> Result<Program, StartError> {
        self.check()?;
        let program = Program::new(self.registry, self.projections, self.outputs);
        #[cfg(feature = "test-hooks")]
        let program = program.with_clock(self.clock);
        Ok(program)
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
        let observer = &LogProgress::new();
        self.into_program()?.open(settings, Beginning { observer, last_life: None })
    }
}
