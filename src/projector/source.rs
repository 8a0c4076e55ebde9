//! The events that a projection applies: the journal, the change events in the outbox, or the kept history of them.

use std::sync::Arc;

use super::event_page::{Form, Page, PageEvent};
use super::generation::{Checkpoint, Position};
use super::history::History;
use super::snapshot::Snapshot;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::feed;
use crate::domain::key::CollectionId;
use crate::domain::revision::{JournalPosition, Revision};
use crate::read_model::error::ProjectionError;
use crate::read_model::projection::Feed;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::Reader;

/// The source of one projection.
pub(super) struct Source {
    registry: Arc<Registry>,
    collections: Arc<[CollectionId]>,
    reader: Reader,
    kind: Kind,
}

/// Where the events are.
enum Kind {
    /// Offsets are positions of the journal.
    Journal,
    /// Offsets are revisions. A generation starts from a snapshot of the aggregates.
    Outbox,
    /// Offsets are sequence numbers of the history.
    History(Arc<History>),
}

/// What a source has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceState {
    /// The epoch of the database.
    pub(super) epoch: String,
    /// Offsets of two sources with the same identity can be compared. It starts with the epoch.
    pub(super) identity: String,
    /// The first offset after which all events are available.
    pub(super) first: i64,
    /// The offset of the last event.
    pub(super) last: i64,
}

/// What can be done with a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compatibility {
    /// It applies the next events.
    Current,
    /// It is served until another one replaces it, but cannot apply further events.
    Outdated,
    /// It belongs to another incarnation of the database, and is discarded.
    Foreign,
}

/// The end of the identity of a snapshot.
const SNAPSHOT: &str = "/snapshot";

impl Source {
    pub(super) fn new(
        spec: &ProjectionSpec,
        registry: Arc<Registry>,
        history: &Arc<History>,
        reader: Reader,
    ) -> Result<Self, ProjectionError> {
        let find = |name: &&str| {
            registry.id(name).ok_or_else(|| ProjectionError::new(format!("the collection {name} is not registered")))
        };
        let collections = spec.collections.iter().map(find).collect::<Result<Vec<_>, _>>()?.into();
        let kind = match spec.feed {
            Feed::Journal => Kind::Journal,
            Feed::Changes if spec.keeps_history => Kind::History(Arc::clone(history)),
            Feed::Changes => Kind::Outbox,
        };
        Ok(Self { registry, collections, reader, kind })
    }

