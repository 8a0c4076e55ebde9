//! One generation of a projection: its sink and its checkpoint, which are written in the same transactions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable};
use diesel::sqlite::SqliteConnection;

use super::event_page::{EventId, PageEvent};
use super::manifest::Files;
use super::source_id::{SourceId, SourceKind};
use crate::read_model::csv_file::FileMark;
use crate::read_model::error::ProjectionError;
use crate::read_model::file_id::FileId;
use crate::read_model::projection::{Erased, Many};
use crate::read_model::sink::SinkHandle;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::connection::{open_read_only, open_sidecar};
use crate::storage::residue::overwrite_all;

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
        checksum -> Nullable<BigInt>,
        reached -> Nullable<BigInt>,
    }
}

/// One generation of a projection.
pub(super) struct Generation {
    pub(super) number: i64,
    pub(super) checkpoint: Checkpoint,
    sink: SinkHandle,
    /// The file of the database.
    tables: FileId,
}

/// How far a generation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) position: Position,
    /// The version of the projection that built the generation.
    pub(super) version: i64,
    /// What there is of the file, if the sink is one.
    pub(super) file: FileMark,
}

/// An offset in a source: all events up to and including it are applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) source: SourceId,
    pub(super) offset: i64,
    /// The data follow from nothing after this position of the journal, or this revision. It is stored because an offset
    /// in the history does not tell. `None` if an earlier version of this program wrote the checkpoint.
    pub(super) reached: Option<i64>,
}

/// An event that could not be applied, by its index in the page.
#[derive(Debug)]
pub(super) struct ApplyError {
    pub(super) index: usize,
    pub(super) error: ProjectionError,
    pub(super) remedy: Remedy,
}

/// What can be done about an event that could not be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Trying again.
    Retry,
    /// Another generation: this one has something of an aggregate that was erased.
    Rebuild,
}

/// How a transaction has applied events, and where it stopped.
struct Stop {
    way: Many,
    /// The index of the event. Not known if they were applied at once.
    index: usize,
    remedy: Remedy,
}

/// Events that are to be applied.
#[derive(Clone, Copy)]
pub(super) struct Events<'a> {
    pub(super) events: &'a [PageEvent],
    pub(super) skipped: &'a [EventId],
    /// This generation has nothing of what was erased up to this offset, or another one will be served that has not.
    pub(super) covered: i64,
}

impl Generation {
    /// Opens a generation, or creates it at the beginning of a source.
    pub(super) fn open(
        spec: &ProjectionSpec,
        files: &Files,
        number: i64,
        beginning: Position,
    ) -> Result<Self, ProjectionError> {
        let path = files.tables(number);
        let mut connection = open_sidecar(&path)?;
        let tables = FileId::of(&path)?;
        upgrade(&mut connection)?;
        let known = load(&mut connection)?;
        let is_new = known.is_none();
        let first = Checkpoint { position: beginning, version: spec.version, file: FileMark::default() };
        let mut checkpoint = known.unwrap_or(first);
        let mut sink = SinkHandle::open(spec.setup, connection, &files.output(number), checkpoint.file)?;
        // Nothing is pending: this is what was found, with its checksum.
        checkpoint.file = sink.write_out()?;
        let mut generation = Self { number, checkpoint, sink, tables };
        if is_new {
            generation.create(spec)?;
        }
        Ok(generation)
    }

    /// Fails if somebody else has removed, replaced or changed a file. The pages of the database are not read.
    pub(super) fn check(&mut self, files: &Files) -> Result<(), ProjectionError> {
        let path = files.tables(self.number);
        if !self.tables.is_at(&path) {
            return Err(ProjectionError::new(format!("{} was removed or replaced", path.display())));
        }
        self.sink.check(&files.output(self.number), self.checkpoint.file)
    }

    /// Fails if the database is damaged. Reads all of it through another connection, whose cache is empty.
    pub(super) fn check_pages(&mut self, files: &Files) -> Result<(), ProjectionError> {
        let path = files.tables(self.number);
        let checked = open_read_only(&path).map_err(ProjectionError::from).and_then(|mut connection| {
            let query = diesel::sql_query("SELECT quick_check AS text FROM pragma_quick_check LIMIT 1");
            Ok(query.get_result::<Text>(&mut connection)?.text)
        });
        match checked {
            Ok(text) if text != "ok" => Err(ProjectionError::new(format!("{} is damaged: {text}", path.display()))),
            Err(error) if error.is_damage() => {
                Err(ProjectionError::new(format!("{} is damaged: {error}", path.display())))
            }
            // What could not be read for another reason is not damaged.
            _ => Ok(()),
        }
    }

