//! A database file of this process: its location, and the lock that keeps every other process out.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::database_file::DatabaseFile;
use super::error::{StoreError, cannot_open};
use super::file_lock::FileLock;
use super::health::Health;
use super::location::resolve;
use super::lock_file::{LockFile, with_suffix};

/// The database file of this process. No other process opens it for writing while this value lives.
pub(super) struct LockedFile {
    path: PathBuf,
    /// The file itself. It is locked under all of its names.
    file: Arc<DatabaseFile>,
    /// A file with a name of its own can be locked on every file system.
    lock: LockFile,
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

    fn lock_file(path: PathBuf, private_directory: Option<TempDir>, health: &Arc<Health>) -> Result<Self, StoreError> {
        if path.to_str().is_none() {
            return Err(cannot_open(&path, "its name is not UTF-8"));
        }
        let lock = LockFile::acquire(&path)?;
        let log = with_suffix(&path, "-wal");
        reject_log_without_database(&path, &log)?;
        let file = Arc::new(DatabaseFile::new(&path, log, FileLock::acquire(&path)?, Arc::clone(health)));
        Ok(Self { path, file, lock, private: Mutex::new(private_directory) })
    }

    /// Leaves the address of the service in the lock file, for the error of a second process.
    pub(super) fn record_address(&self, address: SocketAddr) {
        self.lock.record_address(address);
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
        self.lock.release();
    }
}

/// SQLite would remove the log.
fn reject_log_without_database(path: &Path, log: &Path) -> Result<(), StoreError> {
    let length = |path| std::fs::metadata(path).map_or(0, |file| file.len());
    if length(path) > 0 || length(log) == 0 {
        return Ok(());
    }
    Err(StoreError::ForeignLog { path: path.to_owned(), log: log.to_owned(), why: "the database file is missing" })
}
