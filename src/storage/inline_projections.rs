//! Inline projections: written in the transactions of the commands, in tables of the main database.

use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};

use diesel::connection::{AnsiTransactionManager, SimpleConnection as _, TransactionManager as _};
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::aggregates;
use super::counters::horizon;
use super::engine::AnyConnection;
use super::erasure;
use super::error::{DISK_FULL, StoreError};
use super::journal::{self, Entry};
use super::outbox::{self, Change, Log};
use super::page::{PageLimit, Span};
use super::schema::projections;
use super::spans::Pace;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::feed::Feed as EventFeed;
use crate::domain::key::Key;
use crate::domain::revision::{JournalPosition, Revision};
use crate::read_model::error::ProjectionError;
use crate::read_model::projection::{Erased, Event, Feed, What};
use crate::read_model::sink::{SinkMut, SinkSetup};
use crate::read_model::spec::ProjectionSpec;

/// The size of a page of events while a projection is rebuilt.
const PAGE_LIMIT: PageLimit = PageLimit { items: 5000, bytes: 4 * 1024 * 1024 };

/// Creates, rebuilds and drops tables so that they match the registered projections, in the transaction of the start.
pub(super) fn register(
    connection: &mut AnyConnection,
    registry: &Registry,
    inline: &[ProjectionSpec],
    now: Timestamp,
) -> Result<(), StoreError> {
    let known: Vec<(String, i64)> =
        projections::table.select((projections::name, projections::version)).load(connection)?;
    // A projection that is not registered misses events; if it is registered again, it has to be rebuilt.
    for (name, _) in known.iter().filter(|(name, _)| inline.iter().all(|projection| projection.name != name)) {
        remove(connection, name)?;
    }
    for projection in inline {
        if !known.iter().any(|(name, version)| name == projection.name && *version == projection.version) {
            build(connection, registry, projection, now)?;
        }
    }
    Ok(())
}

/// Rebuilds a projection from all events, or from the aggregates if change events were pruned, in the open transaction.
pub(super) fn build(
    connection: &mut AnyConnection,
    registry: &Registry,
    projection: &ProjectionSpec,
    now: Timestamp,
) -> Result<(), StoreError> {
    let name = projection.name;
    remove(connection, name)?;
    let before = tables(connection)?;
    match projection.setup {
        SinkSetup::Tables { sql } => connection.batch_execute(sql)?,
        SinkSetup::Csv { .. } => {
            return Err(StoreError::Corrupt(format!("projection {name}: a file cannot be inline")));
        }
    }
    let created: Vec<_> = tables(connection)?.into_iter().filter(|table| !before.contains(table)).collect();
    diesel::insert_into(projections::table)
        .values((
            projections::name.eq(name),
            projections::version.eq(projection.version),
            projections::tables.eq(serde_json::Value::from(created).to_string()),
        ))
        .execute(connection)?;
    let failed = |error: ProjectionError| StoreError::Projection(format!("projection {name}: {error}"));
    match projection.feed {
        Feed::Journal => replay_journal(connection, registry, projection),
        Feed::Changes => replay_changes(connection, registry, projection, now),
    }
    .map_err(failed)
}

