//! Read projections: events, turned into tables or files to read. The trait that a developer implements.
//!
//! A projection is declared once and registered with a [`Service`](crate::Service): *inline*, in the transaction of the
//! command ([`Service::inline`](crate::Service::inline)), or in the *background*
//! ([`Service::background`](crate::Service::background)), with its own checkpoint.

use serde_json::Value;

use super::error::ProjectionError;
use super::report::Report;
use super::sink::Sink;
use crate::domain::clock::Timestamp;
use crate::domain::collection::{EventSourced, decode_event};
use crate::domain::key::Key;
use crate::domain::metadata::{Metadata, StoredMetadata};

/// A read model that is derived from events, one after another.
pub trait Projection: 'static {
    /// Lower-case letters, digits, `_`, `-` and `.`. It is part of its file names, and of its paths under `/projections/`.
    const NAME: &'static str;

    /// The version of [`apply`](Self::apply) and [`SETUP`](Self::SETUP). Raise it when one of them changes; then the
    /// projection is rebuilt.
    const VERSION: i64 = 1;

    /// Which kind of events it receives.
    const FEED: Feed = Feed::Journal;

    /// Whether the service keeps all change events of [`COLLECTIONS`](Self::COLLECTIONS) permanently, so that a rebuild
    /// applies every past event. Only for [`Feed::Changes`] in the background.
    ///
    /// By default, a rebuild starts from the current aggregates. Declare this if the result depends on past states, for
    /// example on how often something changed. The events contain what was in the aggregates then: a person's former name
    /// or a deleted person stays in a file until that file is removed. So use it only for collections without personal
    /// data, or if there is a reason to keep that data.
    const KEEPS_HISTORY: bool = false;

    /// The collections whose events it receives.
    const COLLECTIONS: &'static [&'static str];

    /// What it writes into: [`Tables`](crate::Tables), or a file ([`CsvFile`](crate::CsvFile)).
    type Sink: Sink;

    /// The SQL that creates the tables, or the header of the file.
    const SETUP: <Self::Sink as Sink>::Setup;

    /// Applies the next event. Its writes and the checkpoint are one transaction.
    ///
    /// # Errors
    /// The event cannot be applied. Inline, the command is rejected; in the background, the projection stops at the event
    /// and retries.
    fn apply(sink: &mut Self::Sink, event: &Event<'_>) -> Result<(), ProjectionError>;

    /// Applies several events at once, in their order, in one transaction. In the background only.
    ///
    /// By default, they are [applied](Self::apply) one by one. Implement it where that is too slow: a statement that inserts many
    /// rows takes less time than one for each. It has to come to the same. If it fails, all that it has done is undone, and
    /// the events are applied one by one, so that the projection stops at the one that cannot be applied.
    ///
    /// # Errors
    /// One of the events cannot be applied.
    fn apply_many(sink: &mut Self::Sink, events: &[Event<'_>]) -> Result<Many, ProjectionError> {
        let _ = (sink, events);
        Ok(Many::OneByOne)
    }

    /// Removes everything about an aggregate that was erased. The event has its key; it is neither a domain event nor a change
    /// event, and [`apply`](Self::apply) does not get it.
    ///
    /// By default, the projection is rebuilt: from the events of all other aggregates, into other files. That is always right.
    /// Where it takes too long, or keeps commands waiting (inline), delete the rows of the aggregate, and what was counted of
    /// it. The service overwrites what was deleted. A projection that was behind, or is being rebuilt, gets the event as well,
    /// perhaps without any event of the aggregate before it.
    ///
    /// # Errors
    /// The aggregate cannot be removed. Inline, the projection is rebuilt; in the background, it stops at the event and
    /// retries.
    fn erase(sink: &mut Self::Sink, event: &Event<'_>) -> Result<Erased, ProjectionError> {
        let _ = (sink, event);
        Ok(Erased::Rebuild)
    }

    /// The queries that `GET /reports/{name}` answers.
    #[must_use]
    fn reports() -> Vec<Report> {
        Vec::new()
    }
}

/// What [`Projection::apply_many`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Many {
    /// All events are applied.
    Applied,
    /// None is: they are to be applied one by one.
    OneByOne,
}

/// What [`Projection::erase`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erased {
    /// The projection has nothing about the aggregate any more.
    Removed,
    /// It cannot tell what it has of the aggregate: it is rebuilt.
    Rebuild,
}

/// Which kind of events a projection receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// The domain events of event-sourced collections, in the order of their positions. They are never pruned.
    Journal,
    /// The change events of any collections, in the order of their revisions. The service prunes them, so a rebuild starts
    /// from the aggregates, each as a patch that creates it; see [`Projection::KEEPS_HISTORY`].
    Changes,
}

/// An event of one aggregate.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// A position of the journal, or a revision. For an aggregate from which a projection starts, the revision of its last
    /// change (with [`Projection::KEEPS_HISTORY`], the last revision that was pruned).
    pub at: i64,
    /// When it was written. For an aggregate from which a projection starts, the time of that start.
    pub time: Timestamp,
    /// The name of the collection.
    pub collection: &'a str,
    /// The key of the aggregate.
    pub key: &'a Key,
    pub(crate) metadata: Option<&'a StoredMetadata>,
    pub(crate) what: What<'a>,
}

/// One of the two forms of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    Domain {
        version: i64,
        kind: &'a str,
        schema: i64,
        fields: &'a str,
    },
    Change {
        patch: &'a str,
    },
    /// For [`Projection::erase`] only.
    Erased,
}

impl Event<'_> {
    /// The typed domain event, in its current shape; `None` if it is from another collection, or a change event.
    ///
    /// # Errors
    /// The event cannot be decoded.
    pub fn domain<T: EventSourced>(&self) -> Result<Option<T::Event>, ProjectionError> {
        match self.what {
            What::Domain { kind, schema, fields, .. } if self.collection == T::NAME => {
                let event = decode_event::<T>(kind, schema, fields);
                event.map(Some).map_err(|corrupt| ProjectionError(format!("{kind:?} cannot be read: {corrupt}")))
            }
            _ => Ok(None),
        }
    }

    /// The number of the event within its aggregate, from 1; `None` for a change event.
    #[must_use]
    pub fn version(&self) -> Option<i64> {
        match self.what {
            What::Domain { version, .. } => Some(version),
            What::Change { .. } | What::Erased => None,
        }
    }

    /// Who caused the event, and why. `None` for what was written by an earlier version of the service, for a change of a
    /// derived collection, whose source has it, and for an aggregate from which a projection starts.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub fn metadata(&self) -> Result<Option<Metadata>, ProjectionError> {
        Ok(self.metadata.map(StoredMetadata::parts).transpose()?)
    }

    /// The merge patch of a change event, from the aggregate before to the aggregate after; `null` for a deletion. `None`
    /// for a domain event.
    ///
    /// # Errors
    /// The patch is not JSON.
    pub fn patch(&self) -> Result<Option<Value>, ProjectionError> {
        match self.what {
            What::Change { patch } => Ok(Some(serde_json::from_str(patch)?)),
            What::Domain { .. } | What::Erased => Ok(None),
        }
    }
}
