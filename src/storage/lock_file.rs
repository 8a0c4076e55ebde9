//! A file beside others that one process locks, so that it alone uses those.

use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::{StoreError, cannot_open};
use super::file_lock::private;
use super::ownership::give_to_owner;

/// A file that this process has locked exclusively, `duality.db.lock` beside `duality.db`.
pub(super) struct LockFile {
    /// What it is for.
    path: PathBuf,
    lock: File,
}

impl LockFile {
    /// Locks the file beside `path`.
    ///
    /// # Errors
    /// Another process has locked it.
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let lock = lock_beside(path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { holder: holder(path), path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(cannot_open(path, error)),
        }
        write_holder(&lock, &format!("pid {}", std::process::id()));
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Leaves the address of the service in the file, for the error of a second process.
    pub(super) fn record_address(&self, address: SocketAddr) {
        write_holder(&self.lock, &format!("pid {}, http://{address}", std::process::id()));
    }

    /// Lets another process lock it.
    pub(super) fn release(&self) {
        write_holder(&self.lock, "");
        if let Err(error) = self.lock.unlock() {
            log::warn!("{} stays locked until this process ends: {error}", self.path.display());
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // A child that is being started has the descriptor, too, until it runs its program, and the lock with it.
        if let Err(error) = self.lock.unlock() {
            log::warn!("{} stays locked until its descriptor is closed: {error}", self.path.display());
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

/// `duality.db` → `duality.db.lock`
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_not_locked_even_if_a_child_still_has_the_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.db");
        let lock = LockFile::acquire(&path).unwrap();
        assert!(matches!(LockFile::acquire(&path), Err(StoreError::Locked { .. })));
        let of_child = lock.lock.try_clone().unwrap();
        drop(lock);
        LockFile::acquire(&path).unwrap();
        drop(of_child);
    }
}
