//! The time of day, in one place, so that tests can set it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC. Written beside events for people and for retention; nothing is ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(i64);

impl Timestamp {
    /// Milliseconds since 1970.
    pub(crate) const fn milliseconds(self) -> i64 {
        self.0
    }

    /// Later than all that was ever written.
    #[cfg(test)]
    pub(crate) fn after_all(self) -> Self {
        Self(i64::MAX)
    }

    /// This much earlier.
    pub(crate) fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// The system's clock; with `test-hooks`, shifted by as much as a test says.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    #[cfg(feature = "test-hooks")]
    shift: std::sync::atomic::AtomicI64,
}

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX) + self.shift())
    }

    #[cfg(not(feature = "test-hooks"))]
    #[expect(clippy::unused_self, reason = "the same call with and without hooks")]
    fn shift(&self) -> i64 {
        0
    }

    #[cfg(feature = "test-hooks")]
    fn shift(&self) -> i64 {
        self.shift.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Moves the clock by this many milliseconds, back if negative.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn turn(&self, milliseconds: i64) {
        self.shift.fetch_add(milliseconds, std::sync::atomic::Ordering::Relaxed);
    }
}
