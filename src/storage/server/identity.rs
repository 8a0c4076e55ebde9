//! Which database on which server this is, and in which of its lives.
//!
//! A standby that was promoted, a dump that was restored and a copy of the server's files have the rows of the record, but
//! perhaps not the last of them. So what identifies the place stands in the row that every transaction takes.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{BigInt, Bool, Text};

use crate::domain::revision::Revision;
use crate::storage::counters::{Horizon, Sight};
use crate::storage::error::StoreError;
use crate::storage::statement::statement;

/// Where a record is: `7312/16384/16391/00000001`. That is the identifier which `initdb` gave the server, the number of the
/// database on it, that of the table `metadata` (another one after `pg_restore --clean`), and the timeline of the server's
/// log (another one after a promotion).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::storage) struct Identity {
    pub(in crate::storage) place: String,
}

impl Identity {
    /// That of the database which has this connection.
    pub(in crate::storage) fn of(connection: &mut PgConnection) -> Result<Self, StoreError> {
        Ok(Self { place: LoadPlace {}.get_result(connection)? })
    }
}

statement! {
    struct LoadPlace {}
    "SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database()), 'metadata'::regclass::oid,
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))"
}

impl Query for LoadPlace {
    type SqlType = Text;
}

/// The record as a transaction finds it.
#[derive(Queryable)]
struct Seen {
    epoch: String,
    revision: i64,
    pruned: i64,
    forgotten: i64,
    erasures: i64,
    dropped: i64,
    is_in_place: bool,
}

statement! {
    struct LoadHorizon {}
    "SELECT epoch, revision, pruned, forgotten, erasures, (SELECT coalesce(max(dropped.revision), 0) FROM dropped),
        place LIKE '%/' || tableoid || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
    FROM metadata"
}

impl Query for LoadHorizon {
    type SqlType = (Text, BigInt, BigInt, BigInt, BigInt, BigInt, Bool);
}

/// The epoch of the database, and the revisions against which its cursors are compared. Without an epoch if the place is not
/// the one in which the epoch began. The system is that of the connection, which was compared when it was opened.
pub(in crate::storage) fn look(connection: &mut PgConnection) -> Result<Sight, StoreError> {
    let Seen { epoch, revision, pruned, forgotten, erasures, dropped, is_in_place } =
        LoadHorizon {}.get_result(connection)?;
    let horizon = Horizon {
        current: Revision::from_raw(revision),
        pruned: Revision::from_raw(pruned),
        forgotten: Revision::from_raw(forgotten),
        erasures,
        dropped: Revision::from_raw(dropped),
    };
    Ok(Sight { epoch: is_in_place.then_some(epoch), horizon })
}
