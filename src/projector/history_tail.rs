//! The last events of the history in memory, for the projections that apply them as soon as they are kept.

use std::collections::VecDeque;
use std::time::Duration;

use super::event_page::PageEvent;
use crate::domain::clock::Timestamp;
use crate::storage::page::PageLimit;

/// How much is in memory: about as much as is written between two steps. Its text is shorter than that of any page.
const LIMIT: PageLimit = PageLimit { items: 5000, bytes: 1024 * 1024 };

/// How long it stays when nothing new comes. Whoever is slower reads the file.
const PATIENCE: Duration = Duration::from_secs(1);

/// All events of the history after a sequence number.
pub(super) struct Tail {
    events: VecDeque<PageEvent>,
    /// The length of their keys, patches and metadata.
    bytes: usize,
    after: i64,
    /// When the last event was added.
    renewed: Timestamp,
}

impl Tail {
    /// Nothing after the last event.
    pub(super) fn new(last: i64, now: Timestamp) -> Self {
        Self { events: VecDeque::new(), bytes: 0, after: last, renewed: now }
    }

    /// Adds the next events. If one says that its aggregate was erased, nothing from before it stays.
    pub(super) fn extend(&mut self, events: Vec<PageEvent>, now: Timestamp) {
        if events.is_empty() {
            return;
        }
        self.renewed = now;
        for event in events {
            if event.is_erasure() {
                self.clear(event.sequence - 1);
            }
            self.bytes += weight(&event);
            self.events.push_back(event);
        }
        while self.events.len() > LIMIT.items || self.bytes > LIMIT.bytes {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.after = oldest.sequence;
        }
    }

    /// The events after a sequence number. `None` if not all of them are in memory.
    pub(super) fn after(&self, sequence: i64) -> Option<impl Iterator<Item = &PageEvent>> {
        let first = self.events.partition_point(|event| event.sequence <= sequence);
        (sequence >= self.after).then(|| self.events.range(first..))
    }

    /// Frees what nobody has asked for in time. `last` is the number of the last event.
    pub(super) fn expire(&mut self, last: i64, now: Timestamp) {
        if !self.events.is_empty() && self.renewed < now.minus(PATIENCE) {
            self.clear(last);
        }
    }

    fn clear(&mut self, after: i64) {
        *self = Self { after, ..Self::new(after, self.renewed) };
    }
}

fn weight(event: &PageEvent) -> usize {
    event.key.as_str().len() + event.patch().len() + event.metadata.as_ref().map_or(0, |text| text.as_str().len())
}
