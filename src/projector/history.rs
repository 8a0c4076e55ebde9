//! All change events of some collections, kept permanently for the projections that declare `KEEPS_HISTORY`.
//!
//! One file for all of them, each event once. For each collection it starts with the first change event of the database, or
//! with the aggregates as they are if change events were pruned already. If the database is put back to an earlier moment,
//! only the events after that moment are removed. If pruning overtakes it, or its documents are of a newer version, the
//! collection starts over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use diesel::connection::{DefaultLoadingMode, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};
use diesel::sqlite::SqliteConnection;

use super::event_page::{Form, Page, PageEvent, Past, past_of};
use super::history_epochs;
use super::main_reader::MainReader;
use super::manifest::{create_directory, directory, remove_database};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Evolution, Registry};
use crate::domain::feed::Feed;
use crate::domain::history::History;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::StoredMetadata;
use crate::domain::revision::Revision;
use crate::read_model::error::ProjectionError;
use crate::read_model::file_id::FileId;
use crate::read_model::projection::Feed as Feeds;
use crate::storage::at_rest::read_undisturbed;
use crate::storage::connection::{open_sidecar, truncate_log};
use crate::storage::counters::Horizon;
use crate::storage::outbox::{Change, Changes};
use crate::storage::page::{PageLimit, Progress, Span};
use crate::storage::residue::overwrite_all;
use crate::storage::statement::rows;

diesel::table! {
    /// One row.
    counter (id) {
        id -> BigInt,
        /// The sequence number of the last event; never reused.
        last -> BigInt,
    }
}

diesel::table! {
    /// The collections whose events are kept.
    collections (name) {
        name -> Text,
        /// Another number after events were removed.
        incarnation -> BigInt,
        /// The revision of the aggregates with which it started; 0 if it started with the first event.
        began -> BigInt,
        /// All events up to and including this revision are kept.
        revision -> BigInt,
        /// The version of its documents; 0 if it has none.
        version -> BigInt,
    }
}

diesel::table! {
    changes (sequence) {
        sequence -> BigInt,
        revision -> BigInt,
        collection -> Text,
        key -> Text,
        patch -> Text,
        time -> BigInt,
        metadata -> Nullable<Text>,
    }
}

diesel::table! {
    /// The change events that say that an aggregate was erased. There is none before it.
    erased (sequence) {
        sequence -> BigInt,
        /// 0 until what was deleted is overwritten in the file.
        overwritten -> BigInt,
    }
}

const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS counter (id BIGINT NOT NULL PRIMARY KEY, last BIGINT NOT NULL);
    INSERT OR IGNORE INTO counter (id, last) VALUES (1, 0);
    CREATE TABLE IF NOT EXISTS collections (name TEXT NOT NULL PRIMARY KEY, incarnation BIGINT NOT NULL, \
        began BIGINT NOT NULL, revision BIGINT NOT NULL, version BIGINT NOT NULL DEFAULT 1);
    CREATE TABLE IF NOT EXISTS changes (sequence INTEGER NOT NULL PRIMARY KEY, revision BIGINT NOT NULL, \
        collection TEXT NOT NULL, key TEXT NOT NULL, patch TEXT NOT NULL, time BIGINT NOT NULL, metadata TEXT);
    CREATE TABLE IF NOT EXISTS erased (sequence INTEGER NOT NULL PRIMARY KEY, overwritten BIGINT NOT NULL);";

/// The number of change events that are copied in one transaction.
const COPY_LIMIT: PageLimit = PageLimit { items: 5000, bytes: 4 * 1024 * 1024 };

/// The change events of all collections of which history is kept. Its projections share it.
pub(crate) struct KeptHistory {
    path: PathBuf,
    registry: Arc<Registry>,
    collections: Arc<[CollectionId]>,
    /// `None` until it is used, and after a failure.
    open: Mutex<Option<OpenFile>>,
}

/// The file of the history.
struct OpenFile {
    connection: SqliteConnection,
    id: FileId,
}