    fn create(&mut self, spec: &ProjectionSpec) -> Result<(), ProjectionError> {
        self.in_transaction(|generation| {
            generation.sink.set_up(spec.setup)?;
            generation.sink.connection().batch_execute(
                "CREATE TABLE checkpoint (id BIGINT NOT NULL PRIMARY KEY, log TEXT NOT NULL, version BIGINT NOT NULL, \
                 place BIGINT NOT NULL, length BIGINT NOT NULL, checksum BIGINT, reached BIGINT)",
            )?;
            generation.checkpoint.file = generation.sink.write_out()?;
            save_checkpoint(generation.sink.connection(), &generation.checkpoint)
        })
    }

    /// Applies events and moves the checkpoint to the position `to`, in one transaction.
    pub(super) fn apply(&mut self, spec: &ProjectionSpec, events: Events<'_>, to: &Position) -> Result<(), ApplyError> {
        let mut stop = Stop { way: Many::Applied, index: 0, remedy: Remedy::Retry };
        let mut outcome = self.apply_as(Many::Applied, spec, events, to, &mut stop);
        if outcome.is_err() && stop.way == Many::Applied {
            // Nothing of it is there. Which of them cannot be applied shows when they are applied one by one.
            outcome = self.apply_as(Many::OneByOne, spec, events, to, &mut stop);
        }
        outcome.map_err(|error| ApplyError { index: stop.index, error, remedy: stop.remedy })
    }

    /// The same, at once if the projection can do that, or one by one.
    fn apply_as(
        &mut self,
        way: Many,
        spec: &ProjectionSpec,
        events: Events<'_>,
        to: &Position,
        stop: &mut Stop,
    ) -> Result<(), ProjectionError> {
        let before = self.checkpoint.clone();
        let outcome = self.in_transaction(|generation| {
            if way == Many::OneByOne || generation.apply_at_once(spec, events)? == Many::OneByOne {
                generation.apply_each(spec, events, stop)?;
            }
            generation.checkpoint.file = generation.sink.write_out()?;
            generation.checkpoint.position = to.clone();
            save_checkpoint(generation.sink.connection(), &generation.checkpoint)
        });
        outcome.inspect_err(|_| self.checkpoint = before)
    }

    /// Applies events one by one, and notes where it stops.
    fn apply_each(
        &mut self,
        spec: &ProjectionSpec,
        Events { events, skipped, covered }: Events<'_>,
        stop: &mut Stop,
    ) -> Result<(), ProjectionError> {
        *stop = Stop { way: Many::OneByOne, index: 0, remedy: Remedy::Retry };
        for event in events {
            let source = &self.checkpoint.position.source;
            if event.is_erasure() {
                if event.sequence > covered && self.erase(spec, event)? == Erased::Rebuild {
                    stop.remedy = Remedy::Rebuild;
                    return Err(ProjectionError::new("it is rebuilt without what was erased"));
                }
            } else if !skipped.iter().any(|skipped| skipped.is_same(&event.id(source))) {
                self.apply_one(spec, event)?;
            }
            stop.index += 1;
        }
        stop.index = events.len().saturating_sub(1);
        Ok(())
    }

    /// Writes everything to the database file and syncs it.
    pub(super) fn checkpoint_wal(&mut self) -> Result<(), ProjectionError> {
        Ok(self.sink.connection().batch_execute("PRAGMA wal_checkpoint(FULL)")?)
    }

