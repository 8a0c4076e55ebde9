//! A consumer: it has a cursor and a state, and applies what a stream sends.
//!
//! Consumers change nothing, so one stands for any number of them.

use crate::node::Known;
use crate::record::{Record, Request};
use crate::remedies::{Remedies, Remedy};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Consumer {
    /// The cursor: "I have everything of this epoch up to this revision".
    pub(crate) epoch: u8,
    pub(crate) revision: u8,
    /// What it has applied, in order.
    pub(crate) state: Vec<Request>,
    /// The epoch of the node that it follows, while it is connected. The ids of the stream name it.
    pub(crate) stream: Option<u8>,
}

impl Consumer {
    pub(crate) fn new() -> Self {
        Self { epoch: 1, revision: 0, state: Vec::new(), stream: None }
    }

    /// Whether the record has the history that the cursor names.
    pub(crate) fn is_within(&self, record: &Record) -> bool {
        record.end_of(self.epoch).is_some_and(|end| self.revision <= end)
    }

    /// Connects with its cursor: a good one goes on, any other starts from nothing.
    pub(crate) fn connect(&mut self, record: &Record) {
        if !self.is_within(record) {
            self.state = record.outbox().map(|entry| entry.request).collect();
            self.revision = record.revision;
            self.epoch = record.epoch();
        }
        self.stream = Some(record.epoch());
    }

    /// The node reads the record in one snapshot, and sends the next revision; or ends the stream, if the record is of
    /// another epoch or behind what was sent.
    pub(crate) fn follow(&mut self, record: &Record, remedies: Remedies) {
        let Some(stream) = self.stream else { return };
        let is_other = record.epoch() != stream && remedies.have(Remedy::StreamsCompareEpochs);
        if is_other || record.revision < self.revision {
            self.stream = None;
        } else if let Some(entry) = record.outbox().nth(usize::from(self.revision)) {
            self.apply(stream, entry.request);
        }
    }

    /// The node sends what it has just committed, without reading it.
    pub(crate) fn hear(&mut self, committed: &Known, remedies: Remedies) {
        let (Some(stream), Some(request)) = (self.stream, committed.own) else { return };
        let is_same = committed.epoch == stream || !remedies.have(Remedy::StreamsCompareEpochs);
        if is_same && committed.revision == self.revision + 1 {
            self.apply(stream, request);
        }
    }

    fn apply(&mut self, epoch: u8, request: Request) {
        self.epoch = epoch;
        self.revision += 1;
        self.state.push(request);
    }
}
