//! Puts a copy in the place of a database.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::at_rest::read_undisturbed;
use super::backup::{
    Check, Copied, CopyObserver, partial, remove_leftovers, require_ours, sync_directory, write_beside,
};
use super::connection::{open_copy, truncate_log};
use super::database::{Database, with_suffix};
use super::error::{StoreError, cannot_write};
use super::location::resolve;
use super::log_check::{reject_foreign_log, reject_foreign_log_beside};
use super::ownership::{give_to_owner, give_to_service};
use super::page::Progress;
use crate::domain::clock::Timestamp;
use crate::domain::error_chain::ErrorChain;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) copied: Copied,
    /// The database before; `None` if there was none.
    pub(crate) before: Option<Kept>,
}

/// The database before a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    /// A log that lay beside it, and belongs to another file.
    pub(crate) foreign_log: Option<PathBuf>,
    /// Why it cannot be restored.
    pub(crate) problem: Option<String>,
}

/// A file in which SQLite keeps what is not in the database file yet.
struct Log {
    path: PathBuf,
    /// The name under which it is kept.
    kept: PathBuf,
    belonging: Belonging,
}

/// Whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Belonging {
    /// That of the file beside which it lies.
    Own,
    /// That of another file. SQLite must not see it beside this one.
    Foreign,
}

/// Puts a copy of `source` in the place of a locked database, and keeps that one under a name with the time.
///
/// A log belongs to the file beside which it was written: SQLite would apply the log of the old database to the new one.
/// So the log has to be gone before the file is replaced, and what it holds has to be in the old file by then. The steps,
/// after each of which a kill leaves the old database or the new one whole:
///
/// 1. The copy is written under a temporary name, checked and synced.
/// 2. The old file is kept under another name. If it has a log, both are copied, the log first, so that the kept file is
///    never without it; otherwise a second name is enough. A log of another file is kept as well, but under a name by
///    which SQLite does not apply it.
/// 3. If there is a log, SQLite moves all of it into the old file, as the next start would have done. Only then is it
///    removed.
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
    remove_leftovers(path);
    let source = &resolve(source)?;
    if is_same_file(path, source) {
        return Err(cannot_write(path, "it is the file to restore from"));
    }
    inspect(source)?;
    let (copy, copied) = write_beside(source, path, check.into(), observer)?;
    let kept = with_suffix(path, &format!(".before-restore-{}", compact(now)));
    let before = give_to_service(copy.path(), path)
        .and_then(|()| give_to_service(&with_suffix(path, ".lock"), path))
        .and_then(|()| keep(database, &kept));
    let replaced = before.and_then(|before| match copy.persist(path) {
        Ok(_) => Ok(before),
        Err(failed) => Err(cannot_write(path, failed.error)),
    });
    observer.end();
    let before = replaced?;
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

/// Refuses what is not a database of this program, or of a newer version, or has the log of another file.
fn inspect(source: &Path) -> Result<(), StoreError> {
    if source.is_file() {
        reject_foreign_log_beside(source)?;
    }
    read_undisturbed(source, |connection| require_ours(connection, source))
}

/// Keeps the database under another name, and leaves it without a log. `None` if there is no database.
fn keep(database: &Database, kept: &Path) -> Result<Option<Kept>, StoreError> {
    let path = database.path();
    let logs = logs(database, kept)?;
    let exists = is_filled(path);
    if let Err(error) = keep_and_merge(path, kept, &logs) {
        // The database is as it was, so nobody needs them.
        logs.iter().map(|log| &log.kept).chain([&kept.to_owned()]).for_each(|kept| {
            let _ = fs::remove_file(kept);
        });
        return Err(error);
    }
    for suffix in ["-wal", "-journal", "-shm"] {
        remove(&with_suffix(path, suffix))?;
    }
    sync_directory(path)?;
    let foreign_log = logs.into_iter().find(|log| log.belonging == Belonging::Foreign).map(|log| log.kept);
    let problem = || inspect(kept).err().map(|error| ErrorChain(&error).to_string());
    Ok(exists.then(|| Kept { path: kept.to_owned(), foreign_log, problem: problem() }))
}

/// The logs beside the database.
fn logs(database: &Database, kept: &Path) -> Result<Vec<Log>, StoreError> {
    let belonging = match database.file().map_or(Ok(()), |file| reject_foreign_log(file)) {
        Err(StoreError::ForeignLog { .. }) => Belonging::Foreign,
        // Nothing can be said of a file that is damaged, and nothing will be moved into it.
        Err(error) if !error.is_damage() => return Err(error),
        _ => Belonging::Own,
    };
    let log_with = |suffix: &str, kept_suffix: &str, belonging| Log {
        path: with_suffix(database.path(), suffix),
        kept: with_suffix(kept, kept_suffix),
        belonging,
    };
    let write_ahead = match belonging {
        Belonging::Own => log_with("-wal", "-wal", belonging),
        Belonging::Foreign => log_with("-wal", ".foreign-wal", belonging),
    };
    let logs = [write_ahead, log_with("-journal", "-journal", Belonging::Own)];
    Ok(logs.into_iter().filter(|log| is_filled(&log.path)).collect())
}

fn keep_and_merge(path: &Path, kept: &Path, logs: &[Log]) -> Result<(), StoreError> {
    for log in logs {
        keep_copy(&log.path, &log.kept)?;
    }
    let has_log = logs.iter().any(|log| log.belonging == Belonging::Own);
    if is_filled(path) && (has_log || fs::hard_link(path, kept).is_err()) {
        // A file system without second names gets a copy, too.
        keep_copy(path, kept)?;
    }
    sync_directory(path)?;
    if is_filled(path) && has_log { merge_log(path) } else { Ok(()) }
}

/// Moves the log of a database into its file. Fails unless the file has everything then.
fn merge_log(path: &Path) -> Result<(), StoreError> {
    match open_copy(path).and_then(|mut connection| truncate_log(&mut connection)) {
        Ok(Progress::Done) => Ok(()),
        Ok(Progress::More) => Err(cannot_write(path, "another process is reading it; end that one first")),
        Err(error) if error.is_damage() => {
            // What there is of it is kept, and SQLite cannot make more of it.
            log::warn!("the log of {} is kept, but cannot be moved into it: {error}", path.display());
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Copies a file that no connection of this process has open. It gets its name when it is complete.
fn keep_copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let mut copy = partial(to)?;
    let copied = File::open(from).and_then(|mut file| io::copy(&mut file, copy.as_file_mut()));
    let synced = copied.and_then(|_| copy.as_file().sync_all()).and_then(|()| give_to_owner(copy.path(), from));
    synced.map_err(|error| cannot_write(to, error))?;
    copy.persist_noclobber(to).map(|_| ()).map_err(|failed| cannot_write(to, failed.error))
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
