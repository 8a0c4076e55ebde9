//! Where a consumer stands: revisions, epochs, and the cursor made of both, with their text forms.

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

/// "I have everything up to `after`", as a client says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// In this epoch, or in whichever is ours when the client does not know one.
    After {
        /// The epoch in which the revision counts.
        epoch: Option<Epoch>,
        /// The last revision that the client has.
        after: Revision,
    },
    /// Of a catch-up, everything that last changed at or before `after`.
    Partial {
        /// The epoch in which the revision counts.
        epoch: Epoch,
        /// How far the catch-up got.
        after: Revision,
        /// From when on deletions matter to who is in it.
        since: Revision,
    },
    /// Nothing that this service ever handed out.
    Foreign,
}

/// A text that is no revision, epoch or cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl FromStr for Cursor {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (epoch, rest) = text.split_once('.').ok_or(Malformed)?;
        let epoch: Epoch = epoch.parse()?;
        match rest.split_once('.') {
            None => Ok(Self::After { epoch: Some(epoch), after: rest.parse()? }),
            Some((after, "partial")) => {
                let after = after.parse()?;
                Ok(Self::Partial { epoch, after, since: after })
            }
            Some((after, rest)) => {
                let since = rest.strip_prefix("partial.").ok_or(Malformed)?.parse()?;
                Ok(Self::Partial { epoch, after: after.parse()?, since })
            }
        }
    }
}

/// Everything in a request that can say where to start. An empty value is as if absent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CursorParams<'a> {
    /// The header `Last-Event-ID`: bytes, since a client sends back whatever another server once gave it.
    pub(crate) last_event_id: Option<&'a [u8]>,
    /// The query's `lastEventId`; the last one, if there are several.
    pub(crate) last_event_id_query: Option<&'a str>,
    /// The header `X-Revision`: the first revision that the client wants.
    pub(crate) revision: Option<&'a str>,
    /// The header `X-Epoch`.
    pub(crate) epoch: Option<&'a str>,
    /// The query's `revision`.
    pub(crate) revision_query: Option<&'a str>,
    /// The query's `epoch`.
    pub(crate) epoch_query: Option<&'a str>,
}

impl CursorParams<'_> {
    /// The cursor that the first of these gives, in the order of the fields.
    ///
    /// # Errors
    /// Names the malformed one. A malformed header `Last-Event-ID` is not an error but foreign: browsers give up for good on
    /// any answer but a 200.
    pub(crate) fn cursor(&self) -> Result<Cursor, &'static str> {
        if let Some(id) = self.last_event_id.filter(|id| !id.is_empty()) {
            return Ok(std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()).unwrap_or(Cursor::Foreign));
        }
        if let Some(id) = self.last_event_id_query.filter(|id| !id.is_empty()) {
            return id.parse().map_err(|Malformed| "lastEventId");
        }
        let header = starting_at(self.revision, "X-Revision", self.epoch, "X-Epoch")?;
        let query = starting_at(self.revision_query, "revision", self.epoch_query, "epoch")?;
        Ok(header.or(query).unwrap_or(Cursor::After { epoch: None, after: Revision::ZERO }))
    }
}

/// "All events with this revision or a later one": the cursor before it.
fn starting_at(
    revision: Option<&str>,
    revision_name: &'static str,
    epoch: Option<&str>,
    epoch_name: &'static str,
) -> Result<Option<Cursor>, &'static str> {
    let Some(revision) = revision.filter(|text| !text.is_empty()) else { return Ok(None) };
    let first: Revision = revision.parse().map_err(|Malformed| revision_name)?;
    let epoch = epoch.filter(|text| !text.is_empty()).map(str::parse).transpose().map_err(|Malformed| epoch_name)?;
    Ok(Some(Cursor::After { epoch, after: first.previous() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(epoch: Option<&str>, after: i64) -> Cursor {
        Cursor::After { epoch: epoch.map(|text| text.parse().unwrap()), after: Revision(after) }
    }

    #[test]
    fn the_first_place_that_says_something_counts() {
        let mut presented = CursorParams { revision_query: Some("5"), ..CursorParams::default() };
        assert_eq!(presented.cursor(), Ok(after(None, 4)));
        presented.epoch_query = Some("4f9c21aa");
        assert_eq!(presented.cursor(), Ok(after(Some("4f9c21aa"), 4)));
        presented.revision = Some("7");
        assert_eq!(presented.cursor(), Ok(after(None, 6)));
        presented.last_event_id_query = Some("4f9c21aa.9");
        assert_eq!(presented.cursor(), Ok(after(Some("4f9c21aa"), 9)));
        presented.last_event_id = Some(b"4f9c21aa.8.partial");
        assert_eq!(
            presented.cursor(),
            Ok(Cursor::Partial { epoch: "4f9c21aa".parse().unwrap(), after: Revision(8), since: Revision(8) })
        );
    }

    #[test]
    fn an_empty_value_is_as_if_absent() {
        let presented = CursorParams {
            last_event_id: Some(b""),
            last_event_id_query: Some(""),
            revision: Some(""),
            epoch: Some(""),
            revision_query: Some("2"),
            epoch_query: Some(""),
        };
        assert_eq!(presented.cursor(), Ok(after(None, 1)));
        assert_eq!(CursorParams::default().cursor(), Ok(after(None, 0)));
    }

    #[test]
    fn revision_zero_counts_as_one() {
        assert_eq!(CursorParams { revision: Some("0"), ..CursorParams::default() }.cursor(), Ok(after(None, 0)));
        assert_eq!(CursorParams { revision: Some("1"), ..CursorParams::default() }.cursor(), Ok(after(None, 0)));
    }

    #[test]
    fn a_malformed_revision_is_named_and_a_malformed_id_is_foreign() {
        for text in ["x", "-1", "+1", "1.5", " 1", "9223372036854775808"] {
            assert_eq!(CursorParams { revision: Some(text), ..CursorParams::default() }.cursor(), Err("X-Revision"));
            assert_eq!(
                CursorParams { revision_query: Some(text), ..CursorParams::default() }.cursor(),
                Err("revision")
            );
        }
        let short = CursorParams { revision: Some("1"), epoch: Some("short"), ..CursorParams::default() };
        assert_eq!(short.cursor(), Err("X-Epoch"));
        for id in ["8", "4f9c21aa", "4f9c21aa.", "4f9c21aa.x", "4F9C21AA.1", "4f9c21aa.1.whole", "4f9c21aa.1.partial."]
        {
            assert_eq!(
                CursorParams { last_event_id: Some(id.as_bytes()), ..CursorParams::default() }.cursor(),
                Ok(Cursor::Foreign)
            );
        }
        let query = CursorParams { last_event_id_query: Some("undefined.undefined"), ..CursorParams::default() };
        assert_eq!(query.cursor(), Err("lastEventId"));
        assert_eq!(
            CursorParams { last_event_id: Some(b"\xff"), ..CursorParams::default() }.cursor(),
            Ok(Cursor::Foreign)
        );
    }

    #[test]
    fn a_minted_epoch_is_well_formed_and_new() {
        let (one, other) = (Epoch::mint().unwrap(), Epoch::mint().unwrap());
        assert_eq!(one.as_str().parse(), Ok(one.clone()));
        assert_ne!(one, other);
    }
}
