//! The numbers by which the history is counted, and the epoch in which they count.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The number of a write that changed the document: 1, 2, 3 …; 0 is the empty document before the first.
///
/// Consecutive over the whole document, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Revision(i64);

impl Revision {
    /// After all others.
    pub(crate) const MAX: Self = Self(i64::MAX);

    /// The revision before this one; 0 stays 0.
    pub(crate) const fn previous(self) -> Self {
        Self(if self.0 > 0 { self.0 - 1 } else { 0 })
    }
}

impl JournalPosition {
    /// After all others.
    pub(crate) const MAX: Self = Self(i64::MAX);
}

impl FromStr for Revision {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        // `i64::from_str` would take a sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().map(Self).ok_or(Malformed)
    }
}

/// The number of domain events of one aggregate so far: 0 before the first, and for an aggregate without events.
///
/// Survives the deletion of the aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Version(i64);

/// The position of a domain event in the journal: 1, 2, 3 …; 0 is before the first. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct JournalPosition(i64);

/// What the three counters have in common.
macro_rules! counter {
    ($number:ident) => {
        impl $number {
            /// Before the first.
            pub(crate) const ZERO: Self = Self(0);

            /// The counter with this number, from the database or from a client.
            pub(crate) const fn from_raw(number: i64) -> Self {
                Self(number)
            }

            /// The number.
            pub(crate) const fn number(self) -> i64 {
                self.0
            }

            /// The one after this.
            pub(crate) const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $number {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(Revision);
counter!(Version);
counter!(JournalPosition);

/// The highest revision that any client has seen.
///
/// Readers can see a commit a moment before its writer knows that it succeeded. A client that has seen a revision must not
/// learn later that nothing has changed since an earlier one.
#[derive(Debug, Clone, Default)]
pub(crate) struct HighWaterMark(Arc<AtomicI64>);

impl HighWaterMark {
    /// Records that a client is about to see this revision.
    pub(crate) fn observe(&self, revision: Revision) {
        self.0.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// The highest revision that was recorded.
    pub(crate) fn last(&self) -> Revision {
        Revision(self.0.load(Ordering::Acquire))
    }
}

/// Identifies one history of a database: generated at each start that writes, so that a copy is never taken for the original.
///
/// 8 to 16 characters of `[0-9a-z]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(Arc<str>);

/// The 32 digits of a generated epoch, without letters that people confuse with digits.
const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Epoch {
    /// A new epoch, from the operating system's random numbers.
    ///
    /// # Errors
    /// The operating system provides none.
    pub(crate) fn mint() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 10];
        getrandom::fill(&mut bytes)?;
        // 10 digits of 32 symbols: 50 bits, so that two epochs do not collide by chance.
        let text: String = bytes.iter().map(|byte| char::from(SYMBOLS[usize::from(byte % 32)])).collect();
        Ok(Self(text.into()))
    }

    /// The text form.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Epoch {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let well_formed = (8..=16).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
        well_formed.then(|| Self(text.into())).ok_or(Malformed)
    }
}

/// A text could not be parsed as a revision, an epoch or a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_epoch_is_well_formed_and_unique() {
        let one = Epoch::mint().unwrap();
        let other = Epoch::mint().unwrap();
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
        assert_ne!(one, other);
    }
}
