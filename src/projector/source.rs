//! What a projection is fed from: the journal, or an archive of the change events that it was given.

use std::sync::Arc;

use super::event_page::{Form, Item, Page};
use super::history::Archive;
use super::manifest::Files;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::key::CollectionId;
use crate::domain::revision::JournalPosition;
use crate::read_model::projection::{Feed, ProjectionError};
use crate::storage::page::PageLimit;
use crate::storage::reader::Reader;

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
        let room = PageLimit { items: limit, bytes: PAGE_BYTES };
        let after = JournalPosition::from_raw(after);
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
