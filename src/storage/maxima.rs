//! The counters of the database against the largest numbers that its rows have. A counter that is too small would give a
//! number twice.

use super::engine::AnyConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::error::StoreError;
use crate::domain::collection::{Keys, Registry};

/// A query for each rule. It returns the rows that break it, as text.
const RULES: [&str; 7] = [
    "SELECT 'the last revision is ' || revision || ', but a change event has ' || max AS line
     FROM metadata, (SELECT MAX(revision) AS max FROM outbox) WHERE max > revision",
    "SELECT 'the last revision is ' || revision || ', but a state has ' || max AS line
     FROM metadata, (SELECT MAX(revision) AS max FROM aggregates) WHERE max > revision",
    "SELECT 'the last revision is ' || revision || ', but change events are pruned up to ' || pruned AS line
     FROM metadata WHERE pruned > revision",
    "SELECT 'the last revision is ' || revision || ', but tombstones are pruned up to ' || forgotten AS line
     FROM metadata WHERE forgotten > revision",
    "SELECT 'change events are pruned up to ' || pruned || ', but there is one of ' || min AS line
     FROM metadata, (SELECT MIN(revision) AS min FROM outbox) WHERE min <= pruned",
    "SELECT 'the last revision is ' || revision || ', but ' || name || ' changed at ' || changed AS line
     FROM metadata, collections WHERE changed > revision",
    "SELECT 'the last epoch is not that of the database, ' || epoch AS line FROM metadata
     WHERE EXISTS (SELECT 1 FROM epochs)
       AND epoch <> (SELECT epoch FROM epochs ORDER BY number DESC LIMIT 1)",
];

/// The same for a collection that has numbers as keys.
const NEXT_KEY: &str = "
    SELECT name || ': the next key is ' || next_key || ', but there is ' || last AS line FROM (
        SELECT name, next_key, (
            SELECT CAST(key AS INTEGER) FROM aggregates WHERE collection = name AND rank < 1000
            ORDER BY rank DESC, key DESC LIMIT 1
        ) AS last FROM collections WHERE name = ?
    ) WHERE last >= next_key";

/// Every counter that contradicts the rows. Each query uses an index.
pub(crate) fn findings(connection: &mut AnyConnection, registry: &Registry) -> Result<Vec<String>, StoreError> {
    let mut findings: Vec<Line> = Vec::new();
    for rule in RULES {
        findings.extend(diesel::sql_query(rule).load::<Line>(connection)?);
    }
    for collection in registry.ids().map(|id| registry.get(id)).filter(|collection| collection.keys() == Keys::Sequence)
    {
        let query = diesel::sql_query(NEXT_KEY).bind::<Text, _>(collection.name());
        findings.extend(query.load::<Line>(connection)?);
    }
    Ok(findings.into_iter().map(|row| row.line).collect())
}

/// Fails at the first counter that contradicts the rows.
pub(super) fn require(connection: &mut AnyConnection, registry: &Registry) -> Result<(), StoreError> {
    match findings(connection, registry)?.into_iter().next() {
        None => Ok(()),
        Some(finding) => Err(StoreError::Counters { finding }),
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}
