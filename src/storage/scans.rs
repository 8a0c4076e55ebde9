//! Whole collections and journals of a server, read by their keys: each statement is short, and returns a bounded number of rows, of which
//! one is in memory at a time.

use diesel::pg::{PgConnection, PgRowByRowLoadingMode};
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{BigInt, Integer, Text};

use super::error::StoreError;
use super::statement::statement;
use crate::domain::revision::Revision;

/// The rows of a statement. The texts have the number, so that the server plans for it.
const PORTION: usize = 1000;

statement! {
    struct NextOfCollection<'a> {
        "SELECT rank, key, revision, body FROM aggregates WHERE collection = " collection: &'a str as Text,
        " AND (rank, key) > (" rank: i32 as Integer,
        ", " key: &'a str as Text,
    }
    ") AND body IS NOT NULL ORDER BY rank, key LIMIT 1000"
}

impl Query for NextOfCollection<'_> {
    type SqlType = (Integer, Text, BigInt, Text);
}

/// Calls `each` with every aggregate of a collection, in key order.
pub(super) fn aggregates<E: From<StoreError>>(
    connection: &mut PgConnection,
    collection: &str,
    mut each: impl FnMut(&str, Revision, &str) -> Result<(), E>,
) -> Result<(), E> {
    let mut last = (-1, String::new());
    loop {
        let query = NextOfCollection { collection, rank: last.0, key: &last.1 };
        let rows = query.load_iter::<(i32, String, i64, String), PgRowByRowLoadingMode>(connection);
        let mut end = None;
        for (number, row) in (1..).zip(rows.map_err(StoreError::from)?) {
            let (rank, key, revision, body) = row.map_err(StoreError::from)?;
            each(&key, Revision::from_raw(revision), &body)?;
            end = (number == PORTION).then_some((rank, key));
        }
        let Some(end) = end else { return Ok(()) };
        last = end;
    }
}

statement! {
    struct NextEvents<'a> {
        "SELECT position, key, version, kind, schema, body, erased FROM journal WHERE collection = "
        collection: &'a str as Text,
        " AND (key, version) > (" key: &'a str as Text,
        ", " version: i64 as BigInt,
    }
    ") ORDER BY key, version LIMIT 1000"
}

impl Query for NextEvents<'_> {
    type SqlType = (BigInt, Text, BigInt, Text, BigInt, Text, Integer);
}

/// What a state follows from: position, key, version, kind, schema, fields, and whether the event is erased.
pub(super) type EventColumns = (i64, String, i64, String, i64, String, i32);

/// Whether more events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    More,
    Enough,
}

/// Calls `each` with the events of all aggregates of a collection after a key, in the bytewise order of their keys.
pub(super) fn events(
    connection: &mut PgConnection,
    collection: &str,
    after: &str,
    mut each: impl FnMut(EventColumns) -> Result<Wanted, StoreError>,
) -> Result<(), StoreError> {
    let mut last = (after.to_owned(), i64::MAX);
    loop {
        let query = NextEvents { collection, key: &last.0, version: last.1 };
        let mut end = None;
        for (number, row) in (1..).zip(query.load_iter::<EventColumns, PgRowByRowLoadingMode>(connection)?) {
            let row = row?;
            end = (number == PORTION).then(|| (row.1.clone(), row.2));
            if each(row)? == Wanted::Enough {
                return Ok(());
            }
        }
        let Some(end) = end else { return Ok(()) };
        last = end;
    }
}
