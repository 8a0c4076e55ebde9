//! A copy of some aggregates at one revision, from which a generation is built.
//!
//! The main database is copied in one short read transaction, in which no code of a projection runs. The copy survives a
//! kill, so the build continues where it was, and it is removed when it has been applied.

use std::path::{Path, PathBuf};

use diesel::connection::{DefaultLoadingMode, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::event_page::{Form, Page, PageEvent};
use super::main_reader::MainReader;
use super::manifest::remove_database;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, Revision};
use crate::read_model::error::ProjectionError;
use crate::storage::connection::open_sidecar;
use crate::storage::page::PageLimit;
use crate::storage::reader::View;

diesel::table! {
    /// One row, which is written last: a copy without it is incomplete.
    snapshot (id) {
        id -> BigInt,
        epoch -> Text,
        revision -> BigInt,
        length -> BigInt,
        time -> BigInt,
    }
}

diesel::table! {
    /// The aggregates.
    rows (sequence) {
        sequence -> BigInt,
        collection -> Text,
        key -> Text,
        revision -> BigInt,
        body -> Text,
    }
}

const TABLES: &str = "\
    CREATE TABLE snapshot (id BIGINT NOT NULL PRIMARY KEY, epoch TEXT NOT NULL, revision BIGINT NOT NULL, \
        length BIGINT NOT NULL, time BIGINT NOT NULL);
    CREATE TABLE rows (sequence INTEGER NOT NULL PRIMARY KEY, collection TEXT NOT NULL, key TEXT NOT NULL, \
        revision BIGINT NOT NULL, body TEXT NOT NULL);";

/// The number of rows that are written in one transaction.
const ROWS_PER_TRANSACTION: usize = 2000;

/// A copy of some aggregates at one revision.
pub(super) struct Snapshot {
    connection: SqliteConnection,
    path: PathBuf,
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    /// The number of aggregates.
    pub(super) length: i64,
    /// When it was taken.
    time: Timestamp,
}

impl Snapshot {
    /// Copies all aggregates of some collections.
    pub(super) fn take(
        path: &Path,
        reader: &mut MainReader,
        collections: &[CollectionId],
        time: Timestamp,
    ) -> Result<Self, ProjectionError> {
        remove_database(path);
        let mut connection = open_sidecar(path)?;
        connection.batch_execute(TABLES)?;
        let copied = reader.view(|view| Ok(copy(view, &mut connection, collections)))?;
        let Copied { epoch, revision, length } = copied?;
        diesel::insert_into(snapshot::table)
            .values((
                snapshot::id.eq(1),
                snapshot::epoch.eq(epoch.as_str()),
                snapshot::revision.eq(revision.number()),
                snapshot::length.eq(length),
                snapshot::time.eq(time.milliseconds()),
            ))
            .execute(&mut connection)?;
        Ok(Self { connection, path: path.to_owned(), epoch, revision, length, time })
    }

    /// Opens a copy that was completed before.
    pub(super) fn open(path: &Path) -> Result<Self, ProjectionError> {
        let mut connection = open_sidecar(path)?;
        let (epoch, revision, length, time): (String, i64, i64, i64) = snapshot::table
            .select((snapshot::epoch, snapshot::revision, snapshot::length, snapshot::time))
            .first(&mut connection)?;
        let epoch = epoch.parse().map_err(|_| ProjectionError::new(format!("a snapshot has the epoch {epoch:?}")))?;
        let revision = Revision::from_raw(revision);
        let time = Timestamp::from_milliseconds(time);
        Ok(Self { connection, path: path.to_owned(), epoch, revision, length, time })
    }

    /// The aggregates after an offset, each as a patch that creates it.
    pub(super) fn page(&mut self, registry: &Registry, after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let query = rows::table.filter(rows::sequence.gt(after)).order(rows::sequence);
        let mut events: Vec<PageEvent> = Vec::new();
        let mut bytes = 0;
        let mut to = self.length;
        for row in query.load_iter::<(i64, String, String, i64, String), DefaultLoadingMode>(&mut self.connection)? {
            let (sequence, collection, key, at, patch) = row?;
            let Some(id) = registry.id(&collection) else { continue };
            let collection = registry.get(id).name();
            bytes += key.len() + patch.len();
            let key = Key::from_db(&key);
            let (time, metadata, form) = (self.time, None, Form::Change { patch: patch.into() });
            events.push(PageEvent { sequence, at, time, collection, key, metadata, form });
            if events.len() >= limit.items || bytes >= limit.bytes {
                to = sequence;
                break;
            }
        }
        Ok(Page { events, to, last: self.length, reached: self.revision.number() })
    }

    /// Removes the copy.
    pub(super) fn remove(self) {
        drop(self.connection);
        remove_database(&self.path);
    }
}

/// What was copied.
struct Copied {
    epoch: Epoch,
    revision: Revision,
    length: i64,
}

struct Row {
    collection: &'static str,
    key: String,
    revision: Revision,
    body: String,
}

fn copy(
    view: &mut View<'_>,
    to: &mut SqliteConnection,
    collections: &[CollectionId],
) -> Result<Copied, ProjectionError> {
    let epoch = view.epoch()?;
    let revision = view.horizon()?.current;
    let mut length = 0;
    let mut batch = Vec::new();
    for id in collections {
        let collection = view.registry().get(*id).name();
        view.scan_with_revisions(*id, |key, revision, body| {
            batch.push(Row { collection, key: key.to_owned(), revision, body: body.to_owned() });
            if batch.len() == ROWS_PER_TRANSACTION {
                write(to, &mut batch, &mut length)?;
            }
            Ok::<_, ProjectionError>(())
        })?;
    }
    write(to, &mut batch, &mut length)?;
    Ok(Copied { epoch, revision, length })
}

fn write(to: &mut SqliteConnection, batch: &mut Vec<Row>, length: &mut i64) -> Result<(), ProjectionError> {
    to.immediate_transaction(|to| {
        for Row { collection, key, revision, body } in batch.drain(..) {
            *length += 1;
            diesel::insert_into(rows::table)
                .values((
                    rows::sequence.eq(*length),
                    rows::collection.eq(collection),
                    rows::key.eq(key),
                    rows::revision.eq(revision.number()),
                    rows::body.eq(body),
                ))
                .execute(to)?;
        }
        Ok(())
    })
}
