//! What a service that starts needs: that no other one starts at the same time, and that all of the record is there.

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use crate::storage::error::StoreError;

/// The indexes of all tables.
const INDEXES: [&str; 19] = [
    "aggregates_by_revision",
    "aggregates_pkey",
    "batches_pkey",
    "collections_pkey",
    "dropped_pkey",
    "epochs_epoch_key",
    "epochs_pkey",
    "erased_by_revision",
    "erased_pkey",
    "erasures_in_progress",
    "idempotency_pkey",
    "idempotency_request_key",
    "journal_by_aggregate",
    "journal_pkey",
    "metadata_pkey",
    "outbox_pkey",
    "projections_pkey",
    "tombstones",
    "upgrades_pkey",
];

/// The number of the advisory lock: `dual`, as in the header of a database file.
const LOCK: i64 = 1_685_414_252;

/// Waits, in a transaction that has just begun, for the end of every other start, and keeps others waiting until this one has
/// ended. Statements may take the time that a large record needs. Each of them sees what others have committed before it,
/// whatever isolation the role has by default.
pub(in crate::storage) fn take_turn(connection: &mut PgConnection) -> Result<(), StoreError> {
    connection.batch_execute(&format!(
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
        SET LOCAL statement_timeout = 0;
        SET LOCAL lock_timeout = 0;
        SET LOCAL idle_in_transaction_session_timeout = '1min';
        SELECT pg_advisory_xact_lock({LOCK})"
    ))?;
    Ok(())
}

#[derive(QueryableByName)]
struct Missing {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Fails if an index is not there. `pg_restore` makes the tables first, then fills them one by one, and makes their indexes when
/// all rows are there: a service that started in between would go on with a part of the record.
pub(in crate::storage) fn require_whole(connection: &mut PgConnection) -> Result<(), StoreError> {
    let query = "SELECT name FROM unnest($1) AS name WHERE to_regclass(name) IS NULL LIMIT 1";
    let missing = diesel::sql_query(query).bind::<Array<Text>, _>(INDEXES.as_slice());
    match missing.get_result::<Missing>(connection).optional()? {
        None => Ok(()),
        Some(Missing { name }) => Err(StoreError::Incomplete { part: format!("index {name}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::INDEXES;

    #[test]
    fn every_index_of_the_tables_is_listed() {
        let tables = include_str!("../../../migrations/postgres/2026-11-29-200000_record/up.sql");
        let mut expected = Vec::new();
        let mut table = "";
        for line in tables.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[..] {
                ["CREATE", "TABLE", name, ..] => {
                    table = name;
                    expected.push(format!("{name}_pkey"));
                }
                ["CREATE", "INDEX", name, ..] | ["CREATE", "UNIQUE", "INDEX", name, ..] => {
                    expected.push(name.to_owned());
                }
                [column, .., "NOT", "NULL", "UNIQUE,"] => expected.push(format!("{table}_{column}_key")),
                _ => {}
            }
        }
        expected.sort();
        assert_eq!(expected, INDEXES);
    }
}
