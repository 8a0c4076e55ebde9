//! What one service at a time does when it starts: it makes the tables, and brings the record in line with its program.

use diesel::connection::SimpleConnection as _;
use diesel::pg::PgConnection;

use crate::storage::error::StoreError;

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
