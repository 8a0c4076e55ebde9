//! The only writer of the main database, which belongs to the aggregator.

use std::sync::Arc;

use diesel::sqlite::SqliteConnection;

use super::commit::{self, Committed};
use super::connection::{self, Database};
use super::counters::{self, Counters};
use super::error::StoreError;
use super::page::Progress;
use super::{aggregates, inline_projections, journal, outbox, registration};
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::command::Command;
use crate::domain::revision::{Epoch, JournalPosition, Revision};
use crate::read_model::spec::ProjectionSpec;

/// The only writer of the main database.
pub(crate) struct Writer {
    connection: SqliteConnection,
    registry: Arc<Registry>,
    inline: Arc<[ProjectionSpec]>,
    epoch: Epoch,
    /// What the database's counter row says; the next batch counts on from here.
    counters: Counters,
}

impl Writer {
    /// Opens the database, brings its tables up to date, and writes what a new registration changes.
    pub(crate) fn open(
        database: &Database,
        registry: Arc<Registry>,
        inline: Arc<[ProjectionSpec]>,
        now: Timestamp,
        epoch_mode: EpochMode,
    ) -> Result<Self, StoreError> {
        let mut connection = database.connect_for_writing(connection::Mode::Create)?;
        connection::migrate(&mut connection)?;
        registration::register(&mut connection, &registry, &inline, now)?;
        if epoch_mode == EpochMode::Renew {
            counters::begin_epoch(&mut connection)?;
        }
        let position = journal::current(&mut connection)?;
        let (epoch, counters) = counters::load(&mut connection, &registry, position)?;
        Ok(Self { connection, registry, inline, epoch, counters })
    }

    /// Opens the database again after a failure. It must be the same one, and have everything that was answered.
    pub(crate) fn reopen(
        database: &Database,
        registry: Arc<Registry>,
        inline: Arc<[ProjectionSpec]>,
        epoch: &Epoch,
        committed: Revision,
    ) -> Result<Self, StoreError> {
        let mut connection = database.connect_for_writing(connection::Mode::Existing)?;
        let position = journal::current(&mut connection)?;
        let (found, counters) = counters::load(&mut connection, &registry, position)?;
        if found != *epoch || counters.revision < committed {
            return Err(StoreError::Open(format!("{} was replaced by another database", database.path().display())));
        }
        Ok(Self { connection, registry, inline, epoch: found, counters })
    }

    pub(crate) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    pub(crate) fn revision(&self) -> Revision {
        self.counters.revision
    }

    pub(crate) fn position(&self) -> JournalPosition {
        self.counters.position
    }

    /// For each collection, the revision of its last change.
    pub(crate) fn changed(&self) -> Vec<Revision> {
        self.counters.changed().collect()
    }

    /// Does the commands in order, in one transaction; each has its own answer. On an error none is done.
    pub(crate) fn commit(&mut self, commands: Vec<Command>, now: Timestamp) -> Result<Committed, StoreError> {
        let (committed, counters) =
            commit::commit(&mut self.connection, (&self.registry, &self.inline), &self.counters, commands, now)?;
        self.counters = counters;
        Ok(committed)
    }

    /// Removes change events and tombstones that are not retained, oldest first, a bounded number of them.
    pub(crate) fn prune(&mut self, retained: Retained) -> Result<Progress, StoreError> {
        match outbox::prune(&mut self.connection, retained.events, retained.keep)? {
            Progress::More => Ok(Progress::More),
            Progress::Done => aggregates::forget(&mut self.connection, retained.tombstones),
        }
    }

    /// Builds an inline projection anew, in one transaction.
    pub(crate) fn rebuild(&mut self, name: &str, now: Timestamp) -> Result<(), StoreError> {
        let Some(projection) = self.inline.iter().find(|projection| projection.name == name) else { return Ok(()) };
        let registry = &self.registry;
        self.connection
            .immediate_transaction(|connection| inline_projections::build(connection, registry, projection, now))
    }

    /// Leaves one tidy file behind.
    pub(crate) fn close(mut self) -> Result<(), StoreError> {
        connection::tidy(&mut self.connection)
    }
}

/// Whether a database goes on, or begins a life of its own because it is a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EpochMode {
    Keep,
    Renew,
}

/// What is retained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retained {
    /// Change events since then …
    pub(crate) events: Timestamp,
    /// … but no more than those of the last so many revisions.
    pub(crate) keep: Option<i64>,
    /// Tombstones since then.
    pub(crate) tombstones: Timestamp,
}
