//! The write-ahead log of the main database: when the writer moves it into the database file, and what it writes when the
//! next log begins.
//!
//! SQLite would move the log within a commit, while the clients wait. It also takes any log that lies beside a file for
//! its own. So each log says in its first transaction on which file it follows, see [`super::log_check`].

use std::sync::Arc;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::connection::{self, LogFrames};
use super::database_file::{DatabaseFile, Tags};
use super::engine::AnyConnection;
use super::error::StoreError;
use super::health::FileCheck;
use super::main_file::Tag;
use super::page::Progress;
use super::schema::metadata;
use super::transaction::{self, WriteError};

/// The log is moved when it has grown by this many pages, which are 4 MB.
const PAGES: u64 = 1000;

/// The smallest number of changes after which the log is measured.
const MIN_CHANGES: u64 = 64;

/// The write-ahead log of the only writer.
pub(super) struct WriteAheadLog {
    file: Arc<DatabaseFile>,
    /// That of the log. The database file has it after a checkpoint.
    tag: Tag,
    growth: Growth,
}

/// The beginning of a log.
#[derive(Debug, Clone, Copy)]
struct Beginning {
    /// The tag of the file, on which the log follows.
    follows: Tag,
    /// The revision of the file.
    revision: i64,
    /// The tag of the log.
    tag: Tag,
}

/// An estimate of how much the log has grown, so that it need not be measured after each commit as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Growth {
    /// Changed rows since the log was measured.
    changes: u64,
    /// It is measured after this many.
    measure_at: u64,
    /// The length of the log after the last checkpoint.
    frames: u64,
}

impl WriteAheadLog {
    /// Takes over the log of a database that this connection has opened and migrated. It need not be empty.
    pub(super) fn open(file: &Arc<DatabaseFile>, connection: &mut AnyConnection) -> Result<Self, StoreError> {
        let tags = read_tags(connection)?;
        file.watch(tags)?;
        let mut log = Self { file: Arc::clone(file), tag: tags.log, growth: Growth::new(0) };
        log.checkpoint(connection)?;
        if tags.log == Tag::NONE {
            // Copies have no tag, so two of them would look alike.
            log.write(connection, |_| Ok(())).map_err(WriteError::into_cause)?;
            log.checkpoint(connection)?;
        }
        Ok(log)
    }

    /// Continues after the writer had to open the database again.
    pub(super) fn reopen(file: &Arc<DatabaseFile>, connection: &mut AnyConnection) -> Result<Self, StoreError> {
        let tags = read_tags(connection)?;
        file.set_tags(tags);
        Ok(Self { file: Arc::clone(file), tag: tags.log, growth: Growth::new(0) })
    }

    /// Runs `work` in a write transaction. It is a success only if its files are still there afterwards.
    pub(super) fn write<T>(
        &mut self,
        connection: &mut AnyConnection,
        work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
    ) -> Result<T, WriteError> {
        let mut beginning = None;
        let outcome = transaction::write(connection, |connection| {
            beginning = self.beginning(connection)?;
            let outcome = work(connection)?;
            if let Some(beginning) = beginning {
                beginning.write(connection)?;
            }
            // What is noticed before `COMMIT` is certain.
            self.file.check_names()?;
            Ok(outcome)
        });
        match (&outcome, beginning) {
            (Ok(_), Some(beginning)) => {
                self.tag = beginning.tag;
                self.file.note_log_begun(beginning.tag);
            }
            (Err(WriteError::NotDone(_)), Some(_)) => self.file.withdraw_tag(),
            // If it is unknown whether the log has begun, the writer opens the database again, and looks.
            _ => {}
        }
        let outcome = outcome?;
        // It may be in a file that nobody will find.
        self.file.check_names().map_err(WriteError::Unknown)?;
        Ok(outcome)
    }

    /// What the transaction in progress has to say about its log, if it begins one: whoever has moved the log before it.
    /// That is only certain after its begin, when no other process can write any more.
    fn beginning(&self, connection: &mut AnyConnection) -> Result<Option<Beginning>, StoreError> {
        if !self.file.is_log_moved()? {
            return Ok(None);
        }
        let revision = metadata::table.select(metadata::revision).first(connection).optional()?;
        let tag = Tag::random().map_err(StoreError::Epoch)?;
        self.file.expect_tag(tag);
        Ok(Some(Beginning { follows: self.tag, revision: revision.unwrap_or(0), tag }))
    }

    /// The writer is about to close the last connection.
    pub(super) fn close(&self) {
        self.file.unwatch();
    }

