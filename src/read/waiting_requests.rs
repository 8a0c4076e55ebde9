//! The number of requests that wait for some reading threads. The pages of streams, which are never refused, do not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::thread_pool::PoolBusy;

/// Counts the requests that wait.
#[derive(Clone)]
pub(super) struct WaitingRequests {
    count: Arc<AtomicUsize>,
    max: usize,
}

/// A place in the queue, until it is dropped.
pub(super) struct Turn(Arc<AtomicUsize>);

impl WaitingRequests {
    /// At most `max` wait.
    pub(super) fn new(max: usize) -> Self {
        Self { count: Arc::default(), max }
    }

    /// One more waits, unless there are too many.
    pub(super) fn wait(&self) -> Result<Turn, PoolBusy> {
        let turn = Turn(Arc::clone(&self.count));
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        if before < self.max { Ok(turn) } else { Err(PoolBusy) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_makes_room_for_another() {
        let waiting = WaitingRequests::new(2);
        let first = waiting.wait().ok().unwrap();
        let _second = waiting.wait().ok().unwrap();
        assert!(waiting.wait().is_err() && waiting.wait().is_err());
        drop(first);
        let _third = waiting.wait().ok().unwrap();
        assert_eq!(waiting.count.load(Ordering::Relaxed), 2);
    }
}
