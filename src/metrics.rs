//! Numbers that are counted where something happens, and read by those who operate the service. Counting costs an atomic
//! increment or two, and never a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicI64);

impl Gauge {
    pub(crate) fn set(&self, number: i64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds a number until the return value is dropped.
    pub(crate) fn hold(self: &Arc<Self>, number: usize) -> Held {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.0.fetch_add(number, Ordering::Relaxed);
        Held { gauge: Arc::clone(self), number }
    }
}

/// A part of a gauge, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    gauge: Arc<Gauge>,
    number: i64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.number, Ordering::Relaxed);
    }
}

/// How often a number was within each of some ranges.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// The upper bounds, inclusive and ascending.
    bounds: &'static [u64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// Bounds for durations, in microseconds: from 100 µs to 10 s.
pub(crate) const MICROSECONDS: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Bounds for the number of commands in a batch.
pub(crate) const BATCH: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

impl Histogram {
    pub(crate) fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, number: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < number)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Observes a duration in microseconds.
    pub(crate) fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// The sum of all numbers.
    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The upper bound of each range, and how often a number was in it. The last range has no bound.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = self.bounds.iter().copied().map(Some).chain([None]);
        bounds.zip(self.counts.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_counts_in_the_first_range_whose_bound_it_does_not_exceed() {
        for (number, expected) in
            [(0, Some(1)), (1, Some(1)), (2, Some(2)), (3, Some(4)), (512, Some(512)), (513, None)]
        {
            let histogram = Histogram::new(BATCH);
            histogram.observe(number);
            let counted: Vec<_> = histogram.ranges().filter(|(_, count)| *count > 0).collect();
            assert_eq!(counted, [(expected, 1)], "{number}");
            assert_eq!(histogram.sum(), number);
        }
    }

    #[test]
    fn what_is_held_counts_until_it_is_dropped() {
        let gauge = Arc::new(Gauge::default());
        let held = gauge.hold(5);
        let other = gauge.hold(1);
        assert_eq!(gauge.get(), 6);
        drop(held);
        assert_eq!(gauge.get(), 1);
        drop(other);
        assert_eq!(gauge.get(), 0);
    }
}
