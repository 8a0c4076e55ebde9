//! Read projections: what happened, turned into something to be read. The traits that a developer implements.
//!
//! A projection is declared once and registered with a [`Service`](crate::Service): *inline*, in the transaction of the
//! command ([`Service::inline`](crate::Service::inline)), or in the *background*
//! ([`Service::background`](crate::Service::background)), with a checkpoint of its own.

use std::fmt;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::sqlite::SqliteConnection;
use serde_json::Value;

use super::report::Report;
use crate::domain::clock::Timestamp;
use crate::domain::collection::{EventSourced, decode_event};
use crate::domain::error_chain::ErrorChain;
use crate::domain::key::Key;

/// A read model that follows from events, one after another.
pub trait Projection: 'static {
    /// Lower-case letters, digits, `_`, `-` and `.`; names its files, and its paths under `/projections/`.
    const NAME: &'static str;

    /// The number of the rule below: raise it when the rule or the shape of what it makes changes, and all is built anew.
    const VERSION: i64 = 1;

    /// Which events it is given.
    const FEED: Feed = Feed::Journal;

    /// The collections whose events it is given.
    const COLLECTIONS: &'static [&'static str];

    /// What it makes: [`Tables`], or a file ([`CsvFile`](crate::CsvFile)).
    type Sink: Sink;

    /// For tables the SQL that creates them, for a file its header.
    const SETUP: <Self::Sink as Sink>::Setup;

    /// Takes the next event. What it writes is there together with the checkpoint, or not at all.
    ///
    /// # Errors
    /// It cannot. Inline, the command is refused; in the background, the projection stays where it is and tries again.
    fn apply(sink: &mut Self::Sink, event: &Event<'_>) -> Result<(), ProjectionError>;

    /// What can be read of it over HTTP.
    #[must_use]
    fn reports() -> Vec<Report> {
        Vec::new()
    }
}

/// Which events a projection is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// The domain events of event-sourced collections, by their positions. Never pruned.
    Journal,
    /// The change events of any collections, by their revisions. The service prunes them; a projection in the background
    /// keeps those that it was given, to be built anew from.
    Changes,
}

/// Tables of SQLite: a connection of [Diesel](https://diesel.rs), in the transaction that also holds the checkpoint.
pub type Tables = SqliteConnection;

/// What a projection writes into: [`Tables`] or a [`CsvFile`](crate::CsvFile).
///
/// Implemented here only; the hidden methods are for the service.
pub trait Sink: Sized + Send + sealed::Sealed + 'static {
    /// Whether there is a file beside the database.
    #[doc(hidden)]
    const IS_FILE: bool;

    /// What a new one is made with.
    type Setup: Copy + Send + Sync;

    /// Takes the connection to the database of a generation; the file beside it is `file`, `length` bytes of which count.
    #[doc(hidden)]
    fn open(connection: SqliteConnection, file: &Path, length: u64) -> Result<Self, ProjectionError>;

    /// The database in whose transactions it takes part.
    #[doc(hidden)]
    fn connection(&mut self) -> &mut SqliteConnection;

    /// Makes what a new one consists of.
    #[doc(hidden)]
    fn set_up(&mut self, setup: Self::Setup) -> Result<(), ProjectionError>;

    /// Writes durably what belongs to no database; gives the length of the file.
    #[doc(hidden)]
    fn write_out(&mut self) -> Result<u64, ProjectionError>;

    /// Forgets what was not checkpointed: so many bytes of the file count.
    #[doc(hidden)]
    fn discard(&mut self, length: u64);
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::SqliteConnection {}
    impl Sealed for crate::read_model::csv_file::CsvFile {}
}

impl Sink for SqliteConnection {
    const IS_FILE: bool = false;

    type Setup = &'static str;

    fn open(connection: SqliteConnection, _: &Path, _: u64) -> Result<Self, ProjectionError> {
        Ok(connection)
    }

    fn connection(&mut self) -> &mut SqliteConnection {
        self
    }

    fn set_up(&mut self, sql: &'static str) -> Result<(), ProjectionError> {
        Ok(self.batch_execute(sql)?)
    }

    fn write_out(&mut self) -> Result<u64, ProjectionError> {
        Ok(0)
    }

    fn discard(&mut self, _: u64) {}
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Its place: a position of the journal, or a revision.
    pub at: i64,
    /// When it was written. Of an aggregate that was there before the first event that was kept, when that was noticed.
    pub time: Timestamp,
    /// The name of the collection.
    pub collection: &'a str,
    /// The key of the aggregate.
    pub key: &'a Key,
    pub(crate) what: What<'a>,
}

/// One of the two forms of an event.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What<'a> {
    Domain { version: i64, kind: &'a str, schema: i64, fields: &'a str },
    Change { patch: &'a str },
}

impl Event<'_> {
    /// The typed domain event, in the shape of today; `None` if it is of another collection, or a change event.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn domain<T: EventSourced>(&self) -> Result<Option<T::Event>, ProjectionError> {
        match self.what {
            What::Domain { kind, schema, fields, .. } if self.collection == T::NAME => {
                let event = decode_event::<T>(kind, schema, fields);
                event.map(Some).map_err(|corrupt| ProjectionError(format!("{kind:?} cannot be read: {corrupt}")))
            }
            _ => Ok(None),
        }
    }

    /// The number of events of the aggregate with this one; `None` for a change event.
    #[must_use]
    pub fn version(&self) -> Option<i64> {
        match self.what {
            What::Domain { version, .. } => Some(version),
            What::Change { .. } => None,
        }
    }

    /// The merge patch of a change event, from the aggregate before to the aggregate after; `null` for a deletion. `None`
    /// for a domain event.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn patch(&self) -> Result<Option<Value>, ProjectionError> {
        match self.what {
            What::Change { patch } => Ok(Some(serde_json::from_str(patch)?)),
            What::Domain { .. } => Ok(None),
        }
    }
}

/// Why a projection cannot take an event. Anything that is an error becomes one with `?`.
#[derive(Debug, Clone)]
pub struct ProjectionError(pub(crate) String);

impl ProjectionError {
    /// Says why, for those who operate the service.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for ProjectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for ProjectionError {
    fn from(error: E) -> Self {
        Self(ErrorChain(&error).to_string())
    }
}
