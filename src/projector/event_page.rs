//! A page of the events that a projection applies, in order.

use serde::{Deserialize, Serialize};

use crate::domain::clock::Timestamp;
use crate::domain::key::Key;
use crate::read_model::projection::{Event, What};

/// Consecutive events of a source: all that are wanted up to and including the offset `to`.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) events: Vec<PageEvent>,
    pub(super) to: i64,
    /// The last offset of the source.
    pub(super) last: i64,
}

/// An event in its source.
#[derive(Debug, Clone)]
pub(super) struct PageEvent {
    /// The offset of the event. Events of one revision share it; they are applied together.
    pub(super) sequence: i64,
    /// The position of the journal, or the revision, that the projection and operators see.
    pub(super) at: i64,
    pub(super) time: Timestamp,
    pub(super) collection: &'static str,
    pub(super) key: Key,
    pub(super) form: Form,
}

/// The content of an event.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Domain { version: i64, kind: String, schema: i64, fields: String },
    Change { patch: String },
}

/// Identifies an event permanently: its source, and its place there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventId(pub(super) String, pub(super) i64);

impl PageEvent {
    /// The event as the projection receives it.
    pub(super) fn event(&self) -> Event<'_> {
        let what = match &self.form {
            Form::Domain { version, kind, schema, fields } => {
                What::Domain { version: *version, kind, schema: *schema, fields }
            }
            Form::Change { patch } => What::Change { patch },
        };
        Event { at: self.at, time: self.time, collection: self.collection, key: &self.key, what }
    }

    /// The identity of the event in this source. A revision has at most one event of an aggregate.
    pub(super) fn id(&self, source: &str) -> EventId {
        match &self.form {
            Form::Domain { .. } => EventId(source.to_owned(), self.sequence),
            Form::Change { .. } => EventId(format!("{source}/{}/{}", self.collection, self.key.as_str()), self.at),
        }
    }
}
