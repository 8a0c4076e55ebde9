//! Puts a copy in the place of a database.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection as _;
use diesel::sqlite::SqliteConnection;

use super::at_rest::read_undisturbed;
use super::backup::{Check, Copied, CopyObserver, cannot_write, partial, sync_directory, write_beside};
use super::connection::open_copy;
use super::database::{Database, with_suffix};
use super::error::StoreError;
use super::identity::{Identity, identify};
use super::location::resolve;
use super::migrations;
use crate::domain::clock::Timestamp;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) copied: Copied,
    /// The database before; `None` if there was none.
    pub(crate) before: Option<PathBuf>,
}

/// The files in which SQLite keeps what is not in the database file yet.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// Puts a copy of `source` in the place of a locked database, and keeps that one under a name with the time.
///
/// A log belongs to the file beside which it was written: SQLite would apply the log of the old database to the new one.
/// So the log has to be gone before the file is replaced, and what it holds has to be in the old file by then. The steps,
/// after each of which a kill leaves the old database or the new one whole:
///
/// 1. The copy is written under a temporary name, checked and synced.
/// 2. The old file is kept under another name. If it has a log, both are copied; otherwise a second name is enough.
/// 3. If there is a log, SQLite moves it into the old file, as the next start would have done, and removes it.
/// 4. The copy is renamed to the name of the database: the old one until here, the new one from here on.
///
/// # Errors
/// `source` is no sound database of this program, or a step fails. Unless that was the last one, the database is the old
/// one.
pub(crate) fn restore(
    database: &Database,
    source: &Path,
    now: Timestamp,
    check: Check<'_>,
    observer: &dyn CopyObserver,
) -> Result<Restored, StoreError> {
    let path = database.path();
    inspect(path, source)?;
    let (copy, copied) = write_beside(source, path, check, observer)?;
    adopt_owner(copy.path(), path)?;
    let before = keep(path, &with_suffix(path, &format!(".before-restore-{}", compact(now))))?;
    let replaced = copy.persist(path);
    observer.end();
    replaced.map_err(|failed| cannot_write(path, failed.error))?;
    sync_directory(path)?;
    Ok(Restored { copied, before })
}

/// The same with a database that comes from `input`.
pub(crate) fn restore_from(
    database: &Database,
    input: &mut dyn Read,
    now: Timestamp,
    check: Check<'_>,
    observer: &dyn CopyObserver,
) -> Result<Restored, StoreError> {
    let path = database.path();
    let mut received = partial(path)?;
    observer.begin(received.path());
    let outcome = match io::copy(input, received.as_file_mut()) {
        Ok(_) => restore(database, received.path(), now, check, observer),
        Err(error) => Err(cannot_write(path, error)),
    };
    drop(received);
    observer.end();
    outcome
}

/// Refuses what is not a database of this program, or of a newer version, or the database itself.
fn inspect(path: &Path, source: &Path) -> Result<(), StoreError> {
    let source = &resolve(source)?;
    if is_same_file(path, source) {
        return Err(cannot_write(path, "it is the file to restore from"));
    }
    read_undisturbed(source, |connection| {
        if identify(connection, source)? == Identity::New {
            return Err(StoreError::Foreign { path: source.clone(), found: "it is empty".to_owned() });
        }
        migrations::pending(connection).map(|_| ())
    })
}

/// Keeps the database under another name, and leaves it without a log. Returns the name; `None` if there is no database.
fn keep(path: &Path, kept: &Path) -> Result<Option<PathBuf>, StoreError> {
    let logs: Vec<_> = LOGS.into_iter().filter(|suffix| is_filled(&with_suffix(path, suffix))).collect();
    let exists = is_filled(path);
    if exists && logs.is_empty() {
        // A file system without second names gets a copy.
        fs::hard_link(path, kept).or_else(|_| keep_copy(path, kept)).map_err(|error| cannot_write(kept, error))?;
    } else if exists {
        keep_copy(path, kept).map_err(|error| cannot_write(kept, error))?;
    }
    for suffix in &logs {
        let kept = with_suffix(kept, suffix);
        keep_copy(&with_suffix(path, suffix), &kept).map_err(|error| cannot_write(&kept, error))?;
    }
    sync_directory(path)?;
    if exists && !logs.is_empty() {
        // A file that SQLite cannot even open has nothing to lose that is not kept.
        if let Err(error) = merge_log(path) {
            log::warn!("the log of {} is kept, but cannot be moved into it: {error}", path.display());
        }
    }
    for suffix in ["-wal", "-journal", "-shm"] {
        remove(&with_suffix(path, suffix))?;
    }
    sync_directory(path)?;
    Ok(exists.then(|| kept.to_owned()))
}

/// Moves the log of a database into its file.
fn merge_log(path: &Path) -> Result<(), StoreError> {
    let mut connection: SqliteConnection = open_copy(path)?;
    Ok(connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?)
}

/// Copies a file that no connection of this process has open.
fn keep_copy(from: &Path, to: &Path) -> io::Result<()> {
    let copied = fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
    let owned = copied.and_then(|()| give_to_owner(to, from));
    owned.inspect_err(|_| {
        let _ = fs::remove_file(to);
    })
}

/// Gives a new file to the owner of the database, or, if there is none, of its directory: the user of the service, even if
/// another one restores it.
fn adopt_owner(new: &Path, path: &Path) -> Result<(), StoreError> {
    let like = if path.exists() { path } else { path.parent().unwrap_or(Path::new("/")) };
    let is_replaced = path.exists();
    match give_to_owner(new, like) {
        Err(error) if is_replaced => {
            let why = format!("it belongs to another user, who has to restore it ({error})");
            Err(cannot_write(path, why))
        }
        _ => Ok(()),
    }
}

fn give_to_owner(file: &Path, like: &Path) -> io::Result<()> {
    let (owner, file_owner) = (fs::metadata(like)?, fs::metadata(file)?);
    if owner.uid() == file_owner.uid() {
        return Ok(());
    }
    chown(file, Some(owner.uid()), Some(owner.gid()))
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => one.dev() == other.dev() && one.ino() == other.ino(),
        _ => false,
    }
}

fn is_filled(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot_write(path, error)),
        _ => Ok(()),
    }
}

/// `2026-11-25T07:30:00.123Z` → `20261125T073000.123Z`: a time for the name of a file.
fn compact(time: Timestamp) -> String {
    time.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect()
}
