//! The events that a projection applies: the journal, the change events in the outbox, or the kept history of them.

use std::sync::Arc;

use super::event_page::{Form, Page, PageEvent, Past, feed_of, past_of};
use super::generation::{Checkpoint, Position};
use super::history::{HistoryState, KeptHistory};
use super::main_reader::MainReader;
use super::snapshot::Snapshot;
use super::source_id::{SourceId, SourceKind};
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::history::History;
use crate::domain::key::CollectionId;
use crate::domain::revision::{JournalPosition, Revision};
use crate::read_model::error::ProjectionError;
use crate::read_model::projection::Feed;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::journal::Entry;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Span};

/// The source of one projection.
pub(super) struct Source {
    registry: Arc<Registry>,
    collections: Arc<[CollectionId]>,
    reader: MainReader,
    kind: Kind,
}

/// Where the events are.
enum Kind {
    /// Offsets are positions of the journal.
    Journal,
    /// Offsets are revisions. A generation starts from a snapshot of the aggregates.
    Outbox,
    /// Offsets are sequence numbers of the history.
    History(Arc<KeptHistory>),
}

/// What a source has now.
#[derive(Debug, Clone)]
pub(super) struct SourceState {
    /// The epochs of the database.
    pub(super) epochs: Arc<History>,
    /// What its offsets count.
    pub(super) kind: SourceKind,
    /// The first offset after which all events are available.
    pub(super) first: i64,
    /// The offset of the last event.
    pub(super) last: i64,
    /// How often something of the past was overwritten.
    pub(super) erasures: i64,
}

/// What can be done with a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compatibility {
    /// It applies the next events.
    Current,
    /// It is served until another one replaces it, but cannot apply further events.
    Outdated,
    /// Some of its events do not belong to the history of the database, or that cannot be known. It is discarded.
    Foreign,
}

impl Source {
    pub(super) fn new(
        spec: &ProjectionSpec,
        registry: Arc<Registry>,
        history: &Arc<KeptHistory>,
        reader: MainReader,
    ) -> Result<Self, ProjectionError> {
        let find = |name: &&str| {
            registry.id(name).ok_or_else(|| ProjectionError::new(format!("the collection {name} is not registered")))
        };
        let collections = spec.collections.iter().map(find).collect::<Result<Vec<_>, _>>()?.into();
        let kind = match spec.feed {
            Feed::Journal => Kind::Journal,
            Feed::Changes if spec.has_history() => Kind::History(Arc::clone(history)),
            Feed::Changes => Kind::Outbox,
        };
        Ok(Self { registry, collections, reader, kind })
    }

