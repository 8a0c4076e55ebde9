//! One aggregate, and the revision of the document at which it is so, by one statement: it sees one moment, so that it needs
//! no transaction around it.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text};

use crate::domain::body::Body;
use crate::domain::key::Key;
use crate::domain::revision::{Revision, Version};
use crate::storage::aggregates::Row;
use crate::storage::counters::{Horizon, Sight};
use crate::storage::error::StoreError;
use crate::storage::statement::statement;

/// An aggregate as a statement finds it.
pub(in crate::storage) struct Found {
    pub(in crate::storage) sight: Sight,
    /// `None` if there is no row; it may be a tombstone.
    pub(in crate::storage) row: Option<Row>,
}

statement! {
    /// Without the row of `metadata`, nothing is found. The limit lets the planner see that there is at most one row.
    struct LoadAggregate<'a> {
        "SELECT metadata.epoch, metadata.revision, metadata.pruned, metadata.forgotten, metadata.erasures,
            (SELECT coalesce(max(dropped.revision), 0) FROM dropped),
            metadata.place LIKE '%/' || metadata.tableoid || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
            row.revision, row.version, row.body
        FROM metadata LEFT JOIN LATERAL (
            SELECT revision, version, body FROM aggregates WHERE collection = " collection: &'a str as Text,
        " AND rank = " rank: i32 as Integer,
        " AND key = " key: &'a str as Text,
    }
    " LIMIT 1) AS row ON true"
}

type Columns = (Text, BigInt, BigInt, BigInt, BigInt, BigInt, Bool, Nullable<BigInt>, Nullable<BigInt>, Nullable<Text>);

impl Query for LoadAggregate<'_> {
    type SqlType = Columns;
}

/// The columns of the statement.
#[derive(Queryable)]
struct Line {
    epoch: String,
    current: i64,
    pruned: i64,
    forgotten: i64,
    erasures: i64,
    dropped: i64,
    is_in_place: bool,
    revision: Option<i64>,
    version: Option<i64>,
    body: Option<String>,
}

/// Reads an aggregate, and what the record is.
pub(in crate::storage) fn load(
    connection: &mut PgConnection,
    collection: &str,
    key: &Key,
) -> Result<Found, StoreError> {
    let line: Line = LoadAggregate { collection, rank: key.rank(), key: key.as_str() }.get_result(connection)?;
    let Line { epoch, current, pruned, forgotten, erasures, dropped, is_in_place, revision, version, body } = line;
    let horizon = Horizon {
        current: Revision::from_raw(current),
        pruned: Revision::from_raw(pruned),
        forgotten: Revision::from_raw(forgotten),
        erasures,
        dropped: Revision::from_raw(dropped),
    };
    let row = revision.zip(version).map(|(revision, version)| Row {
        revision: Revision::from_raw(revision),
        version: Version::from_raw(version),
        body: body.map(Body::from_db),
    });
    Ok(Found { sight: Sight { epoch: is_in_place.then_some(epoch), horizon }, row })
}
