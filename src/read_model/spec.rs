//! A projection as a value: what the service needs of a [`Projection`], without its type.

use super::error::ProjectionError;
use super::projection::{Erased, Event, Feed, Many, Projection};
use super::report::Report;
use super::sink::{Sink as _, SinkMut, SinkSetup};

/// A registered projection.
pub(crate) struct ProjectionSpec {
    pub(crate) name: &'static str,
    pub(crate) version: i64,
    pub(crate) feed: Feed,
    pub(crate) collections: &'static [&'static str],
    keeps_history: bool,
    /// The kind of its sink, and what a new one is created with.
    pub(crate) setup: SinkSetup,
    pub(crate) reports: Vec<Report>,
    apply: fn(SinkMut<'_>, &Event<'_>) -> Result<(), ProjectionError>,
    apply_many: fn(SinkMut<'_>, &[Event<'_>]) -> Result<Many, ProjectionError>,
    erase: fn(SinkMut<'_>, &Event<'_>) -> Result<Erased, ProjectionError>,
}

impl ProjectionSpec {
    pub(crate) fn of<P: Projection>() -> Self {
        Self {
            name: P::NAME,
            version: P::VERSION,
            feed: P::FEED,
            collections: P::COLLECTIONS,
            keeps_history: P::KEEPS_HISTORY,
            setup: P::Sink::erase(P::SETUP),
            reports: P::reports(),
            apply: apply::<P>,
            apply_many: apply_many::<P>,
            erase: erase::<P>,
        }
    }

    /// Applies an event to a sink that was created from [`setup`](Self::setup).
    pub(crate) fn apply(&self, sink: SinkMut<'_>, event: &Event<'_>) -> Result<(), ProjectionError> {
        (self.apply)(sink, event)
    }

    /// Applies several events at once, if the projection can do that.
    pub(crate) fn apply_many(&self, sink: SinkMut<'_>, events: &[Event<'_>]) -> Result<Many, ProjectionError> {
        (self.apply_many)(sink, events)
    }

    /// Removes an erased aggregate from a sink that was created from [`setup`](Self::setup).
    pub(crate) fn erase(&self, sink: SinkMut<'_>, event: &Event<'_>) -> Result<Erased, ProjectionError> {
        (self.erase)(sink, event)
    }

    /// Whether it receives the events of a collection.
    pub(crate) fn reads(&self, collection: &str) -> bool {
        self.collections.contains(&collection)
    }

    /// Whether it is rebuilt from all change events of its collections; see [`Projection::KEEPS_HISTORY`].
    pub(crate) fn has_history(&self) -> bool {
        self.feed == Feed::Changes && self.keeps_history
    }

    /// Whether it produces a file, which is a report with the name of the projection.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.setup, SinkSetup::Csv { .. })
    }
}

fn apply<P: Projection>(sink: SinkMut<'_>, event: &Event<'_>) -> Result<(), ProjectionError> {
    let sink = P::Sink::downcast(sink).expect("the sink was created from the setup of this projection");
    P::apply(sink, event)
}

fn apply_many<P: Projection>(sink: SinkMut<'_>, events: &[Event<'_>]) -> Result<Many, ProjectionError> {
    let sink = P::Sink::downcast(sink).expect("the sink was created from the setup of this projection");
    P::apply_many(sink, events)
}

fn erase<P: Projection>(sink: SinkMut<'_>, event: &Event<'_>) -> Result<Erased, ProjectionError> {
    let sink = P::Sink::downcast(sink).expect("the sink was created from the setup of this projection");
    P::erase(sink, event)
}
