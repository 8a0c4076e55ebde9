//! Projections that are kept in the transactions of the commands, in tables of the main database.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::SqliteConnection;

use super::aggregates;
use super::counters::horizon;
use super::error::StoreError;
use super::journal::{self, Entry};
use super::outbox::{self, Change};
use super::page::{PageLimit, Span};
use super::schema::projections;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::cursor::{JournalPosition, Revision};
use crate::domain::feed::Feed as Followed;
use crate::domain::key::Key;
use crate::read_model::inline::Inline;
use crate::read_model::projection::{Event, Feed, ProjectionError, What};

/// Events that are read at once while a projection is built anew.
const PAGE_LIMIT: PageLimit = PageLimit { items: 5000, bytes: 4 * 1024 * 1024 };

/// Brings the tables in line with what is registered, in the transaction of the start.
pub(super) fn register(
    connection: &mut SqliteConnection,
    registry: &Registry,
    inline: &[Box<dyn Inline>],
    now: Timestamp,
) -> Result<(), StoreError> {
    let known: Vec<(String, i64)> =
        projections::table.select((projections::name, projections::version)).load(connection)?;
    // One that is not registered would miss events, and not know of it when it comes back.
    for (name, _) in known.iter().filter(|(name, _)| inline.iter().all(|projection| projection.name() != name)) {
        remove(connection, name)?;
    }
    for projection in inline {
        let (name, version) = (projection.name(), projection.version());
        if !known.iter().any(|known| (known.0.as_str(), known.1) == (name, version)) {
            build(connection, registry, projection.as_ref(), now)?;
        }
    }
    Ok(())
}

/// Builds a projection from all that there is, in the transaction that is open.
pub(super) fn build(
    connection: &mut SqliteConnection,
    registry: &Registry,
    projection: &dyn Inline,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = projection.name();
    remove(connection, name)?;
    let before = tables(connection)?;
    connection.batch_execute(projection.setup())?;
    let made: Vec<_> = tables(connection)?.into_iter().filter(|table| !before.contains(table)).collect();
    diesel::insert_into(projections::table)
        .values((
            projections::name.eq(name),
            projections::version.eq(projection.version()),
            projections::tables.eq(serde_json::Value::from(made).to_string()),
        ))
        .execute(connection)?;
    let failed = |error: ProjectionError| StoreError::Projection(format!("projection {name}: {error}"));
    match projection.feed() {
        Feed::Journal => replay_journal(connection, registry, projection),
        Feed::Changes => replay_changes(connection, registry, projection, now),
    }
    .map_err(failed)
}

fn remove(connection: &mut SqliteConnection, name: &str) -> Result<(), StoreError> {
    let made: Option<String> =
        projections::table.find(name).select(projections::tables).first(connection).optional()?;
    let made: Vec<String> = made.and_then(|made| serde_json::from_str(&made).ok()).unwrap_or_default();
    for table in made {
        connection.batch_execute(&format!("DROP TABLE IF EXISTS \"{}\"", table.replace('"', "\"\"")))?;
    }
    diesel::delete(projections::table.find(name)).execute(connection)?;
    Ok(())
}

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    name: String,
}

fn tables(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let tables: Vec<Table> =
        diesel::sql_query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .load(connection)?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

fn replay_journal(
    connection: &mut SqliteConnection,
    registry: &Registry,
    projection: &dyn Inline,
) -> Result<(), ProjectionError> {
    let mut after = JournalPosition::ZERO;
    loop {
        let read = journal::after(connection, registry, None, after, PAGE_LIMIT)?;
        for entry in &read.entries {
            take(connection, projection, &of_entry(registry, entry))?;
        }
        if read.to == read.current {
            return Ok(());
        }
        after = read.to;
    }
}

/// From every change event, if none was pruned; from the aggregates as they are otherwise.
fn replay_changes(
    connection: &mut SqliteConnection,
    registry: &Registry,
    projection: &dyn Inline,
    now: Timestamp,
) -> Result<(), ProjectionError> {
    let horizon = horizon(connection)?;
    let mut after = Revision::ZERO;
    while horizon.pruned == Revision::ZERO && after < horizon.current {
        let read = outbox::changes(
            connection,
            registry,
            &Followed::Everything(None),
            Span { after, to: horizon.current },
            PAGE_LIMIT,
        )?;
        for change in &read.changes {
            take(connection, projection, &of_change(registry, change))?;
        }
        after = read.to;
    }
    let pruned = registry.ids().filter(|_| horizon.pruned > Revision::ZERO);
    for collection in pruned.map(|id| registry.get(id).name()).filter(|name| projection.concerns(name)) {
        let mut there: Vec<(Key, i64, String)> = Vec::new();
        aggregates::scan(connection, collection, |key, revision, body| {
            there.push((Key::from_db(key), revision.number(), body.to_owned()));
            Ok::<_, StoreError>(())
        })?;
        for (key, at, body) in &there {
            let event = Event { at: *at, time: now, collection, key, what: What::Change { patch: body } };
            take(connection, projection, &event)?;
        }
    }
    Ok(())
}

/// Gives a projection an event, if it concerns it.
fn take(connection: &mut SqliteConnection, projection: &dyn Inline, event: &Event<'_>) -> Result<(), ProjectionError> {
    if event.key.as_str().is_empty() || !projection.concerns(event.collection) {
        return Ok(());
    }
    let before = depth(connection)?;
    let applied = catch_unwind(AssertUnwindSafe(|| projection.apply(connection, event)));
    applied.unwrap_or_else(|_| {
        // Those of its own that it left open.
        while depth(connection)? > before {
            AnsiTransactionManager::rollback_transaction(connection)?;
        }
        Err(ProjectionError::new("it panicked, see the log"))
    })
}

/// How many transactions are open, one in another.
fn depth(connection: &mut SqliteConnection) -> QueryResult<Option<NonZeroU32>> {
    AnsiTransactionManager::transaction_manager_status_mut(connection).transaction_depth()
}

/// Has the projections take what one command made happen, all of them or none.
pub(super) fn project(
    connection: &mut SqliteConnection,
    registry: &Registry,
    inline: &[Box<dyn Inline>],
    events: &[Entry],
    changes: &[Change],
) -> Result<(), ProjectionError> {
    connection.transaction(|connection| {
        for projection in inline {
            let named = |error: ProjectionError| {
                ProjectionError::new(format!("projection {} refused the command: {error}", projection.name()))
            };
            match projection.feed() {
                Feed::Journal => events
                    .iter()
                    .try_for_each(|entry| take(connection, projection.as_ref(), &of_entry(registry, entry))),
                Feed::Changes => changes
                    .iter()
                    .try_for_each(|change| take(connection, projection.as_ref(), &of_change(registry, change))),
            }
            .map_err(named)?;
        }
        Ok(())
    })
}

fn of_entry<'a>(registry: &Registry, entry: &'a Entry) -> Event<'a> {
    Event {
        at: entry.position.number(),
        time: entry.time,
        collection: registry.get(entry.collection).name(),
        key: &entry.key,
        what: What::Domain {
            version: entry.version.number(),
            kind: &entry.event.kind,
            schema: entry.schema,
            fields: &entry.event.fields,
        },
    }
}

fn of_change<'a>(registry: &Registry, change: &'a Change) -> Event<'a> {
    Event {
        at: change.revision.number(),
        time: change.time,
        collection: registry.get(change.collection).name(),
        key: &change.key,
        what: What::Change { patch: &change.patch },
    }
}
