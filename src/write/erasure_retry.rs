//! When an erasure that could not be finished is continued.

use std::time::{Duration, Instant};

use crate::storage::erasing::Extent;

/// The pause after the first failure. Each further one doubles it, because every attempt may take long.
const SHORTEST_PAUSE: Duration = if cfg!(feature = "test-hooks") {
    // Tests wait for several of them.
    Duration::from_secs(1)
} else {
    Duration::from_secs(5)
};

const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// When the next step is done.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// Failures since the last success.
    pub(super) failures: u32,
    /// The file is left alone until then. Rows of further aggregates are overwritten meanwhile.
    pub(super) at: Option<Instant>,
    /// Whether the next step is in the mailbox.
    pub(super) is_in_mailbox: bool,
    /// Whether a pause will end.
    pub(super) is_scheduled: bool,
}

impl Retry {
    /// Counts a failure, and returns the pause after it.
    pub(super) fn fail(&mut self) -> Duration {
        let pause = pause_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    pub(super) fn recover(&mut self) {
        self.failures = 0;
        self.at = None;
    }

    pub(super) fn extent(&self, now: Instant) -> Extent {
        if self.pause(now).is_zero() { Extent::Everything } else { Extent::Rows }
    }

    /// What is left of the pause.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

/// How long to wait after a failure with this many before it.
fn pause_after(failures: u32) -> Duration {
    SHORTEST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_an_hour_and_begins_again_after_a_success() {
        for (failures, times) in [(0, 1), (1, 2), (2, 4), (9, 512)] {
            assert_eq!(pause_after(failures), SHORTEST_PAUSE * times, "{failures}");
        }
        for failures in [12, u32::MAX] {
            assert_eq!(pause_after(failures), Duration::from_secs(3600), "{failures}");
        }
        let mut retry = Retry::default();
        assert_eq!([retry.fail(), retry.fail()], [SHORTEST_PAUSE, SHORTEST_PAUSE * 2]);
        retry.recover();
        assert_eq!(retry.fail(), SHORTEST_PAUSE);
    }

    #[test]
    fn the_file_is_left_alone_until_the_pause_is_over() {
        let now = Instant::now();
        let mut retry = Retry::default();
        assert_eq!(retry.extent(now), Extent::Everything);
        retry.at = Some(now + Duration::from_secs(5));
        assert_eq!(retry.extent(now), Extent::Rows);
        assert_eq!(retry.pause(now + Duration::from_secs(2)), Duration::from_secs(3));
        assert_eq!(retry.extent(now + Duration::from_secs(5)), Extent::Everything);
    }
}