fn remove(connection: &mut AnyConnection, name: &str) -> Result<(), StoreError> {
    let created: Option<String> =
        projections::table.find(name).select(projections::tables).first(connection).optional()?;
    let created: Vec<String> = created.and_then(|tables| serde_json::from_str(&tables).ok()).unwrap_or_default();
    for table in created {
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

fn tables(connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    let tables: Vec<Table> =
        diesel::sql_query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
            .load(connection)?;
    Ok(tables.into_iter().map(|table| table.name).collect())
}

/// The tables of projections that do not exist, each as a sentence.
pub(super) fn missing_tables(connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    let existing = tables(connection)?;
    let known: Vec<(String, String)> =
        projections::table.select((projections::name, projections::tables)).load(connection)?;
    let mut missing = Vec::new();
    for (name, created) in known {
        match serde_json::from_str::<Vec<String>>(&created) {
            Ok(created) => {
                let lost = created.into_iter().filter(|table| !existing.contains(table));
                missing.extend(lost.map(|table| format!("{name}: its table {table} is missing")));
            }
            Err(error) => missing.push(format!("{name}: the list of its tables cannot be read: {error}")),
        }
    }
    Ok(missing)
}

fn replay_journal(
    connection: &mut AnyConnection,
    registry: &Registry,
    projection: &ProjectionSpec,
) -> Result<(), ProjectionError> {
    let mut after = JournalPosition::ZERO;
    let erasing = erasure::in_progress(connection)?;
    loop {
        let read = journal::after(connection, registry, None, after, PAGE_LIMIT)?;
        for entry in read.entries.iter().filter(|entry| !entry.is_erased && !erasing.has(registry, entry)) {
            apply(connection, projection, &domain_event(registry, entry))?;
        }
        if read.to == read.current {
            return Ok(());
        }
        after = read.to;
    }
}

/// Replays all change events if none was pruned, and the current aggregates otherwise.
fn replay_changes(
    connection: &mut AnyConnection,
    registry: &Registry,
    projection: &ProjectionSpec,
    now: Timestamp,
) -> Result<(), ProjectionError> {
    let horizon = horizon(connection)?;
    let mut after = Revision::ZERO;
    while horizon.pruned == Revision::ZERO && after < horizon.current {
        let log = Log { connection, registry, pace: &mut Pace::default() };
        let span = Span { after, to: horizon.current };
        let read = outbox::changes(log, &EventFeed::Everything(None), span, PAGE_LIMIT)?;
        for change in &read.changes {
            if !is_of_erased(connection, registry, change)? {
                apply(connection, projection, &change_event(registry, change))?;
            }
        }
        after = read.to;
    }
    let pruned = registry.ids().filter(|_| horizon.pruned > Revision::ZERO);
    for collection in pruned.map(|id| registry.get(id).name()).filter(|name| projection.reads(name)) {
        let mut rows: Vec<(Key, i64, String)> = Vec::new();
        aggregates::scan(connection, collection, |key, revision, body| {
            rows.push((Key::from_db(key), revision.number(), body.to_owned()));
            Ok::<_, StoreError>(())
        })?;
        for (key, at, body) in &rows {
            let what = What::Change { patch: body };
            let event = Event { at: *at, time: now, collection, key, metadata: None, what };
            apply(connection, projection, &event)?;
        }
    }
    Ok(())
}

/// Whether a change event is one of an aggregate that was erased. What it was before is overwritten, or about to be.
fn is_of_erased(connection: &mut AnyConnection, registry: &Registry, change: &Change) -> Result<bool, StoreError> {
    let collection = registry.get(change.collection).name();
    Ok(change.patch == "null" && erasure::find(connection, collection, change.key.as_str())?.is_some())
}

/// An aggregate that was erased.
pub(super) struct ErasedAggregate<'a> {
    pub(super) collection: &'a str,
    pub(super) key: &'a Key,
    /// The revision of its last change event.
    pub(super) revision: i64,
    /// The position of its last domain event.
    pub(super) position: i64,
    pub(super) now: Timestamp,
}

/// Removes an erased aggregate from all projections, in the open transaction. Those that cannot do that are rebuilt.
pub(super) fn erase(
    connection: &mut AnyConnection,
    registry: &Registry,
    inline: &[ProjectionSpec],
    erased: &ErasedAggregate<'_>,
) -> Result<(), StoreError> {
    let ErasedAggregate { collection, key, revision, position, now } = *erased;
    for projection in inline.iter().filter(|projection| projection.reads(collection)) {
        let at = match projection.feed {
            Feed::Journal => position,
            Feed::Changes => revision,
        };
        let event = Event { at, time: now, collection, key, what: What::Erased, metadata: None };
        let removed = catching(connection, |connection| projection.erase(SinkMut::Tables(connection.file()), &event));
        if removed.is_ok_and(|erased| erased == Erased::Removed) {
            continue;
        }
        log::info!("projection {} is rebuilt without {collection}/{key}", projection.name);
        build(connection, registry, projection, now)?;
    }
    Ok(())
}

/// Applies an event, if the projection reads its collection.
fn apply(
    connection: &mut AnyConnection,
    projection: &ProjectionSpec,
    event: &Event<'_>,
) -> Result<(), ProjectionError> {
    if event.key.as_str().is_empty() || !projection.reads(event.collection) {
        return Ok(());
    }
    catching(connection, |connection| projection.apply(SinkMut::Tables(connection.file()), event))
}

/// Runs code of a projection. Its panic is an error.
fn catching<T>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, ProjectionError>,
) -> Result<T, ProjectionError> {
    let before = depth(connection)?;
    let worked = catch_unwind(AssertUnwindSafe(|| work(connection)));
    worked.unwrap_or_else(|_| {
        // The panic left the transactions of the projection open.
        while depth(connection)? > before {
            AnsiTransactionManager::rollback_transaction(connection.file())?;
        }
        Err(ProjectionError::new("it panicked, see the log"))
    })
}

