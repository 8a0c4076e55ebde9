//! A budget that the addresses of clients share, so that one of them cannot take it from the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use super::budget::{BudgetExceeded, MemoryBudget, Reservation};

/// A budget, and what each network has of it.
///
/// A network may have as many bytes as are free, a quarter of the budget aside. That quarter is for those that have little: a
/// 256th of the budget each. So a few that take all they can get leave something for those that come later.
#[derive(Debug)]
pub(crate) struct FairShares {
    budget: Arc<MemoryBudget>,
    by_network: Mutex<HashMap<Option<Network>, usize>>,
}

/// An address as far as it says who somebody is: the first half of an IPv6 address, since a single machine usually has all of
/// the rest ([RFC 4291](https://www.rfc-editor.org/rfc/rfc4291#section-2.5.4)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

impl FairShares {
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self { budget: Arc::clone(budget), by_network: Mutex::default() })
    }

    /// The most that one network can have, in bytes.
    pub(crate) fn max(&self) -> usize {
        (self.budget.limit() - self.aside()) / 2
    }

    /// For networks that have little, in bytes.
    fn aside(&self) -> usize {
        self.budget.limit() / 4
    }

    /// What that is, in bytes.
    fn little(&self) -> usize {
        self.aside() / 64
    }

    /// An empty share. Clients without an address have one together.
    pub(crate) fn share(self: &Arc<Self>, network: Option<Network>) -> Share {
        Share { reservation: self.budget.reservation(), network, shares: Arc::clone(self) }
    }

    fn by_network(&self) -> MutexGuard<'_, HashMap<Option<Network>, usize>> {
        self.by_network.lock().expect("no thread panics while it holds this lock")
    }
}

/// A part of the budget for one client, in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    reservation: Reservation,
    network: Option<Network>,
    shares: Arc<FairShares>,
}

impl Share {
    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.reservation.size()
    }

    /// Changes the size to this number of bytes; keeps the old one if the network would have too much then.
    pub(crate) fn resize(&mut self, size: usize) -> Result<(), BudgetExceeded> {
        let before = self.size();
        if size == before {
            return Ok(());
        }
        let shares = Arc::clone(&self.shares);
        let mut by_network = shares.by_network();
        let mine = by_network.get(&self.network).copied().unwrap_or(0);
        // `mine` includes what was reserved before.
        let mine = (mine - before).checked_add(size).ok_or(BudgetExceeded)?;
        let free_after = (self.shares.budget.free() + before).saturating_sub(size);
        if size > before && mine > shares.little() && mine > free_after.saturating_sub(shares.aside()) {
            return Err(BudgetExceeded);
        }
        self.reservation.resize(size)?;
        if mine == 0 {
            by_network.remove(&self.network);
        } else {
            by_network.insert(self.network, mine);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0).expect("a share can always become smaller");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of(shares: &Arc<FairShares>, address: &str) -> Share {
        let address: IpAddr = address.parse().unwrap();
        shares.share(Some(address.into()))
    }

    #[test]
    fn a_network_has_at_most_as_much_as_is_free() {
        let budget = MemoryBudget::new(64 * 1000);
        let shares = FairShares::new(&budget);
        let mut first = share_of(&shares, "192.0.2.1");
        for (size, outcome) in [(24_000, Ok(())), (24_001, Err(BudgetExceeded)), (24_000, Ok(()))] {
            assert_eq!(first.resize(size), outcome, "{size}");
        }
        assert_eq!(shares.max(), 24_000);
        assert_eq!(share_of(&shares, "192.0.2.1").resize(1), Err(BudgetExceeded), "the same address");
        let mut second = share_of(&shares, "192.0.2.2");
        assert_eq!(second.resize(12_001), Err(BudgetExceeded));
        assert_eq!(second.resize(12_000), Ok(()));
        assert_eq!(shares.share(None).resize(6_000), Ok(()));
        assert_eq!(budget.used(), 36_000, "a share that was dropped is free again");
        assert_eq!(first.resize(100), Ok(()), "less is always possible");
        drop((first, second));
        assert_eq!(budget.used(), 0);
        assert!(shares.by_network().is_empty());
    }

    #[test]
    fn fifty_that_take_all_they_can_get_leave_something() {
        let shares = FairShares::new(&MemoryBudget::new(64 << 20));
        let mut taken = Vec::new();
        for network in 0..50_u8 {
            let mut share = share_of(&shares, &format!("192.0.2.{network}"));
            let mut size = 0;
            while share.resize(size + 4096).is_ok() {
                size += 4096;
            }
            taken.push(share);
        }
        assert!(share_of(&shares, "198.51.100.1").resize(256 * 1024).is_ok());
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        for (left, right, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8:0:1::1", "2001:db8:0:2::1", false),
        ] {
            let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
            assert_eq!(network(left) == network(right), same, "{left} {right}");
        }
    }
}
