//! Latencies and their percentiles.

use std::time::Duration;

/// A collection of durations.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    pub fn push(&mut self, taken: Duration) {
        self.0.push(u32::try_from(taken.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// A percentile in milliseconds.
    pub fn percentile(&mut self, percent: usize) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        let at = (self.0.len() * percent / 100).min(self.0.len() - 1);
        f64::from(*self.0.select_nth_unstable(at).1) / 1000.0
    }
}
