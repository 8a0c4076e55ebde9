//! All change events of some collections, kept permanently for the projections that declare `KEEPS_HISTORY`.
//!
//! One file for all of them, each event once. For each collection it starts with the first change event of the database, or
//! with the aggregates as they are if change events were pruned already. If the database is put back to an earlier moment,
//! only the events after that moment are removed. If pruning overtakes it, or its documents are of a newer version, the
//! collection starts over.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use diesel::connection::{DefaultLoadingMode, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::event_page::{Form, Page, PageEvent, Past, feed_of, past_of};
use super::history_epochs;
use super::history_tables::{self, changes, collections, erased, insert, last, save_last, save_revision};
use super::history_tail::Tail;
use super::main_reader::MainReader;
use super::manifest::{create_directory, directory, remove_database};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Evolution, Registry};
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
use crate::storage::error::StoreError;
use crate::storage::outbox::{Change, Changes};
use crate::storage::page::{PageLimit, Progress, Span};
use crate::storage::residue::overwrite_all;

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
    /// `None` until it was compared with the database.
    content: Option<Content>,
}

/// What the file has, which nobody else writes: so a step asks neither the file nor itself again.
struct Content {
    /// What there is of each collection, in their order.
    kept: Vec<Kept>,
    /// The sequence number of the last event.
    last: i64,
    /// Whether the file says that events were copied in the current epoch.
    is_epoch_recorded: bool,
    /// Whether the file may have something that was erased.
    is_erasing: bool,
    tail: Tail,
}

/// Change events that are not in the file.
struct NewChanges {
    changes: Vec<Change>,
    /// What has become of each.
    pasts: Vec<Past>,
    /// There is no other one up to this revision.
    to: Revision,
    horizon: Horizon,
}

