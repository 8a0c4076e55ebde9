//! Compares the states with the change events that are still there.

use diesel::connection::{DefaultLoadingMode, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use serde_json::Value;

use super::aggregates;
use super::counters::{Horizon, horizon};
use super::engine::AnyConnection;
use super::error::StoreError;
use super::page::PageLimit;
use super::verified::Verified;
use crate::domain::body::{Body, CorruptState};
use crate::domain::key::Key;
use crate::domain::merge_patch;
use crate::domain::revision::Revision;

/// The change events in the order of their aggregates. An event without a key says that a collection was registered.
const SORT: &str = "
    CREATE TEMP TABLE sorted_changes AS
    SELECT collection, key, revision FROM outbox WHERE key <> '' ORDER BY collection, key, revision";

const PAGE: &str = "
    SELECT s.rowid AS number, o.collection, o.key, o.revision, o.patch
    FROM sorted_changes s JOIN outbox o
      ON o.revision = s.revision AND o.collection = s.collection AND o.key = s.key
    WHERE s.rowid > ? ORDER BY s.rowid";

/// The same on a server, where nothing is written for a check.
#[cfg(feature = "postgres")]
const CURSOR: &str = "
    DECLARE sorted_changes NO SCROLL CURSOR FOR
    SELECT revision AS number, collection, key, revision, patch FROM outbox WHERE key <> ''
    ORDER BY collection, key, revision";

#[cfg(feature = "postgres")]
const PAGE_OF_CURSOR: &str = "FETCH 200 FROM sorted_changes";

/// The number of change events that are in memory at a time.
const PAGE_LIMIT: PageLimit = PageLimit { items: 2000, bytes: 1024 * 1024 };

/// States whose last change is not in the outbox, although it reaches back to it.
const WITHOUT_EVENT: &str = "
    SELECT a.collection || '/' || a.key || ': it changed at revision ' || a.revision || ', but that change event is missing'
        AS line
    FROM aggregates a, metadata m
    WHERE a.revision > m.pruned
        AND NOT EXISTS (SELECT 1 FROM outbox o
            WHERE o.revision = a.revision AND o.collection = a.collection AND o.key = a.key)";

#[derive(QueryableByName)]
struct ChangeRow {
    #[diesel(sql_type = BigInt)]
    number: i64,
    #[diesel(sql_type = Text)]
    collection: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = BigInt)]
    revision: i64,
    #[diesel(sql_type = Text)]
    patch: String,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Compares each aggregate that has change events with them, in one read transaction.
///
/// Events are idempotent: all of them, applied to the state after the last one, give that state again. If the outbox
/// reaches back to the beginning, or the aggregate was deleted within its reach, they give the state from nothing.
pub(super) fn verify(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    match connection {
        AnyConnection::Sqlite(file) => {
            file.batch_execute(SORT)?;
            let outcome = compare(connection);
            connection.batch_execute("DROP TABLE sorted_changes")?;
            outcome
        }
        // The end of the transaction closes it.
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(server) => {
            server.batch_execute(CURSOR)?;
            compare(connection)
        }
    }
}

fn compare(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let horizon = horizon(connection)?;
    let mut verified = Verified::new("change events");
    let (mut last, mut events, mut aggregates) = (0, 0_u64, 0_u64);
    let mut open: Option<Replay> = None;
    loop {
        let page = page(connection, last)?;
        let Some(end) = page.last() else { break };
        last = end.number;
        for row in page {
            events += 1;
            let is_same = open.as_ref().is_some_and(|open| open.collection == row.collection && open.key == row.key);
            if !is_same {
                verified.extend(open.take().map_or(Ok(Vec::new()), |replay| replay.finish(horizon))?);
                aggregates += 1;
                open = Some(Replay::begin(connection, &row, horizon)?);
            }
            if let Some(open) = &mut open {
                open.apply(&row);
            }
        }
    }
    verified.extend(open.map_or(Ok(Vec::new()), |replay| replay.finish(horizon))?);
    let missing: Vec<Line> = diesel::sql_query(WITHOUT_EVENT).load(connection)?;
    verified.extend(missing.into_iter().map(|row| row.line).collect());
    verified.looked_at = format!("{events} after revision {}, {aggregates} states compared with them", horizon.pruned);
    Ok(verified)
}

