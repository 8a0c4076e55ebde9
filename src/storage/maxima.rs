//! The counters of the database against the largest numbers that its rows have. A counter that is too small would give a
//! number twice.

use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::Text;

use super::engine::AnyConnection;
use super::error::StoreError;
use super::statement::statement;
use crate::domain::collection::{Keys, Registry};

/// A query for each rule. It returns the rows that break it, as text.
const RULES: [&str; 7] = [
    "SELECT 'the last revision is ' || revision || ', but a change event has ' || max AS line
     FROM metadata, (SELECT MAX(revision) AS max FROM outbox) AS rows WHERE max > revision",
    "SELECT 'the last revision is ' || revision || ', but a state has ' || max AS line
     FROM metadata, (SELECT MAX(revision) AS max FROM aggregates) AS rows WHERE max > revision",
    "SELECT 'the last revision is ' || revision || ', but change events are pruned up to ' || pruned AS line
     FROM metadata WHERE pruned > revision",
    "SELECT 'the last revision is ' || revision || ', but tombstones are pruned up to ' || forgotten AS line
     FROM metadata WHERE forgotten > revision",
    "SELECT 'change events are pruned up to ' || pruned || ', but there is one of ' || min AS line
     FROM metadata, (SELECT MIN(revision) AS min FROM outbox) AS rows WHERE min <= pruned",
    "SELECT 'the last revision is ' || revision || ', but ' || name || ' changed at ' || changed AS line
     FROM metadata, collections WHERE changed > revision",
    "SELECT 'the last epoch is not that of the database, ' || epoch AS line FROM metadata
     WHERE EXISTS (SELECT 1 FROM epochs)
       AND epoch <> (SELECT epoch FROM epochs ORDER BY number DESC LIMIT 1)",
];

statement! {
    /// The same for a collection that has numbers as keys.
    struct NextKey<'a> {
        "SELECT name || ': the next key is ' || next_key || ', but there is ' || last AS line FROM (
            SELECT name, next_key, (
                SELECT CAST(key AS NUMERIC) FROM aggregates WHERE collection = name AND rank < 1000
                ORDER BY rank DESC, key DESC LIMIT 1
            ) AS last FROM collections WHERE name = " collection: &'a str as Text,
    }
    ") AS c WHERE last >= next_key"
}

impl Query for NextKey<'_> {
    type SqlType = (Text,);
}

/// Every counter that contradicts the rows. Each query uses an index.
pub(crate) fn findings(connection: &mut AnyConnection, registry: &Registry) -> Result<Vec<String>, StoreError> {
    let mut findings = Vec::new();
    for rule in RULES {
        findings.extend(diesel::sql_query(rule).load::<Line>(connection)?.into_iter().map(|row| row.line));
    }
    for collection in registry.ids().map(|id| registry.get(id)).filter(|collection| collection.keys() == Keys::Sequence)
    {
        let lines: Vec<(String,)> = NextKey { collection: collection.name() }.load(connection)?;
        findings.extend(lines.into_iter().map(|(line,)| line));
    }
    Ok(findings)
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
