//! Where bodies wait for slow clients: a directory for unlinked files, and how much of its disk they may take.

use crate::memory::fair_shares::Network;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::metrics::Counter;
use crate::storage::database::Database;
use crate::storage::health::Part;

/// The directory of the temporary files.
pub(crate) struct SpoolDirectory {
    path: PathBuf,
    limits: SpoolLimits,
    /// For the health of the service.
    database: Arc<Database>,
    used: Mutex<Used>,
    /// Bodies that had no room.
    pub(crate) refused: Counter,
}

/// How much room the temporary files may take; all in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpoolLimits {
    /// All of them together.
    pub(crate) total: u64,
    /// Those that clients of one address read.
    pub(crate) per_address: u64,
    /// What stays free on the disk, for the writer.
    pub(crate) min_free: u64,
}

/// What the files contain, in bytes.
#[derive(Default)]
struct Used {
    all: u64,
    by_address: HashMap<Option<Network>, u64>,
}

/// Why a file cannot take more.
#[derive(Debug)]
pub(crate) enum SpoolRefusal {
    /// There is no room for it at the moment.
    NoRoom,
    /// The file failed, which the health of the service shows.
    Failed,
}

/// A temporary file. Its bytes count against the limits until it is dropped.
pub(crate) struct SpoolFile {
    file: Arc<File>,
    length: u64,
    address: Option<Network>,
    directory: Arc<SpoolDirectory>,
}

/// A part of a file that counts, and is to be written.
pub(super) struct Gap {
    file: Arc<File>,
    at: u64,
    directory: Arc<SpoolDirectory>,
}

/// What stays free beyond `min_free`, in bytes: the write-ahead log grows before it is moved into the database.
const MARGIN: u64 = 16 << 20;

/// Into how many files what an address may have is divided.
const FILES: u64 = 16;

impl SpoolDirectory {
    /// For files in `path`, or on the disk of the database.
    pub(crate) fn new(path: Option<&Path>, limits: SpoolLimits, database: &Arc<Database>) -> Arc<Self> {
        let path = path.unwrap_or_else(|| database.directory()).to_owned();
        let (database, used, refused) = (Arc::clone(database), Mutex::default(), Counter::default());
        Arc::new(Self { path, limits, database, used, refused })
    }

    /// What all temporary files contain, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.used().all
    }

    /// What they may contain, in bytes.
    pub(crate) fn limits(&self) -> SpoolLimits {
        self.limits
    }

    /// How many bytes more a file for a client at this address could have.
    pub(crate) fn room(&self, address: Option<Network>) -> u64 {
        let used = self.used();
        let here = used.by_address.get(&address).copied().unwrap_or(0);
        let in_all = self.limits.total.saturating_sub(used.all);
        in_all.min(self.limits.per_address.saturating_sub(here)).min(self.free())
    }

    /// The room on the disk that nobody else needs, in bytes.
    fn free(&self) -> u64 {
        // Where that cannot be found out, writing shows it.
        rustix::fs::statvfs(&self.path).map_or(u64::MAX, |status| {
            let free = status.f_bavail.saturating_mul(status.f_frsize);
            free.saturating_sub(self.limits.min_free.saturating_add(MARGIN))
        })
    }

    /// An empty file for a client at this address.
    pub(super) fn create(self: &Arc<Self>, address: Option<Network>) -> Result<SpoolFile, SpoolRefusal> {
        let file = tempfile::tempfile_in(&self.path).map_err(|error| self.failed(&error))?;
        Ok(SpoolFile { file: Arc::new(file), length: 0, address, directory: Arc::clone(self) })
    }

    /// Finds out whether files can be written in a directory.
    ///
    /// # Errors
    /// What keeps them from being written.
    pub(crate) fn check(directory: &Path) -> std::io::Result<()> {
        tempfile::tempfile_in(directory)?.write_all_at(&[0; 64 * 1024], 0)
    }

    /// Finds out whether a file can be written again.
    pub(crate) fn probe(&self) {
        if Self::check(&self.path).is_ok() {
            self.recover();
        }
    }

    /// A file could be written.
    pub(super) fn recover(&self) {
        self.database.health().recover(Part::Spool);
    }

    fn failed(&self, error: &std::io::Error) -> SpoolRefusal {
        let reason = format!("cannot write a temporary file in {}: {error}", self.path.display());
        self.database.health().fail(Part::Spool, &reason);
        SpoolRefusal::Failed
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().expect("nobody panics while holding it")
    }

    /// Counts bytes, if there is room for them.
    fn reserve(&self, bytes: u64, address: Option<Network>) -> Result<(), SpoolRefusal> {
        if self.free() < bytes {
            return Err(SpoolRefusal::NoRoom);
        }
        let mut used = self.used();
        let here = used.by_address.get(&address).copied().unwrap_or(0);
        if used.all + bytes > self.limits.total || here + bytes > self.limits.per_address {
            return Err(SpoolRefusal::NoRoom);
        }
        used.add(bytes, address);
        Ok(())
    }
}