    /// Whether the check after an unclean stop is reading the file. For a large one, that takes a while.
    pub(super) fn is_being_checked(&self) -> bool {
        self.file.health().file_check() == FileCheck::Due
    }

    /// Notes that a transaction has changed this many rows.
    pub(super) fn grow(&mut self, rows: usize) {
        self.growth.changes += 1 + rows as u64;
    }

    /// Whether the log is so long that it has to be moved into the database file.
    pub(super) fn is_long(&mut self, connection: &mut AnyConnection) -> bool {
        if self.growth.changes < self.growth.measure_at {
            return false;
        }
        // What prevents the log from being measured is found by the checkpoint.
        let Ok(LogFrames { frames, .. }) = connection::log_frames(connection.file()) else { return true };
        if frames.saturating_sub(self.growth.frames) >= PAGES {
            return true;
        }
        self.growth = self.growth.measured(frames);
        false
    }

    /// Moves the log into the database file, as far as nobody reads from it.
    pub(super) fn checkpoint(&mut self, connection: &mut AnyConnection) -> Result<Progress, StoreError> {
        self.move_by(connection, connection::checkpoint)
    }

    /// Moves the log into the database file and removes its content, unless somebody reads from it.
    pub(super) fn truncate(&mut self, connection: &mut AnyConnection) -> Result<Progress, StoreError> {
        // Readers that begin after this one do not need the log.
        if self.checkpoint(connection)? == Progress::More {
            return Ok(Progress::More);
        }
        connection::set_busy_timeout(connection.file(), Duration::ZERO)?;
        let progress = self.move_by(connection, connection::truncate_log);
        connection::set_busy_timeout(connection.file(), connection::BUSY_TIMEOUT)?;
        progress
    }

    fn move_by(
        &mut self,
        connection: &mut AnyConnection,
        move_log: impl FnOnce(&mut SqliteConnection) -> Result<Progress, StoreError>,
    ) -> Result<Progress, StoreError> {
        // What lies there must not be overwritten with pages of another file.
        self.file.examine()?;
        self.file.note_checkpoint_begun();
        let progress = move_log(connection.file());
        if matches!(progress, Ok(Progress::Done)) {
            self.file.note_whole();
        } else {
            self.file.note_checkpoint_partial();
        }
        // The next transaction writes at the beginning of a log that was moved.
        let progress = progress?;
        let frames = match progress {
            Progress::Done => 0,
            Progress::More => connection::log_frames(connection.file())?.frames,
        };
        self.growth = Growth::new(frames);
        Ok(progress)
    }
}

/// The tags of the log and of the file on which it follows.
fn read_tags(connection: &mut AnyConnection) -> Result<Tags, StoreError> {
    let log = connection::tag(connection.file())?;
    let follows = metadata::table.select(metadata::log_follows).first(connection).optional()?.map(Tag);
    Ok(Tags { follows, ..Tags::of(log) })
}

impl Beginning {
    /// Says in the first transaction of a log on which file it follows, and which revision that has.
    fn write(self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        diesel::update(metadata::table)
            .set((metadata::log_began.eq(self.revision), metadata::log_follows.eq(self.follows.0)))
            .execute(connection)?;
        connection::set_tag(connection.file(), self.tag)
    }
}

impl Growth {
    fn new(frames: u64) -> Self {
        Self { changes: 0, measure_at: MIN_CHANGES, frames }
    }

    /// The log has `frames` now, which is not long enough: when to measure it again.
    fn measured(self, frames: u64) -> Self {
        let grown = frames.saturating_sub(self.frames).max(1);
        // As many changes as would fill the rest, if they go on as before. A few more measurements cost less than a log
        // that is much too long.
        let rest = PAGES.saturating_sub(grown).saturating_mul(self.changes) / grown;
        Self { changes: self.changes, measure_at: self.changes + rest.clamp(MIN_CHANGES, PAGES), frames: self.frames }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_measured_when_it_has_probably_become_long() {
        for (changes, grown, next) in [
            // Three pages for each change.
            (64, 192, 64 + 269),
            (333, 999, 333 + MIN_CHANGES),
            // Many changes of the same page: at the latest after a thousand.
            (64, 1, 64 + PAGES),
            (64, 0, 64 + PAGES),
        ] {
            let before = Growth { changes, measure_at: changes, frames: 500 };
            let expected = Growth { changes, measure_at: next, frames: 500 };
            assert_eq!(before.measured(500 + grown), expected, "{changes} {grown}");
        }
    }
}