/// What the history of some collections has.
pub(super) struct HistoryState {
    /// `locations.1,persons.1`: the collections with their incarnations.
    pub(super) incarnations: String,
    /// The sequence number of the last event.
    pub(super) last: i64,
}

/// How a collection starts over, or for the first time.
#[derive(Clone, Copy)]
struct Start {
    id: CollectionId,
    incarnation: i64,
    why: Restart,
}

/// How much of a collection is kept.
struct Kept {
    incarnation: i64,
    /// What is kept is complete from this revision on.
    began: Revision,
    revision: Revision,
    /// The version of its documents, whose members its events have.
    version: i64,
}

/// Why a collection starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    First,
    /// Something is kept that is of no use any more.
    Parted,
    /// The events that are kept have the members of an earlier version of the documents.
    Upgraded,
}

/// Where the history of a database is.
pub(super) fn history_file(database: &Path) -> PathBuf {
    directory(database).join("history.db")
}

impl KeptHistory {
    /// The history of these collections. Events of other collections that were kept before are removed.
    pub(super) fn new(database: &Path, registry: Arc<Registry>, collections: Arc<[CollectionId]>) -> Self {
        let path = history_file(database);
        let history = Self { path, registry, collections, open: Mutex::new(None) };
        // The service starts even if the file is damaged: the projections that need it show the error.
        if history.path.exists()
            && let Err(error) = history.remove_others()
        {
            log::error!("cannot remove what no projection keeps any more: {error}");
        }
        history
    }

    fn remove_others(&self) -> Result<(), ProjectionError> {
        if self.collections.is_empty() {
            log::warn!("removing {}: no projection keeps history any more", self.path.display());
            remove_database(&self.path);
            return Ok(());
        }
        let mut open = self.lock();
        let connection = self.connect(&mut open)?;
        let names: Vec<String> = collections::table.select(collections::name).load(connection)?;
        let is_kept = |name: &String| self.registry.id(name).is_some_and(|id| self.collections.contains(&id));
        for name in names.into_iter().filter(|name| !is_kept(name)) {
            log::warn!("removing the history of {name}: no projection keeps it any more");
            connection.immediate_transaction(|connection| {
                diesel::delete(changes::table.filter(changes::collection.eq(&name))).execute(connection)?;
                history_epochs::forget(connection, &name)?;
                diesel::delete(collections::table.find(&name)).execute(connection)
            })?;
            // Deleted rows are zero in the database then, and no longer in the write-ahead log.
            connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
        }
        Ok(())
    }

    /// Copies new events, and returns what there is of some collections.
    pub(super) fn refresh(
        &self,
        reader: &mut MainReader,
        of: &[CollectionId],
        now: Timestamp,
    ) -> Result<HistoryState, ProjectionError> {
        let mut open = self.lock();
        let connection = self.connect(&mut open)?;
        let copied = self.copy_new(connection, reader, now).and_then(|()| overwrite_erased(connection));
        let refreshed = copied.and_then(|()| self.state(connection, of));
        if refreshed.is_err() {
            *open = None;
        }
        refreshed
    }

