//! Checks everything that is stored against what it follows from: the file against itself, counters against rows, states
//! against events.

use std::fmt;
use std::path::Path;

#[cfg(feature = "postgres")]
use diesel::dsl::{exists, not};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;

use super::at_rest::read_undisturbed;
use super::counters::{Horizon, horizon};
use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::identity::identify;
use super::integrity::integrity_check;
use super::journal::{self, Folded};
use super::schema::{aggregates, collections, journal as events};
use super::verified::Verified;
use super::{
    aggregates as rows, answers, connection, epochs, erasure_check, inline_projections, journal_check, maxima,
    migrations, outbox_check, registration,
};
use crate::domain::body::{Body, patch};
use crate::domain::collection::{Collection, Derivation, Journaled, Registry};
use crate::domain::error_chain::ErrorChain;
use crate::domain::history::History;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;
use crate::read_model::error::ProjectionError;

/// Verifies a database. A service may be using it. Changes nothing.
///
/// # Errors
/// The database cannot be read at all, or belongs to another program or to another version of this one.
pub(crate) fn verify(database: &Path, registry: &Registry) -> Result<Vec<Verified>, StoreError> {
    read_undisturbed(database, |connection| {
        identify(connection, database)?;
        migrations::require_current(connection)?;
        verify_content(connection, registry)
    })
}

/// Verifies a database that has the migrations of this program.
///
/// # Errors
/// Its collections follow other rules than those of this program. Everything else is a finding.
pub(crate) fn verify_content(connection: &mut AnyConnection, registry: &Registry) -> Result<Vec<Verified>, StoreError> {
    for id in registry.ids() {
        // Any other error is a finding of the file.
        if let Err(error @ StoreError::NotMigrated { .. }) = check_rule(connection, registry, id) {
            return Err(error);
        }
    }
    Ok(verify_copy(connection, registry))
}

/// Verifies a database that has the migrations of this program. Left out are the states of collections that follow other
/// rules than those of this program: the next start computes them again.
pub(super) fn verify_copy(connection: &mut AnyConnection, registry: &Registry) -> Vec<Verified> {
    let mut results = Vec::new();
    if let Some(file) = connection.if_file() {
        results.push(verify_file(file));
    }
    results.push(check(connection, "counters", |connection| verify_counters(connection, registry)));
    results.push(check(connection, "epochs", journal_check::verify_epochs));
    results.push(check(connection, "journal", journal_check::verify_journal));
    results.push(check(connection, "erased", erasure_check::verify));
    results.push(check(connection, "change events", outbox_check::verify));
    for id in registry.ids() {
        if let Err(StoreError::NotMigrated { .. }) = check_rule(connection, registry, id) {
            continue;
        }
        let collection = registry.get(id);
        results.push(match (collection.journaled(), collection.derivation()) {
            (Some(journaled), _) => verify_folded(connection, collection, journaled),
            (_, Some(derivation)) => {
                check(connection, collection.name(), |connection| verify_derived(connection, collection, derivation))
            }
            _ => check(connection, collection.name(), |connection| verify_documents(connection, collection)),
        });
    }
    if connection.if_file().is_some() {
        results.push(check(connection, "inline projections", verify_inline));
    }
    results.push(check(connection, "answers", answers::verify));
    results
}

/// Runs a check in one read transaction. What keeps it from its end is a finding.
fn check(
    connection: &mut AnyConnection,
    subject: &str,
    work: impl FnOnce(&mut AnyConnection) -> Result<Verified, StoreError>,
) -> Verified {
    connection::read(connection, work).unwrap_or_else(|error| incomplete(Verified::new(subject), &error))
}

/// Notes that a check did not get to its end.
fn incomplete(mut verified: Verified, error: &StoreError) -> Verified {
    if verified.looked_at.is_empty() {
        "not everything".clone_into(&mut verified.looked_at);
    }
    verified.add(ErrorChain(error).to_string());
    verified
}

/// What SQLite itself finds.
fn verify_file(connection: &mut SqliteConnection) -> Verified {
    let mut verified = Verified::new("file");
    let pages = diesel::sql_query("SELECT page_count AS pages FROM pragma_page_count").get_result::<Pages>(connection);
    verified.looked_at = format!("{} pages with all rows, indices and references", pages.map_or(0, |row| row.pages));
    verified.extend(integrity_check(connection));
    verified
}

#[derive(QueryableByName)]
struct Pages {
    #[diesel(sql_type = BigInt)]
    pages: i64,
}

/// A collection whose last change is before that of one of its rows would answer 304 for what has changed.
const LOST_CHANGES: &str = "
    SELECT name || ': it changed last at revision ' || changed || ', but a row has ' || last AS line FROM (
        SELECT name, changed, (SELECT MAX(revision) FROM (
            SELECT MAX(revision) AS revision FROM aggregates WHERE collection = name
            UNION ALL SELECT MAX(revision) FROM outbox WHERE collection = name) AS rows) AS last FROM collections
    ) AS c WHERE last > changed";

