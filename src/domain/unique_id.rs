//! Ids of requests: unique, and cheap to make.

use std::cell::Cell;
use std::fmt;

/// The text of a uuid of version 8 ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.8)): 74 random bits, which
/// are those of a thread, and a counter of 48 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct UniqueId([u8; LENGTH]);

/// The length of the text, in bytes.
const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

thread_local! {
    /// The next id of this thread. It is counted as text, since writing a whole one takes ten times as long.
    static NEXT: Cell<UniqueId> = Cell::new(UniqueId::first());
}

/// The characters of the counter, which come first: twelve digits and a hyphen.
const COUNTER: usize = 13;

impl UniqueId {
    /// An id that no other one is equal to. It asks the operating system once for each thread, takes no lock and allocates
    /// nothing.
    pub(crate) fn new() -> Self {
        let next = NEXT.get();
        NEXT.set(next.following());
        next
    }

    /// An id with the random bits of a thread, and any number.
    fn first() -> Self {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .expect("the operating system provides random numbers, as it did for the epoch at start");
        let mut text = [0; LENGTH];
        uuid::Builder::from_custom_bytes(random).into_uuid().hyphenated().encode_lower(&mut text);
        Self(text)
    }

    /// The id with the next number; after the last one, with the first.
    fn following(mut self) -> Self {
        for digit in self.0[..COUNTER].iter_mut().rev().filter(|digit| **digit != b'-') {
            let carries = *digit == b'f';
            *digit = match *digit {
                b'f' => b'0',
                b'9' => b'a',
                other => other + 1,
            };
            if !carries {
                break;
            }
        }
        self
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a uuid is written in ASCII")
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::domain::key::Key;

    #[test]
    fn the_counter_counts_its_digits_and_nothing_else() {
        for (before, after) in [
            ("00000000-0000-8abc-8def-0123456789ab", "00000000-0001-8abc-8def-0123456789ab"),
            ("00000000-0009-8abc-8def-0123456789ab", "00000000-000a-8abc-8def-0123456789ab"),
            ("00000000-09ff-8abc-8def-0123456789ab", "00000000-0a00-8abc-8def-0123456789ab"),
            ("0000000f-ffff-8abc-8def-0123456789ab", "00000010-0000-8abc-8def-0123456789ab"),
            ("ffffffff-ffff-8fff-bfff-ffffffffffff", "00000000-0000-8fff-bfff-ffffffffffff"),
        ] {
            let id = UniqueId(before.as_bytes().try_into().unwrap());
            assert_eq!(id.following().as_str(), after, "{before}");
        }
    }

    #[test]
    fn ids_are_uuids_of_version_8_and_differ_on_all_threads() {
        let ids = || (0..1000).map(|_| UniqueId::new().as_str().to_owned()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(ids)).collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(ids.iter().all(|id| Key::from_db(id).is_uuid() && id.as_bytes()[14] == b'8'), "{:?}", ids.first());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4000);
    }
}