/// What the history of some collections has.
pub(super) struct HistoryState {
    /// `locations.1,persons.1`: the collections with their incarnations.
    pub(super) incarnations: String,
    /// The sequence number of the last event.
    pub(super) last: i64,
    /// How often something of the past was overwritten. What has become of these events is part of the history.
    pub(super) erasures: i64,
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
    id: CollectionId,
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
        let OpenFile { connection, .. } = self.connect(&mut open)?;
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
        let file = self.connect(&mut open)?;
        let refreshed = self.copy_new(file, reader, of, now);
        if refreshed.is_err() {
            *open = None;
        }
        refreshed
    }

    /// The events of some collections after a sequence number.
    pub(super) fn page(&self, of: &[CollectionId], after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let mut open = self.lock();
        let OpenFile { connection, content, .. } = self.connect(&mut open)?;
        if let Some(content) = content
            && let Some(tail) = content.tail.after(after)
        {
            let names = self.names(of);
            let ours = tail.filter(|event| names.contains(&event.collection));
            let events: Vec<_> = ours.take(limit.items).cloned().collect();
            let last = events.last().filter(|_| events.len() == limit.items);
            let to = last.map_or(content.last, |last| last.sequence);
            let reached = of.iter().filter_map(|id| content.of(*id)).map(|kept| kept.revision).max();
            return Ok(Page { events, to, last: content.last, reached: reached.unwrap_or(Revision::ZERO).number() });
        }
        self.page_of_file(connection, of, after, limit)
    }

    /// The same, of the file.
    fn page_of_file(
        &self,
        connection: &mut SqliteConnection,
        of: &[CollectionId],
        after: i64,
        limit: PageLimit,
    ) -> Result<Page, ProjectionError> {
        let end = last(connection)?;
        let mut reached = Revision::ZERO;
        for id in of {
            reached = reached.max(self.copied(connection, *id)?.revision);
        }
        let query = changes::table
            .filter(changes::sequence.gt(after).and(changes::collection.eq_any(self.names(of))))
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
                form: if erased.contains(&sequence) {
                    Form::Erased(Feeds::Changes)
                } else {
                    Form::Change { patch: patch.into() }
                },
            });
            if events.len() >= limit.items || bytes >= limit.bytes {
                to = sequence;
                break;
            }
        }
        Ok(Page { events, to, last: end, reached: reached.number() })
    }

    fn names(&self, of: &[CollectionId]) -> Vec<&'static str> {
        of.iter().map(|id| self.registry.get(*id).name()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<OpenFile>> {
        self.open.lock().expect("nobody panics while using the history")
    }

    /// The file: another one, if that was removed or replaced.
    fn connect<'a>(&self, open: &'a mut Option<OpenFile>) -> Result<&'a mut OpenFile, ProjectionError> {
        if open.as_ref().is_some_and(|open| !open.id.is_at(&self.path)) {
            log::error!("{} was removed or replaced", self.path.display());
            *open = None;
        }
        let file = match open.take() {
            Some(file) => file,
            None => self.open_file()?,
        };
        Ok(open.insert(file))
    }

    fn open_file(&self) -> Result<OpenFile, ProjectionError> {
        if let Some(directory) = self.path.parent() {
            create_directory(directory)?;
        }
        let opened = open_sidecar(&self.path).map_err(ProjectionError::from);
        let opened = opened.and_then(|mut connection| {
            history_tables::create(&mut connection)?;
            Ok(OpenFile { connection, id: FileId::of(&self.path)?, content: None })
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
        file: &mut OpenFile,
        reader: &mut MainReader,
        of: &[CollectionId],
        now: Timestamp,
    ) -> Result<HistoryState, ProjectionError> {
        loop {
            let OpenFile { connection, content, .. } = file;
            let mut known = match content.take() {
                Some(known) => known,
                None => self.compare(connection, reader, now)?,
            };
            // If some were pruned since, the next round starts over.
            let Some(new) = self.read_new(reader, known.revision())? else { continue };
            let NewChanges { to, horizon, .. } = new;
            self.append_all(connection, &mut known, reader.epochs(), new, now)?;
            if to < horizon.current {
                file.content = Some(known);
                continue;
            }
            known.overwrite_erased(connection)?;
            known.tail.expire(known.last, now);
            let state = self.state(&known, of, horizon);
            file.content = Some(known);
            return Ok(state);
        }
    }

    /// Compares the file with the database: removes what that does not have, or starts over.
    fn compare(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        now: Timestamp,
    ) -> Result<Content, ProjectionError> {
        let horizon = reader.view_from(|_, horizon| Ok(horizon))?;
        for id in self.collections.iter() {
            self.prepare(connection, reader, *id, horizon, now)?;
        }
        let kept = self.collections.iter().map(|id| self.copied(connection, *id)).collect::<Result<_, _>>()?;
        let last = last(connection)?;
        let left: i64 = erased::table.filter(erased::overwritten.eq(0)).count().get_result(connection)?;
        Ok(Content { kept, last, is_epoch_recorded: false, is_erasing: left > 0, tail: Tail::new(last, now) })
    }

    /// Reads change events after a revision. `None` if they are not there.
    fn read_new(&self, reader: &mut MainReader, after: Revision) -> Result<Option<NewChanges>, StoreError> {
        let feed = feed_of(&self.collections);
        reader.view_from(|view, horizon| {
            if !(horizon.pruned..=horizon.current).contains(&after) {
                return Ok(None);
            }
            let Changes { changes, to } = view.changes(&feed, Span { after, to: horizon.current }, COPY_LIMIT)?;
            let pasts = changes.iter().map(|change| past_of(view, change)).collect::<Result<_, _>>()?;
            Ok(Some(NewChanges { changes, pasts, to, horizon }))
        })
    }

    fn append_all(
        &self,
        connection: &mut SqliteConnection,
        content: &mut Content,
        epochs: &History,
        NewChanges { changes, pasts, to, .. }: NewChanges,
        now: Timestamp,
    ) -> Result<(), ProjectionError> {
        if content.kept.iter().all(|kept| kept.revision >= to) {
            return Ok(());
        }
        let mut sequence = content.last;
        let mut events = Vec::with_capacity(changes.len());
        for (change, past) in changes.into_iter().zip(pasts) {
            let is_new = content.of(change.collection).is_some_and(|kept| change.revision > kept.revision);
            // An event without a key says that the collection was registered.
            if is_new && !change.key.as_str().is_empty() && past != Past::Overwritten {
                sequence += 1;
                events.push(self.event(sequence, change, past));
            }
        }
        connection.immediate_transaction(|connection| {
            insert(connection, &events)?;
            for kept in &content.kept {
                let name = self.registry.get(kept.id).name();
                if !content.is_epoch_recorded {
                    history_epochs::record(connection, name, epochs)?;
                }
                save_revision(connection, name, to.max(kept.revision))?;
            }
            save_last(connection, sequence)?;
            Ok::<_, ProjectionError>(())
        })?;
        content.add(events, to, now);
        Ok(())
    }

    fn event(&self, sequence: i64, change: Change, past: Past) -> PageEvent {
        let Change { revision, collection, key, patch, time, metadata } = change;
        let form =
            if past == Past::Erased { Form::Erased(Feeds::Changes) } else { Form::Change { patch: patch.into() } };
        let collection = self.registry.get(collection).name();
        PageEvent { sequence, at: revision.number(), time, collection, key, metadata, form }
    }

    /// Removes what does not belong to the history of the database, or starts over if the next events are not there.
    fn prepare(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        id: CollectionId,
        horizon: Horizon,
        now: Timestamp,
    ) -> Result<(), ProjectionError> {
        let name = self.registry.get(id).name();
        let first = Start { id, incarnation: now.milliseconds(), why: Restart::First };
        let Some(kept) = self.kept(connection, id)? else { return self.start_over(connection, reader, first, now) };
        let again = Start { incarnation: next_incarnation(&kept, now), why: Restart::Parted, ..first };
        if self.version(id).is_some_and(|version| version != kept.version) {
            return self.start_over(connection, reader, Start { why: Restart::Upgraded, ..again }, now);
        }
        let common = history_epochs::common(connection, name, reader.epochs())?;
        match common.and_then(|common| kept.usable(common, horizon)) {
            Some(end) if end < kept.revision => cut(connection, name, &kept, end, now),
            Some(_) => Ok(()),
            None => self.start_over(connection, reader, again, now),
        }
    }

    /// Starts a collection with the first change event, or with the aggregates if some were pruned.
    fn start_over(
        &self,
        connection: &mut SqliteConnection,
        reader: &mut MainReader,
        Start { id, incarnation, why }: Start,
        time: Timestamp,
    ) -> Result<(), ProjectionError> {
        let name = self.registry.get(id).name();
        let version = self.version(id).unwrap_or(0);
        let epochs = Arc::clone(reader.epochs());
        let started = reader.view_from(|view, Horizon { pruned, current, .. }| {
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
                        insert(connection, &[self.event(sequence, change, Past::Kept)])
                    })?;
                }
                save_last(connection, sequence)?;
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
                Ok::<_, ProjectionError>(())
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
            id,
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

    fn state(&self, content: &Content, of: &[CollectionId], horizon: Horizon) -> HistoryState {
        let incarnation = |kept: &Kept| format!("{}.{}", self.registry.get(kept.id).name(), kept.incarnation);
        let incarnations: Vec<_> = of.iter().filter_map(|id| content.of(*id)).map(incarnation).collect();
        HistoryState { incarnations: incarnations.join(","), last: content.last, erasures: horizon.erasures }
    }
}

impl Content {
    /// All events up to and including this revision are kept.
    fn revision(&self) -> Revision {
        self.kept.iter().map(|kept| kept.revision).min().unwrap_or(Revision::MAX)
    }

    fn of(&self, id: CollectionId) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.id == id)
    }

    /// Notes what was written: all events up to and including a revision.
    fn add(&mut self, events: Vec<PageEvent>, to: Revision, now: Timestamp) {
        for kept in &mut self.kept {
            kept.revision = kept.revision.max(to);
        }
        self.is_epoch_recorded = true;
        self.is_erasing |= events.iter().any(PageEvent::is_erasure);
        self.last = events.last().map_or(self.last, |last| last.sequence);
        self.tail.extend(events, now);
    }

    /// Overwrites what was erased, wherever it is in the file. If a reader prevents this for now, the next step tries again.
    fn overwrite_erased(&mut self, connection: &mut SqliteConnection) -> Result<(), ProjectionError> {
        if self.is_erasing {
            overwrite_all(connection)?;
            if truncate_log(connection)? == Progress::Done {
                diesel::update(erased::table).set(erased::overwritten.eq(1)).execute(connection)?;
                self.is_erasing = false;
            }
        }
        Ok(())
    }
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
