//! Whether a record on a server is still reached. A service that does not reach it knows nothing of what others write, so its
//! streams must not look as if there were nothing: they are cut, and their clients go to another service.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::storage::database::Writers;

/// When the record was last reached. The relay notes it with each poll; others look at it, since a poll may wait for a server
/// that does not answer.
#[derive(Debug)]
pub(crate) struct Reach {
    /// How long the record may be out of reach. `None` for a file, which no network separates from its service.
    timeout: Option<Duration>,
    started: Instant,
    /// Milliseconds after the start.
    reached: AtomicU64,
}

impl Reach {
    /// A record that was reached just now.
    pub(crate) fn new(writers: Writers, timeout: Duration) -> Self {
        let timeout = (writers == Writers::Many).then_some(timeout);
        Self { timeout, started: Instant::now(), reached: AtomicU64::new(0) }
    }

    /// Notes that the record is reached.
    pub(super) fn note(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.reached.store(now, Ordering::Relaxed);
    }

    /// Whether the record has been out of reach for too long.
    pub(crate) fn is_lost(&self) -> bool {
        self.left().is_zero()
    }

    /// How long the record may still be out of reach.
    pub(crate) fn left(&self) -> Duration {
        let silence =
            || self.started.elapsed().saturating_sub(Duration::from_millis(self.reached.load(Ordering::Relaxed)));
        self.timeout.map_or(Duration::MAX, |timeout| timeout.saturating_sub(silence()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_on_a_server_is_lost_when_its_time_is_over_and_a_file_never_is() {
        let hour = Duration::from_secs(3600);
        for (writers, timeout, expected) in [
            (Writers::Many, Duration::ZERO, true),
            (Writers::Many, hour, false),
            (Writers::ThisProcess, Duration::ZERO, false),
        ] {
            let reach = Reach::new(writers, timeout);
            reach.note();
            assert_eq!(reach.is_lost(), expected, "{writers:?} {timeout:?}");
        }
        assert_eq!(Reach::new(Writers::ThisProcess, hour).left(), Duration::MAX);
    }
}
