//! The steps of erasures, after the transaction that has begun them: each is one transaction, or the end of the log.

use super::counters::Counters;
use super::engine::AnyConnection;
use super::erasure::{self, Erasure, Stage};
use super::error::StoreError;
use super::maintained::Maintained;
use super::page::Progress;
use super::record::Record;
use super::residue::{Overwritten, overwrite_some};
use super::transaction::WriteError;
use super::vacuum;
use super::{inline_projections, journal};
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::key::Key;
use crate::read_model::spec::ProjectionSpec;

/// What a step has come to.
#[derive(Debug)]
pub(crate) enum ErasingStep {
    /// There is nothing to do.
    Nothing,
    /// There is more to do.
    More,
    /// A reader needs what is to be overwritten, for now.
    Hindered,
    /// Only the file is left, which is left alone for now.
    Postponed,
    /// The file cannot be written again, for this reason.
    NoRoom(String),
    /// Nothing is left of these aggregates in the database.
    Finished(Vec<Erasure>),
}

/// What a step may work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Everything,
    /// Rows only, because something has failed with the file a short time ago.
    Rows,
}

/// The erasures that are finished together, and how far the file is.
#[derive(Default)]
pub(super) struct Erasing {
    pass: Option<Pass>,
}

struct Pass {
    erasures: Vec<Erasure>,
    file: FileStage,
}

/// What is to be done with the file.
#[derive(Clone, Copy)]
enum FileStage {
    /// Nothing that was deleted earlier is certainly overwritten.
    Vacuum,
    /// Overwrite what is between the rows, from this page on.
    Pages(i64),
    /// Move the log into the file, and empty it.
    Log,
}

/// What the steps work with.
pub(super) struct ErasingContext<'a> {
    pub(super) connection: &'a mut AnyConnection,
    pub(super) record: &'a mut Record,
    pub(super) registry: &'a Registry,
    pub(super) inline: &'a [ProjectionSpec],
    pub(super) counters: &'a mut Counters,
    pub(super) now: Timestamp,
}

impl Erasing {
    /// Does the next step.
    pub(super) fn step(&mut self, mut context: ErasingContext<'_>, extent: Extent) -> Result<ErasingStep, WriteError> {
        if let Some(erasure) = erasure::next(context.connection)? {
            context.overwrite_rows(&erasure)?;
            return Ok(ErasingStep::More);
        }
        if extent == Extent::Rows {
            return Ok(ErasingStep::Postponed);
        }
        let pass = match self.pass.take() {
            Some(pass) => pass,
            None => match Pass::begin(context.connection, context.record)? {
                Some(pass) => pass,
                None => return Ok(ErasingStep::Nothing),
            },
        };
        let file = match pass.file {
            FileStage::Vacuum => match context.vacuum()? {
                Vacuumed::Done => FileStage::Log,
                Vacuumed::NoRoom(why) => return Ok(ErasingStep::NoRoom(why)),
            },
            FileStage::Pages(from) => context.overwrite_pages(from)?,
            FileStage::Log => match context.record.truncate_log(context.connection)? {
                Progress::Done => {
                    context.finish(&pass.erasures)?;
                    return Ok(ErasingStep::Finished(pass.erasures));
                }
                Progress::More => {
                    self.pass = Some(pass);
                    return Ok(ErasingStep::Hindered);
                }
            },
        };
        self.pass = Some(Pass { file, ..pass });
        Ok(ErasingStep::More)
    }
}

impl Pass {
    fn begin(connection: &mut AnyConnection, record: &Record) -> Result<Option<Self>, StoreError> {
        let erasures = erasure::in_file(connection)?;
        if erasures.is_empty() {
            return Ok(None);
        }
        // What a server's files have until they are vacuumed is out of reach.
        if !record.is_file() {
            return Ok(Some(Self { erasures, file: FileStage::Log }));
        }
        let is_overwritten = erasure::is_file_overwritten(connection)?;
        let file = if is_overwritten { FileStage::Pages(1) } else { FileStage::Vacuum };
        Ok(Some(Self { erasures, file }))
    }
}

/// Whether the file was written again.
enum Vacuumed {
    Done,
    NoRoom(String),
}

impl ErasingContext<'_> {
    /// Runs `work` in a transaction of the history that this process writes.
    fn write<T>(&mut self, work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>) -> Result<T, WriteError> {
        let outcome = self.record.maintain(self.connection, self.counters.revision, |connection| {
            work(connection).map(Maintained::changed)
        })?;
        self.record.grow(ROWS_PER_STEP);
        Ok(outcome)
    }

    fn overwrite_rows(&mut self, erasure: &Erasure) -> Result<(), WriteError> {
        if erasure.stage == Stage::Conclusion {
            return self.conclude(erasure);
        }
        self.write(|connection| {
            if erasure::is_at_stage(connection, erasure)? {
                erasure::overwrite_some(connection, erasure)
            } else {
                Ok(())
            }
        })
    }

    /// Tells the projections. Whoever reads from now on finds nothing of the aggregate.
    fn conclude(&mut self, erasure: &Erasure) -> Result<(), WriteError> {
        let (registry, inline, now) = (self.registry, self.inline, self.now);
        let position = self.write(|connection| {
            let last = journal::current(connection)?;
            if !erasure::is_at_stage(connection, erasure)? {
                return Ok(last);
            }
            let position = last.next();
            let version = erasure::append_last_event(connection, erasure, position, now)?;
            let key = Key::from_db(&erasure.key);
            let erased = inline_projections::ErasedAggregate {
                collection: &erasure.collection,
                key: &key,
                revision: erasure.revision.number(),
                position: position.number(),
                now,
            };
            inline_projections::erase(connection, registry, inline, &erased)?;
            erasure::set_stage(connection, erasure, Stage::File, 0)?;
            // Who has reached this number has also reached the event.
            erasure::note_changed_past(connection)?;
            Ok(if version.is_some() { position } else { last })
        })?;
        self.counters.position = position;
        Ok(())
    }

    fn overwrite_pages(&mut self, from: i64) -> Result<FileStage, WriteError> {
        Ok(match self.write(|connection| overwrite_some(connection.file(), from))? {
            Overwritten::Before(next) => FileStage::Pages(next),
            Overwritten::All => FileStage::Log,
            Overwritten::Unsupported => FileStage::Vacuum,
        })
    }

    /// Writes the whole file again, without anything that was ever deleted. Commands wait meanwhile.
    fn vacuum(&mut self) -> Result<Vacuumed, WriteError> {
        if let Some(missing) = vacuum::missing_room(self.connection.file())? {
            return Ok(Vacuumed::NoRoom(missing));
        }
        // A log of ours has to begin before: one that `VACUUM` began would not say on which file it follows.
        self.write(erasure::note_changed_past)?;
        log::info!("writing the database file again, because it may have what was deleted earlier");
        vacuum::vacuum(self.connection.file())?;
        self.write(erasure::note_file_overwritten)?;
        Ok(Vacuumed::Done)
    }

    fn finish(&mut self, erasures: &[Erasure]) -> Result<(), WriteError> {
        self.write(|connection| {
            erasures.iter().try_for_each(|erasure| erasure::set_stage(connection, erasure, Stage::Done, 0))
        })
    }
}

/// A step counts as this many changed rows, so that the log is measured now and then.
const ROWS_PER_STEP: usize = 500;
