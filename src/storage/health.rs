//! What keeps the service from doing all of its work, and since when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The state of each part. A part that fails again and again is logged once.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failures: Mutex<BTreeMap<Part, Failure>>,
    /// A bit for each part that fails, so that a part that works costs no lock.
    failing: AtomicU32,
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
    /// It could not be done.
    Failed,
}

/// A part that can fail on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The file is another one, or none, or damaged.
    File,
    /// The last transaction failed, or the database could not be opened again.
    Writer,
    /// The write-ahead log cannot be moved into the file, so it grows.
    Checkpoint,
    /// The last read failed.
    Reader,
    /// The outbox cannot be read.
    Relay,
    /// There is little room left on the disk.
    Disk,
    /// The temporary files of large responses cannot be written.
    Spool,
    /// The certificate or its private key cannot be read again.
    Certificate,
    /// Something of an aggregate that was erased is still in the file.
    Erasure,
    /// The service is stopping.
    Stopping,
}

/// The last failure of a part, which may have recovered since.
#[derive(Debug)]
struct Failure {
    reason: String,
    is_failing: bool,
    /// How often it failed for this reason since it was logged.
    times: u64,
    /// How often it failed at all.
    total: u64,
    logged: Instant,
    /// Whether the log has this failure, so that it gets the recovery as well.
    is_logged: bool,
}

/// A part that fails again within this time for the same reason is not logged again: with a full disk, small transactions
/// may succeed between larger ones that fail.
const QUIET: Duration = Duration::from_secs(60);

impl Health {
    /// Notes that a part failed. The first time, and for every other reason, it is logged.
    pub(crate) fn fail(&self, part: Part, reason: &str) {
        let now = Instant::now();
        let mut failures = self.failures.lock().expect("no thread panics while it holds this lock");
        let failure = failures.entry(part).or_insert_with(|| Failure {
            reason: String::new(),
            is_failing: false,
            times: 0,
            total: 0,
            logged: now,
            is_logged: false,
        });
        failure.total += 1;
        let is_known = failure.reason == reason;
        if is_known && (failure.is_failing || now.duration_since(failure.logged) < QUIET) {
            failure.times += 1;
            failure.is_logged &= failure.is_failing;
        } else {
            let level = if part == Part::Stopping { log::Level::Info } else { log::Level::Error };
            log::log!(level, "{part}: {reason}");
            failure.reason = reason.to_owned();
            failure.times = 1;
            failure.logged = now;
            failure.is_logged = true;
        }
        failure.is_failing = true;
        self.failing.fetch_or(part.bit(), Ordering::Relaxed);
    }

    /// Notes that the service is stopping.
    pub(crate) fn stop(&self) {
        self.fail(Part::Stopping, "the service is stopping");
    }

    /// Notes that a part works.
    pub(crate) fn recover(&self, part: Part) {
        if !self.is_failing(part) {
            return;
        }
        let mut failures = self.failures.lock().expect("no thread panics while it holds this lock");
        self.failing.fetch_and(!part.bit(), Ordering::Relaxed);
        let Some(failure) = failures.get_mut(&part).filter(|failure| failure.is_failing) else { return };
        failure.is_failing = false;
        if failure.is_logged {
            log::info!("{part}: works again after {} failures", failure.times);
            failure.logged = Instant::now();
        }
    }

    /// Whether a part fails.
    pub(crate) fn is_failing(&self, part: Part) -> bool {
        self.failing.load(Ordering::Relaxed) & part.bit() != 0
    }

    /// Every part that fails, with the reason.
    pub(crate) fn reasons(&self) -> Vec<(Part, String)> {
        let failures = self.failures.lock().expect("no thread panics while it holds this lock");
        let failing = failures.iter().filter(|(_, failure)| failure.is_failing);
        failing.map(|(part, failure)| (*part, failure.reason.clone())).collect()
    }

    /// How often a part failed since the start.
    pub(crate) fn failures(&self, part: Part) -> u64 {
        let failures = self.failures.lock().expect("no thread panics while it holds this lock");
        failures.get(&part).map_or(0, |failure| failure.total)
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

impl Part {
    /// Every part.
    pub(crate) const ALL: [Self; 10] = [
        Self::File,
        Self::Writer,
        Self::Checkpoint,
        Self::Reader,
        Self::Relay,
        Self::Disk,
        Self::Spool,
        Self::Certificate,
        Self::Erasure,
        Self::Stopping,
    ];

    /// The name for machines.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Writer => "writer",
            Self::Checkpoint => "checkpoint",
            Self::Reader => "reader",
            Self::Relay => "relay",
            Self::Disk => "disk",
            Self::Spool => "spool",
            Self::Certificate => "certificate",
            Self::Erasure => "erasure",
            Self::Stopping => "stopping",
        }
    }

    /// Whether other services should get the requests while this part fails.
    pub(crate) const fn prevents_readiness(self) -> bool {
        // Without checkpoints, everything works until the disk is full. Only responses that are large and whose clients
        // are slow need a temporary file. The certificate that was read before is still in use. What was erased is in the
        // file, where no request finds it.
        !matches!(self, Self::Checkpoint | Self::Spool | Self::Certificate | Self::Erasure)
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl FileCheck {
    /// Every state.
    pub(crate) const ALL: [Self; 5] = [Self::NotNeeded, Self::Due, Self::Sound, Self::Damaged, Self::Failed];

    /// For operators: `not needed`, `running`, `ok`, `damaged` or `failed`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotNeeded => "not needed",
            Self::Due => "running",
            Self::Sound => "ok",
            Self::Damaged => "damaged",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "the database file",
            Self::Writer => "the writer",
            Self::Checkpoint => "the checkpoint",
            Self::Reader => "the readers",
            Self::Relay => "the relay",
            Self::Disk => "the disk",
            Self::Spool => "the temporary files",
            Self::Certificate => "the certificate",
            Self::Erasure => "an erasure",
            Self::Stopping => "shutdown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_fails_until_it_recovers_and_all_failures_are_counted() {
        let health = Health::default();
        for _ in 0..3 {
            health.fail(Part::Writer, "the disk is full");
        }
        health.fail(Part::Relay, "cannot read");
        let reasons = [(Part::Writer, "the disk is full".to_owned()), (Part::Relay, "cannot read".to_owned())];
        assert_eq!(health.reasons(), reasons);
        health.recover(Part::Writer);
        assert_eq!(health.reasons(), reasons[1..]);
        health.fail(Part::Writer, "the disk is full");
        assert_eq!(health.reasons(), reasons);
        assert_eq!(health.failures(Part::Writer), 4);
        assert_eq!(health.failures(Part::Disk), 0);
    }

    #[test]
    fn every_part_has_a_bit_and_a_name_of_its_own() {
        for part in Part::ALL {
            let health = Health::default();
            health.fail(part, "x");
            let failing: Vec<_> = Part::ALL.into_iter().filter(|part| health.is_failing(*part)).collect();
            assert_eq!(failing, [part]);
            assert_eq!(Part::ALL.iter().filter(|other| other.name() == part.name()).count(), 1);
        }
    }
}
