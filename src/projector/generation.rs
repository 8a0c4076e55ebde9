//! One generation of a projection: its sink, and how far it is, in one transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::event_page::Item;
use super::manifest::Files;
use crate::read_model::projection::{Projection, ProjectionError, Sink};
use crate::storage::connection::open_sidecar;

diesel::table! {
    /// How far a generation is.
    checkpoint (id) {
        id -> BigInt,
        log -> Text,
        version -> BigInt,
        place -> BigInt,
        length -> BigInt,
    }
}

/// One generation of a projection.
pub(super) struct Generation<P: Projection> {
    pub(super) number: i64,
    pub(super) checkpoint: Checkpoint,
    sink: P::Sink,
}

/// What a generation has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The identity of the log whose places are counted.
    pub(super) log: String,
    /// The rule by which it was made.
    pub(super) version: i64,
    /// Everything up to here was taken.
    pub(super) place: i64,
    /// The bytes of its file that count.
    pub(super) length: u64,
}

/// An event that was not taken, and why.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) index: usize,
    pub(super) error: ProjectionError,
}

impl<P: Projection> Generation<P> {
    /// Opens a generation, or makes it.
    pub(super) fn open(files: &Files, number: i64, log: &str) -> Result<Self, ProjectionError> {
        let mut connection = open_sidecar(&files.tables(number))?;
        let known = load(&mut connection)?;
        let fresh = Checkpoint { log: log.to_owned(), version: P::VERSION, place: 0, length: 0 };
        let is_new = known.is_none();
        let checkpoint = known.unwrap_or(fresh);
        let sink = P::Sink::open(connection, &files.output(number), checkpoint.length)?;
        let mut generation = Self { number, checkpoint, sink };
        if is_new {
            generation.in_transaction(|generation| {
                generation.sink.set_up(P::SETUP)?;
                generation.sink.connection().batch_execute(
                    "CREATE TABLE checkpoint (id BIGINT NOT NULL PRIMARY KEY, log TEXT NOT NULL, version BIGINT NOT NULL, \
                     place BIGINT NOT NULL, length BIGINT NOT NULL)",
                )?;
                generation.checkpoint.length = generation.sink.write_out()?;
                save(generation.sink.connection(), &generation.checkpoint)
            })?;
        }
        Ok(generation)
    }

    /// Takes events, and remembers that it has everything up to a place: all of it, or nothing.
    pub(super) fn take(&mut self, items: &[Item], skipped: &[i64], to: i64) -> Result<(), Stopped> {
        let mut index = 0;
        let before = self.checkpoint.clone();
        let outcome = self.in_transaction(|generation| {
            for item in items {
                if !skipped.contains(&item.place) {
                    generation.apply(item)?;
                }
                index += 1;
            }
            index = items.len().saturating_sub(1);
            generation.checkpoint.length = generation.sink.write_out()?;
            #[cfg(feature = "test-hooks")]
            if generation.checkpoint.length != before.length {
                abort_if_told();
            }
            generation.checkpoint.place = to;
            save(generation.sink.connection(), &generation.checkpoint)
        });
        outcome.map_err(|error| {
            self.checkpoint = before;
            Stopped { index, error }
        })
    }

    /// Has all of it on disk, before it counts.
    pub(super) fn settle(&mut self) -> Result<(), ProjectionError> {
        Ok(self.sink.connection().batch_execute("PRAGMA wal_checkpoint(FULL)")?)
    }

    /// The projection's own code may panic: that is its failure, not ours.
    fn apply(&mut self, item: &Item) -> Result<(), ProjectionError> {
        let sink = &mut self.sink;
        catch_unwind(AssertUnwindSafe(|| P::apply(sink, &item.event())))
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

/// Ends the transaction, and those inside it that a panic has left open.
fn roll_back(connection: &mut SqliteConnection) -> Result<(), ProjectionError> {
    while AnsiTransactionManager::transaction_manager_status_mut(connection).transaction_depth()?.is_some() {
        AnsiTransactionManager::rollback_transaction(connection)?;
    }
    Ok(())
}

fn load(connection: &mut SqliteConnection) -> Result<Option<Checkpoint>, ProjectionError> {
    let row: QueryResult<(String, i64, i64, i64)> = checkpoint::table
        .select((checkpoint::log, checkpoint::version, checkpoint::place, checkpoint::length))
        .first(connection);
    match row {
        Ok((log, version, place, length)) => {
            Ok(Some(Checkpoint { log, version, place, length: length.unsigned_abs() }))
        }
        // It was killed before it was made.
        Err(diesel::result::Error::NotFound) => Ok(None),
        Err(diesel::result::Error::DatabaseError(_, info)) if info.message().starts_with("no such table") => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn save(connection: &mut SqliteConnection, now: &Checkpoint) -> Result<(), ProjectionError> {
    diesel::replace_into(checkpoint::table)
        .values((
            checkpoint::id.eq(1),
            checkpoint::log.eq(&now.log),
            checkpoint::version.eq(now.version),
            checkpoint::place.eq(now.place),
            checkpoint::length.eq(now.length.cast_signed()),
        ))
        .execute(connection)?;
    Ok(())
}

/// How many bytes of its file count, for who only reads a generation.
pub(crate) fn length(connection: &mut SqliteConnection) -> Result<u64, ProjectionError> {
    let checkpoint = load(connection)?.ok_or_else(|| ProjectionError::new("the generation has no checkpoint"))?;
    Ok(checkpoint.length)
}

/// Dies between a file and its checkpoint, if a test says so: `DUALITY_ABORT_AFTER_APPENDS=3`.
#[cfg(feature = "test-hooks")]
fn abort_if_told() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static APPENDS: AtomicU64 = AtomicU64::new(0);
    let told = std::env::var("DUALITY_ABORT_AFTER_APPENDS").ok().and_then(|number| number.parse::<u64>().ok());
    if told == Some(APPENDS.fetch_add(1, Ordering::Relaxed) + 1) {
        std::process::abort();
    }
}
