//! The free room on the disk of the database.

use std::io;
use std::path::{Path, PathBuf};

use super::health::{Health, Part};
use crate::metrics::Gauge;

/// The disk of the database. With too little room left, the service is not ready.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    /// In bytes.
    min_free: u64,
    /// At the last check, in bytes.
    free: Gauge,
}

impl Disk {
    /// The disk of a directory, which should have this many free bytes.
    pub(crate) fn new(directory: PathBuf, min_free: u64) -> Self {
        Self { directory, min_free, free: Gauge::default() }
    }

    /// The room below which the service is not ready, in bytes.
    pub(crate) fn min_free(&self) -> i64 {
        i64::try_from(self.min_free).unwrap_or(i64::MAX)
    }

    /// Looks how much room is left.
    pub(crate) fn check(&self, health: &Health) {
        let directory = self.directory.display();
        let free = match free_bytes(&self.directory) {
            Ok(free) => free,
            Err(error) => {
                return health.fail(Part::Disk, &format!("cannot find out what is free in {directory}: {error}"));
            }
        };
        self.free.set(i64::try_from(free).unwrap_or(i64::MAX));
        if free < self.min_free {
            let mark = bytesize::ByteSize(self.min_free);
            health.fail(Part::Disk, &format!("less than {mark} are free in {directory}; --min-free changes this mark"));
        } else {
            health.recover(Part::Disk);
        }
    }

    /// The free room at the last check, in bytes.
    pub(crate) fn free(&self) -> i64 {
        self.free.get()
    }
}

/// The free room on the disk of a directory, in bytes. What is reserved for root does not count.
pub(super) fn free_bytes(directory: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(directory)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_fails_below_its_mark() {
        let directory = tempfile::tempdir().unwrap();
        for (directory, min_free, is_failing) in [
            (directory.path(), 0, false),
            (directory.path(), u64::MAX, true),
            (&directory.path().join("missing"), 0, true),
        ] {
            let health = Health::default();
            let disk = Disk::new(directory.to_owned(), min_free);
            disk.check(&health);
            assert_eq!(health.is_failing(Part::Disk), is_failing, "{} {min_free}", directory.display());
        }
    }
}
