//! One generation of a projection: its sink and its checkpoint, which are written in the same transactions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::event_page::{EventId, PageEvent};
use super::manifest::Files;
use crate::read_model::error::ProjectionError;
use crate::read_model::sink::SinkHandle;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::connection::open_sidecar;

diesel::table! {
    /// How far a generation is. One row.
    checkpoint (id) {
        id -> BigInt,
        #[sql_name = "log"]
        source -> Text,
        version -> BigInt,
        #[sql_name = "place"]
        offset -> BigInt,
        length -> BigInt,
    }
}

/// One generation of a projection.
pub(super) struct Generation {
    pub(super) number: i64,
    pub(super) checkpoint: Checkpoint,
    sink: SinkHandle,
}

/// How far a generation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) position: Position,
    /// The version of the projection that built the generation.
    pub(super) version: i64,
    /// The length of the file in bytes; 0 without one.
    pub(super) length: u64,
}

/// An offset in a source: all events up to and including it are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// The identity of the source.
    pub(super) source: String,
    pub(super) offset: i64,
}

/// An event that could not be applied, by its index in the page.
#[derive(Debug)]
pub(super) struct ApplyError {
    pub(super) index: usize,
    pub(super) error: ProjectionError,
}

impl Generation {
    /// Opens a generation, or creates it at the beginning of a source.
    pub(super) fn open(
        spec: &ProjectionSpec,
        files: &Files,
        number: i64,
        source: &str,
    ) -> Result<Self, ProjectionError> {
        let mut connection = open_sidecar(&files.tables(number))?;
        let known = load(&mut connection)?;
        let is_new = known.is_none();
        let beginning = Position { source: source.to_owned(), offset: 0 };
        let first = Checkpoint { position: beginning, version: spec.version, length: 0 };
        let checkpoint = known.unwrap_or(first);
        let sink = SinkHandle::open(spec.setup, connection, &files.output(number), checkpoint.length)?;
        let mut generation = Self { number, checkpoint, sink };
        if is_new {
            generation.create(spec)?;
        }
        Ok(generation)
    }

    fn create(&mut self, spec: &ProjectionSpec) -> Result<(), ProjectionError> {
        self.in_transaction(|generation| {
            generation.sink.set_up(spec.setup)?;
            generation.sink.connection().batch_execute(
                "CREATE TABLE checkpoint (id BIGINT NOT NULL PRIMARY KEY, log TEXT NOT NULL, version BIGINT NOT NULL, \
                 place BIGINT NOT NULL, length BIGINT NOT NULL)",
            )?;
            generation.checkpoint.length = generation.sink.write_out()?;
            save_checkpoint(generation.sink.connection(), &generation.checkpoint)
        })
    }

    /// Applies events and moves the checkpoint to the position `to`, in one transaction.
    pub(super) fn apply(
        &mut self,
        spec: &ProjectionSpec,
        events: &[PageEvent],
        skipped: &[EventId],
        to: Position,
    ) -> Result<(), ApplyError> {
        let mut index = 0;
        let before = self.checkpoint.clone();
        let outcome = self.in_transaction(|generation| {
            for event in events {
                if skipped.is_empty() || !skipped.contains(&event.id(&before.position.source)) {
                    generation.apply_one(spec, event)?;
                }
                index += 1;
            }
            index = events.len().saturating_sub(1);
            generation.checkpoint.length = generation.sink.write_out()?;
            generation.checkpoint.position = to;
            save_checkpoint(generation.sink.connection(), &generation.checkpoint)
        });
        outcome.map_err(|error| {
            self.checkpoint = before;
            ApplyError { index, error }
        })
    }

    /// Writes everything to the database file and syncs it.
    pub(super) fn checkpoint_wal(&mut self) -> Result<(), ProjectionError> {
        Ok(self.sink.connection().batch_execute("PRAGMA wal_checkpoint(FULL)")?)
    }

    /// Overwrites what was deleted or changed in all files of the database: `false` if a reader prevents this for now.
    pub(super) fn erase_deleted(&mut self) -> Result<bool, ProjectionError> {
        // Deleted content is zero already in the pages; earlier forms of the pages are in the write-ahead log.
        let outcome: WalCheckpoint =
            diesel::sql_query("PRAGMA wal_checkpoint(TRUNCATE)").get_result(self.sink.connection())?;
        Ok(outcome.busy == 0)
    }

    /// Applies one event. A panic of the projection is an error of the projection.
    fn apply_one(&mut self, spec: &ProjectionSpec, event: &PageEvent) -> Result<(), ProjectionError> {
        let sink = &mut self.sink;
        catch_unwind(AssertUnwindSafe(|| spec.apply(sink.as_mut(), &event.event())))
            .unwrap_or_else(|_| Err(ProjectionError::new("it panicked, see the log")))
    }

    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        let length = self.checkpoint.length;
        AnsiTransactionManager::begin_transaction(self.sink.connection())?;
        match work(self) {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(self.sink.connection())?;
                Ok(value)
            }
            Err(error) => {
                self.sink.discard(length);
                roll_back(self.sink.connection())?;
                Err(error)
            }
        }
    }
}

/// The result of `PRAGMA wal_checkpoint`.
#[derive(QueryableByName)]
struct WalCheckpoint {
    #[diesel(sql_type = diesel::sql_types::Integer)]
    busy: i32,
}

/// Reads the checkpoint of a generation.
pub(super) fn read_checkpoint(connection: &mut SqliteConnection) -> Result<Checkpoint, ProjectionError> {
    load(connection)?.ok_or_else(|| ProjectionError::new("the generation has no checkpoint"))
}

/// Rolls the transaction back, and those inside it that a panic left open.
fn roll_back(connection: &mut SqliteConnection) -> Result<(), ProjectionError> {
    while AnsiTransactionManager::transaction_manager_status_mut(connection).transaction_depth()?.is_some() {
        AnsiTransactionManager::rollback_transaction(connection)?;
    }
    Ok(())
}

fn load(connection: &mut SqliteConnection) -> Result<Option<Checkpoint>, ProjectionError> {
    let row: QueryResult<(String, i64, i64, i64)> = checkpoint::table
        .select((checkpoint::source, checkpoint::version, checkpoint::offset, checkpoint::length))
        .first(connection);
    match row {
        Ok((source, version, offset, length)) => {
            let position = Position { source, offset };
            Ok(Some(Checkpoint { position, version, length: length.unsigned_abs() }))
        }
        // The process was killed before the generation was created.
        Err(diesel::result::Error::NotFound) => Ok(None),
        Err(diesel::result::Error::DatabaseError(_, info)) if info.message().starts_with("no such table") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn save_checkpoint(connection: &mut SqliteConnection, now: &Checkpoint) -> Result<(), ProjectionError> {
    diesel::replace_into(checkpoint::table)
        .values((
            checkpoint::id.eq(1),
            checkpoint::source.eq(&now.position.source),
            checkpoint::version.eq(now.version),
            checkpoint::offset.eq(now.position.offset),
            checkpoint::length.eq(now.length.cast_signed()),
        ))
        .execute(connection)?;
    Ok(())
}
