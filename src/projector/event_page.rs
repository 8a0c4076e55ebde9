//! A page of the events that a projection applies, in order.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::source_id::SourceId;
use crate::domain::clock::Timestamp;
use crate::domain::feed;
use crate::domain::history::History;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::StoredMetadata;
use crate::domain::revision::{JournalPosition, Revision};
use crate::read_model::projection::{Event, Feed, What};
use crate::storage::error::StoreError;
use crate::storage::outbox::Change;
use crate::storage::reader::View;

/// Consecutive events of a source: all that are wanted up to and including the offset `to`.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) events: Vec<PageEvent>,
    pub(super) to: i64,
    /// The last offset of the source.
    pub(super) last: i64,
    /// No event in the page, nor any before it, was made after this position of the journal or this revision.
    pub(super) reached: i64,
}

/// An event in its source. A copy of a change event allocates nothing.
#[derive(Debug, Clone)]
pub(super) struct PageEvent {
    /// The offset of the event. Events of one revision share it; they are applied together.
    pub(super) sequence: i64,
    /// The position of the journal, or the revision, that the projection and operators see.
    pub(super) at: i64,
    pub(super) time: Timestamp,
    pub(super) collection: &'static str,
    pub(super) key: Key,
    pub(super) metadata: Option<StoredMetadata>,
    pub(super) form: Form,
}

/// The content of an event.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Domain {
        version: i64,
        kind: String,
        schema: i64,
        fields: String,
    },
    Change {
        patch: Arc<str>,
    },
    /// The aggregate was erased.
    Erased(Feed),
}

/// What a change event is after its aggregate was perhaps erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// What it was.
    Kept,
    /// The one that says that the aggregate was erased.
    Erased,
    /// An earlier one of that aggregate.
    Overwritten,
}

/// The feed of the change events of some collections. Of a single one, the database passes over the rows of all others.
pub(super) fn feed_of(collections: &Arc<[CollectionId]>) -> feed::Feed {
    match **collections {
        [only] => feed::Feed::Collection(only, None),
        _ => feed::Feed::Everything(Some(Arc::clone(collections))),
    }
}

/// The merge patch of a deletion.
const DELETION: &str = "null";

/// Whether the aggregate of a change event was erased.
pub(super) fn past_of(view: &mut View<'_>, change: &Change) -> Result<Past, StoreError> {
    // Others of an erased aggregate are about to become null. They are followed by this one, too.
    if change.patch != DELETION {
        return Ok(Past::Kept);
    }
    Ok(match view.erasure(change.collection, &change.key)? {
        None => Past::Kept,
        Some(erasure) if erasure.revision == change.revision => Past::Erased,
        Some(_) => Past::Overwritten,
    })
}

/// Identifies an event permanently: its source, and its place there. The source starts with an epoch in which the history
/// of the database had the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventId(String, i64);

impl EventId {
    /// Whether both are the same event, of two that belong to the same history.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.1 == other.1 && self.split().1 == other.split().1
    }

    /// Whether the event belongs to the history of a database.
    pub(super) fn belongs_to(&self, epochs: &History) -> bool {
        let (epoch, source) = self.split();
        epoch.parse().is_ok_and(|epoch| match source {
            "" => epochs.has_position(&epoch, JournalPosition::from_raw(self.1)),
            _ => epochs.has_revision(&epoch, Revision::from_raw(self.1)),
        })
    }

    /// The epoch, and the source without it.
    fn split(&self) -> (&str, &str) {
        self.0.split_once('/').unwrap_or((&self.0, ""))
    }
}

impl PageEvent {
    /// Whether it says that its aggregate was erased.
    pub(super) fn is_erasure(&self) -> bool {
        matches!(self.form, Form::Erased(_))
    }

    /// The merge patch of a change event. That of an erasure deletes the aggregate.
    pub(super) fn patch(&self) -> &str {
        match &self.form {
            Form::Change { patch } => patch,
            Form::Domain { .. } | Form::Erased(_) => DELETION,
        }
    }

    /// The event as the projection receives it.
    pub(super) fn event(&self) -> Event<'_> {
        let what = match &self.form {
            Form::Domain { version, kind, schema, fields } => {
                What::Domain { version: *version, kind, schema: *schema, fields }
            }
            Form::Change { patch } => What::Change { patch },
            Form::Erased(_) => What::Erased,
        };
        let Self { at, time, collection, key, metadata, .. } = self;
        Event { at: *at, time: *time, collection, key, metadata: metadata.as_ref(), what }
    }

    /// The identity of the event in this source. A revision has at most one event of an aggregate.
    pub(super) fn id(&self, source: &SourceId) -> EventId {
        match &self.form {
            Form::Domain { .. } | Form::Erased(Feed::Journal) => EventId(source.to_string(), self.sequence),
            Form::Change { .. } | Form::Erased(Feed::Changes) => {
                EventId(format!("{source}/{}/{}", self.collection, self.key.as_str()), self.at)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::history::EpochStart;

    #[test]
    fn an_event_that_is_skipped_is_the_same_after_a_restart_but_not_in_another_history() {
        let start = |name: &str, first_revision, first_position| EpochStart {
            epoch: name.parse().unwrap(),
            first_revision: Revision::from_raw(first_revision),
            first_position: JournalPosition::from_raw(first_position),
        };
        let epochs = History::new(vec![start("00000001", 1, 1)], start("00000002", 16, 6));
        let id = |source: &str, at| EventId(source.to_owned(), at);
        for (source, at, expected) in [
            ("00000001", 5, true),
            ("00000001", 6, false),
            ("00000002", 6, true),
            ("00000001/changes/persons/1", 15, true),
            ("00000001/changes/persons/1", 16, false),
            ("00000009/changes/persons/1", 1, false),
        ] {
            assert_eq!(id(source, at).belongs_to(&epochs), expected, "{source} {at}");
        }
        assert!(id("00000001", 5).is_same(&id("00000002", 5)));
        assert!(!id("00000001", 5).is_same(&id("00000001", 4)));
        assert!(!id("00000001/changes/persons/1", 5).is_same(&id("00000001/changes/persons/2", 5)));
        assert!(!id("00000001/changes/persons/1", 5).is_same(&id("00000001", 5)));
    }
}
