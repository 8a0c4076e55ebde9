//! Some events of a log, in order.

use crate::domain::clock::Timestamp;
use crate::domain::key::Key;
use crate::read_model::projection::{Event, What};

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
