//! The database file: its location, and the lock that gives it to one process.

use std::error::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use tempfile::TempDir;

use super::error::StoreError;
use super::health::Health;
use crate::domain::history::History;
use crate::domain::revision::HighWaterMark;

/// The database file of this process. No other process opens it for writing while this value lives.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    /// Locked exclusively. It is a separate file, because opening and closing the database file itself would release
    /// SQLite's own locks.
    lock: File,
    /// The last revision that any reader has seen.
    high_water_mark: HighWaterMark,
    /// The epochs, from when the writer has begun one.
    history: OnceLock<Arc<History>>,
    health: Health,
    /// The directory of a private database, until it is removed.
    private: Mutex<Option<TempDir>>,
}

impl Database {
    /// Locks the file at `path`, which need not exist yet. `:memory:` is a private file that is removed at exit.
    pub(crate) fn lock(path: &Path) -> Result<Self, StoreError> {
        if path != Path::new(":memory:") {
            return Self::lock_file(resolve(path)?, None);
        }
        let directory = tempfile::Builder::new()
            .prefix("duality-")
            .tempdir()
            .map_err(|error| cannot_open(&std::env::temp_dir(), error))?;
        Self::lock_file(directory.path().join("duality.db"), Some(directory))
    }

    fn lock_file(path: PathBuf, private: Option<TempDir>) -> Result<Self, StoreError> {
        if path.to_str().is_none() {
            return Err(cannot_open(&path, "its name is not UTF-8"));
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(with_suffix(&path, ".lock"));
        let lock = lock.map_err(|error| cannot_open(&path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path,
                lock,
                high_water_mark: HighWaterMark::default(),
                history: OnceLock::new(),
                health: Health::default(),
                private: Mutex::new(private),
            }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
            Err(TryLockError::Error(error)) => Err(cannot_open(&path, error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of the file. Its disk is the place for large temporary files, too.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Whether the file is in a temporary directory of this process.
    pub(crate) fn is_private(&self) -> bool {
        self.private.lock().expect("no thread panics while it holds this lock").is_some()
    }

    pub(crate) fn high_water_mark(&self) -> &HighWaterMark {
        &self.high_water_mark
    }

    /// The epochs of the database.
    ///
    /// # Panics
    /// No writer has opened the database.
    pub(crate) fn history(&self) -> &Arc<History> {
        self.history.get().expect("the writer is opened before everything else")
    }

    /// Sets the epochs of the database, once.
    pub(super) fn set_history(&self, history: History) -> &Arc<History> {
        self.history.get_or_init(|| Arc::new(history))
    }

    /// What works, and what does not.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Unlocks the file for another process, or for a later service of this one, and removes a private database. Readers
    /// may still be closing their connections.
    pub(crate) fn release(&self) {
        let private = self.private.lock().expect("no thread panics while it holds this lock").take();
        if let Some(Err(error)) = private.map(TempDir::close) {
            log::warn!("cannot remove the private database: {error}");
        }
        if let Err(error) = self.lock.unlock() {
            log::warn!("{} stays locked until this process ends: {error}", self.path.display());
        }
    }
}

/// The path without symbolic links, so that a file has one lock. The file itself need not exist.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let resolved = if path.exists() { path.canonicalize() } else { resolve_missing(path) };
    resolved.map_err(|error| cannot_open(path, error))
}

fn resolve_missing(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(directory), Some(name)) => Ok(directory.canonicalize()?.join(name)),
        _ => Err(std::io::ErrorKind::IsADirectory.into()),
    }
}

pub(super) fn cannot_open(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: source.into() }
}

/// `duality.db` → `duality.db.lock`
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