impl Used {
    fn add(&mut self, bytes: u64, address: Option<Network>) {
        self.all += bytes;
        *self.by_address.entry(address).or_default() += bytes;
    }

    fn remove(&mut self, bytes: u64, address: Option<Network>) {
        self.all -= bytes;
        if let Some(here) = self.by_address.get_mut(&address) {
            *here -= bytes;
            if *here == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl SpoolFile {
    /// What clients read from.
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// A gap of so many bytes at the end.
    pub(super) fn extend(&mut self, bytes: usize) -> Result<Gap, SpoolRefusal> {
        self.directory.reserve(bytes as u64, self.address)?;
        let gap = Gap { file: Arc::clone(&self.file), at: self.length, directory: Arc::clone(&self.directory) };
        self.length += bytes as u64;
        Ok(gap)
    }

    /// Its bytes count for another address from now on, whatever the limit of that is.
    pub(super) fn charge_to(&mut self, address: Option<Network>) {
        let mut used = self.directory.used();
        used.remove(self.length, self.address);
        used.add(self.length, address);
        self.address = address;
    }

    /// How many bytes it has, with those that are not written yet.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether it is so long that the next bytes go to another file: each can be removed only as a whole. The number of
    /// open files is bounded by this.
    pub(super) fn is_full(&self) -> bool {
        self.length >= self.directory.limits.per_address / FILES
    }

    /// Whose bytes they are.
    pub(super) fn address(&self) -> Option<Network> {
        self.address
    }
}

impl Gap {
    /// Writes the bytes. May wait for the disk.
    pub(super) fn fill(self, bytes: &[u8]) -> Result<(), SpoolRefusal> {
        self.file.write_all_at(bytes, self.at).map_err(|error| self.directory.failed(&error))
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.directory.used().remove(self.length, self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_grows_within_the_limits_of_all_and_of_its_address() {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&directory.path().join("test.db")).unwrap());
        let limits = SpoolLimits { total: 100, per_address: 60, min_free: 0 };
        let spools = SpoolDirectory::new(None, limits, &database);
        let address = |last| Some(Network::from(std::net::IpAddr::from([127, 0, 0, last])));
        let mut files = [1, 2].map(|last| spools.create(address(last)).unwrap());
        for (file, bytes, fits, all) in
            [(0, 50, true, 50), (0, 11, false, 50), (0, 10, true, 60), (1, 41, false, 60), (1, 40, true, 100)]
        {
            assert_eq!(files[file].extend(bytes).is_ok(), fits, "{bytes} bytes for file {file}");
            assert_eq!(spools.bytes(), all);
        }
        assert_eq!((spools.room(address(2)), spools.room(address(3))), (0, 0));
        let [first, mut second] = files;
        drop(first);
        assert_eq!([1, 2, 3].map(|last| spools.room(address(last))), [60, 20, 60]);
        second.charge_to(address(3));
        assert_eq!([1, 2, 3].map(|last| spools.room(address(last))), [60, 60, 20]);
        drop(second);
        assert_eq!((spools.bytes(), spools.used().by_address.len()), (0, 0));
    }

    #[test]
    fn nothing_is_written_where_the_writer_needs_the_room() {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(&directory.path().join("test.db")).unwrap());
        let limits = SpoolLimits { total: u64::MAX, per_address: u64::MAX, min_free: u64::MAX };
        let spools = SpoolDirectory::new(None, limits, &database);
        assert_eq!(spools.room(None), 0);
        let mut file = spools.create(None).unwrap();
        assert!(matches!(file.extend(1), Err(SpoolRefusal::NoRoom)));
        assert_eq!(spools.bytes(), 0);
    }
}
