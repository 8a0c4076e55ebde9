//! What a reader of a database at rest has not seen yet. Changes nothing.

use std::path::Path;

use diesel::prelude::*;

use super::at_rest::read_undisturbed;
use super::error::StoreError;
use super::identity::identify;
use super::migrations;
use super::schema::{journal, outbox};
use crate::domain::clock::Timestamp;

/// Change events that a reader has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backlog {
    pub(crate) events: i64,
    /// The time of the first of them.
    pub(crate) since: Option<Timestamp>,
}

/// Fails unless a file is a database of this version of the program.
pub(crate) fn require_current(database: &Path) -> Result<(), StoreError> {
    read_undisturbed(database, |connection| {
        identify(connection, database)?;
        migrations::require_current(connection)
    })
}

/// The time of the first event of some collections after a position of the journal.
pub(crate) fn first_event(database: &Path, of: &[&str], after: i64) -> Result<Option<Timestamp>, StoreError> {
    read_undisturbed(database, |connection| {
        let time: Option<i64> = journal::table
            .filter(journal::position.gt(after).and(journal::collection.eq_any(of)))
            .order(journal::position)
            .select(journal::time)
            .first(connection)
            .optional()?;
        Ok(time.map(Timestamp::from_milliseconds))
    })
}

/// The change events of some collections after a revision.
pub(crate) fn changes(database: &Path, of: &[&str], after: i64) -> Result<Backlog, StoreError> {
    read_undisturbed(database, |connection| {
        // An event without a key says that the collection was registered.
        let unseen = outbox::revision.gt(after).and(outbox::collection.eq_any(of)).and(outbox::key.ne(""));
        let events = outbox::table.filter(unseen.clone()).count().get_result(connection)?;
        let time: Option<i64> =
            outbox::table.filter(unseen).order(outbox::revision).select(outbox::time).first(connection).optional()?;
        Ok(Backlog { events, since: time.map(Timestamp::from_milliseconds) })
    })
}
