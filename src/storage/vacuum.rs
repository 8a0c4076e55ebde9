//! `VACUUM`, which writes the whole file again, and the room that it takes.
//!
//! SQLite writes a copy to a temporary file, and then all of its pages to the write-ahead log
//! (<https://www.sqlite.org/lang_vacuum.html>). With too little room it would fail after minutes in which no command is
//! executed, so the room is looked at before.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use rustix::fs::Access;

use super::disk::free_bytes;
use super::error::StoreError;

/// Writes the file again, without anything that was ever deleted from it.
pub(super) fn vacuum(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    #[cfg(feature = "test-hooks")]
    fail_if_asked()?;
    connection.batch_execute("VACUUM").map_err(|error| StoreError::Vacuum(Box::new(error.into())))
}

/// What keeps the file from being written again, for operators. `None` if there is room, or if that cannot be known.
pub(super) fn missing_room(connection: &mut SqliteConnection) -> Result<Option<String>, StoreError> {
    let FileSize { file, used } = diesel::sql_query(USED).get_result(connection)?;
    let file = PathBuf::from(file);
    let (Some(directory), temporary) = (file.parent(), temporary_directory()) else { return Ok(None) };
    let rooms = Room::of(directory).and_then(|beside| Ok((beside, Room::of(&temporary)?)));
    let Ok((beside, temporary)) = rooms else { return Ok(None) };
    // The log has a header for each page.
    let used = used.unsigned_abs();
    Ok(missing(used + used / 64, &beside, &temporary))
}

/// The file, and the bytes that are left of it without its free pages.
const USED: &str = "
    SELECT (SELECT file FROM pragma_database_list WHERE name = 'main') AS file,
        ((SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count))
        * (SELECT page_size FROM pragma_page_size) AS used";

#[derive(QueryableByName)]
struct FileSize {
    #[diesel(sql_type = Text)]
    file: String,
    #[diesel(sql_type = BigInt)]
    used: i64,
}

/// The room on the disk of a directory.
struct Room {
    directory: PathBuf,
    /// Of the disk.
    device: u64,
    /// In bytes.
    free: u64,
}

impl Room {
    fn of(directory: &Path) -> io::Result<Self> {
        let device = directory.metadata()?.dev();
        Ok(Self { directory: directory.to_owned(), device, free: free_bytes(directory)? })
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.directory.display())
    }
}

/// What is missing for a copy of `used` bytes in each directory. It does not say how much is free, which differs each time.
fn missing(used: u64, beside: &Room, temporary: &Room) -> Option<String> {
    let is_same = beside.device == temporary.device;
    let has_room = if is_same { beside.free / 2 >= used } else { beside.free.min(temporary.free) >= used };
    let size = ByteSize(used);
    (!has_room).then(|| {
        format!(
            "the file has to be written again, without what was deleted earlier, and there is not enough room: {size} in \
             {beside}, and {size} in {temporary}, where SQLite has its temporary files (SQLITE_TMPDIR){}",
            if is_same { ", which are on the same disk" } else { "" }
        )
    })
}

/// Where SQLite creates temporary files: the first of these directories that it can write to
/// (<https://www.sqlite.org/tempfiles.html#temporary_file_storage_locations>).
fn temporary_directory() -> PathBuf {
    let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = ["/var/tmp", "/usr/tmp", "/tmp"].into_iter().map(PathBuf::from);
    let is_usable = |directory: &PathBuf| {
        directory.is_dir() && rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    };
    named.chain(usual).find(is_usable).unwrap_or_else(|| PathBuf::from("."))
}

/// Fails while a file exists that the environment names, so that a test can see what follows.
#[cfg(feature = "test-hooks")]
fn fail_if_asked() -> Result<(), StoreError> {
    let is_asked = std::env::var_os("TEST_FAIL_VACUUM").is_some_and(|path| Path::new(&path).exists());
    if is_asked { Err(StoreError::Vacuum(Box::new(StoreError::Full))) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_needs_room_twice_wherever_it_is() {
        let room = |directory: &str, device, free| Room { directory: directory.into(), device, free };
        for (beside, temporary, is_enough) in [
            (room("/data", 1, 1000), room("/tmp", 2, 1000), true),
            (room("/data", 1, 999), room("/tmp", 2, 5000), false),
            (room("/data", 1, 5000), room("/tmp", 2, 999), false),
            (room("/data", 1, 2000), room("/data", 1, 2000), true),
            (room("/data", 1, 1999), room("/data", 1, 1999), false),
        ] {
            let missing = missing(1000, &beside, &temporary);
            assert_eq!(missing.is_none(), is_enough, "{beside}: {}, {temporary}: {}", beside.free, temporary.free);
            let is_named = |missing: &String| missing.contains("1000 B in /data") && missing.contains("SQLITE_TMPDIR");
            assert!(missing.as_ref().is_none_or(is_named), "{missing:?}");
        }
    }

    #[test]
    fn the_used_room_of_a_file_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        connection.batch_execute("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(100000)); DROP TABLE t").unwrap();
        let FileSize { file, used } = diesel::sql_query(USED).get_result(&mut connection).unwrap();
        assert_eq!((file, used), (path.canonicalize().unwrap().to_str().unwrap().to_owned(), 4096));
        assert_eq!(missing_room(&mut connection).unwrap(), None);
    }
}
