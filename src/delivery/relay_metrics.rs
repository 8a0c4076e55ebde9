//! How far the relay has come.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::domain::revision::Revision;
use crate::storage::counters::Horizon;

/// How far the relay has come. It writes this once for each publication and poll.
#[derive(Debug)]
pub(crate) struct RelayMetrics(Mutex<Progress>);

#[derive(Debug, Clone, Copy)]
struct Progress {
    published: Revision,
    /// When the relay last published something, or found that there was nothing to publish.
    at: Instant,
    /// The last pruned revision at the first poll, and at the last one.
    pruned: Option<(Revision, Revision)>,
}

/// How far the relay is behind the last commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RelayLag {
    pub(crate) revisions: i64,
    /// Since the relay last published something.
    pub(crate) time: Duration,
}

impl RelayMetrics {
    pub(crate) fn new(published: Revision) -> Self {
        Self(Mutex::new(Progress { published, at: Instant::now(), pruned: None }))
    }

    /// Everything up to this revision is published.
    pub(super) fn published(&self, published: Revision, at: Instant) {
        self.change(|progress| (progress.published, progress.at) = (published, at));
    }

    /// The relay has read what there is to publish after this revision.
    pub(super) fn polled(&self, horizon: &Horizon, published: Revision) {
        self.change(|progress| {
            // What was pruned before it was published never will be.
            progress.published = progress.published.max(published);
            let first = progress.pruned.map_or(horizon.pruned, |(first, _)| first);
            progress.pruned = Some((first, horizon.pruned));
            if progress.published >= horizon.current {
                progress.at = Instant::now();
            }
        });
    }

    /// How far the relay is behind this revision.
    pub(crate) fn lag(&self, committed: Revision) -> RelayLag {
        let Progress { published, at, .. } = self.get();
        let revisions = committed.number().saturating_sub(published.number()).max(0);
        RelayLag { revisions, time: if revisions > 0 { at.elapsed() } else { Duration::ZERO } }
    }

    /// The number of revisions that were pruned since the start.
    pub(crate) fn pruned(&self) -> u64 {
        let (first, last) = self.get().pruned.unwrap_or_default();
        u64::try_from(last.number() - first.number()).unwrap_or(0)
    }

    /// The number of revisions up to this one whose change events are retained.
    pub(crate) fn retained(&self, committed: Revision) -> i64 {
        let (_, pruned) = self.get().pruned.unwrap_or_default();
        (committed.number() - pruned.number()).max(0)
    }

    fn get(&self) -> Progress {
        *self.0.lock().expect("no thread panics while it holds this lock")
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().expect("no thread panics while it holds this lock"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_what_was_committed_and_not_published() {
        let metrics = RelayMetrics::new(Revision::from_raw(5));
        let earlier = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        for (published, committed, revisions) in [(7, 7, 0), (7, 9, 2), (9, 7, 0)] {
            metrics.published(Revision::from_raw(published), earlier);
            let lag = metrics.lag(Revision::from_raw(committed));
            assert_eq!(lag.revisions, revisions, "{published} of {committed}");
            assert_eq!(lag.time >= Duration::from_secs(10), revisions > 0, "{lag:?}");
        }
    }

    #[test]
    fn what_was_pruned_before_the_first_poll_does_not_count() {
        let metrics = RelayMetrics::new(Revision::ZERO);
        let horizon = |pruned| Horizon {
            current: Revision::from_raw(20),
            pruned: Revision::from_raw(pruned),
            forgotten: Revision::ZERO,
            erasures: 0,
            dropped: Revision::ZERO,
        };
        assert_eq!((metrics.pruned(), metrics.retained(Revision::from_raw(20))), (0, 20));
        metrics.polled(&horizon(10), Revision::from_raw(10));
        assert_eq!((metrics.pruned(), metrics.retained(Revision::from_raw(20))), (0, 10));
        metrics.polled(&horizon(15), Revision::from_raw(10));
        assert_eq!(metrics.lag(Revision::from_raw(20)).revisions, 10);
        assert_eq!((metrics.pruned(), metrics.retained(Revision::from_raw(20))), (5, 5));
    }
}
