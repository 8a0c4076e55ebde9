//! How much room the stored answers take, its limit, and when there is room again.

use std::time::Duration;

use diesel::dsl::{max, min};
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use super::engine::AnyConnection;
use super::error::StoreError;
use super::schema::{idempotency, metadata};
use super::sighting::{Rows, Sighting};
use super::statement::statement;
use crate::domain::clock::Timestamp;
use crate::domain::idempotency::AnswersFull;

/// What an answer takes beside its text, in bytes, approximately: its row, and its entry in the index.
const ROW_BYTES: i64 = 160;

/// What stored answers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerLimit {
    /// The last answer may exceed it: how large it gets is known when its command was executed.
    pub(crate) bytes: u64,
    /// How long an answer is kept.
    pub(crate) retention: Duration,
}

impl AnswerLimit {
    pub(crate) const NONE: Self = Self { bytes: u64::MAX, retention: Duration::MAX };
}

/// What stored answers take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoredAnswers {
    pub(crate) number: i64,
    /// The bytes of their texts.
    pub(super) texts: i64,
}

impl StoredAnswers {
    /// Adds no lengths up: the database has the bytes of their texts.
    pub(super) fn load(connection: &mut AnyConnection) -> Result<Self, StoreError> {
        let number = number_of_consecutive(connection)?;
        let texts = metadata::table.select(metadata::answer_bytes).first(connection)?;
        Ok(Self { number, texts })
    }

    /// What they take of the database, approximately.
    pub(crate) fn bytes(self) -> i64 {
        self.texts + self.number * ROW_BYTES
    }

    pub(super) fn has_room(self, limit: AnswerLimit) -> bool {
        u64::try_from(self.bytes()).unwrap_or(0) < limit.bytes
    }

    /// Counts an answer with a text of these bytes.
    pub(super) fn add(&mut self, text: usize) {
        self.number += 1;
        self.texts += i64::try_from(text).unwrap_or(i64::MAX);
    }
}

/// Counts no rows: answers have consecutive positions, and are deleted oldest first only. On a server, a transaction that was
/// rolled back may have used some positions up, so that there are fewer.
fn number_of_consecutive(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    // Two queries: SQLite reads all rows for a minimum and a maximum in one.
    let first: Option<i64> = idempotency::table.select(min(idempotency::position)).first(connection)?;
    let last: Option<i64> = idempotency::table.select(max(idempotency::position)).first(connection)?;
    Ok(first.zip(last).map_or(0, |(first, last)| last - first + 1))
}

/// Notes that the texts of all answers have become longer, or shorter, by so many bytes.
pub(super) fn note_texts(connection: &mut AnyConnection, more: i64) -> Result<(), StoreError> {
    AddAnswerBytes { more }.execute(connection)?;
    Ok(())
}

statement! {
    struct AddAnswerBytes {
        "UPDATE metadata SET answer_bytes = answer_bytes + " more: i64 as BigInt,
    }
}

/// What a command gets while there is no room for its answer.
pub(super) fn full(
    connection: &mut AnyConnection,
    limit: AnswerLimit,
    now: Timestamp,
) -> Result<AnswersFull, StoreError> {
    let columns = (idempotency::position, idempotency::time);
    let oldest: Option<(i64, i64)> =
        idempotency::table.order(idempotency::position).select(columns).first(connection).optional()?;
    let kept = match oldest {
        None => Duration::ZERO,
        Some((position, time)) => {
            let sighting = Sighting::load(connection, Rows::Answers)?;
            let written = sighting.written(position, Timestamp::from_milliseconds(time), now).unwrap_or(now);
            let milliseconds = now.milliseconds().saturating_sub(written.milliseconds());
            Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
        }
    };
    Ok(AnswersFull { limit: limit.bytes, room_in: limit.retention.saturating_sub(kept) })
}