    /// Looks for new events.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Result<SourceState, ProjectionError> {
        if let Kind::History(history) = &self.kind {
            let identity = history.refresh(&mut self.reader, &self.collections, now)?;
            let epoch = epoch_of(&identity).to_owned();
            return Ok(SourceState { epoch, identity, first: 0, last: history.last()? });
        }
        let is_journal = matches!(self.kind, Kind::Journal);
        Ok(self.reader.view(|view| {
            let epoch = view.epoch()?.to_string();
            if is_journal {
                let last = view.position()?.number();
                return Ok(SourceState { identity: epoch.clone(), epoch, first: 0, last });
            }
            let horizon = view.horizon()?;
            let first = horizon.pruned.number();
            let last = horizon.current.number();
            Ok(SourceState { identity: format!("{epoch}/changes"), epoch, first, last })
        })?)
    }

    /// The events after an offset. An empty page that ends at the offset, although there are later events, means that some
    /// were pruned; the next [`refresh`](Self::refresh) shows it.
    pub(super) fn page(&mut self, after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        match &self.kind {
            Kind::Journal => self.journal_page(after, limit),
            Kind::Outbox => self.outbox_page(after, limit),
            Kind::History(history) => history.page(&self.collections, after, limit),
        }
    }

    /// What a new generation starts from; `None` if it starts with the first event.
    pub(super) fn take_snapshot(
        &mut self,
        path: &std::path::Path,
        now: Timestamp,
    ) -> Result<Option<Snapshot>, ProjectionError> {
        match self.kind {
            Kind::Outbox => Ok(Some(Snapshot::take(path, &mut self.reader, &self.collections, now)?)),
            Kind::Journal | Kind::History(_) => Ok(None),
        }
    }

    /// Whether generations must not have data that is older than the events in the outbox.
    pub(super) fn forgets(&self) -> bool {
        matches!(self.kind, Kind::Outbox)
    }

    pub(super) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn journal_page(&mut self, after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let after = JournalPosition::from_raw(after);
        let read = self.reader.view(|view| view.journal(Some(&self.collections), after, limit))?;
        let events = read.entries.into_iter().map(|entry| PageEvent {
            sequence: entry.position.number(),
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
        Ok(Page { events: events.collect(), to: read.to.number(), last: read.current.number() })
    }

    fn outbox_page(&mut self, after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let feed = feed::Feed::Everything(Some(Arc::clone(&self.collections)));
        let from = Revision::from_raw(after);
        let registry = &self.registry;
        Ok(self.reader.view(|view| {
            let horizon = view.horizon()?;
            let last = horizon.current.number();
            if horizon.pruned > from || horizon.current <= from {
                return Ok(Page { events: Vec::new(), to: after, last });
            }
            let read = view.changes(&feed, Span { after: from, to: horizon.current }, limit)?;
            // An event without a key says that the collection was registered.
            let changes = read.changes.into_iter().filter(|change| !change.key.as_str().is_empty());
            let events = changes.map(|Change { revision, collection, key, patch, time }| PageEvent {
                sequence: revision.number(),
                at: revision.number(),
                time,
                collection: registry.get(collection).name(),
                key,
                form: Form::Change { patch },
            });
            Ok(Page { events: events.collect(), to: read.to.number(), last })
        })?)
    }
}

impl SourceState {
    /// What can be done with a generation that is served.
    pub(super) fn compatibility(&self, checkpoint: &Checkpoint, version: i64) -> Compatibility {
        let Position { source, offset } = &checkpoint.position;
        let is_same = *source == self.identity;
        if epoch_of(source) != self.epoch || (is_same && *offset > self.last) {
            Compatibility::Foreign
        } else if is_same && *offset >= self.first && checkpoint.version == version {
            Compatibility::Current
        } else {
            Compatibility::Outdated
        }
    }

    /// Whether the events after a snapshot are still available.
    pub(super) fn continues(&self, snapshot: &Snapshot) -> bool {
        snapshot.epoch == self.epoch && (self.first..=self.last).contains(&snapshot.revision.number())
    }

    /// The position in a snapshot before its first aggregate.
    pub(super) fn start_of_snapshot(&self) -> String {
        format!("{}{SNAPSHOT}", self.epoch)
    }
}

/// Whether a generation is being built from a snapshot.
pub(super) fn is_snapshot(source: &str) -> bool {
    source.ends_with(SNAPSHOT)
}

/// The epoch that the identity of a source starts with.
pub(super) fn epoch_of(identity: &str) -> &str {
    identity.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_continues_is_served_or_is_discarded() {
        let state = SourceState { epoch: "e".to_owned(), identity: "e/changes".to_owned(), first: 10, last: 20 };
        for (source, offset, version, expected) in [
            ("e/changes", 10, 1, Compatibility::Current),
            ("e/changes", 20, 1, Compatibility::Current),
            ("e/changes", 9, 1, Compatibility::Outdated),
            ("e/changes", 15, 2, Compatibility::Outdated),
            ("e/changes", 21, 1, Compatibility::Foreign),
            ("e/changes", 21, 2, Compatibility::Foreign),
            ("e/history/cities.1", 99, 1, Compatibility::Outdated),
            ("e", 15, 1, Compatibility::Outdated),
            ("f/changes", 15, 1, Compatibility::Foreign),
            ("f", 15, 1, Compatibility::Foreign),
        ] {
            let position = Position { source: source.to_owned(), offset };
            let checkpoint = Checkpoint { position, version, length: 0 };
            assert_eq!(state.compatibility(&checkpoint, 1), expected, "{source} {offset} {version}");
        }
    }
}
