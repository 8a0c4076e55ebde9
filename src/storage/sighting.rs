//! When rows that claim a time in the future were first seen. The clock was ahead when they were written, or it has gone
//! back since; until it reaches their time, they count as written when that was seen. Otherwise, one of them would keep
//! everything after it for as long as the clock was wrong.

use diesel::dsl::max;
use diesel::prelude::*;

use super::counters::horizon;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::schema::{idempotency, metadata};
use crate::domain::clock::Timestamp;

/// Rows that are pruned by their age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    ChangeEvents,
    Tombstones,
    Answers,
}

/// The last time at which rows from the future were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sighting {
    /// The last row then: the revision of a change event or of a tombstone, the position of an answer.
    last: i64,
    time: Timestamp,
}

impl Sighting {
    pub(super) fn load(connection: &mut AnyConnection, rows: Rows) -> Result<Self, StoreError> {
        let (last, time) = match rows {
            Rows::ChangeEvents => {
                let columns = (metadata::future_events_revision, metadata::future_events_seen);
                metadata::table.select(columns).get_result(connection)?
            }
            Rows::Tombstones => {
                let columns = (metadata::future_tombstones_revision, metadata::future_tombstones_seen);
                metadata::table.select(columns).get_result(connection)?
            }
            Rows::Answers => {
                let columns = (metadata::future_answers_position, metadata::future_answers_seen);
                metadata::table.select(columns).get_result(connection)?
            }
        };
        Ok(Self { last, time: Timestamp::from_milliseconds(time) })
    }

    /// The time at which a row counts as written. `None` if it is from the future, and not seen before.
    pub(super) fn written(self, row: i64, claimed: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if claimed <= now {
            return Some(claimed);
        }
        (row <= self.last && self.time <= now).then_some(self.time)
    }
}

/// Notes that rows from the future are seen now.
pub(super) fn save(connection: &mut AnyConnection, rows: Rows, now: Timestamp) -> Result<(), StoreError> {
    let time = now.milliseconds();
    match rows {
        Rows::ChangeEvents => {
            let revision = horizon(connection)?.current.number();
            let columns = (metadata::future_events_revision.eq(revision), metadata::future_events_seen.eq(time));
            diesel::update(metadata::table).set(columns).execute(connection)?
        }
        Rows::Tombstones => {
            let revision = horizon(connection)?.current.number();
            let columns =
                (metadata::future_tombstones_revision.eq(revision), metadata::future_tombstones_seen.eq(time));
            diesel::update(metadata::table).set(columns).execute(connection)?
        }
        Rows::Answers => {
            let last: Option<i64> = idempotency::table.select(max(idempotency::position)).first(connection)?;
            let columns =
                (metadata::future_answers_position.eq(last.unwrap_or(0)), metadata::future_answers_seen.eq(time));
            diesel::update(metadata::table).set(columns).execute(connection)?
        }
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_from_the_future_counts_as_written_when_it_is_first_seen() {
        let sighting = Sighting { last: 10, time: Timestamp::from_milliseconds(1000) };
        for (row, claimed, now, expected) in [
            (5, 900, 1000, Some(900)),
            (5, 1001, 1000, Some(1000)),
            (10, 9000, 1500, Some(1000)),
            // Its time has come: then it was the clock that had gone back.
            (10, 1400, 1500, Some(1400)),
            (11, 1400, 1500, Some(1400)),
            // Written after the sighting.
            (11, 9000, 1500, None),
            // The clock has gone back behind the sighting.
            (10, 9000, 999, None),
        ] {
            let [claimed, now] = [claimed, now].map(Timestamp::from_milliseconds);
            let written = sighting.written(row, claimed, now);
            let expected = expected.map(Timestamp::from_milliseconds);
            assert_eq!(written, expected, "{row} {claimed:?} {now:?}");
        }
    }
}