/// Rows that no program would find.
const UNKNOWN_COLLECTIONS: &str = "
    SELECT 'there are rows of ' || collection || ', which is no collection' AS line FROM (
        SELECT collection FROM aggregates UNION SELECT collection FROM outbox UNION SELECT collection FROM journal
    ) AS rows WHERE collection NOT IN (SELECT name FROM collections UNION SELECT collection FROM dropped)";

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

fn verify_counters(connection: &mut AnyConnection, registry: &Registry) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("counters");
    verified.looked_at = format!("revision {}, next keys and last changes", horizon(connection)?.current);
    verified.extend(maxima::findings(connection, registry)?);
    for query in [LOST_CHANGES, UNKNOWN_COLLECTIONS] {
        let lines: Vec<Line> = diesel::sql_query(query).load(connection)?;
        verified.extend(lines.into_iter().map(|row| row.line).collect());
    }
    Ok(verified)
}

/// The tables of inline projections.
fn verify_inline(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("inline projections");
    let missing = inline_projections::missing_tables(connection)?;
    verified.looked_at = format!("the tables of {}", journal_check::count(connection, "projections")?);
    verified.extend(missing);
    Ok(verified)
}

/// Reads every state of a collection of documents.
fn verify_documents(connection: &mut AnyConnection, collection: &dyn Collection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new(collection.name());
    let states = verify_bodies(connection, collection, &mut verified)?;
    verified.looked_at = format!("{states} states, which follow from nothing else");
    Ok(verified)
}

/// Reads every state of a collection as its type. Returns their number.
fn verify_bodies(
    connection: &mut AnyConnection,
    collection: &dyn Collection,
    verified: &mut Verified,
) -> Result<u64, StoreError> {
    let query = aggregates::table.filter(aggregates::collection.eq(collection.name())).select((
        aggregates::key,
        aggregates::rank,
        aggregates::body,
    ));
    let mut states = 0;
    let mut look = |row: QueryResult<(String, i32, Option<String>)>| {
        let (key, rank, body) = row?;
        let expected = Key::from_db(&key).rank();
        if rank != expected {
            verified.add(format!("{key}: its rank is {rank} instead of {expected}"));
        }
        let Some(body) = body.map(Body::from_db) else { return Ok(()) };
        states += 1;
        if !body.as_str().trim_start().starts_with('{') {
            verified.add(format!("{key}: its state is no JSON object"));
        } else if let Err(corrupt) = collection.check(&body) {
            verified.add(format!("{key}: {corrupt}"));
        }
        Ok::<_, StoreError>(())
    };
    on!(connection, |engine, Mode| query.load_iter::<_, Mode>(engine)?.try_for_each(&mut look))?;
    Ok(states)
}

/// Aggregates that are compared in one read transaction.
const AGGREGATES_PER_TRANSACTION: usize = 1000;

