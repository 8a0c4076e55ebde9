//! A file system that is small enough to fill.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system in memory, until it is dropped.
pub(crate) struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// A disk of a size in MiB. `None` without the right to mount one, unless the environment requires it.
    pub(crate) fn mount(mebibytes: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        let mounted = mounted.is_ok_and(|output| output.status.success());
        if !mounted {
            super::not_tested("full disks are", "only root can mount a file system");
        }
        mounted.then_some(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The free room in bytes.
    pub(crate) fn free(&self) -> u64 {
        let output = Command::new("stat").args(["--file-system", "--format=%a %S"]).arg(self.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (blocks, size) = text.trim().split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * size.parse::<u64>().unwrap()
    }

    /// Leaves this many bytes free, until [`SmallDisk::make_room`].
    pub(crate) fn fill(&self, leave: u64) {
        let size = self.free().saturating_sub(leave);
        // The service may have taken some of it meanwhile. What has room is written.
        let filled = std::fs::write(self.filler(), vec![1; usize::try_from(size).unwrap()]);
        assert!(filled.is_ok() || leave == 0, "cannot fill the disk");
    }

    /// Nobody can write it from here on.
    pub(crate) fn forbid_writing(&self) {
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status().unwrap().success());
    }

    /// It can be written again.
    pub(crate) fn allow_writing(&self) {
        assert!(Command::new("mount").args(["-o", "remount,rw"]).arg(self.path()).status().unwrap().success());
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A service that has just been killed may still be closing its files.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