/// The number of nested transactions that are open.
fn depth(connection: &mut AnyConnection) -> QueryResult<Option<NonZeroU32>> {
    AnsiTransactionManager::transaction_manager_status_mut(connection.file()).transaction_depth()
}

/// Applies the events of one command to all projections, or to none if one fails.
pub(super) fn project(
    connection: &mut AnyConnection,
    registry: &Registry,
    inline: &[ProjectionSpec],
    events: &[Entry],
    changes: &[Change],
) -> Result<(), ProjectionError> {
    let mut cause = None;
    let outcome = connection.transaction(|connection| {
        for projection in inline {
            let named = |error: ProjectionError| {
                ProjectionError::new(format!("projection {} rejected the command: {error}", projection.name))
            };
            match projection.feed {
                Feed::Journal => {
                    events.iter().try_for_each(|entry| apply(connection, projection, &domain_event(registry, entry)))
                }
                Feed::Changes => {
                    changes.iter().try_for_each(|change| apply(connection, projection, &change_event(registry, change)))
                }
            }
            .map_err(named)
            .inspect_err(|error| cause = Some(error.clone()))?;
        }
        Ok(())
    });
    // With a full disk, for example, the error would be that there is nothing to roll back any more.
    outcome.map_err(|error: ProjectionError| cause.unwrap_or(error))
}

fn domain_event<'a>(registry: &Registry, entry: &'a Entry) -> Event<'a> {
    Event {
        at: entry.position.number(),
        time: entry.time,
        collection: registry.get(entry.collection).name(),
        key: &entry.key,
        metadata: entry.metadata.as_ref(),
        what: What::Domain {
            version: entry.version.number(),
            kind: &entry.event.kind,
            schema: entry.schema,
            fields: &entry.event.fields,
        },
    }
}

fn change_event<'a>(registry: &Registry, change: &'a Change) -> Event<'a> {
    Event {
        at: change.revision.number(),
        time: change.time,
        collection: registry.get(change.collection).name(),
        key: &change.key,
        metadata: change.metadata.as_ref(),
        what: What::Change { patch: &change.patch },
    }
}

/// The error of the whole batch, if it cannot continue after the error of a projection.
pub(super) fn failure_of_batch(connection: &mut AnyConnection, error: &ProjectionError) -> Option<StoreError> {
    let message = error.to_string();
    // Fails while a transaction is open. If it does not, SQLite has rolled back that of the batch, and the new one will be
    // rolled back with the batch.
    let is_open = connection.batch_execute("BEGIN").is_err();
    match is_open {
        _ if message.contains(DISK_FULL) => Some(StoreError::Full),
        true => None,
        false => Some(StoreError::RolledBack(message)),
    }
}
