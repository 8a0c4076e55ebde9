//! Compares the erased aggregates with what the tables still have of them.

use super::engine::AnyConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::erasure::{self, Counts};
use super::error::StoreError;
use super::verified::Verified;

/// Of an aggregate that is erased, nothing has a content. While that is in progress, its past still may.
const RULES: [&str; 5] = [
    "SELECT collection || '/' || key || ': it was erased, but it has a state' AS line
     FROM aggregates WHERE body IS NOT NULL AND (collection, key) IN (SELECT collection, key FROM erased)",
    "SELECT e.collection || '/' || e.key || ': it was erased, but the event at position ' || j.position || ' is not' AS line
     FROM erased e JOIN journal j ON j.collection = e.collection AND j.key = e.key
     WHERE j.erased = 0 AND (j.version = 1 OR e.stage <> 'events')",
    "SELECT 'the event at position ' || position || ' is erased, but it has a content' AS line
     FROM journal WHERE erased <> 0 AND body <> '{}'",
    "SELECT 'the event at position ' || position || ' is erased, but ' || collection || '/' || key || ' is not' AS line
     FROM journal WHERE erased <> 0 AND (collection, key) NOT IN (SELECT collection, key FROM erased)",
    "SELECT e.collection || '/' || e.key || ': it was erased, but its change at revision ' || o.revision || ' is not' AS line
     FROM outbox o JOIN erased e ON e.collection = o.collection AND e.key = o.key
     WHERE o.patch <> 'null' AND e.stage NOT IN ('events', 'changes')",
];

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
    for rule in RULES {
        let lines: Vec<Line> = diesel::sql_query(rule).load(connection)?;
        verified.extend(lines.into_iter().map(|row| row.line).collect());
    }
    Ok(verified)
}