    /// The events of some collections after a sequence number.
    pub(super) fn page(&self, of: &[CollectionId], after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let mut open = self.lock();
        let connection = self.connect(&mut open)?;
        let end = last(connection)?;
        let mut reached = Revision::ZERO;
        for id in of {
            reached = reached.max(self.copied(connection, *id)?.revision);
        }
        let names: Vec<_> = of.iter().map(|id| self.registry.get(*id).name()).collect();
        let query = changes::table
            .filter(changes::sequence.gt(after).and(changes::collection.eq_any(names)))
            .order(changes::sequence);
        let mut events: Vec<PageEvent> = Vec::new();
        let mut bytes = 0;
        let mut to = end;
        let erased: Vec<i64> =
            erased::table.filter(erased::sequence.gt(after)).select(erased::sequence).load(connection)?;
        type Columns = (i64, i64, String, String, String, i64, Option<String>);
        for row in query.load_iter::<Columns, DefaultLoadingMode>(connection)? {
            let (sequence, at, collection, key, patch, time, metadata) = row?;
            let Some(id) = self.registry.id(&collection) else { continue };
            bytes += key.len() + patch.len() + metadata.as_ref().map_or(0, String::len);
            events.push(PageEvent {
                sequence,
                at,
                time: Timestamp::from_milliseconds(time),
                collection: self.registry.get(id).name(),
                key: Key::from_db(&key),
                metadata: metadata.as_deref().map(StoredMetadata::from_db),
                form: if erased.contains(&sequence) { Form::Erased(Feeds::Changes) } else { Form::Change { patch } },
            });
            if events.len() >= limit.items || bytes >= limit.bytes {
                to = sequence;
                break;
            }
        }
        Ok(Page { events, to, last: end, reached: reached.number() })
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenFile>> {
        self.open.lock().expect("nobody panics while using the history")
    }

    /// The connection to the file: to another one, if that was removed or replaced.
    fn connect<'a>(&self, open: &'a mut Option<OpenFile>) -> Result<&'a mut SqliteConnection, ProjectionError> {
        if open.as_ref().is_some_and(|open| !open.id.is_at(&self.path)) {
            log::error!("{} was removed or replaced", self.path.display());
            *open = None;
        }
        let file = match open.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        Ok(&mut open.insert(file).connection)
    }

    fn open_file(&self) -> Result<OpenFile, ProjectionError> {
        if let Some(directory) = self.path.parent() {
            create_directory(directory)?;
        }
        let opened = open_sidecar(&self.path).map_err(ProjectionError::from);
        let opened = opened.and_then(|mut connection| {
            // All of them or none, if it is killed.
            connection.transaction(|connection| {
                connection.batch_execute(TABLES)?;
                add_columns(connection)?;
                connection.batch_execute(history_epochs::TABLE)
            })?;
            Ok(OpenFile { connection, id: FileId::of(&self.path)? })
        });
        opened.map_err(|error| {
            ProjectionError::new(format!(
                "{error}. If {} is damaged, put back a copy of it, or remove it: then the history starts over with what \
                 the database has",
                self.path.display()
            ))
        })
    }

    fn copy_new(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        now: Timestamp,
    ) -> Result<(), ProjectionError> {
        loop {
            #[expect(clippy::redundant_closure_for_method_calls, reason = "the method is for one lifetime only")]
            let horizon = reader.view(|view| view.horizon())?;
            let mut from = horizon.current;
            for id in self.collections.iter() {
                let revision = self.prepare(connection, reader, *id, horizon, now)?;
                from = from.min(revision);
            }
            if from >= horizon.current {
                return Ok(());
            }
            let feed = Feed::Everything(Some(Arc::clone(&self.collections)));
            let read = reader.view(|view| {
                // If they were pruned since, the next round starts over.
                let exist = view.horizon()?.pruned <= from;
                let read = view.changes(&feed, Span { after: from, to: horizon.current }, COPY_LIMIT)?;
                let pasts = read.changes.iter().map(|change| past_of(view, change)).collect::<Result<Vec<_>, _>>()?;
                Ok(exist.then_some((read, pasts)))
            })?;
            if let Some((read, pasts)) = read {
                self.append_all(connection, reader.epochs(), &read, &pasts)?;
            }
        }
    }

    fn append_all(
        &self,
        connection: &mut SqliteConnection,
        epochs: &History,
        read: &Changes,
        pasts: &[Past],
    ) -> Result<(), ProjectionError> {
        connection.immediate_transaction(|connection| {
            let mut known = HashMap::new();
            for id in self.collections.iter() {
                known.insert(*id, self.kept(connection, *id)?.map_or(Revision::ZERO, |kept| kept.revision));
            }
            let mut sequence = last(connection)?;
            let mut rows = Vec::with_capacity(read.changes.len());
            let is_new = |change: &Change| known.get(&change.collection).is_some_and(|known| change.revision > *known);
            // An event without a key says that the collection was registered.
            for (change, past) in read.changes.iter().zip(pasts) {
                if !is_new(change) || change.key.as_str().is_empty() || *past == Past::Overwritten {
                    continue;
                }
                sequence += 1;
                let collection = self.registry.get(change.collection).name();
                if *past == Past::Erased {
                    // What was before it has to be there to be deleted.
                    KeptChange::insert_all(&rows, connection)?;
                    rows.clear();
                    erase(connection, sequence, collection, &change.key)?;
                }
                rows.push(KeptChange::of(sequence, collection, change));
            }
            KeptChange::insert_all(&rows, connection)?;
            for (id, known) in known {
                let name = self.registry.get(id).name();
                history_epochs::record(connection, name, epochs)?;
                diesel::update(collections::table.find(name))
                    .set(collections::revision.eq(read.to.max(known).number()))
                    .execute(connection)?;
            }
            diesel::update(counter::table).set(counter::last.eq(sequence)).execute(connection)?;
            Ok(())
        })
    }

    /// Removes what does not belong to the history of the database, or starts over if the next events are not there.
    /// Returns the revision after which events are missing.
    fn prepare(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        id: CollectionId,
        horizon: Horizon,
        now: Timestamp,
    ) -> Result<Revision, ProjectionError> {
        let name = self.registry.get(id).name();
        let first = Start { id, incarnation: now.milliseconds(), why: Restart::First };
        let Some(kept) = self.kept(connection, id)? else { return self.start_over(connection, reader, first, now) };
        let again = Start { incarnation: next_incarnation(&kept, now), why: Restart::Parted, ..first };
        if self.version(id).is_some_and(|version| version != kept.version) {
            return self.start_over(connection, reader, Start { why: Restart::Upgraded, ..again }, now);
        }
        let common = history_epochs::common(connection, name, reader.epochs())?;
        match common.and_then(|common| kept.usable(common, horizon)) {
            Some(end) if end < kept.revision => cut(connection, name, &kept, end, now).map(|()| end),
            Some(end) => Ok(end),
            None => self.start_over(connection, reader, again, now),
        }
    }

    /// Starts a collection with the first change event, or with the aggregates if some were pruned. Returns the revision.
    fn start_over(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        Start { id, incarnation, why }: Start,
        time: Timestamp,
    ) -> Result<Revision, ProjectionError> {
        let name = self.registry.get(id).name();
        let version = self.version(id).unwrap_or(0);
        let epochs = Arc::clone(reader.epochs());
        let started = reader.view(|view| {
            let Horizon { pruned, current, .. } = view.horizon()?;
            Ok(connection.immediate_transaction(|connection| {
                diesel::delete(changes::table.filter(changes::collection.eq(name))).execute(connection)?;
                let mut sequence = last(connection)?;
                let mut revision = Revision::ZERO;
                if pruned > Revision::ZERO {
                    revision = current;
                    view.scan_with_revisions(id, |key, _, body| {
                        sequence += 1;
                        let key = Key::from_db(key);
                        let patch = body.to_owned();
                        let change = Change { revision: pruned, collection: id, key, patch, time, metadata: None };
                        KeptChange::insert_all(&[KeptChange::of(sequence, name, &change)], connection)
                            .map_err(ProjectionError::from)
                    })?;
                }
                diesel::update(counter::table).set(counter::last.eq(sequence)).execute(connection)?;
                history_epochs::forget(connection, name)?;
                history_epochs::record(connection, name, &epochs)?;
                diesel::replace_into(collections::table)
                    .values((
                        collections::name.eq(name),
                        collections::incarnation.eq(incarnation),
                        collections::began.eq(revision.number()),
                        collections::revision.eq(revision.number()),
                        collections::version.eq(version),
                    ))
                    .execute(connection)?;
                Ok::<_, ProjectionError>(revision)
            }))
        })?;
        match why {
            Restart::First => {}
            Restart::Parted => log::warn!(
                "the history of {name} starts over: it has events that the database does not have, or some were pruned \
                 before they were copied"
            ),
            Restart::Upgraded => {
                log::info!("the history of {name} starts over: its documents are of version {version} now");
            }
        }
        started
    }

    /// The version of the documents of a collection.
    fn version(&self, id: CollectionId) -> Option<i64> {
        self.registry.get(id).evolution().map(Evolution::version)
    }

    fn kept(&self, connection: &mut SqliteConnection, id: CollectionId) -> Result<Option<Kept>, ProjectionError> {
        let row: Option<(i64, i64, i64, i64)> = collections::table
            .find(self.registry.get(id).name())
            .select((collections::incarnation, collections::began, collections::revision, collections::version))
            .first(connection)
            .optional()?;
        Ok(row.map(|(incarnation, began, revision, version)| Kept {
            incarnation,
            began: Revision::from_raw(began),
            revision: Revision::from_raw(revision),
            version,
        }))
    }

    /// How much is kept of a collection that has been copied.
    fn copied(&self, connection: &mut SqliteConnection, id: CollectionId) -> Result<Kept, ProjectionError> {
        let kept = self.kept(connection, id)?;
        kept.ok_or_else(|| {
            ProjectionError::new(format!("{} has no {}", self.path.display(), self.registry.get(id).name()))
        })
    }

    fn state(&self, connection: &mut SqliteConnection, of: &[CollectionId]) -> Result<HistoryState, ProjectionError> {
        let mut incarnations = Vec::new();
        for id in of {
            let kept = self.copied(connection, *id)?;
            incarnations.push(format!("{}.{}", self.registry.get(*id).name(), kept.incarnation));
        }
        Ok(HistoryState { incarnations: incarnations.join(","), last: last(connection)? })
    }
}

