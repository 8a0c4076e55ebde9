//! The numbers by which the history is counted, and the epoch in which they count.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The number of a write that changed the document: 1, 2, 3 …; 0 is the empty document before the first.
///
/// Dense over the whole document, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Revision(i64);

impl Revision {
    /// The revision before this one; 0 stays 0.
    pub(crate) const fn previous(self) -> Self {
        Self(if self.0 > 0 { self.0 - 1 } else { 0 })
    }
}

impl FromStr for Revision {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        // `i64::from_str` would take a sign.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().map(Self).ok_or(Malformed)
    }
}

/// The number of domain events of one aggregate so far: 0 before the first, and of an aggregate that has none.
///
/// Survives the deletion of the aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Version(i64);

/// The place of a domain event in the journal: 1, 2, 3 …; 0 is before the first. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct JournalPosition(i64);

/// What the three have in common: they are counted.
macro_rules! counted {
    ($number:ident) => {
        impl $number {
            /// Before the first.
            pub(crate) const ZERO: Self = Self(0);

            /// The number as the database holds it.
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

counted!(Revision);
counted!(Version);
counted!(JournalPosition);

/// The last revision that anybody was shown. A commit can be read a moment before its writer knows that it is done, and who
/// saw a revision must not be told later that nothing has changed since an earlier one.
#[derive(Debug, Clone, Default)]
pub(crate) struct HighWaterMark(Arc<AtomicI64>);

impl HighWaterMark {
    /// Somebody is about to be shown this.
    pub(crate) fn observe(&self, revision: Revision) {
        self.0.fetch_max(revision.0, Ordering::AcqRel);
    }

    pub(crate) fn last(&self) -> Revision {
        Revision(self.0.load(Ordering::Acquire))
    }
}

/// Which life of the database this is: minted when it is created, and for every copy that goes on on its own.
///
/// 8 to 16 of `[0-9a-z]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(Arc<str>);

/// The digits of a minted epoch: 32 of them, without those that people mix up.
const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl Epoch {
    /// A new epoch, from the operating system's random numbers.
    ///
    /// # Errors
    /// The operating system has none.
    pub(crate) fn mint() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 10];
        getrandom::fill(&mut bytes)?;
        // 10 digits of 32 symbols: 50 bits, so that two lives of one database never meet by chance.
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

/// A text that is no revision, epoch or cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_epoch_is_well_formed_and_new() {
        let (one, other) = (Epoch::mint().unwrap(), Epoch::mint().unwrap());
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
        assert_ne!(one, other);
    }
}