/// The change events after a number, in the order of their aggregates; on a server, those after the last page.
fn page(connection: &mut AnyConnection, after: i64) -> Result<Vec<ChangeRow>, StoreError> {
    match connection {
        AnyConnection::Sqlite(connection) => page_of_file(connection, after),
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(connection) => Ok(diesel::sql_query(PAGE_OF_CURSOR).load(connection)?),
    }
}

fn page_of_file(connection: &mut SqliteConnection, after: i64) -> Result<Vec<ChangeRow>, StoreError> {
    let query = diesel::sql_query(PAGE).bind::<BigInt, _>(after);
    let mut page = Vec::new();
    let mut bytes = 0;
    for row in query.load_iter::<ChangeRow, DefaultLoadingMode>(connection)? {
        let row = row?;
        bytes += row.key.len() + row.patch.len();
        page.push(row);
        if page.len() >= PAGE_LIMIT.items || bytes >= PAGE_LIMIT.bytes {
            break;
        }
    }
    Ok(page)
}

/// One aggregate, to which its change events are applied.
struct Replay {
    collection: String,
    key: String,
    row: Option<aggregates::Row>,
    /// The state so far; `None` if there is none.
    state: Option<Value>,
    last: Revision,
    findings: Vec<String>,
}

impl Replay {
    fn begin(connection: &mut AnyConnection, change: &ChangeRow, horizon: Horizon) -> Result<Self, StoreError> {
        let (collection, key) = (change.collection.clone(), change.key.clone());
        let row = aggregates::load(connection, &collection, &Key::from_db(&key))?;
        let mut replay = Self { collection, key, row, state: None, last: Revision::ZERO, findings: Vec::new() };
        if horizon.pruned > Revision::ZERO {
            replay.state = replay.stored().unwrap_or_else(|corrupt| {
                replay.findings.push(format!("{}: {corrupt}", replay.name()));
                None
            });
        }
        Ok(replay)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.collection, self.key)
    }

    fn stored(&self) -> Result<Option<Value>, CorruptState> {
        self.row.as_ref().and_then(|row| row.body.as_ref()).map(Body::value).transpose()
    }

    fn apply(&mut self, change: &ChangeRow) {
        self.last = Revision::from_raw(change.revision);
        match serde_json::from_str::<Value>(&change.patch) {
            Ok(Value::Null) => self.state = None,
            Ok(patch) => merge_patch::apply(self.state.get_or_insert(Value::Null), patch),
            Err(error) => {
                let finding =
                    format!("{}: its change at revision {} is not JSON: {error}", self.name(), change.revision);
                self.findings.push(finding);
            }
        }
    }

    fn finish(mut self, horizon: Horizon) -> Result<Vec<String>, StoreError> {
        let name = self.name();
        match &self.row {
            Some(row) if row.revision != self.last => {
                self.findings.push(format!(
                    "{name}: its last change event is of revision {}, but its state is of {}",
                    self.last, row.revision
                ));
            }
            None if self.state.is_some() || self.last > horizon.forgotten => {
                self.findings.push(format!("{name}: it has a change event of revision {}, but no row", self.last));
            }
            _ => {}
        }
        match self.stored() {
            Ok(stored) if stored != self.state => {
                let (stored, state) = (shorten(stored.as_ref()), shorten(self.state.as_ref()));
                self.findings.push(format!("{name}: stored is {stored}; its change events give {state}"));
            }
            Ok(_) => {}
            Err(corrupt) => self.findings.push(format!("{name}: {corrupt}")),
        }
        Ok(self.findings)
    }
}

/// The maximum number of characters of a state that are displayed.
const MAX_CHARACTERS: usize = 200;

fn shorten(state: Option<&Value>) -> String {
    let text = state.map_or_else(|| "nothing".to_owned(), Value::to_string);
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
