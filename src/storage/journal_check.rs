//! Compares the numbers of the journal, and of the epochs, with each other.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use super::engine::AnyConnection;
use super::error::StoreError;
use super::verified::Verified;

/// Positions are 1, 2, 3 …, and so are the versions of an aggregate.
const JOURNAL: [&str; 2] = [
    "SELECT 'it has ' || COUNT(*) || ' events, but its last position is ' || MAX(position) || ' and its first '
        || MIN(position) AS line
     FROM journal HAVING COUNT(*) > 0 AND (MAX(position) <> COUNT(*) OR MIN(position) <> 1)",
    "SELECT collection || '/' || key || ': it has ' || COUNT(*) || ' events, but its last version is ' || MAX(version)
        AS line
     FROM journal GROUP BY collection, key HAVING MAX(version) <> COUNT(*) OR MIN(version) <> 1",
];

/// Bodies are JSON objects, and so is metadata, if there is any.
const OBJECTS: [&str; 2] = [
    "SELECT 'the event at position ' || position || ' is no JSON object' AS line FROM journal
     WHERE NOT json_valid(body) OR json_type(CASE WHEN json_valid(body) THEN body ELSE 'null' END) <> 'object'",
    "SELECT 'the metadata of the event at position ' || position || ' is no JSON object' AS line FROM journal
     WHERE metadata IS NOT NULL
        AND (NOT json_valid(metadata) OR json_type(CASE WHEN json_valid(metadata) THEN metadata ELSE 'null' END) <> 'object')",
];

/// Each epoch begins where the one before it ended, or later, and none begins beyond the end.
const EPOCHS: [&str; 3] = [
    "SELECT 'epoch ' || epoch || ' begins before the one before it' AS line FROM (
        SELECT epoch, first_revision, first_position,
            LAG(first_revision) OVER (ORDER BY number) AS revision, LAG(first_position) OVER (ORDER BY number) AS position
        FROM epochs) AS e WHERE first_revision < revision OR first_position < position",
    "SELECT 'epoch ' || e.epoch || ' begins at revision ' || first_revision || ', but the last revision is ' || m.revision
        AS line
     FROM epochs e, metadata m WHERE first_revision > m.revision + 1",
    "SELECT 'epoch ' || e.epoch || ' begins at position ' || first_position || ', but the last position is ' || last AS line
     FROM epochs e, (SELECT COALESCE(MAX(position), 0) AS last FROM journal) AS j WHERE first_position > last + 1",
];

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// The positions and versions of the journal.
pub(super) fn verify_journal(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("journal");
    verified.looked_at = format!("positions and versions of {} events", count(connection, "journal")?);
    verify(connection, &JOURNAL, &mut verified)?;
    match connection {
        AnyConnection::Sqlite(_) => verify(connection, &OBJECTS, &mut verified)?,
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(connection) => verify_objects(connection, &mut verified)?,
    }
    Ok(verified)
}

/// The same as the rules about objects: not all versions of `PostgreSQL` can say whether a text is JSON.
#[cfg(feature = "postgres")]
fn verify_objects(connection: &mut PgConnection, verified: &mut Verified) -> Result<(), StoreError> {
    use super::schema::journal;
    let is_object = |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok();
    let query = journal::table.order(journal::position).select((journal::position, journal::body, journal::metadata));
    for row in query.load_iter::<(i64, String, Option<String>), diesel::pg::PgRowByRowLoadingMode>(connection)? {
        let (position, body, metadata) = row?;
        if !is_object(&body) {
            verified.add(format!("the event at position {position} is no JSON object"));
        }
        if metadata.is_some_and(|metadata| !is_object(&metadata)) {
            verified.add(format!("the metadata of the event at position {position} is no JSON object"));
        }
    }
    Ok(())
}

/// The log of epochs.
pub(super) fn verify_epochs(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("epochs");
    verified.looked_at = format!("the beginnings of {}", count(connection, "epochs")?);
    verify(connection, &EPOCHS, &mut verified)?;
    Ok(verified)
}

fn verify(connection: &mut AnyConnection, rules: &[&str], verified: &mut Verified) -> Result<(), StoreError> {
    for rule in rules {
        let lines: Vec<Line> = diesel::sql_query(*rule).load(connection)?;
        verified.extend(lines.into_iter().map(|row| row.line).collect());
    }
    Ok(())
}

/// The number of rows of a table.
pub(super) fn count(connection: &mut AnyConnection, table: &str) -> Result<i64, StoreError> {
    let count: Count = diesel::sql_query(format!("SELECT COUNT(*) AS count FROM {table}")).get_result(connection)?;
    Ok(count.count)
}
