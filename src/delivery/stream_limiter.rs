//! Limits the number of open streams, in total and per address.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::memory::fair_shares::Network;
use crate::metrics::Counter;

/// Counts the streams that are open.
#[derive(Debug)]
pub(crate) struct StreamLimiter {
    max: AtomicUsize,
    max_per_address: AtomicUsize,
    open: Mutex<Open>,
    /// Streams that were refused because there were `max`.
    pub(crate) refused: Counter,
    /// Streams that were refused because there were `max_per_address` of their address.
    pub(crate) refused_to_address: Counter,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<Network, usize>,
}

/// The right to one open stream, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    stream_limiter: Arc<StreamLimiter>,
    address: Option<Network>,
}

impl StreamLimiter {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Arc<Self> {
        Arc::new(Self {
            max: AtomicUsize::new(max),
            max_per_address: AtomicUsize::new(max_per_address),
            open: Mutex::default(),
            refused: Counter::default(),
            refused_to_address: Counter::default(),
        })
    }

    /// A permit for one more stream, unless a limit is reached.
    pub(crate) fn try_acquire(self: &Arc<Self>, address: Option<Network>) -> Option<Permit> {
        let mut open = self.open();
        let here = address.map_or(0, |address| open.by_address.get(&address).copied().unwrap_or(0));
        if open.all >= self.max() {
            self.refused.add(1);
            return None;
        }
        if here >= self.max_per_address.load(Ordering::Relaxed) {
            self.refused_to_address.add(1);
            return None;
        }
        open.all += 1;
        if let Some(address) = address {
            open.by_address.insert(address, here + 1);
        }
        Some(Permit { stream_limiter: Arc::clone(self), address })
    }

    /// The maximum number of open streams.
    pub(crate) fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Lowers the limits to what the system allows.
    pub(crate) fn lower_to(&self, max: usize, max_per_address: usize) {
        self.max.fetch_min(max, Ordering::Relaxed);
        self.max_per_address.fetch_min(max_per_address, Ordering::Relaxed);
    }

    /// The number of open streams.
    pub(crate) fn count(&self) -> usize {
        self.open().all
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("nobody panics while counting")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.stream_limiter.open();
        open.all -= 1;
        let Some(address) = self.address else { return };
        match open.by_address.get_mut(&address) {
            Some(1) | None => drop(open.by_address.remove(&address)),
            Some(count) => *count -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Option<Network> {
        Some(address.parse::<std::net::IpAddr>().unwrap().into())
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_count_together() {
        let stream_limiter = StreamLimiter::new(3, 1);
        let _first = stream_limiter.try_acquire(network("2001:db8::1")).unwrap();
        assert!(stream_limiter.try_acquire(network("2001:db8::2")).is_none());
        assert!(stream_limiter.try_acquire(network("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn a_dropped_permit_can_be_acquired_again() {
        let stream_limiter = StreamLimiter::new(3, 2);
        let (one, other) = (network("127.0.0.1"), network("127.0.0.2"));
        let first = stream_limiter.try_acquire(one).unwrap();
        let _second = stream_limiter.try_acquire(one).unwrap();
        assert!(stream_limiter.try_acquire(one).is_none(), "two of one address");
        let _third = stream_limiter.try_acquire(other).unwrap();
        assert!(stream_limiter.try_acquire(other).is_none(), "three in total");
        drop(first);
        assert_eq!(stream_limiter.count(), 2);
        assert!(stream_limiter.try_acquire(one).is_some());
    }
}
