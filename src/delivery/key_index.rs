//! From the hash of a key to the numbers of the feeds that name it, in little memory: a million entries are a thousand
//! streams of a thousand keys.

use std::collections::HashMap;

/// The numbers of feeds by the hashes of their keys. Different keys may have one hash, so a caller has to check what it gets.
#[derive(Debug, Default)]
pub(super) struct KeyIndex {
    /// A number, or a place in `several` with the mark.
    by_hash: HashMap<u32, u32>,
    /// The numbers of a hash that has more than one, once for each of the feed's keys with that hash.
    several: Vec<Vec<u32>>,
    /// The places in `several` that are not in use.
    free: Vec<u32>,
}

/// Marks a place in `several`.
const SEVERAL: u32 = 1 << 31;

/// The map gives memory back when it needs less than one part in so many.
const SHRINKS_BELOW: usize = 4;

/// The map never gets smaller than this many entries.
const SMALLEST: usize = 1024;

impl KeyIndex {
    /// Adds a number, which is below 2³¹, to those of a hash.
    pub(super) fn add(&mut self, hash: u32, number: u32) {
        debug_assert!(number < SEVERAL, "a thread has fewer feeds");
        let Some(known) = self.by_hash.get_mut(&hash) else {
            self.by_hash.insert(hash, number);
            return;
        };
        if *known >= SEVERAL {
            return self.several[(*known - SEVERAL) as usize].push(number);
        }
        let both = vec![*known, number];
        *known = SEVERAL
            + match self.free.pop() {
                Some(place) => {
                    self.several[place as usize] = both;
                    place
                }
                None => {
                    self.several.push(both);
                    u32::try_from(self.several.len() - 1).expect("no memory has room for so many")
                }
            };
    }

    /// Removes a number, which was added, from those of a hash: once, if it was added several times.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let Some(known) = self.by_hash.get_mut(&hash) else { return };
        if *known < SEVERAL {
            self.by_hash.remove(&hash);
            return self.give_back();
        }
        let place = *known - SEVERAL;
        let numbers = &mut self.several[place as usize];
        if let Some(found) = numbers.iter().rposition(|found| *found == number) {
            numbers.swap_remove(found);
        }
        if let [last] = numbers[..] {
            *known = last;
            *numbers = Vec::new();
            self.free.push(place);
        }
    }

    /// The numbers of a hash.
    pub(super) fn get(&self, hash: u32) -> &[u32] {
        match self.by_hash.get(&hash) {
            None => &[],
            Some(known) if *known < SEVERAL => std::slice::from_ref(known),
            Some(known) => &self.several[(*known - SEVERAL) as usize],
        }
    }

    /// What streams that have gone have taken does not count against any budget.
    fn give_back(&mut self) {
        let (used, size) = (self.by_hash.len(), self.by_hash.capacity());
        if size > SMALLEST && used < size / SHRINKS_BELOW {
            self.by_hash.shrink_to(used * 2);
        }
        if self.by_hash.is_empty() {
            *self = Self { by_hash: std::mem::take(&mut self.by_hash), ..Self::default() };
        }
    }

    /// Whether nothing is left in it.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_hash.is_empty() && self.several.is_empty()
    }
}
