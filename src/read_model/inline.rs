//! The erased form of a projection that is kept in the transactions of the commands. Only tables can be: a file cannot join a
//! transaction.

use std::marker::PhantomData;

use diesel::sqlite::SqliteConnection;

use super::projection::{Event, Feed, Projection, ProjectionError};

use super::report::Report;

/// A projection of tables, its type erased.
pub(crate) trait Inline: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> i64;

    /// The SQL that creates its tables.
    fn setup(&self) -> &'static str;

    fn feed(&self) -> Feed;

    fn collections(&self) -> &'static [&'static str];

    fn reports(&self) -> Vec<Report>;

    fn apply(&self, connection: &mut SqliteConnection, event: &Event<'_>) -> Result<(), ProjectionError>;

    fn concerns(&self, collection: &str) -> bool {
        self.collections().contains(&collection)
    }
}

/// The erased form of a [`Projection`] of tables.
pub(crate) struct InTransaction<P>(PhantomData<fn() -> P>);

impl<P> InTransaction<P> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P: Projection<Sink = SqliteConnection>> Inline for InTransaction<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> i64 {
        P::VERSION
    }

    fn setup(&self) -> &'static str {
        P::SETUP
    }

    fn feed(&self) -> Feed {
        P::FEED
    }

    fn collections(&self) -> &'static [&'static str] {
        P::COLLECTIONS
    }

    fn reports(&self) -> Vec<Report> {
        P::reports()
    }

    fn apply(&self, connection: &mut SqliteConnection, event: &Event<'_>) -> Result<(), ProjectionError> {
        P::apply(connection, event)
    }
}
