//! Whole collections as text, while they are read.

use crate::domain::collection::Registry;
use crate::domain::feed::push_member;
use crate::events::line_safe::escape_separators;
use crate::read::collection_cache::{CollectionRevision, SizeObserver};
use crate::read::spool::{Cut, SpoolError};
use crate::read::spool_writer::SpoolWriter;
use crate::storage::reader::Part;

/// Writes collections into a spool.
pub(super) struct CollectionWriter<'a> {
    target: StreamTarget,
    registry: &'a Registry,
    /// The next chunk.
    text: String,
    /// The length of the chunks before it, in bytes.
    written: usize,
    /// The number of aggregates so far.
    aggregates: usize,
}

/// Where collections are written to, and in which form.
pub(crate) struct StreamTarget {
    pub(crate) form: Form,
    pub(crate) spool: SpoolWriter,
    /// Set for a collection that the cache had no room for.
    pub(crate) observer: Option<SizeObserver>,
}

/// The form of a body that consists of whole collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// One collection as an object: `{"1":{…},"2":{…}}`.
    Collection,
    /// Collections as an object of objects: `{"persons":{"1":{…}},"locations":{}}`.
    Document,
    /// A line for each aggregate: `{"key":"1","aggregate":{…}}`.
    Lines,
}

/// The length at which a chunk is handed to the spool, in bytes.
const CHUNK: usize = 64 * 1024;

impl<'a> CollectionWriter<'a> {
    pub(super) fn new(target: StreamTarget, registry: &'a Registry) -> Self {
        Self { target, registry, text: String::new(), written: 0, aggregates: 0 }
    }

    pub(super) fn write(&mut self, part: Part<'_>) -> Result<(), SpoolError> {
        match (self.target.form, part) {
            (Form::Document, Part::Begin { .. }) | (Form::Collection, Part::Collection { .. }) => self.text.push('{'),
            (Form::Document, Part::Collection { id, first }) => {
                self.text.push_str(if first { "" } else { "," });
                push_member(&mut self.text, self.registry.get(id).name(), "{");
            }
            (Form::Lines, Part::Aggregate { key, body, .. }) => {
                let start = self.text.len();
                self.text.push('{');
                push_member(&mut self.text, "key", &serde_json::Value::from(key).to_string());
                self.text.push(',');
                push_member(&mut self.text, "aggregate", body);
                escape_separators(&mut self.text, start);
                self.text.push_str("}\n");
            }
            (_, Part::Aggregate { key, body, first }) => {
                self.text.push_str(if first { "" } else { "," });
                push_member(&mut self.text, key, body);
                self.aggregates += 1;
            }
            (Form::Document, Part::End | Part::CollectionEnd) | (Form::Collection, Part::CollectionEnd) => {
                self.text.push('}');
            }
            _ => {}
        }
        if self.text.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    /// The body is exact at this revision. Fails if nobody waits for it any more.
    pub(super) fn begin(&self, shown: CollectionRevision) -> Result<(), SpoolError> {
        if self.target.spool.begin(shown) { Ok(()) } else { Err(SpoolError::Cut(Cut::Abandoned)) }
    }

    /// Hands over what is left.
    pub(super) fn flush(&mut self) -> Result<(), SpoolError> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.written += self.text.len();
        self.target.spool.push(std::mem::take(&mut self.text).into_bytes())
    }

    /// The length of what was handed over, in bytes.
    pub(super) fn written(&self) -> u64 {
        self.written as u64
    }

    /// Completes the body.
    pub(super) fn finish(self) {
        if let Some(observer) = &self.target.observer {
            observer.observe(self.written, self.aggregates);
        }
        self.target.spool.finish();
    }

    /// The body cannot be completed.
    pub(super) fn cut(self, why: Cut) {
        self.target.spool.cut(why);
    }
}