    /// Looks for new events.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Result<SourceState, ProjectionError> {
        let epochs = Arc::clone(self.reader.epochs());
        if let Kind::History(history) = &self.kind {
            let HistoryState { incarnations, last, erasures } =
                history.refresh(&mut self.reader, &self.collections, now)?;
            return Ok(SourceState { epochs, kind: SourceKind::History { incarnations }, first: 0, last, erasures });
        }
        let is_journal = matches!(self.kind, Kind::Journal);
        Ok(self.reader.view_from(|view, horizon| {
            let erasures = horizon.erasures;
            if is_journal {
                let last = view.position()?.number();
                return Ok(SourceState { epochs, kind: SourceKind::Journal, first: 0, last, erasures });
            }
            let (first, last) = (horizon.pruned.number(), horizon.current.number());
            Ok(SourceState { epochs, kind: SourceKind::Changes, first, last, erasures })
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
        let (read, erasing) = self.reader.view(|view| {
            let read = view.journal(Some(&self.collections), after, limit)?;
            Ok((read, view.erasures_in_progress()?))
        })?;
        // Of an aggregate that was erased, only the event that says so.
        let is_there = |entry: &Entry| entry.is_erasure() || !(entry.is_erased || erasing.has(&self.registry, entry));
        let events = read.entries.into_iter().filter(is_there).map(|entry| PageEvent {
            sequence: entry.position.number(),
            at: entry.position.number(),
            time: entry.time,
            collection: self.registry.get(entry.collection).name(),
            metadata: entry.metadata,
            form: if entry.is_erased {
                Form::Erased(Feed::Journal)
            } else {
                let (version, schema) = (entry.version.number(), entry.schema);
                Form::Domain { version, kind: entry.event.kind, schema, fields: entry.event.fields }
            },
            key: entry.key,
        });
        let to = read.to.number();
        Ok(Page { events: events.collect(), to, last: read.current.number(), reached: to })
    }

    fn outbox_page(&mut self, after: i64, limit: PageLimit) -> Result<Page, ProjectionError> {
        let feed = feed_of(&self.collections);
        let from = Revision::from_raw(after);
        let registry = &self.registry;
        Ok(self.reader.view_from(|view, horizon| {
            let last = horizon.current.number();
            if horizon.pruned > from || horizon.current <= from {
                return Ok(Page { events: Vec::new(), to: after, last, reached: after });
            }
            let read = view.changes(&feed, Span { after: from, to: horizon.current }, limit)?;
            let to = read.to.number();
            let mut events = Vec::with_capacity(read.changes.len());
            for change in read.changes {
                let past = past_of(view, &change)?;
                let Change { revision, collection, key, patch, time, metadata } = change;
                let form = match past {
                    Past::Kept => Form::Change { patch: patch.into() },
                    Past::Erased => Form::Erased(Feed::Changes),
                    Past::Overwritten => continue,
                };
                // An event without a key says that the collection was registered.
                if !key.as_str().is_empty() {
                    let (at, collection) = (revision.number(), registry.get(collection).name());
                    events.push(PageEvent { sequence: at, at, time, collection, key, metadata, form });
                }
            }
            Ok(Page { events, to, last, reached: to })
        })?)
    }
}

impl SourceState {
    /// The identity of the source in the current epoch.
    pub(super) fn id(&self) -> SourceId {
        self.id_of(self.kind.clone())
    }

    /// The identity of another source in the current epoch.
    pub(super) fn id_of(&self, kind: SourceKind) -> SourceId {
        SourceId { epoch: self.epochs.epoch().clone(), kind }
    }

    /// What can be done with a generation that is served.
    pub(super) fn compatibility(&self, checkpoint: &Checkpoint, version: i64) -> Compatibility {
        let Position { source, offset, .. } = &checkpoint.position;
        let is_same = source.kind == self.kind;
        if !self.has(&checkpoint.position) || (is_same && *offset > self.last) {
            Compatibility::Foreign
        } else if is_same && *offset >= self.first && checkpoint.version == version {
            Compatibility::Current
        } else {
            Compatibility::Outdated
        }
    }

    /// Whether a generation at this position has events of the history of the database only.
    fn has(&self, Position { source, reached, .. }: &Position) -> bool {
        let epoch = &source.epoch;
        match (reached, &source.kind) {
            (Some(position), SourceKind::Journal) => {
                self.epochs.has_position(epoch, JournalPosition::from_raw(*position))
            }
            (Some(revision), _) => self.epochs.has_revision(epoch, Revision::from_raw(*revision)),
            // A history that has not started over has events of this database only.
            (None, kind) => *kind == self.kind && self.epochs.has_revision(epoch, Revision::ZERO),
        }
    }

    /// Whether a generation has everything that has been pruned: it has no data that is older than the events.
    pub(super) fn is_recent(&self, position: &Position) -> bool {
        position.source.kind == self.kind && self.has(position) && position.offset >= self.first
    }

    /// Whether the events after a snapshot are still available.
    pub(super) fn continues(&self, snapshot: &Snapshot) -> bool {
        self.epochs.has_revision(&snapshot.epoch, snapshot.revision)
            && (self.first..=self.last).contains(&snapshot.revision.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::history::EpochStart;
    use crate::read_model::csv_file::FileMark;

    fn start(name: &str, first_revision: i64, first_position: i64) -> EpochStart {
        EpochStart {
            epoch: name.parse().unwrap(),
            first_revision: Revision::from_raw(first_revision),
            first_position: JournalPosition::from_raw(first_position),
        }
    }

    /// The second epoch began after revision 15 and position 5.
    fn epochs() -> Arc<History> {
        Arc::new(History::new(vec![start("00000001", 1, 1)], start("00000002", 16, 6)))
    }

    fn compatibility(state: &SourceState, source: &str, offset: i64, reached: Option<i64>) -> Compatibility {
        let position = Position { source: source.parse().unwrap(), offset, reached };
        state.compatibility(&Checkpoint { position, version: 1, file: FileMark::default() }, 1)
    }

    #[test]
    fn a_generation_continues_is_served_or_is_discarded() {
        let state = SourceState { epochs: epochs(), kind: SourceKind::Changes, first: 10, last: 20, erasures: 0 };
        for (source, offset, reached, expected) in [
            ("00000002/changes", 10, Some(10), Compatibility::Current),
            ("00000002/changes", 20, Some(20), Compatibility::Current),
            ("00000002/changes", 21, Some(21), Compatibility::Foreign),
            ("00000001/changes", 15, Some(15), Compatibility::Current),
            ("00000001/changes", 16, Some(16), Compatibility::Foreign),
            ("00000001/changes", 9, Some(9), Compatibility::Outdated),
            ("00000009/changes", 15, Some(15), Compatibility::Foreign),
            ("00000001/history/cities.1", 99, Some(15), Compatibility::Outdated),
            ("00000001/history/cities.1", 99, Some(16), Compatibility::Foreign),
            ("00000001/history/cities.1", 99, None, Compatibility::Foreign),
            ("00000001", 5, Some(5), Compatibility::Outdated),
            ("00000001", 6, Some(6), Compatibility::Foreign),
            ("00000001/1", 5, None, Compatibility::Foreign),
        ] {
            assert_eq!(compatibility(&state, source, offset, reached), expected, "{source} {offset} {reached:?}");
        }
        let position = Position { source: state.id(), offset: 15, reached: Some(15) };
        let checkpoint = Checkpoint { position, version: 2, file: FileMark::default() };
        assert_eq!(state.compatibility(&checkpoint, 1), Compatibility::Outdated, "another version of the projection");
    }

    #[test]
    fn a_generation_from_the_history_continues_unless_that_started_over() {
        let kind = SourceKind::History { incarnations: "cities.1".to_owned() };
        let state = SourceState { epochs: epochs(), kind, first: 0, last: 7, erasures: 0 };
        for (source, offset, reached, expected) in [
            ("00000001/history/cities.1", 7, Some(15), Compatibility::Current),
            ("00000001/history/cities.1", 7, Some(16), Compatibility::Foreign),
            ("00000001/history/cities.1", 8, Some(15), Compatibility::Foreign),
            ("00000001/history/cities.2", 7, Some(15), Compatibility::Outdated),
            ("00000001/history/cities.1", 7, None, Compatibility::Current),
            ("00000001/history/cities.2", 7, None, Compatibility::Foreign),
            ("00000009/history/cities.1", 7, None, Compatibility::Foreign),
        ] {
            assert_eq!(compatibility(&state, source, offset, reached), expected, "{source} {offset} {reached:?}");
        }
    }
}
