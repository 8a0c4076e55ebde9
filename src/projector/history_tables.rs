//! The tables of a history, and what is written into them.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::sqlite::SqliteConnection;

use super::event_page::PageEvent;
use super::history_epochs;
use crate::domain::metadata::StoredMetadata;
use crate::domain::revision::Revision;
use crate::read_model::error::ProjectionError;
use crate::storage::statement::{rows, statement};

diesel::table! {
    /// One row.
    counter (id) {
        id -> BigInt,
        /// The sequence number of the last event; never reused.
        last -> BigInt,
    }
}

diesel::table! {
    /// The collections whose events are kept.
    collections (name) {
        name -> Text,
        /// Another number after events were removed.
        incarnation -> BigInt,
        /// The revision of the aggregates with which it started; 0 if it started with the first event.
        began -> BigInt,
        /// All events up to and including this revision are kept.
        revision -> BigInt,
        /// The version of its documents; 0 if it has none.
        version -> BigInt,
    }
}

diesel::table! {
    changes (sequence) {
        sequence -> BigInt,
        revision -> BigInt,
        collection -> Text,
        key -> Text,
        patch -> Text,
        time -> BigInt,
        metadata -> Nullable<Text>,
    }
}

diesel::table! {
    /// The change events that say that an aggregate was erased. Its earlier ones are deleted.
    erased (sequence) {
        sequence -> BigInt,
        /// 0 until what was deleted is overwritten in the file.
        overwritten -> BigInt,
    }
}

const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS counter (id BIGINT NOT NULL PRIMARY KEY, last BIGINT NOT NULL);
    INSERT OR IGNORE INTO counter (id, last) VALUES (1, 0);
    CREATE TABLE IF NOT EXISTS collections (name TEXT NOT NULL PRIMARY KEY, incarnation BIGINT NOT NULL, \
        began BIGINT NOT NULL, revision BIGINT NOT NULL, version BIGINT NOT NULL DEFAULT 1);
    CREATE TABLE IF NOT EXISTS changes (sequence INTEGER NOT NULL PRIMARY KEY, revision BIGINT NOT NULL, \
        collection TEXT NOT NULL, key TEXT NOT NULL, patch TEXT NOT NULL, time BIGINT NOT NULL, metadata TEXT);
    CREATE TABLE IF NOT EXISTS erased (sequence INTEGER NOT NULL PRIMARY KEY, overwritten BIGINT NOT NULL);";

/// Creates what the file does not have: all of it or nothing, if it is killed.
pub(super) fn create(connection: &mut SqliteConnection) -> QueryResult<()> {
    connection.transaction(|connection| {
        connection.batch_execute(TABLES)?;
        add_columns(connection)?;
        connection.batch_execute(history_epochs::TABLE)
    })
}

/// Adds the columns that the files of earlier versions do not have. In them, all documents were of the first version.
fn add_columns(connection: &mut SqliteConnection) -> QueryResult<()> {
    for (table, column, definition) in
        [("changes", "metadata", "TEXT"), ("collections", "version", "BIGINT NOT NULL DEFAULT 1")]
    {
        let there = format!("SELECT COUNT(*) AS count FROM pragma_table_info('{table}') WHERE name = '{column}'");
        let Count { count } = diesel::sql_query(there).get_result(connection)?;
        if count == 0 {
            connection.batch_execute(&format!("ALTER TABLE {table} ADD COLUMN {column} {definition}"))?;
        }
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Adds events. The earlier ones of an aggregate that was erased go.
pub(super) fn insert(connection: &mut SqliteConnection, events: &[PageEvent]) -> Result<(), ProjectionError> {
    // What was before an erasure has to be there to be deleted.
    for part in events.chunk_by(|_, next| !next.is_erasure()) {
        if let Some(first) = part.first().filter(|first| first.is_erasure()) {
            erase(connection, first)?;
        }
        let rows: Vec<_> = part.iter().map(KeptChange::of).collect();
        KeptChange::insert_all(&rows, connection)?;
    }
    Ok(())
}

/// Deletes the events of an aggregate before the one that says that it was erased, and notes that.
fn erase(connection: &mut SqliteConnection, event: &PageEvent) -> Result<(), ProjectionError> {
    let of_aggregate = changes::collection.eq(event.collection).and(changes::key.eq(event.key.as_str()));
    diesel::delete(changes::table.filter(of_aggregate)).execute(connection)?;
    diesel::replace_into(erased::table)
        .values((erased::sequence.eq(event.sequence), erased::overwritten.eq(0)))
        .execute(connection)?;
    Ok(())
}

pub(super) fn last(connection: &mut SqliteConnection) -> Result<i64, ProjectionError> {
    Ok(counter::table.select(counter::last).first(connection)?)
}

rows! {
    /// A change event that is kept.
    struct KeptChange<'a> {
        "changes (sequence, revision, collection, key, patch, time, metadata)"
        sequence: i64 as BigInt,
        revision: i64 as BigInt,
        collection: &'a str as Text,
        key: &'a str as Text,
        patch: &'a str as Text,
        time: i64 as BigInt,
        metadata: Option<&'a str> as Nullable<Text>,
    }
    ""
}

impl<'a> KeptChange<'a> {
    fn of(event: &'a PageEvent) -> Self {
        Self {
            sequence: event.sequence,
            revision: event.at,
            collection: event.collection,
            key: event.key.as_str(),
            patch: event.patch(),
            time: event.time.milliseconds(),
            metadata: event.metadata.as_ref().map(StoredMetadata::as_str),
        }
    }
}

/// All events of a collection up to and including this revision are kept.
pub(super) fn save_revision(connection: &mut SqliteConnection, name: &str, revision: Revision) -> QueryResult<usize> {
    SaveRevision { revision: revision.number(), name }.execute(connection)
}

/// The sequence number of the last event.
pub(super) fn save_last(connection: &mut SqliteConnection, last: i64) -> QueryResult<usize> {
    SaveLast { last }.execute(connection)
}

statement! {
    struct SaveRevision<'a> {
        "UPDATE collections SET revision = " revision: i64 as BigInt,
        " WHERE name = " name: &'a str as Text,
    }
}

statement! {
    struct SaveLast {
        "UPDATE counter SET last = " last: i64 as BigInt,
    }
}
