//! The paths of a collection, which follow from its registration.

use std::fmt;

use crate::domain::collection::{Collection, Keys};

/// The paths of one collection, such as `/persons` and `/person-events`. Displayed, they are a line for the log.
pub(crate) struct CollectionPaths<'a>(pub(crate) &'a dyn Collection);

impl CollectionPaths<'_> {
    /// All its aggregates: `/persons`.
    pub(super) fn state(&self) -> String {
        format!("/{}", self.0.name())
    }

    /// Its feed: `/person-events`.
    pub(super) fn feed(&self) -> String {
        format!("/{}-events", self.0.singular())
    }

    /// The same feed, under a path that follows from the name of the collection: `/events/persons`.
    pub(super) fn feed_by_name(&self) -> String {
        format!("/events/{}", self.0.name())
    }

    /// One aggregate: `/persons/{key}`.
    pub(super) fn aggregate(&self) -> String {
        format!("/{}/{{key}}", self.0.name())
    }

    /// The feed of one aggregate.
    pub(super) fn aggregate_feed(&self) -> String {
        format!("{}/events", self.aggregate())
    }

    /// The domain events of one event-sourced aggregate.
    pub(super) fn aggregate_journal(&self) -> String {
        format!("{}/journal", self.aggregate())
    }

    /// The domain events of all aggregates of an event-sourced collection.
    pub(super) fn journal(&self) -> String {
        format!("/journal?collection={}", self.0.name())
    }

    /// A command for an existing aggregate: `/carts/{key}/add-item`, or `/carts/{key}/{command}` for any.
    pub(super) fn command(&self, name: &str) -> String {
        format!("{}/{name}", self.aggregate())
    }

    /// The names of the commands for an existing aggregate; none for a collection that is not event-sourced.
    pub(super) fn commands(&self) -> &[String] {
        self.0.journaled().map_or(&[], |journaled| journaled.commands())
    }

    /// Whether `POST` creates an aggregate. Otherwise, clients choose the keys or cannot write.
    pub(super) fn can_create(&self) -> bool {
        self.0.derivation().is_none() && self.0.keys() != Keys::Text
    }
}

impl fmt::Display for CollectionPaths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: state {}, feeds {} and {}", self.0.name(), self.state(), self.feed(), self.feed_by_name())?;
        if let Some(derivation) = self.0.derivation() {
            return write!(f, ", derived from {}", derivation.source());
        }
        match self.commands() {
            [] if self.0.journaled().is_none() => write!(f, ", write {}", self.aggregate()),
            [] => Ok(()),
            commands => write!(f, ", commands {} ({})", self.command("{command}"), commands.join(", ")),
        }
    }
}