/// Adds the columns that the files of earlier versions do not have. In them, all documents were of the first version.
fn add_columns(connection: &mut SqliteConnection) -> QueryResult<()> {
    for (table, column, definition) in
        [("changes", "metadata", "TEXT"), ("collections", "version", "BIGINT NOT NULL DEFAULT 1")]
    {
        let there = format!("SELECT COUNT(*) AS count FROM pragma_table_info('{table}') WHERE name = '{column}'");
        let Count { count } = diesel::sql_query(there).get_result(connection)?;
        if count == 0 {
            connection.batch_execute(&format!("ALTER TABLE {table} ADD COLUMN {column} {definition}"))?;
        }
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// What the file of a history has.
pub(super) struct KeptFile {
    /// `locations.1,persons.1`, as in [`HistoryState`].
    pub(super) incarnations: String,
    /// The sequence number of the last event.
    pub(super) last: i64,
    /// All events up to and including this revision are kept.
    pub(super) revision: i64,
    /// The time of the first event after an offset.
    pub(super) first_time: Option<Timestamp>,
}

/// Looks at the history of some collections after an offset, without copying new events. `None` if one of
/// them has no history yet.
pub(super) fn look(database: &Path, of: &[&str], after: i64) -> Result<Option<KeptFile>, ProjectionError> {
    let path = history_file(database);
    if !path.is_file() {
        return Ok(None);
    }
    read_undisturbed(&path, |connection| Ok(look_at(connection.file(), of, after)))?
}

fn look_at(connection: &mut SqliteConnection, of: &[&str], after: i64) -> Result<Option<KeptFile>, ProjectionError> {
    let (mut incarnations, mut revision) = (Vec::new(), i64::MAX);
    for name in of {
        let row = collections::table.find(name).select((collections::incarnation, collections::revision));
        let Some((incarnation, kept)) = row.first::<(i64, i64)>(connection).optional()? else { return Ok(None) };
        incarnations.push(format!("{name}.{incarnation}"));
        revision = revision.min(kept);
    }
    let time: Option<i64> = changes::table
        .filter(changes::sequence.gt(after).and(changes::collection.eq_any(of)))
        .order(changes::sequence)
        .select(changes::time)
        .first(connection)
        .optional()?;
    let first_time = time.map(Timestamp::from_milliseconds);
    Ok(Some(KeptFile { incarnations: incarnations.join(","), last: last(connection)?, revision, first_time }))
}

impl Kept {
    /// The last revision up to which it can be used, if it has everything up to there, and the events after it are still in
    /// the outbox. `common` is the last revision that belongs to the history of the database.
    fn usable(&self, common: Revision, horizon: Horizon) -> Option<Revision> {
        let end = self.revision.min(common);
        (end >= self.began && (horizon.pruned..=horizon.current).contains(&end)).then_some(end)
    }
}

/// A number that the collection never had. A file that was removed or put back must not have the number of another one.
fn next_incarnation(before: &Kept, now: Timestamp) -> i64 {
    (before.incarnation + 1).max(now.milliseconds())
}

/// Removes the events of a collection after a revision, because the database was put back to it.
fn cut(
    connection: &mut SqliteConnection,
    name: &str,
    kept: &Kept,
    end: Revision,
    now: Timestamp,
) -> Result<(), ProjectionError> {
    let removed = connection.immediate_transaction(|connection| {
        let later = changes::collection.eq(name).and(changes::revision.gt(end.number()));
        let removed = diesel::delete(changes::table.filter(later)).execute(connection)?;
        // If nothing is lost, what projections have read of it is still right.
        let incarnation = if removed == 0 { kept.incarnation } else { next_incarnation(kept, now) };
        diesel::update(collections::table.find(name))
            .set((collections::incarnation.eq(incarnation), collections::revision.eq(end.number())))
            .execute(connection)?;
        Ok::<_, ProjectionError>(removed)
    })?;
    if removed > 0 {
        log::warn!(
            "the database was put back: the history of {name} loses {removed} events after revision {end}, and keeps those \
             before"
        );
    }
    Ok(())
}

/// Deletes the events of an aggregate, and notes that the next one says that it was erased.
fn erase(connection: &mut SqliteConnection, sequence: i64, collection: &str, key: &Key) -> Result<(), ProjectionError> {
    let of_aggregate = changes::collection.eq(collection).and(changes::key.eq(key.as_str()));
    diesel::delete(changes::table.filter(of_aggregate)).execute(connection)?;
    diesel::replace_into(erased::table)
        .values((erased::sequence.eq(sequence), erased::overwritten.eq(0)))
        .execute(connection)?;
    Ok(())
}

/// Overwrites what was erased, wherever it is in the file. If a reader prevents this for now, the next step tries again.
fn overwrite_erased(connection: &mut SqliteConnection) -> Result<(), ProjectionError> {
    let left: i64 = erased::table.filter(erased::overwritten.eq(0)).count().get_result(connection)?;
    if left > 0 {
        overwrite_all(connection)?;
        if truncate_log(connection)? == Progress::Done {
            diesel::update(erased::table).set(erased::overwritten.eq(1)).execute(connection)?;
        }
    }
    Ok(())
}

fn last(connection: &mut SqliteConnection) -> Result<i64, ProjectionError> {
    Ok(counter::table.select(counter::last).first(connection)?)
}

rows! {
    /// A change event that is kept.
    struct KeptChange<'a> {
        "changes (sequence, revision, collection, key, patch, time, metadata)"
        sequence: i64 as BigInt,
        revision: i64 as BigInt,
        collection: &'a str as Text,
        key: &'a str as Text,
        patch: &'a str as Text,
        time: i64 as BigInt,
        metadata: Option<&'a str> as Nullable<Text>,
    }
    ""
}

impl<'a> KeptChange<'a> {
    fn of(sequence: i64, collection: &'a str, change: &'a Change) -> Self {
        Self {
            sequence,
            revision: change.revision.number(),
            collection,
            key: change.key.as_str(),
            patch: &change.patch,
            time: change.time.milliseconds(),
            metadata: change.metadata.as_ref().map(StoredMetadata::as_str),
        }
    }
}
