//! The keys that a filtered feed covers.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::key::Key;
use crate::memory::budget::{BudgetExceeded, MemoryBudget, Reservation};

/// Some keys, each once, in bytewise order. All parts of the service that have the feed share them, and their memory
/// counts against a budget until the last part drops it.
#[derive(Debug, Clone)]
pub(crate) struct Selection(Arc<Held>);

#[derive(Debug)]
struct Held {
    keys: Packed,
    _memory: Reservation,
}

/// Keys one after another: thousands of small allocations would take several times as much.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Packed {
    text: Box<str>,
    /// Where each key ends.
    ends: Box<[u32]>,
}

/// What a selection takes beside its keys, in bytes, approximately.
const OVERHEAD: usize = 256;

impl Selection {
    /// `beside` is how much memory, in bytes, each key takes elsewhere while the feed is followed.
    ///
    /// # Errors
    /// The budget has no room for the keys.
    pub(crate) fn new(keys: &[Key], beside: usize, budget: &Arc<MemoryBudget>) -> Result<Self, BudgetExceeded> {
        let mut keys: Vec<_> = keys.iter().map(Key::as_str).collect();
        keys.sort_unstable();
        keys.dedup();
        let length: usize = keys.iter().map(|key| key.len()).sum();
        let mut memory = budget.reservation();
        memory.resize(length + keys.len() * (size_of::<u32>() + beside) + OVERHEAD)?;
        Ok(Self(Arc::new(Held { keys: Packed::new(&keys, length), _memory: memory })))
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        let keys = &self.0.keys;
        let (mut from, mut to) = (0, keys.ends.len());
        while from < to {
            let middle = from.midpoint(to);
            match keys.at(middle).cmp(key) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return true,
                Ordering::Greater => to = middle,
            }
        }
        false
    }

    /// The number of keys.
    pub(crate) fn len(&self) -> usize {
        self.0.keys.ends.len()
    }

    /// In bytewise order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        let keys = &self.0.keys;
        (0..keys.ends.len()).map(|place| keys.at(place))
    }
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        self.0.keys == other.0.keys
    }
}

impl Eq for Selection {}

impl Hash for Selection {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.keys.hash(state);
    }
}

impl Packed {
    /// `length` is the length of all keys, in bytes.
    fn new(keys: &[&str], length: usize) -> Self {
        let mut text = String::with_capacity(length);
        let ends = keys.iter().map(|key| {
            text.push_str(key);
            u32::try_from(text.len()).expect("the head of a request is shorter than 4 GiB")
        });
        let ends = ends.collect();
        Self { ends, text: text.into() }
    }

    fn at(&self, place: usize) -> &str {
        let end = |place: usize| self.ends[place] as usize;
        let start = place.checked_sub(1).map_or(0, end);
        &self.text[start..end(place)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(keys: &[&str]) -> Selection {
        let keys: Vec<_> = keys.iter().map(|key| Key::from_db(key)).collect();
        Selection::new(&keys, 0, &MemoryBudget::new(usize::MAX)).unwrap()
    }

    #[test]
    fn a_selection_contains_its_keys_and_no_others() {
        for keys in [&[][..], &["1"], &["1", "10", "2"], &["b", "a", "b", "ab", "🍎", "é"]] {
            let selection = selection(keys);
            let mut sorted = keys.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(selection.iter().collect::<Vec<_>>(), sorted);
            for key in ["", "1", "10", "100", "2", "a", "ab", "abb", "b", "bb", "é", "🍎", "🍏"] {
                assert_eq!(selection.contains(key), keys.contains(&key), "{key:?} of {keys:?}");
            }
        }
        assert_eq!(selection(&["2", "1", "1"]), selection(&["1", "2"]));
        assert_ne!(selection(&["12"]), selection(&["1", "2"]), "the same text");
    }

    #[test]
    fn the_memory_of_a_selection_is_held_once_until_the_last_holder_drops_it() {
        let budget = MemoryBudget::new(10_000);
        let keys: Vec<_> = (0..100).map(|key| Key::of_number(1000 + key)).collect();
        let selection = Selection::new(&keys, 20, &budget).unwrap();
        let taken = 100 * (4 + 4 + 20) + OVERHEAD;
        assert_eq!(budget.used(), taken);
        let shared = selection.clone();
        drop(selection);
        assert_eq!(budget.used(), taken, "another holder has it");
        let many: Vec<_> = (0..400).map(Key::of_number).collect();
        assert_eq!(Selection::new(&many, 20, &budget).unwrap_err(), BudgetExceeded);
        drop(shared);
        assert_eq!(budget.used(), 0);
    }
}