    /// Overwrites everything that was deleted, wherever it is in the files of the database: `false` if a reader prevents this
    /// for now.
    pub(super) fn overwrite_deleted(&mut self) -> Result<bool, ProjectionError> {
        overwrite_all(self.sink.connection())?;
        self.erase_deleted()
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

    /// Applies events at once, if the projection can do that, and if it is to apply all of them.
    fn apply_at_once(
        &mut self,
        spec: &ProjectionSpec,
        Events { events, skipped, .. }: Events<'_>,
    ) -> Result<Many, ProjectionError> {
        if !skipped.is_empty() || events.iter().any(PageEvent::is_erasure) {
            return Ok(Many::OneByOne);
        }
        let events: Vec<_> = events.iter().map(PageEvent::event).collect();
        let sink = &mut self.sink;
        catch_unwind(AssertUnwindSafe(|| spec.apply_many(sink.as_mut(), &events)))
            .unwrap_or_else(|_| Err(ProjectionError::new("it panicked, see the log")))
    }

    /// Removes an aggregate that was erased.
    fn erase(&mut self, spec: &ProjectionSpec, event: &PageEvent) -> Result<Erased, ProjectionError> {
        let sink = &mut self.sink;
        catch_unwind(AssertUnwindSafe(|| spec.erase(sink.as_mut(), &event.event())))
            .unwrap_or_else(|_| Err(ProjectionError::new("it panicked, see the log")))
    }

    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, ProjectionError>,
    ) -> Result<T, ProjectionError> {
        let file = self.checkpoint.file;
        AnsiTransactionManager::begin_transaction(self.sink.connection())?;
        match work(self) {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(self.sink.connection())?;
                Ok(value)
            }
            Err(error) => {
                self.sink.discard(file);
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

/// A row of a pragma with one column of text.
#[derive(QueryableByName)]
struct Text {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
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

/// The table of the checkpoint in a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TableForm {
    /// There is none: the process was killed before the generation was created.
    Missing,
    /// An earlier version of this program created it: without checksum and `reached`.
    Earlier,
    Current,
}

fn form(connection: &mut SqliteConnection) -> Result<TableForm, ProjectionError> {
    let query = diesel::sql_query("SELECT name AS text FROM pragma_table_info('checkpoint')");
    let columns: Vec<Text> = query.load(connection)?;
    Ok(match &*columns {
        [] => TableForm::Missing,
        columns if columns.iter().any(|column| column.text == "reached") => TableForm::Current,
        _ => TableForm::Earlier,
    })
}

/// Adds the columns that the table of an earlier version does not have.
fn upgrade(connection: &mut SqliteConnection) -> Result<(), ProjectionError> {
    if form(connection)? == TableForm::Earlier {
        connection.batch_execute(
            "BEGIN; ALTER TABLE checkpoint ADD COLUMN checksum BIGINT; \
             ALTER TABLE checkpoint ADD COLUMN reached BIGINT; COMMIT",
        )?;
    }
    Ok(())
}

#[derive(Queryable)]
struct Row {
    first: FirstColumns,
    added: AddedColumns,
}

/// The columns that every version of the table has.
#[derive(Queryable)]
struct FirstColumns {
    source: String,
    version: i64,
    offset: i64,
    length: i64,
}

/// The columns that were added to it.
#[derive(Queryable)]
struct AddedColumns {
    checksum: Option<i64>,
    reached: Option<i64>,
}

fn load(connection: &mut SqliteConnection) -> Result<Option<Checkpoint>, ProjectionError> {
    let columns = (checkpoint::source, checkpoint::version, checkpoint::offset, checkpoint::length);
    let row = match form(connection)? {
        TableForm::Missing => None,
        TableForm::Earlier => {
            let nothing = (None::<i64>.into_sql::<Nullable<BigInt>>(), None::<i64>.into_sql::<Nullable<BigInt>>());
            checkpoint::table.select((columns, nothing)).first::<Row>(connection).optional()?
        }
        TableForm::Current => {
            let added = (checkpoint::checksum, checkpoint::reached);
            checkpoint::table.select((columns, added)).first::<Row>(connection).optional()?
        }
    };
    row.map(Row::checkpoint).transpose()
}

impl Row {
    fn checkpoint(self) -> Result<Checkpoint, ProjectionError> {
        let FirstColumns { source, version, offset, length } = self.first;
        let AddedColumns { checksum, reached } = self.added;
        let source: SourceId =
            source.parse().map_err(|_| ProjectionError::new(format!("a checkpoint has the source {source:?}")))?;
        let reached = match source.kind {
            SourceKind::Journal | SourceKind::Changes => reached.or(Some(offset)),
            _ => reached,
        };
        let position = Position { source, offset, reached };
        let checksum = checksum.and_then(|checksum| u32::try_from(checksum).ok());
        Ok(Checkpoint { position, version, file: FileMark { length: length.unsigned_abs(), checksum } })
    }
}

fn save_checkpoint(connection: &mut SqliteConnection, now: &Checkpoint) -> Result<(), ProjectionError> {
    diesel::replace_into(checkpoint::table)
        .values((
            checkpoint::id.eq(1),
            checkpoint::source.eq(now.position.source.to_string()),
            checkpoint::version.eq(now.version),
            checkpoint::offset.eq(now.position.offset),
            checkpoint::length.eq(now.file.length.cast_signed()),
            checkpoint::checksum.eq(now.file.checksum.map(i64::from)),
            checkpoint::reached.eq(now.position.reached),
        ))
        .execute(connection)?;
    Ok(())
}
