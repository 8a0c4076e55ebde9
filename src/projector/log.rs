//! What a projection is fed from: the journal, or an archive of the change events that it was given.

use std::sync::Arc;

use super::archive::Archive;
use super::files::Files;
use crate::clock::Timestamp;
use crate::collection::{CollectionId, Registry};
use crate::cursor::JournalPosition;
use crate::key::Key;
use crate::projection::{Event, Feed, ProjectionError, What};
use crate::store::{Reader, Room};

/// An event, and its place in the log.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) place: i64,
    /// A position of the journal, or a revision.
    pub(super) at: i64,
    pub(super) time: Timestamp,
    pub(super) collection: &'static str,
    pub(super) key: Key,
    pub(super) form: Form,
}

/// What a log holds of an event.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Domain { version: i64, kind: String, schema: i64, fields: String },
    Change { patch: String },
}

impl Item {
    pub(super) fn event(&self) -> Event<'_> {
        let what = match &self.form {
            Form::Domain { version, kind, schema, fields } => {
                What::Domain { version: *version, kind, schema: *schema, fields }
            }
            Form::Change { patch } => What::Change { patch },
        };
        Event { at: self.at, time: self.time, collection: self.collection, key: &self.key, what }
    }
}

/// Some events of a log: all that are wanted up to and including the place `to`.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    pub(super) to: i64,
    /// The last place there is.
    pub(super) last: i64,
}

/// The log of one projection.
pub(super) struct Log {
    registry: Arc<Registry>,
    collections: Arc<[CollectionId]>,
    reader: Reader,
    archive: Option<Archive>,
}

/// JSON text that is read at once, in bytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

impl Log {
    pub(super) fn open(
        feed: Feed,
        collections: Arc<[CollectionId]>,
        files: &Files,
        reader: Reader,
        registry: Arc<Registry>,
    ) -> Result<Self, ProjectionError> {
        let archive = match feed {
            Feed::Journal => None,
            Feed::Changes => Some(Archive::open(&files.archive())?),
        };
        Ok(Self { registry, collections, reader, archive })
    }

    /// Looks for what is new; gives the identity of the log: another one, and its places count anew.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Result<String, ProjectionError> {
        match &mut self.archive {
            Some(archive) => archive.refresh(&mut self.reader, &self.registry, &self.collections, now),
            None => Ok(self.reader.view(|view| Ok(view.epoch()?.to_string()))?),
        }
    }

    /// The last place there is.
    pub(super) fn last(&mut self) -> Result<i64, ProjectionError> {
        match &mut self.archive {
            Some(archive) => archive.last(),
            None => Ok(self.reader.view(|view| Ok(view.position()?.number()))?),
        }
    }

    /// The events after a place.
    pub(super) fn page(&mut self, after: i64, limit: usize) -> Result<Page, ProjectionError> {
        if let Some(archive) = &mut self.archive {
            return archive.page(&self.registry, after, limit);
        }
        let room = Room { items: limit, bytes: PAGE_BYTES };
        let after = JournalPosition::stored(after);
        let read = self.reader.view(|view| view.journal(Some(&self.collections), after, room))?;
        let items = read.entries.into_iter().map(|entry| Item {
            place: entry.position.number(),
            at: entry.position.number(),
            time: entry.time,
            collection: self.registry.get(entry.collection).name(),
            key: entry.key,
            form: Form::Domain {
                version: entry.version.number(),
                kind: entry.event.kind,
                schema: entry.schema,
                fields: entry.event.fields,
            },
        });
        Ok(Page { items: items.collect(), to: read.to.number(), last: read.current.number() })
    }
}
