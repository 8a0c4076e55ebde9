//! Checks the kept history: a part of `duality verify`.

use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;

use super::history::history_file;
use crate::domain::revision::{Epoch, Revision};
use crate::read_model::error::ProjectionError;
use crate::storage::error::StoreError;
use crate::storage::verified::Verified;
use crate::storage::verify::{End, check_sidecar, end};

/// A query for each rule. It returns the rows that break it, as text.
const RULES: [&str; 4] = [
    "SELECT 'the last number is ' || last || ', but there is an event with ' || max AS line
     FROM counter, (SELECT MAX(sequence) AS max FROM changes) WHERE max > last",
    "SELECT name || ': it has everything up to revision ' || c.revision || ', but there is an event of ' || max AS line
     FROM collections c JOIN (SELECT collection, MAX(revision) AS max FROM changes GROUP BY collection)
       ON collection = name WHERE max > c.revision",
    "SELECT DISTINCT 'there are events of ' || collection || ', which is no collection' AS line
     FROM changes WHERE collection NOT IN (SELECT name FROM collections)",
    "SELECT collection || '/' || key || ': its change at revision ' || revision || ' is not JSON' AS line
     FROM changes WHERE NOT json_valid(patch)",
];

/// The same for a file that knows erasures: one of an earlier version does not, until a service has used it.
const ERASURE_RULE: &str = "
    SELECT c.collection || '/' || c.key || ': it was erased, but its change at revision ' || c.revision || ' is not' AS line
    FROM changes c
    JOIN (SELECT collection, key, MAX(changes.sequence) AS last
          FROM erased JOIN changes ON changes.sequence = erased.sequence GROUP BY collection, key) e
        ON e.collection = c.collection AND e.key = c.key
    WHERE c.sequence < e.last";

/// How much there is of each collection, and the epoch in which the last events were copied.
const COLLECTIONS: &str = "
    SELECT name, revision, (SELECT COUNT(*) FROM changes WHERE collection = name) AS events,
        COALESCE((SELECT epoch FROM epochs WHERE collection = name ORDER BY number DESC LIMIT 1), '') AS epoch
    FROM collections ORDER BY name";

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

#[derive(QueryableByName)]
struct Collection {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = Text)]
    epoch: String,
}

/// What the file has.
struct Content {
    findings: Vec<String>,
    collections: Vec<Collection>,
}

/// Compares the history with itself and with the database. A service may be using both.
pub(super) fn verify_history(database: &Path, files: &Path) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("history");
    let path = history_file(files);
    if !path.is_file() {
        "nothing is kept yet".clone_into(&mut verified.looked_at);
        return Ok(verified);
    }
    let content = check_sidecar(&path, &mut verified, look);
    // Read after the history, which grows while a service runs.
    let end = end(database)?;
    match content {
        Ok(Content { findings, collections }) => {
            let events: i64 = collections.iter().map(|collection| collection.events).sum();
            verified.looked_at = format!("{events} change events of {} collections", collections.len());
            verified.extend(findings);
            for collection in &collections {
                compare(collection, &end, &mut verified);
            }
        }
        Err(error) => {
            "the file".clone_into(&mut verified.looked_at);
            verified.add(error.to_string());
        }
    }
    Ok(verified)
}

/// A kill while the file is created leaves it without any table. The next start adds them.
const TABLES: &str = "SELECT name AS line FROM sqlite_schema WHERE type = 'table'";

fn look(connection: &mut SqliteConnection) -> Result<Content, ProjectionError> {
    let mut findings = Vec::new();
    let tables = diesel::sql_query(TABLES).load::<Line>(connection)?;
    if tables.is_empty() {
        return Ok(Content { findings, collections: Vec::new() });
    }
    let knows_erasures = tables.iter().any(|table| table.line == "erased");
    for rule in RULES.into_iter().chain(knows_erasures.then_some(ERASURE_RULE)) {
        findings.extend(diesel::sql_query(rule).load::<Line>(connection)?.into_iter().map(|row| row.line));
    }
    Ok(Content { findings, collections: diesel::sql_query(COLLECTIONS).load(connection)? })
}

/// Compares how far a collection is kept with where the database ends.
fn compare(collection: &Collection, end: &End, verified: &mut Verified) {
    let Collection { name, revision, epoch, .. } = collection;
    let Ok(epoch) = epoch.parse::<Epoch>() else {
        return verified.add(format!("{name}: its epoch is {epoch:?}"));
    };
    // After the database was put back, this is as it should be.
    if *revision > end.revision || !end.history.has_revision(&epoch, Revision::from_raw(*revision)) {
        verified.looked_at.push_str(&format!(", and some of {name} of another history, which the next start removes"));
    }
}
