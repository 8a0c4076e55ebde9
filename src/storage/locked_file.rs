//! A database file of this process: its location, and the lock that keeps every other process out.

use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::database_file::DatabaseFile;
use super::error::{StoreError, cannot_open};
use super::file_lock::{FileLock, private};
use super::health::Health;
use super::location::resolve;
use super::ownership::give_to_owner;

/// The database file of this process. No other process opens it for writing while this value lives.
pub(super) struct LockedFile {
    path: PathBuf,
    /// The file itself. It is locked under all of its names.
    file: Arc<DatabaseFile>,
    /// Locked exclusively: a file with a name of its own, which works on every file system.
    lock: File,
    /// The directory of a private database, until it is removed.
    private: Mutex<Option<TempDir>>,
}

impl LockedFile {
    /// Locks the file at `path`, which need not exist yet. `:memory:` is a private file that is removed at exit.
    pub(super) fn lock(path: &Path, health: &Arc<Health>) -> Result<Self, StoreError> {
        if path != Path::new(":memory:") {
            return Self::lock_file(resolve(path)?, None, health);
        }
        let directory = tempfile::Builder::new()
            .prefix("duality-")
            .tempdir()
            .map_err(|error| cannot_open(&std::env::temp_dir(), error))?;
        Self::lock_file(directory.path().join("duality.db"), Some(directory), health)
    }

    fn lock_file(
        path: PathBuf,
        private_directory: Option<TempDir>,
        health: &Arc<Health>,
    ) -> Result<Self, StoreError> {
        if path.to_str().is_none() {
            return Err(cannot_open(&path, "its name is not UTF-8"));
        }
        let lock = lock_beside(&path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { holder: holder(&path), path }),
            Err(TryLockError::Error(error)) => return Err(cannot_open(&path, error)),
        }
        let log = with_suffix(&path, "-wal");
        reject_log_without_database(&path, &log)?;
        let file = Arc::new(DatabaseFile::new(&path, log, FileLock::acquire(&path)?, Arc::clone(health)));
        write_holder(&lock, &format!("pid {}", std::process::id()));
        Ok(Self { path, file, lock, private: Mutex::new(private_directory) })
    }

    /// Leaves the address of the service in the lock file, for the error of a second process.
    pub(super) fn record_address(&self, address: SocketAddr) {
        write_holder(&self.lock, &format!("pid {}, http://{address}", std::process::id()));
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file is in a temporary directory of this process.
    pub(super) fn is_private(&self) -> bool {
        self.private.lock().expect("no thread panics while it holds this lock").is_some()
    }

    /// The file itself, and whether it is still the one that was opened.
    pub(super) fn file(&self) -> &Arc<DatabaseFile> {
        &self.file
    }

    /// Unlocks the file for another process, or for a later service of this one, as soon as the last connection is closed,
    /// and removes a private database.
    pub(super) fn release(&self) {
        self.file.close();
        let private = self.private.lock().expect("no thread panics while it holds this lock").take();
        if let Some(Err(error)) = private.map(TempDir::close) {
            log::warn!("cannot remove the private database: {error}");
        }
        write_holder(&self.lock, "");
        if let Err(error) = self.lock.unlock() {
            log::warn!("{} stays locked until this process ends: {error}", self.path.display());
        }
    }
}

/// Opens the file that is locked. A new one belongs to the owner of the database, whoever creates it.
fn lock_beside(path: &Path) -> Result<File, StoreError> {
    let lock = with_suffix(path, ".lock");
    let is_new = !lock.exists();
    let file = private().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(|error| cannot_open(path, error))?;
    if is_new && path.exists() {
        // Only root can. Another user who may write the database keeps the file.
        let _ = give_to_owner(&lock, path);
    }
    Ok(file)
}

/// Writes who has the lock into its file. It is for people: nothing depends on it.
fn write_holder(mut lock: &File, holder: &str) {
    let written = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(holder.as_bytes()));
    if let Err(error) = written {
        log::debug!("cannot write into the lock file: {error}");
    }
}

/// The process that has the lock, as it has written it.
fn holder(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(with_suffix(path, ".lock")).ok()?;
    (text.starts_with("pid ") && text.len() <= MAX_HOLDER && !text.contains(char::is_control)).then_some(text)
}

/// The longest text of [`write_holder`], in bytes: a number of at most ten digits and the address of an IPv6 socket.
const MAX_HOLDER: usize = 100;

/// SQLite would remove the log.
fn reject_log_without_database(path: &Path, log: &Path) -> Result<(), StoreError> {
    let length = |path| std::fs::metadata(path).map_or(0, |file| file.len());
    if length(path) > 0 || length(log) == 0 {
        return Ok(());
    }
    Err(StoreError::ForeignLog { path: path.to_owned(), log: log.to_owned(), why: "the database file is missing" })
}

/// `duality.db` → `duality.db.lock`
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
