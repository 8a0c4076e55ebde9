//! The memory that shared bytes may take, all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::web::Bytes;

/// How many bytes there may be, and how many there are.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
}

/// There is no room in the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BudgetExceeded;

impl MemoryBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// The bytes that nobody takes.
    pub(crate) fn free(&self) -> usize {
        self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// Makes bytes that count from now on, and until the last clone of them is gone: whoever holds it, a slow client's
    /// response among them. `beside` is what is kept beside them as long, in bytes.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: Vec<u8>, overhead: usize) -> Result<Bytes, BudgetExceeded> {
        self.reserve(bytes, overhead).map(Bytes::from_owner)
    }

    /// The same, for who wants to know whether somebody else holds them.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: Vec<u8>, overhead: usize) -> Result<Tracked, BudgetExceeded> {
        let bytes = bytes.into_boxed_slice();
        let taken = bytes.len() + overhead;
        let fits = |used: usize| used.checked_add(taken).filter(|used| *used <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Tracked { bytes, taken, budget: Arc::clone(self) }),
            Err(_) => Err(BudgetExceeded),
        }
    }
}

/// Bytes that are counted.
#[derive(Debug)]
pub(crate) struct Tracked {
    bytes: Box<[u8]>,
    taken: usize,
    budget: Arc<MemoryBudget>,
}

impl Tracked {
    /// What is counted for them, in bytes.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_as_long_as_anybody_holds_them() {
        let budget = MemoryBudget::new(100);
        let bytes = budget.allocate(vec![1; 50], 10).unwrap();
        assert_eq!(budget.allocate(vec![1; 41], 0).unwrap_err(), BudgetExceeded);
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.free(), 40);
        drop(part);
        assert_eq!(budget.free(), 100);
    }
}
