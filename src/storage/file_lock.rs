//! The lock on the database file itself, whatever name it was reached by.
//!
//! Closing any descriptor of a file drops all POSIX locks that the process holds on it, and SQLite's locks are of that
//! kind. So this process has one descriptor of the file besides SQLite's own, from before the first connection until after
//! the last. A file that is in use here already is known by its number, and is not opened. Besides that, only SQLite opens
//! the file, and it closes its own descriptors when no connection has a lock any more.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::error::{StoreError, cannot_open};

/// The databases that services of this process use.
static IN_USE: Mutex<BTreeSet<FileId>> = Mutex::new(BTreeSet::new());

/// What a file is, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The file that has this name.
    ///
    /// It asks for nothing else: since Linux 6.13, who has asked for the time of a file makes the next write record another
    /// one, and the next `fdatasync` write that as well. For the log, that would be an additional write for each commit.
    #[cfg(target_os = "linux")]
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
        let found = statx(CWD, path, AtFlags::empty(), StatxFlags::INO)?;
        Ok(Self { device: makedev(found.stx_dev_major, found.stx_dev_minor), inode: found.stx_ino })
    }

    /// The file that has this name.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&std::fs::metadata(path)?))
    }
}

/// The only descriptor of the database file besides SQLite's own.
#[derive(Debug)]
pub(super) struct FileLock {
    /// `None` only while it is dropped.
    file: Option<File>,
    id: FileId,
    reach: Reach,
}

/// Who is kept out by the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every process, under every name of the file.
    Everyone,
    /// Nobody: the file system is not known to lock files, or to number them, reliably.
    Nobody,
}

impl FileLock {
    /// Locks a file, which is created if it does not exist. Only its owner can read it then.
    pub(super) fn acquire(path: &Path) -> Result<Self, StoreError> {
        let locked = || StoreError::Locked { path: path.to_owned(), holder: None };
        let mut in_use = in_use();
        let known = std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
        if known.is_some_and(|id| in_use.contains(&id)) {
            return Err(locked());
        }
        let file = private().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| cannot_open(path, error))?;
        let id = FileId::of(&file.metadata().map_err(|error| cannot_open(path, error))?);
        let reach = match try_lock(&file) {
            Ok(reach) => reach,
            Err(TryLockError::WouldBlock) => return Err(locked()),
            Err(TryLockError::Error(error)) => return Err(cannot_open(path, error)),
        };
        if reach == Reach::Nobody {
            log::warn!(
                "{} is on a file system that does not lock files reliably: only {}.lock keeps a second service out, \
                 and only under this name",
                path.display(),
                path.display()
            );
        }
        in_use.insert(id);
        Ok(Self { file: Some(file), id, reach })
    }

    pub(super) fn file(&self) -> &File {
        self.file.as_ref().expect("it is taken only by drop")
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn reach(&self) -> Reach {
        self.reach
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let mut in_use = in_use();
        if let Some(file) = self.file.take() {
            // A child that is being started has the descriptor, too, until it runs its program, and the lock with it.
            if let Err(error) = file.unlock() {
                log::warn!("a database stays locked until its descriptor is closed: {error}");
            }
        }
        in_use.remove(&self.id);
    }
}

fn in_use() -> MutexGuard<'static, BTreeSet<FileId>> {
    IN_USE.lock().expect("no thread panics while it holds this lock")
}

/// Files that only their owner can read and write.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn try_lock(file: &File) -> Result<Reach, TryLockError> {
    if !is_local(file) {
        return Ok(Reach::Nobody);
    }
    match file.try_lock() {
        Ok(()) => Ok(Reach::Everyone),
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(Reach::Nobody),
        Err(error) => Err(error),
    }
}

/// File systems whose `flock` may be missing, or is made of POSIX locks, which would collide with SQLite's own: NFS, SMB,
/// CIFS and its second version, FUSE, 9P, AFS, Ceph, Lustre.
#[cfg(target_os = "linux")]
const REMOTE: [i64; 9] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x5346_414f, 0x00c3_6400, 0x0bd0_0bd0];

#[cfg(target_os = "linux")]
fn is_local(file: &File) -> bool {
    rustix::fs::fstatfs(file)
        .is_ok_and(|found| !REMOTE.iter().any(|kind| i128::from(*kind) == i128::from(found.f_type)))
}

#[cfg(not(target_os = "linux"))]
fn is_local(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_locked_once_whatever_its_names_are() {
        let directory = tempfile::tempdir().unwrap();
        let one = directory.path().join("one.db");
        let other = directory.path().join("other.db");
        let lock = FileLock::acquire(&one).unwrap();
        assert_eq!(lock.file().metadata().unwrap().mode() & 0o777, 0o600);
        std::fs::hard_link(&one, &other).unwrap();
        assert!(matches!(FileLock::acquire(&other), Err(StoreError::Locked { path, .. }) if path == other));
        drop(lock);
        FileLock::acquire(&other).unwrap();
    }
}
