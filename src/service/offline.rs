//! The files, while no service runs: what tasks work with then.

use std::sync::Arc;

use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::projector::registry::{ProjectionSet, Projections};
use crate::projector::runner::ProjectionRunner;
use crate::projector::status::{Mode, Status};
use crate::read_model::spec::ProjectionSpec;
use crate::service::task::TaskError;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::writer::{Writer, WriterConfig};

/// Works on the files while no service runs.
pub(super) struct Offline {
    database: Arc<Database>,
    pub(super) clock: Arc<Clock>,
    pub(super) writer: Writer,
    pub(super) inline: Arc<[ProjectionSpec]>,
    pub(super) background: Vec<ProjectionRunner>,
}

impl Offline {
    pub(super) fn open(database: Database, registry: Registry, projections: ProjectionSet) -> Result<Self, TaskError> {
        let (database, registry, clock) = (Arc::new(database), Arc::new(registry), Arc::new(Clock::default()));
        let context = Projections::context(&projections.background, &database, &registry, &clock);
        let inline: Arc<[ProjectionSpec]> = projections.inline.into();
        let writer = Writer::open(&database, WriterConfig::new(&registry, &inline), clock.now())?;
        let mut background = Vec::new();
        for spec in projections.background {
            let status = Status::new(spec.name, spec.version, Mode::Background);
            background.push(ProjectionRunner::new(context.clone(), spec, status));
        }
        Ok(Self { database, clock, writer, inline, background })
    }

    /// Closes the files.
    pub(super) fn close(self) -> Result<(), StoreError> {
        // The writer closes last, because only then its database is one file.
        let Self { database, writer, background, .. } = self;
        drop(background);
        let closed = writer.close();
        database.release();
        closed
    }
}
