//! A limit for memory, and bytes that count against it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::web::Bytes;

/// A number of bytes, and how many of them are reserved.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    /// The most that was ever reserved.
    peak: AtomicUsize,
}

/// The budget has too few free bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BudgetExceeded;

impl MemoryBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), peak: AtomicUsize::new(0) })
    }

    /// In bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// In bytes.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most that was in use at any moment, in bytes.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// In bytes.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used())
    }

    /// Bytes that count from now on and until they are dropped. `overhead` is the size in bytes of other data that lives
    /// as long.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: Vec<u8>, overhead: usize) -> Result<Tracked, BudgetExceeded> {
        let mut reservation = self.reservation();
        reservation.resize(bytes.len() + overhead)?;
        Ok(reservation.hold(bytes))
    }

    /// Remembers how much was in use after a reservation grew.
    fn record(&self, used: usize) {
        // It seldom grows, and reading it does not take it from the caches of other processors.
        if used > self.peak() {
            self.peak.fetch_max(used, Ordering::Relaxed);
        }
    }

    /// An empty reservation.
    pub(crate) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { size: 0, budget: Arc::clone(self) }
    }
}

/// A part of the budget, in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    size: usize,
    budget: Arc<MemoryBudget>,
}

impl Reservation {
    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Changes the size to this number of bytes; keeps the old one if the budget has too few free bytes.
    pub(crate) fn resize(&mut self, size: usize) -> Result<(), BudgetExceeded> {
        if let Some(surplus) = self.size.checked_sub(size) {
            self.budget.used.fetch_sub(surplus, Ordering::Relaxed);
        } else {
            let missing = size - self.size;
            let fits = |used: usize| used.checked_add(missing).filter(|used| *used <= self.budget.limit);
            let reserved = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
            self.budget.record(reserved.map_err(|_| BudgetExceeded)? + missing);
        }
        self.size = size;
        Ok(())
    }

    /// Makes it larger, even if that is more than the budget has. No other reservation can grow then until that is over.
    pub(crate) fn exceed(&mut self, size: usize) {
        let missing = size - self.size;
        self.budget.record(self.budget.used.fetch_add(missing, Ordering::Relaxed) + missing);
        self.size = size;
    }

    /// Bytes with this reservation.
    pub(crate) fn hold(self, bytes: Vec<u8>) -> Tracked {
        Tracked { bytes: bytes.into_boxed_slice(), reservation: self }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// Bytes with their reservation.
#[derive(Debug)]
pub(crate) struct Tracked {
    bytes: Box<[u8]>,
    reservation: Reservation,
}

impl Tracked {
    /// The same bytes for a response. They count until it is dropped, however slow its client is.
    pub(crate) fn share(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Shared(Arc::clone(self)))
    }

    /// The number of bytes that count for them.
    pub(crate) fn taken(&self) -> usize {
        self.reservation.size()
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

struct Shared(Arc<Tracked>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_as_long_as_anybody_holds_them() {
        let budget = MemoryBudget::new(100);
        let tracked = Arc::new(budget.reserve(vec![1; 50], 10).unwrap());
        assert_eq!(budget.reserve(vec![1; 41], 0).unwrap_err(), BudgetExceeded);
        let part = tracked.share().slice(10..20);
        drop(tracked);
        assert_eq!(budget.free(), 40);
        drop(part);
        assert_eq!(budget.free(), 100);
    }

    #[test]
    fn a_reservation_grows_within_the_limit_only() {
        let budget = MemoryBudget::new(100);
        let mut reservation = budget.reservation();
        for (size, outcome, free) in
            [(60, Ok(()), 40), (100, Ok(()), 0), (101, Err(BudgetExceeded), 0), (30, Ok(()), 70)]
        {
            assert_eq!(reservation.resize(size), outcome, "to {size}");
            assert_eq!(budget.free(), free, "after {size}");
        }
        assert_eq!(budget.peak(), 100);
        let bytes = reservation.hold(vec![1; 30]);
        assert_eq!(budget.free(), 70);
        drop(bytes);
        assert_eq!(budget.free(), 100);
    }
}
