//! Limits the number of connections from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::memory::fair_shares::Network;
use crate::metrics::Counter;

/// Counts the connections of each network. How many there are in all, the framework limits.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    max: AtomicUsize,
    open: Mutex<HashMap<Network, usize>>,
    /// Connections that were closed at once.
    pub(crate) refused: Counter,
}

/// The right to one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<ConnectionLimiter>,
    network: Network,
}

impl ConnectionLimiter {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.into(), open: Mutex::default(), refused: Counter::default() })
    }

    /// A permit for one more connection from this address, unless it has as many as it may have.
    pub(crate) fn try_acquire(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        let network = Network::from(address);
        let mut open = self.open();
        let here = open.entry(network).or_default();
        if *here >= self.max.load(Ordering::Relaxed) {
            self.refused.add(1);
            return None;
        }
        *here += 1;
        Some(Permit { limiter: Arc::clone(self), network })
    }

    /// Lowers the maximum to what the system allows.
    pub(crate) fn lower_to(&self, max: usize) {
        self.max.fetch_min(max, Ordering::Relaxed);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.open.lock().expect("nobody panics while counting")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limiter.open();
        match open.get_mut(&self.network) {
            Some(1) | None => drop(open.remove(&self.network)),
            Some(count) => *count -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let limiter = ConnectionLimiter::new(2);
        let acquire = |host| limiter.try_acquire(IpAddr::from([192, 0, 2, host]));
        let (first, _second) = (acquire(1).unwrap(), acquire(1).unwrap());
        assert!(acquire(1).is_none());
        assert!(acquire(2).is_some(), "another address");
        assert_eq!(limiter.refused.get(), 1);
        drop(first);
        assert!(acquire(1).is_some());
        assert_eq!(limiter.open().len(), 1);
    }
}
