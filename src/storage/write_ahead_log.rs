//! The write-ahead log of the main database: when the writer moves it into the database file, and what it writes when the
//! next log begins.
//!
//! SQLite would move the log within a commit, while the clients wait. It also takes any log that lies beside a file for
//! its own. So each log says in its first transaction on which file it follows, see [`super::log_check`].

use std::sync::Arc;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::connection::{self, LogFrames};
use super::database_file::DatabaseFile;
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
    /// Whether the database file has everything, so that the next transaction begins another log.
    is_moved: bool,
    growth: Growth,
}

/// An estimate of how much the log has grown. To measure it for each commit would cost more than to count rows.
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
    pub(super) fn open(file: &Arc<DatabaseFile>, connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        let tag = connection::tag(connection)?;
        file.watch(tag)?;
        file.may_have(Tag(metadata::table.select(metadata::log_follows).first(connection).optional()?.unwrap_or(0)));
        let mut log = Self::resume(file, tag);
        log.checkpoint(connection)?;
        if tag == Tag::NONE {
            // Copies have no tag, so two of them would look alike.
            log.write(connection, |_| Ok(())).map_err(WriteError::into_cause)?;
            log.checkpoint(connection)?;
        }
        Ok(log)
    }

    /// Continues after the writer had to open the database again.
    pub(super) fn reopen(file: &Arc<DatabaseFile>, connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        let tag = connection::tag(connection)?;
        file.may_have(tag);
        Ok(Self::resume(file, tag))
    }

    fn resume(file: &Arc<DatabaseFile>, tag: Tag) -> Self {
        Self { file: Arc::clone(file), tag, is_moved: false, growth: Growth::new(0) }
    }

    /// Runs `work` in a write transaction. It is a success only if its files are still there afterwards.
    pub(super) fn write<T>(
        &mut self,
        connection: &mut SqliteConnection,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, WriteError> {
        let next = self.is_moved.then(Tag::random).transpose().map_err(StoreError::Epoch)?;
        if let Some(next) = next {
            self.file.may_have(next);
        }
        let outcome = transaction::write(connection, |connection| {
            let Some(next) = next else { return work(connection) };
            let began = metadata::table.select(metadata::revision).first(connection).optional()?;
            let outcome = work(connection)?;
            begin(connection, began.unwrap_or(0), self.tag, next)?;
            Ok(outcome)
        })?;
        if let Some(next) = next {
            self.tag = next;
            self.is_moved = false;
            self.file.has(next);
        }
        // It may be in a file that nobody will find.
        self.file.check_names().map_err(WriteError::Unknown)?;
        Ok(outcome)
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

    /// Moves the log into the database file if it has become long.
    pub(super) fn checkpoint_if_long(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        // Another process gives the log that it begins no tag.
        if self.file.take_moved() {
            return self.checkpoint(connection);
        }
        if self.growth.changes < self.growth.measure_at {
            return Ok(());
        }
        let LogFrames { frames, .. } = connection::log_frames(connection)?;
        if frames.saturating_sub(self.growth.frames) >= PAGES {
            return self.checkpoint(connection);
        }
        self.growth = self.growth.measured(frames);
        Ok(())
    }

    fn checkpoint(&mut self, connection: &mut SqliteConnection) -> Result<(), StoreError> {
        // What lies there must not be overwritten with pages of another file.
        self.file.examine()?;
        self.file.is_moving();
        let progress = connection::checkpoint(connection);
        self.is_moved = matches!(progress, Ok(Progress::Done));
        if self.is_moved {
            self.file.is_whole();
        } else {
            self.file.is_partly_moved();
        }
        progress?;
        // The next transaction writes at the beginning of a log that was moved.
        let frames = if self.is_moved { 0 } else { connection::log_frames(connection)?.frames };
        self.growth = Growth::new(frames);
        Ok(())
    }
}

/// Says in the first transaction of a log on which file it follows, and which revision that has.
fn begin(connection: &mut SqliteConnection, revision: i64, before: Tag, next: Tag) -> Result<(), StoreError> {
    diesel::update(metadata::table)
        .set((metadata::log_began.eq(revision), metadata::log_follows.eq(before.0)))
        .execute(connection)?;
    connection::set_tag(connection, next)
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
