//! Where a consumer resumes: the cursor, its text form, and where a request gives one.

use std::str::FromStr;

use crate::domain::revision::{Epoch, Malformed, Revision};

/// A client's claim: "I have everything up to `after`".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// In this epoch; in the current one, if the client does not name one.
    After {
        /// The epoch of the revision.
        epoch: Option<Epoch>,
        /// The last revision that the client has.
        after: Revision,
    },
    /// Part of a catch-up: everything that last changed at or before `after`.
    Partial {
        /// The epoch of the revision.
        epoch: Epoch,
        /// The last revision that the catch-up has covered.
        after: Revision,
        /// The revision from which on deletions matter: the client may still hold what was deleted later.
        since: Revision,
        /// The last revision when the client got this part. `None` in a cursor that does not say so.
        at: Option<Revision>,
    },
    /// A text that this service never handed out.
    Foreign,
}

impl FromStr for Cursor {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parts: Vec<&str> = text.split('.').collect();
        let [epoch, after, rest @ ..] = &parts[..] else { return Err(Malformed) };
        let epoch: Epoch = epoch.parse()?;
        let after: Revision = after.parse()?;
        match rest {
            [] => Ok(Self::After { epoch: Some(epoch), after }),
            // The first two forms are those of version 0.1, and the first one also the id of `data: null`.
            ["partial"] => Ok(Self::Partial { epoch, after, since: after, at: None }),
            ["partial", since] => Ok(Self::Partial { epoch, after, since: since.parse()?, at: None }),
            ["partial", since, at] => Ok(Self::Partial { epoch, after, since: since.parse()?, at: Some(at.parse()?) }),
            _ => Err(Malformed),
        }
    }
}

/// All parts of a request that can state where to start. An empty value counts as absent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CursorParams<'a> {
    /// The header `Last-Event-ID`: bytes, because a client may send an id that it received from another server.
    pub(crate) last_event_id: Option<&'a [u8]>,
    /// The query parameter `lastEventId`; the last one, if there are several.
    pub(crate) last_event_id_query: Option<&'a str>,
    /// The header `X-Revision`: the first revision that the client wants.
    pub(crate) revision: Option<&'a str>,
    /// The header `X-Epoch`.
    pub(crate) epoch: Option<&'a str>,
    /// The query parameter `revision`.
    pub(crate) revision_query: Option<&'a str>,
    /// The query parameter `epoch`.
    pub(crate) epoch_query: Option<&'a str>,
}

impl CursorParams<'_> {
    /// The cursor from the first of these that is present, in the order of the fields.
    ///
    /// # Errors
    /// The name of the malformed part. A malformed header `Last-Event-ID` is not an error but a foreign cursor: browsers stop
    /// reconnecting after any response but a 200.
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

    /// The cursor of a stream: as [`CursorParams::cursor`], but a malformed `lastEventId` is a foreign cursor as well. Pages
    /// build it from what they have stored, which may be `undefined`.
    ///
    /// # Errors
    /// The name of the malformed part.
    pub(crate) fn stream_cursor(&self) -> Result<Cursor, &'static str> {
        let is_header = self.last_event_id.is_some_and(|id| !id.is_empty());
        let query = self.last_event_id_query.filter(|id| !is_header && !id.is_empty());
        query.map_or_else(|| self.cursor(), |id| Ok(id.parse().unwrap_or(Cursor::Foreign)))
    }
}

/// "All events from this revision on": the cursor before it.
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
    fn the_first_part_that_is_present_counts() {
        let mut params = CursorParams { revision_query: Some("5"), ..CursorParams::default() };
        assert_eq!(params.cursor(), Ok(after(None, 4)));
        params.epoch_query = Some("4f9c21aa");
        assert_eq!(params.cursor(), Ok(after(Some("4f9c21aa"), 4)));
        params.revision = Some("7");
        assert_eq!(params.cursor(), Ok(after(None, 6)));
        params.last_event_id_query = Some("4f9c21aa.9");
        assert_eq!(params.cursor(), Ok(after(Some("4f9c21aa"), 9)));
        params.last_event_id = Some(b"4f9c21aa.8.partial");
        assert_eq!(
            params.cursor(),
            Ok(Cursor::Partial {
                epoch: "4f9c21aa".parse().unwrap(),
                after: Revision::from_raw(8),
                since: Revision::from_raw(8),
                at: None,
            })
        );
    }

    #[test]
    fn a_partial_cursor_names_the_revision_of_its_page_unless_it_is_an_old_one() {
        for (text, since, at) in
            [("4f9c21aa.8.partial", 8, None), ("4f9c21aa.8.partial.3", 3, None), ("4f9c21aa.8.partial.3.9", 3, Some(9))]
        {
            let (epoch, after) = ("4f9c21aa".parse().unwrap(), Revision::from_raw(8));
            let (since, at) = (Revision::from_raw(since), at.map(Revision::from_raw));
            assert_eq!(text.parse(), Ok(Cursor::Partial { epoch, after, since, at }), "{text}");
        }
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        let params = CursorParams {
            last_event_id: Some(b""),
            last_event_id_query: Some(""),
            revision: Some(""),
            epoch: Some(""),
            revision_query: Some("2"),
            epoch_query: Some(""),
        };
        assert_eq!(params.cursor(), Ok(after(None, 1)));
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
        for id in [
            "8",
            "4f9c21aa",
            "4f9c21aa.",
            "4f9c21aa.x",
            "4F9C21AA.1",
            "4f9c21aa.1.whole",
            "4f9c21aa.1.partial.",
            "4f9c21aa.1.partial.1.",
            "4f9c21aa.1.partial.1.1.1",
        ] {
            assert_eq!(
                CursorParams { last_event_id: Some(id.as_bytes()), ..CursorParams::default() }.cursor(),
                Ok(Cursor::Foreign)
            );
        }
        let query = CursorParams { last_event_id_query: Some("undefined.undefined"), ..CursorParams::default() };
        assert_eq!(query.cursor(), Err("lastEventId"));
        assert_eq!(query.stream_cursor(), Ok(Cursor::Foreign));
        let valid = CursorParams { last_event_id_query: Some("4f9c21aa.8"), ..CursorParams::default() };
        assert_eq!(valid.stream_cursor(), valid.cursor());
        let header = CursorParams { last_event_id: Some(b"4f9c21aa.9"), ..query };
        assert_eq!(header.stream_cursor(), header.cursor());
        let empty = CursorParams { last_event_id_query: Some(""), revision: Some("x"), ..CursorParams::default() };
        assert_eq!(empty.stream_cursor(), Err("X-Revision"));
        assert_eq!(
            CursorParams { last_event_id: Some(b"\xff"), ..CursorParams::default() }.cursor(),
            Ok(Cursor::Foreign)
        );
    }
}
