//! A budget that the addresses of clients share, so that one of them cannot take it from the others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use super::budget::{BudgetExceeded, MemoryBudget, Reservation};

/// A budget, and what each network has of it.
///
/// A network may have as many bytes as are free, a quarter of the budget aside. That quarter is for those that have little: a
/// 256th of the budget each. So a few that take all they can get leave something for those that come later.
///
/// What no network could ever have has to go on nevertheless: one share at a time may be that large.
#[derive(Debug)]
pub(crate) struct FairShares {
    budget: Arc<MemoryBudget>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_network: HashMap<Option<Network>, usize>,
    /// Whether a share is larger than a network may have.
    has_outsize: bool,
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
        Arc::new(Self { budget: Arc::clone(budget), taken: Mutex::default() })
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
        Share { reservation: self.budget.reservation(), network, is_outsize: false, shares: Arc::clone(self) }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no thread panics while it holds this lock")
    }
}

/// A part of the budget for one client, in use until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    reservation: Reservation,
    network: Option<Network>,
    /// Whether this is the one that may be larger than a network may have.
    is_outsize: bool,
    shares: Arc<FairShares>,
}

impl Share {
    /// In bytes.
    pub(crate) fn size(&self) -> usize {
        self.reservation.size()
    }

    /// The most that its network can have, in bytes.
    pub(crate) fn max(&self) -> usize {
        self.shares.max()
    }

    /// Changes the size to this number of bytes; keeps the old one if the network would have too much then.
    pub(crate) fn resize(&mut self, size: usize) -> Result<(), BudgetExceeded> {
        let before = self.size();
        if size == before {
            return Ok(());
        }
        let shares = Arc::clone(&self.shares);
        let mut taken = shares.taken();
        let of_network = taken.by_network.entry(self.network);
        // What it has includes what was reserved before.
        let mine = (bytes_of(&of_network) - before).checked_add(size).ok_or(BudgetExceeded)?;
        let free_after = (shares.budget.free() + before).saturating_sub(size);
        if size > before && mine > shares.little() && mine > free_after.saturating_sub(shares.aside()) {
            return Err(BudgetExceeded);
        }
        self.reservation.resize(size)?;
        set_bytes(of_network, mine);
        self.settle_outsize(&mut taken);
        Ok(())
    }

    /// Like [`Self::resize`]. But a size that no network could ever have is granted to one share at a time.
    pub(crate) fn resize_outsize(&mut self, size: usize) -> Result<(), BudgetExceeded> {
        if size <= self.size() || size <= self.shares.max() {
            return self.resize(size);
        }
        let shares = Arc::clone(&self.shares);
        let mut taken = shares.taken();
        if taken.has_outsize && !self.is_outsize {
            return Err(BudgetExceeded);
        }
        (taken.has_outsize, self.is_outsize) = (true, true);
        self.exceed(&mut taken, size);
        Ok(())
    }

    /// Adds a few bytes, even if there are none left.
    pub(crate) fn add_few(&mut self, bytes: usize) {
        let shares = Arc::clone(&self.shares);
        self.exceed(&mut shares.taken(), self.size() + bytes);
    }

    fn exceed(&mut self, taken: &mut Taken, size: usize) {
        let before = self.size();
        self.reservation.exceed(size);
        let of_network = taken.by_network.entry(self.network);
        let mine = bytes_of(&of_network) - before + self.size();
        set_bytes(of_network, mine);
        self.settle_outsize(taken);
    }

    /// Lets another share be larger than a network may have, if this one is no longer.
    fn settle_outsize(&mut self, taken: &mut Taken) {
        if self.is_outsize && self.size() <= self.shares.max() {
            (taken.has_outsize, self.is_outsize) = (false, false);
        }
    }
}

/// The bytes of a network, which is looked up once for each change: every request changes its share a few times.
type OfNetwork<'a> = Entry<'a, Option<Network>, usize>;

fn bytes_of(of_network: &OfNetwork<'_>) -> usize {
    if let Entry::Occupied(taken) = of_network { *taken.get() } else { 0 }
}

fn set_bytes(of_network: OfNetwork<'_>, bytes: usize) {
    match of_network {
        Entry::Occupied(taken) if bytes == 0 => drop(taken.remove()),
        Entry::Vacant(_) if bytes == 0 => {}
        of_network => drop(of_network.insert_entry(bytes)),
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
        assert!(shares.taken().by_network.is_empty());
    }

    #[test]
    fn what_no_network_could_have_is_granted_to_one_at_a_time() {
        let budget = MemoryBudget::new(64 * 1000);
        let shares = FairShares::new(&budget);
        let (mut first, mut second) = (share_of(&shares, "192.0.2.1"), share_of(&shares, "192.0.2.2"));
        for size in [24_001, 100_000, 110_000, 50_000] {
            assert_eq!(first.resize_outsize(size), Ok(()), "{size}");
            assert_eq!((first.size(), budget.used()), (size, size));
            assert_eq!(second.resize_outsize(24_001), Err(BudgetExceeded), "beside {size}");
        }
        assert_eq!(first.resize(24_000), Ok(()));
        assert_eq!(second.resize_outsize(90_000), Ok(()));
        assert_eq!(first.resize_outsize(24_001), Err(BudgetExceeded));
        drop(second);
        assert_eq!(first.resize_outsize(24_001), Ok(()));
        first.add_few(10);
        assert_eq!(budget.used(), 24_011);
        drop(first);
        assert_eq!(budget.used(), 0);
        let taken = shares.taken();
        assert!(taken.by_network.is_empty() && !taken.has_outsize);
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
