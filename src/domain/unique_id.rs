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
    /// The random bits of this thread, and the counter.
    static NEXT: Cell<u128> = Cell::new(first());
}

/// The bits of the counter, which come first.
const COUNTER: u32 = 48;

/// An id with the random bits of a thread.
fn first() -> u128 {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .expect("the operating system provides random numbers, as it did for the epoch at start");
    u128::from_ne_bytes(random)
}

impl UniqueId {
    /// An id that no other one is equal to. It asks the operating system once for each thread, takes no lock and allocates
    /// nothing.
    pub(crate) fn new() -> Self {
        let next = NEXT.get();
        NEXT.set(next.wrapping_add(1 << (u128::BITS - COUNTER)));
        let uuid = uuid::Builder::from_custom_bytes(next.to_be_bytes()).into_uuid();
        let mut text = [0; LENGTH];
        uuid.hyphenated().encode_lower(&mut text);
        Self(text)
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
    fn ids_are_uuids_of_version_8_and_differ_on_all_threads() {
        let ids = || (0..1000).map(|_| UniqueId::new().as_str().to_owned()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(ids)).collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(ids.iter().all(|id| Key::from_db(id).is_uuid() && id.as_bytes()[14] == b'8'), "{:?}", ids.first());
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 4000);
    }
}
