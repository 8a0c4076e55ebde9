//! What keeps the service from doing all of its work, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The state of each part. A part that fails again and again is logged once.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failing: Mutex<BTreeMap<Part, Failure>>,
    /// Whether the file is not the one that was opened. That does not recover.
    is_replaced: AtomicBool,
    /// Wakes those who wait for that.
    replaced: Notify,
    file_check: Mutex<FileCheck>,
}

/// The comparison of the file with itself, after a service that did not stop in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FileCheck {
    /// The last service stopped in order.
    #[default]
    NotNeeded,
    /// It is not complete.
    Due,
    Sound,
    Damaged,
}

/// A part that can fail on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The file is another one, or none, or damaged.
    File,
    /// The last transaction failed, or the database could not be opened again.
    Writer,
    /// The last read failed.
    Reader,
    /// The outbox cannot be read.
    Relay,
    /// There is little room left on the disk.
    Disk,
    /// The service is stopping.
    Stopping,
}

#[derive(Debug)]
struct Failure {
    reason: String,
    /// How often it failed for this reason.
    times: u64,
}

impl Health {
    /// Notes that a part failed. The first time, and for every other reason, it is logged.
    pub(crate) fn fail(&self, part: Part, reason: &str) {
        let mut failing = self.failing.lock().expect("no thread panics while it holds this lock");
        match failing.get_mut(&part) {
            Some(failure) if failure.reason == reason => failure.times += 1,
            _ => {
                log::error!("{part}: {reason}");
                failing.insert(part, Failure { reason: reason.to_owned(), times: 1 });
            }
        }
    }

    /// Notes that a part works.
    pub(crate) fn recover(&self, part: Part) {
        let mut failing = self.failing.lock().expect("no thread panics while it holds this lock");
        if let Some(Failure { times, .. }) = failing.remove(&part) {
            log::info!("{part}: works again after {times} failures");
        }
    }

    /// Every part that fails, with the reason.
    pub(crate) fn reasons(&self) -> Vec<(Part, String)> {
        let failing = self.failing.lock().expect("no thread panics while it holds this lock");
        failing.iter().map(|(part, failure)| (*part, failure.reason.clone())).collect()
    }

    /// Notes that the file is not the one that was opened: from now on, nothing succeeds.
    pub(crate) fn replaced(&self, reason: &str) {
        self.fail(Part::File, reason);
        self.is_replaced.store(true, Ordering::Release);
        self.replaced.notify_waiters();
    }

    /// Waits until the file is not the one that was opened. That may never happen.
    pub(crate) async fn wait_until_replaced(&self) {
        let replaced = self.replaced.notified();
        if !self.is_replaced() {
            replaced.await;
        }
    }

    /// What the comparison of the file with itself came to.
    pub(crate) fn file_check(&self) -> FileCheck {
        *self.file_check.lock().expect("no thread panics while it holds this lock")
    }

    pub(crate) fn set_file_check(&self, result: FileCheck) {
        *self.file_check.lock().expect("no thread panics while it holds this lock") = result;
    }

    /// Whether the file is not the one that was opened.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the database file",
            Self::Writer => "the writer",
            Self::Reader => "the readers",
            Self::Relay => "the relay",
            Self::Disk => "the disk",
            Self::Stopping => "the service",
        })
    }
}
