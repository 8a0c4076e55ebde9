//! Compares the erased aggregates with what the tables still have of them.

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::engine::AnyConnection;
use super::erasure::{self, Counts};
use super::error::StoreError;
use super::verified::Verified;

/// Of an aggregate that is erased, nothing has a content. While that is in progress, its past still may.
const RULES: [&str; 8] = [
    "SELECT collection || '/' || key || ': it was erased, but it has a state' AS line
     FROM aggregates WHERE body IS NOT NULL AND (collection, key) IN (SELECT collection, key FROM erased)",
    "SELECT e.collection || '/' || e.key || ': it was erased, but the event at position ' || j.position || ' is not' AS line
     FROM erased e JOIN journal j ON j.collection = e.collection AND j.key = e.key
     WHERE j.erased = 0 AND (j.version = 1 OR e.stage <> 'events')",
    "SELECT 'the event at position ' || position || ' is erased, but it has a content' AS line
     FROM journal WHERE erased <> 0 AND body <> '{}'",
    "SELECT 'the event at position ' || position || ' is erased, but it has metadata' AS line
     FROM journal WHERE erased <> 0 AND metadata IS NOT NULL",
    "SELECT 'the event at position ' || position || ' is erased, but ' || collection || '/' || key || ' is not' AS line
     FROM journal j WHERE erased = 1
        AND NOT EXISTS (SELECT 1 FROM erased e WHERE e.collection = j.collection AND e.key = j.key)",
    "SELECT e.collection || '/' || e.key || ': it was erased, but its change at revision ' || o.revision || ' is not' AS line
     FROM outbox o JOIN erased e ON e.collection = o.collection AND e.key = o.key
     WHERE o.patch <> 'null' AND e.stage NOT IN ('events', 'changes')",
    "SELECT e.collection || '/' || e.key || ': it was erased, but its change at revision ' || o.revision || ' has metadata' AS line
     FROM outbox o JOIN erased e ON e.collection = o.collection AND e.key = o.key
     WHERE o.revision < e.revision AND o.metadata IS NOT NULL AND e.stage NOT IN ('events', 'changes')",
    "SELECT e.collection || '/' || e.key || ': it was erased, but its last event does not say so' AS line
     FROM erased e WHERE e.stage IN ('file', 'done')
         AND (e.position IS NOT NULL
             OR EXISTS (SELECT 1 FROM journal j WHERE j.collection = e.collection AND j.key = e.key))
         AND NOT EXISTS (SELECT 1 FROM journal j WHERE j.position = e.position AND j.collection = e.collection
             AND j.key = e.key AND j.kind = 'Erased' AND j.erased <> 0)",
];

/// The first line of an answer is JSON. Whoever tried to write the aggregate after it was erased has a later revision.
const ANSWERS: &str = "
    SELECT e.collection || '/' || e.key || ': it was erased, but the answer at position ' || i.position || ' is not' AS line
    FROM (SELECT position, collection, aggregate, substr(answer, 1, instr(answer, char(10)) - 1) AS head
          FROM idempotency WHERE answer IS NOT NULL) i
    JOIN erased e ON e.collection = i.collection AND e.key = i.aggregate
    WHERE e.stage NOT IN ('events', 'changes', 'answers')
        AND CASE WHEN json_valid(head) THEN json_extract(head, '$.revision') < e.revision ELSE TRUE END";

#[cfg(feature = "postgres")]
const ANSWERS_ON_SERVER: &str = r#"
    SELECT e.collection || '/' || e.key || ': it was erased, but the answer at position ' || i.position || ' is not' AS line
    FROM idempotency i JOIN erased e ON e.collection = i.collection AND e.key = i.aggregate
    WHERE i.answer IS NOT NULL AND e.stage NOT IN ('events', 'changes', 'answers')
        AND COALESCE(CAST(substring(split_part(i.answer, chr(10), 1) FROM '"revision":([0-9]+)') AS BIGINT) < e.revision, TRUE)"#;

/// The rule about answers.
fn answers(connection: &AnyConnection) -> &'static str {
    match connection {
        AnyConnection::Sqlite(_) => ANSWERS,
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(_) => ANSWERS_ON_SERVER,
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

pub(super) fn verify(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("erased");
    let Counts { aggregates, events, in_progress } = erasure::count(connection)?;
    verified.looked_at = format!("{aggregates} aggregates with {events} events");
    if in_progress > 0 {
        verified.looked_at.push_str(&format!(", of which the next start finishes {in_progress}"));
    }
    for rule in RULES.into_iter().chain([answers(connection)]) {
        let lines: Vec<Line> = diesel::sql_query(rule).load(connection)?;
        verified.extend(lines.into_iter().map(|row| row.line).collect());
    }
    Ok(verified)
}
