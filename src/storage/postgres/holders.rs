//! Which connection keeps the row of `metadata`, when a writer could not take it in time.
//!
//! A service that stops in the middle of a batch, or whose last bytes do not arrive, keeps that row: between the execution
//! of a statement and the end of its transaction, no timeout of the server ends its connection. So whoever waits in vain does.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::BigInt;

use crate::storage::error::StoreError;

/// Its transactions are not ended by others, however long they take.
pub(super) const MAINTENANCE: &str = "SET LOCAL application_name = 'duality maintenance'";

/// The connections that may have the row: those with a lock on the table that wait for no other. Ends those of batches whose
/// client the server has been waiting for for a second. What waits for anything else, such as a standby that confirms a
/// commit, goes on by itself.
const LOOK: &str = "
    WITH holder AS (
        SELECT pid, application_name = current_setting('application_name') AND usename = current_user
            AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '1 second' AS is_stuck
        FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND wait_event_type IS DISTINCT FROM 'Lock'
            AND pid IN (
                SELECT pid FROM pg_locks
                WHERE relation = 'metadata'::regclass AND granted AND mode IN ('RowShareLock', 'RowExclusiveLock')
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())))
    SELECT count(*) AS holders, count(*) FILTER (WHERE is_stuck AND pg_terminate_backend(pid)) AS ended FROM holder";

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    holders: i64,
    #[diesel(sql_type = BigInt)]
    ended: i64,
}

/// Ends the connections of batches that keep others from the row without any need. Then it can be taken.
///
/// # Errors
/// Another connection has it for a good reason ([`StoreError::Busy`]), or this one is lost.
pub(super) fn make_way(connection: &mut PgConnection) -> Result<(), StoreError> {
    let Found { holders, ended } = diesel::sql_query(LOOK).get_result(connection)?;
    if ended > 0 {
        log::warn!(
            "{ended} connections to the record were ended: they kept all others from writing, and their services did not \
             go on"
        );
    }
    if holders > ended { Err(StoreError::Busy) } else { Ok(()) }
}
