//! Long ranges of revisions, positions or versions, read span by span.
//!
//! SQLite reads a row when it is asked for. A server sends all rows of a statement, whoever still wants them: so each
//! statement asks for about as much as its page has room for.

use super::engine::AnyConnection;
use super::page::PageLimit;

/// The numbers after `after`, up to and including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) after: i64,
    pub(super) to: i64,
}

/// A range, and how much of it the next statement asks for.
#[derive(Debug)]
pub(super) struct Spans {
    rest: Numbers,
    limit: PageLimit,
    /// The length of the last span, or of the first one.
    length: i64,
    /// The bytes that the page had when the last span began. `None` before the first one.
    before: Option<usize>,
}

/// What the pages before have had, so that the first span of the next one is as long as that has room for.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// So many numbers had so many bytes.
    known: Option<(i64, usize)>,
}

/// The length of the first span on a server of which nothing is known.
const FIRST: i64 = 256;

/// A span is at most so many times as long as the one before, or as short.
const STEP: i64 = 8;

/// The longest first span on a server, whatever the pages before have had: these numbers may have long rows.
const LONGEST_FIRST: i64 = FIRST * STEP;

/// What fewer numbers with fewer bytes have had says nothing about others.
const ENOUGH_BYTES: usize = 16 * 1024;

impl Pace {
    /// Notes that so many numbers had so many bytes.
    pub(super) fn note(&mut self, length: i64, bytes: usize) {
        if length >= FIRST || (length > 0 && bytes >= ENOUGH_BYTES) {
            self.known = Some((length, bytes));
        }
    }

    /// The length of the first span on a server, for a page with these limits.
    fn first(&self, limit: PageLimit) -> i64 {
        let length = self.known.map_or(FIRST, |(length, bytes)| next_length(length, bytes, limit.bytes));
        length.min(i64::try_from(limit.items).unwrap_or(i64::MAX)).clamp(1, LONGEST_FIRST)
    }
}

impl Spans {
    /// All of a range, for a page with these limits.
    pub(super) fn new(connection: &AnyConnection, rest: Numbers, limit: PageLimit) -> Self {
        Self::at(&Pace::default(), connection, rest, limit)
    }

    /// The same, after pages of the same kind.
    pub(super) fn at(pace: &Pace, connection: &AnyConnection, rest: Numbers, limit: PageLimit) -> Self {
        let is_file = matches!(connection, AnyConnection::Sqlite(_));
        let length = if is_file { i64::MAX } else { pace.first(limit) };
        Self { rest, limit, length, before: None }
    }

    /// The next span, for a page that has so many bytes by now. `None` at the end of the range.
    pub(super) fn next(&mut self, bytes: usize) -> Option<Numbers> {
        let Numbers { after, to } = self.rest;
        if after >= to {
            return None;
        }
        if let Some(before) = self.before.replace(bytes) {
            let (read, wanted) = (bytes.saturating_sub(before), self.limit.bytes.saturating_sub(bytes));
            self.length = next_length(self.length, read, wanted);
        }
        self.rest.after = after.saturating_add(self.length).min(to);
        Some(Numbers { after, to: self.rest.after })
    }
}

/// The length of the span after one in which so many bytes were found, if so many are wanted.
fn next_length(length: i64, read: usize, wanted: usize) -> i64 {
    let longest = length.saturating_mul(STEP);
    let Ok(read @ 1..) = i64::try_from(read) else { return longest };
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    (length.saturating_mul(wanted) / read).clamp((length / STEP).max(1), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_as_long_as_the_page_has_room_for_by_the_one_before() {
        for (length, read, wanted, expected) in [
            // Half of it is found.
            (256, 1000, 1000, 256),
            (256, 1000, 500, 128),
            // Nothing is found, or little.
            (256, 0, 1000, 2048),
            (256, 1, 1000, 2048),
            // The page is full: it remains to be seen whether there is more.
            (256, 1000, 0, 32),
            (1, 1_000_000, 0, 1),
            (i64::MAX, 1, usize::MAX, i64::MAX),
        ] {
            assert_eq!(next_length(length, read, wanted), expected, "{length} {read} {wanted}");
        }
    }

    #[test]
    fn the_first_span_is_as_long_as_the_pages_before_let_expect() {
        let limit = |bytes| PageLimit { items: usize::MAX, bytes };
        let after = |noted: &[(i64, usize)]| {
            let mut pace = Pace::default();
            noted.iter().for_each(|(length, bytes)| pace.note(*length, *bytes));
            pace
        };
        for (noted, bytes, expected) in [
            (&[] as &[_], 128 * 1024, FIRST),
            // 64 bytes each.
            (&[(2000, 128_000)], 128_000, 2000),
            (&[(512, 32 * 1024)], 64 * 1024, 1024),
            // Nothing was found, or very little: what comes may be longer.
            (&[(10_000, 0)], 128 * 1024, LONGEST_FIRST),
            // Long ones.
            (&[(2000, 128_000), (4, 4_000_000)], 128 * 1024, 1),
            (&[(300, 3_000_000)], 128 * 1024, 37),
            // A few short ones at the end of the log say nothing.
            (&[(2000, 128_000), (3, 200)], 128_000, 2000),
        ] {
            assert_eq!(after(noted).first(limit(bytes)), expected, "{noted:?} {bytes}");
        }
        assert_eq!(after(&[(2000, 128_000)]).first(PageLimit { items: 2, bytes: 128_000 }), 2);
    }

    #[test]
    fn the_spans_of_a_range_follow_one_another_to_its_end() {
        let limit = PageLimit { items: usize::MAX, bytes: 1000 };
        let mut spans = Spans { rest: Numbers { after: 10, to: 5000 }, limit, length: 256, before: None };
        let (mut bytes, mut ends) = (0, vec![10]);
        while let Some(Numbers { after, to }) = spans.next(bytes) {
            assert_eq!(ends.last(), Some(&after));
            ends.push(to);
            bytes += 100;
        }
        assert_eq!(ends, [10, 266, 2314, 5000]);
    }
}
