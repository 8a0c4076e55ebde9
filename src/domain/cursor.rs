//! Where a consumer resumes: the cursor, its text form, and where a request gives one.

use std::str::FromStr;

use crate::domain::revision::{Epoch, Malformed, Revision};

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
        Cursor::After { epoch: epoch.map(|text| text.parse().unwrap()), after: Revision::from_raw(after) }
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
            Ok(Cursor::Partial {
                epoch: "4f9c21aa".parse().unwrap(),
                after: Revision::from_raw(8),
                since: Revision::from_raw(8)
            })
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
}
