//! The change events of consecutive revisions, encoded once for each feed that has a subscriber.

use std::sync::{Arc, OnceLock};

use super::sse::Frames;
use crate::domain::collection::Registry;
use crate::domain::feed::Feed;
use crate::domain::revision::{Epoch, Revision};
use crate::storage::outbox::Change;

/// Change events on their way to the hubs, shared by all of them.
pub(crate) struct Batch {
    /// The revision before the first one of this batch.
    pub(crate) from: Revision,
    /// The last revision of this batch.
    pub(crate) to: Revision,
    changes: Vec<Change>,
    epoch: Epoch,
    registry: Arc<Registry>,
    /// The whole document first, then each collection: the feeds with the most subscribers.
    frames: Vec<OnceLock<Arc<Frames>>>,
}

impl Batch {
    pub(crate) fn new(
        from: Revision,
        to: Revision,
        changes: Vec<Change>,
        epoch: Epoch,
        registry: Arc<Registry>,
    ) -> Self {
        let frames = std::iter::once(OnceLock::new()).chain(registry.ids().map(|_| OnceLock::new())).collect();
        Self { from, to, changes, epoch, registry, frames }
    }

    /// The events of a feed. Those of the document and of a whole collection are encoded by the first caller and shared.
    pub(crate) fn frames(&self, feed: &Feed) -> Arc<Frames> {
        let encode = || Arc::new(Frames::encode(feed, &self.registry, &self.epoch, &self.changes));
        match feed {
            Feed::Everything(None) => Arc::clone(self.frames[0].get_or_init(encode)),
            Feed::Collection(id, None) => Arc::clone(self.frames[1 + id.index()].get_or_init(encode)),
            _ => encode(),
        }
    }

    /// The events of a feed, all of whose changes are among these, in their order.
    pub(crate) fn frames_of(&self, feed: &Feed, changes: &[&Change]) -> Frames {
        Frames::encode(feed, &self.registry, &self.epoch, changes)
    }

    /// All changes, in order.
    pub(crate) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// An estimate of the memory that the batch takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        self.changes.iter().map(Change::weight).sum()
    }
}
