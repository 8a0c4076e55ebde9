//! How fast a copy is written, so that a service that uses the same disk does not wait for it.

use std::fs::File;
use std::io;

/// How much a copy may disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nobody waits for the disk, only whoever makes the copy.
    Full,
    /// A service may be writing: processor time is taken only if nobody else wants it, and the disk in small pieces, about
    /// 16 MiB/s.
    Background,
}

impl Pace {
    /// Lowers the priority of this thread, and of those that it starts, for good.
    pub(super) fn begin(self) {
        match self {
            Self::Full => (),
            // A system that does not allow it costs nothing but some latency of the service.
            Self::Background => drop(rustix::process::nice(19)),
        }
    }

    /// Has what was written to `file` sent to the disk. A sync at once would make each commit of the service wait until all
    /// of it is there.
    ///
    /// # Errors
    /// The length of the file cannot be read.
    pub(super) fn write_out(self, file: &File) -> io::Result<()> {
        match self {
            Self::Full => Ok(()),
            Self::Background => write_in_pieces(file),
        }
    }
}

#[cfg(target_os = "linux")]
fn write_in_pieces(file: &File) -> io::Result<()> {
    use std::num::NonZeroU64;
    use std::time::Duration;

    const PIECE: NonZeroU64 = NonZeroU64::new(128 * 1024).expect("not 0");
    const PAUSE: Duration = Duration::from_millis(8);

    let length = file.metadata()?.len();
    for offset in (0..length).step_by(128 * 1024) {
        // Linux begins to write a range that is no longer needed. If it does not, the sync at the end does all of it.
        let _ = rustix::fs::fadvise(file, offset, Some(PIECE), rustix::fs::Advice::DontNeed);
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Other systems have no way to begin with a part of a file.
#[cfg(not(target_os = "linux"))]
fn write_in_pieces(_: &File) -> io::Result<()> {
    Ok(())
}
