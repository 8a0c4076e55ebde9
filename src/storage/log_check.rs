//! At start, before SQLite replays it: whether the write-ahead log belongs to the file that it lies beside.
//!
//! After a crash the log has what the file lacks. If an older copy is then put in the place of the file alone, SQLite
//! replays the pages of one history over those of another, and what comes of it is no database.

use std::path::Path;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::connection;
use super::database::with_suffix;
use super::database_file::DatabaseFile;
use super::error::{StoreError, cannot_open};
use super::main_file::{Header, Tag};
use super::schema::metadata;

/// What the log says about itself and about the file on which it follows.
#[derive(Debug, Clone, Copy)]
struct Log {
    /// The revision that the file had, at least.
    began: i64,
    /// The tag that the file had.
    follows: Tag,
    /// The tag of the log, which a checkpoint brings into the file.
    tag: Tag,
    /// The last revision.
    revision: i64,
    schema_version: u32,
}

/// What the file says alone.
#[derive(Debug, Clone, Copy)]
struct File {
    tag: Tag,
    schema_version: u32,
    /// `None` if it cannot be read without the log, as after a crash during a checkpoint.
    revision: Option<i64>,
}

/// Fails if the log is that of another file. Changes nothing. No connection of this process may be open.
pub(super) fn reject_foreign_log(file: &DatabaseFile) -> Result<(), StoreError> {
    if std::fs::metadata(file.log()).map_or(0, |log| log.len()) == 0 {
        return Ok(());
    }
    let header = file.header().map_err(|error| cannot_open(file.path(), error))?;
    header.map_or(Ok(()), |header| compare(file.path(), file.log(), header))
}

/// The same for a file that this process does not use.
pub(super) fn reject_foreign_log_beside(path: &Path) -> Result<(), StoreError> {
    let log = with_suffix(path, "-wal");
    if std::fs::metadata(&log).map_or(0, |log| log.len()) == 0 {
        return Ok(());
    }
    let header = std::fs::File::open(path).and_then(|file| Header::read(&file));
    let header = header.map_err(|error| cannot_open(path, error))?;
    header.map_or(Ok(()), |header| compare(path, &log, header))
}

fn compare(path: &Path, log_path: &Path, header: Header) -> Result<(), StoreError> {
    let mut connection = connection::open_read_only(path)?;
    let log = read_log(&mut connection);
    drop(connection);
    let mismatch = match log {
        Ok(Some(log)) => mismatch(read_file(path, header), log),
        Ok(None) => None,
        Err(error) if error.is_malformed() => Some("together they are no database"),
        Err(error) => return Err(error),
    };
    mismatch.map_or(Ok(()), |why| Err(StoreError::ForeignLog { path: path.to_owned(), log: log_path.to_owned(), why }))
}

/// `None` if a version of this program wrote the log that did not say anything about it.
fn read_log(connection: &mut SqliteConnection) -> Result<Option<Log>, StoreError> {
    if !connection::has_column(connection, "metadata", "log_follows")? {
        return Ok(None);
    }
    let columns = (metadata::revision, metadata::log_began, metadata::log_follows);
    let row: Option<(i64, i64, i32)> = metadata::table.select(columns).first(connection).optional()?;
    let Some((revision, began, follows)) = row else { return Ok(None) };
    let tag = connection::tag(connection)?;
    let schema_version = connection::schema_version(connection)?;
    Ok(Some(Log { began, follows: Tag(follows), tag, revision, schema_version }))
}

fn read_file(path: &Path, header: Header) -> File {
    let revision = connection::open_immutable(path)
        .and_then(|mut connection| Ok(metadata::table.select(metadata::revision).first(&mut connection)?));
    File { tag: header.tag(), schema_version: header.schema_version(), revision: revision.ok() }
}

/// Why a log cannot be that of a file.
fn mismatch(file: File, log: Log) -> Option<&'static str> {
    if file.tag != log.tag && file.tag != log.follows {
        return Some("the file is not the one on which the log follows");
    }
    if file.revision.is_some_and(|revision| revision < log.began) {
        return Some("the file is older than the beginning of the log");
    }
    if file.revision.is_some_and(|revision| revision > log.revision) {
        return Some("the file is later than the end of the log");
    }
    // `VACUUM INTO` makes a copy with the same tag, but its pages have other places.
    (file.schema_version > log.schema_version).then_some("the file is a copy whose pages are in another order")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log { began: 10, follows: Tag(1), tag: Tag(3), revision: 20, schema_version: 7 };
    const FILE: File = File { tag: Tag(1), schema_version: 7, revision: Some(10) };

    #[test]
    fn a_log_belongs_to_the_file_on_which_it_follows_whatever_part_of_it_was_moved() {
        for file in [
            FILE,
            File { tag: Tag(3), revision: Some(15), ..FILE },
            File { tag: Tag(3), revision: Some(20), ..FILE },
            File { tag: Tag(3), revision: None, ..FILE },
            File { schema_version: 6, ..FILE },
        ] {
            assert_eq!(mismatch(file, LOG), None, "{file:?}");
        }
    }

    #[test]
    fn a_log_does_not_belong_to_any_other_file() {
        for file in [
            File { tag: Tag(5), ..FILE },
            File { tag: Tag::NONE, ..FILE },
            File { revision: Some(9), ..FILE },
            File { tag: Tag(3), revision: Some(9), ..FILE },
            File { tag: Tag(3), revision: Some(21), ..FILE },
            File { tag: Tag(3), revision: Some(15), schema_version: 8 },
        ] {
            assert!(mismatch(file, LOG).is_some(), "{file:?}");
        }
    }
}