/// Compares the rows of an event-sourced collection with their events, some at a time.
fn verify_folded(connection: &mut AnyConnection, collection: &dyn Collection, journaled: &dyn Journaled) -> Verified {
    let mut compared = Compared::default();
    let mut verified = Verified::new(collection.name());
    let mut last: Option<Key> = None;
    let outcome = loop {
        let next = connection::read(connection, |connection| {
            fold_some(connection, collection, journaled, last.as_ref(), &mut compared, &mut verified)
        });
        match next {
            Ok(Some(next)) => last = Some(next),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let outcome = outcome.and_then(|()| verify_bodies(connection, collection, &mut verified));
    verified.looked_at = format!("{} states, compared with {} events", compared.states, compared.events);
    match outcome {
        Ok(_) => verified,
        Err(error) => incomplete(verified, &error),
    }
}

/// What was compared so far.
#[derive(Default)]
struct Compared {
    states: u64,
    events: u64,
}

/// Compares the next aggregates after a key, and returns the last of them; `None` if there are no more.
fn fold_some(
    connection: &mut AnyConnection,
    collection: &dyn Collection,
    journaled: &dyn Journaled,
    after: Option<&Key>,
    compared: &mut Compared,
    verified: &mut Verified,
) -> Result<Option<Key>, StoreError> {
    let name = collection.name();
    let folded = journal::fold_next(connection, name, journaled, after, AGGREGATES_PER_TRANSACTION)?;
    for Folded { key, body, version, .. } in &folded {
        // A tombstone may have been pruned.
        let stored = rows::load(connection, name, key)?;
        let stored = stored
            .map_or(State { version: *version, body: None }, |row| State { version: row.version, body: row.body });
        compared.states += 1;
        compared.events += version.number().unsigned_abs();
        compare(verified, key, &stored, &State { version: *version, body: body.clone() });
    }
    if folded.is_empty() {
        find_rows_without_events(connection, name, verified)?;
    }
    Ok(folded.last().map(|folded| folded.key.clone()))
}

/// Compares the rows of a derived collection with those that follow from its source.
fn verify_derived(
    connection: &mut AnyConnection,
    collection: &dyn Collection,
    derivation: &dyn Derivation,
) -> Result<Verified, StoreError> {
    let name = collection.name();
    let state = |body| State { version: Version::ZERO, body };
    let mut derived = registration::derive(connection, derivation)?;
    let mut verified = Verified::new(name);
    verified.looked_at = format!("{} states, compared with {}", derived.len(), derivation.source());
    rows::scan(connection, name, |key, _, body| {
        let key = Key::from_db(key);
        let expected = derived.remove(&key);
        compare(&mut verified, &key, &state(Some(Body::from_db(body.to_owned()))), &state(expected));
        Ok::<_, StoreError>(())
    })?;
    for (key, body) in derived {
        compare(&mut verified, &key, &state(None), &state(Some(body)));
    }
    verify_bodies(connection, collection, &mut verified)?;
    Ok(verified)
}

/// Fails if the rows were written by another version of the program.
fn check_rule(connection: &mut AnyConnection, registry: &Registry, id: CollectionId) -> Result<(), StoreError> {
    let collection = registry.get(id);
    let name = collection.name();
    let known: Option<i64> = collections::table.find(name).select(collections::version).first(connection).optional()?;
    if known == Some(collection.rule()) {
        return Ok(());
    }
    Err(StoreError::NotMigrated { found: format!("its {name} follow other rules") })
}

/// Where the histories of a database end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) history: History,
    pub(crate) revision: i64,
    pub(crate) position: i64,
    /// The last revision whose change events are pruned.
    pub(crate) pruned: i64,
}

/// The end of the histories of a database, which a service may be using.
pub(crate) fn end(database: &Path) -> Result<End, StoreError> {
    read_undisturbed(database, |connection| {
        connection::read(connection, |connection| {
            let Horizon { current, pruned, .. } = horizon(connection)?;
            Ok(End {
                history: epochs::history(connection)?,
                revision: current.number(),
                pruned: pruned.number(),
                position: journal::current(connection)?.number(),
            })
        })
    })
}

/// Checks a database beside the main one, and reads something from it.
pub(crate) fn check_sidecar<T>(
    path: &Path,
    verified: &mut Verified,
    read: impl Fn(&mut SqliteConnection) -> Result<T, ProjectionError>,
) -> Result<T, ProjectionError> {
    let mut outcome = None;
    let findings = read_undisturbed(path, |connection| {
        outcome = Some(read(connection.file()));
        Ok(integrity_check(connection.file()))
    });
    match findings {
        Ok(findings) => verified.extend(findings),
        Err(error) => return Err(ProjectionError::new(ErrorChain(&error).to_string())),
    }
    outcome.unwrap_or_else(|| Err(ProjectionError::new("it could not be read")))
}

/// The state of an aggregate.
#[derive(Debug, Clone)]
struct State {
    version: Version,
    body: Option<Body>,
}

fn compare(verified: &mut Verified, key: &Key, stored: &State, expected: &State) {
    // The order of members does not matter: a write would not store such a change either.
    let is_same_body = matches!(patch(stored.body.as_ref(), expected.body.as_ref()), Ok(None));
    if stored.version != expected.version || !is_same_body {
        verified.add(format!("{key}: stored is {stored}; it should be {expected}"));
    }
}

/// Finds the rows of event-sourced aggregates that have no events.
fn find_rows_without_events(
    connection: &mut AnyConnection,
    collection: &str,
    verified: &mut Verified,
) -> Result<(), StoreError> {
    let rows = aggregates::table
        .filter(aggregates::collection.eq(collection).and(aggregates::body.is_not_null()))
        .select((aggregates::key, aggregates::version, aggregates::body.assume_not_null()));
    let with_events = events::table.filter(events::collection.eq(collection));
    let found: Vec<(String, i64, String)> = match connection {
        // Not `NOT EXISTS`: with statistics from when the journal was short, SQLite would read all of it for each row.
        AnyConnection::Sqlite(file) => {
            rows.filter(aggregates::key.ne_all(with_events.select(events::key))).load(file)?
        }
        // A server would compare each row with all of the journal otherwise.
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(server) => {
            rows.filter(not(exists(with_events.filter(events::key.eq(aggregates::key))))).load(server)?
        }
    };
    for (key, version, body) in found {
        let stored = State { version: Version::from_raw(version), body: Some(Body::from_db(body)) };
        compare(verified, &Key::from_db(&key), &stored, &State { version: Version::ZERO, body: None });
    }
    Ok(())
}

/// The maximum number of characters of a state that are displayed.
const MAX_CHARACTERS: usize = 200;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.body.as_ref().map_or("nothing", Body::as_str);
        let end = text.char_indices().nth(MAX_CHARACTERS).map_or(text.len(), |(end, _)| end);
        let ellipsis = if end < text.len() { "…" } else { "" };
        write!(f, "{}{ellipsis} (version {})", &text[..end], self.version)
    }
}
