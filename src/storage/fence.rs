//! What proves, within a transaction, that the database has the history that this process writes.

use std::sync::Arc;

use super::counters::{self, Counters, Horizon, Sight};
use super::database::{Database, Place};
use super::engine::AnyConnection;
use super::error::StoreError;
#[cfg(feature = "postgres")]
use super::server::identity;
use crate::domain::history::History;
use crate::domain::revision::{Epoch, Revision};

/// Compares the epoch of the database with that in which this process writes. A database with another one was put in its
/// place.
#[derive(Clone)]
pub(super) struct Fence {
    place: Arc<Place>,
    history: Arc<History>,
}

impl Fence {
    /// The writer must have opened the database.
    pub(super) fn of(database: &Database) -> Self {
        Self { place: Arc::clone(database.place()), history: Arc::clone(database.history()) }
    }

    /// The epoch in which this process writes.
    pub(super) fn epoch(&self) -> &Epoch {
        self.history.epoch()
    }

    /// The revisions against which a cursor is compared.
    pub(super) fn horizon(&self, connection: &mut AnyConnection) -> Result<Horizon, StoreError> {
        let sight = match connection {
            AnyConnection::Sqlite(_) => {
                let (epoch, horizon) = counters::horizon_of_epoch(connection)?;
                Sight { epoch: Some(epoch), horizon }
            }
            #[cfg(feature = "postgres")]
            AnyConnection::Postgres(connection) => identity::look(connection)?,
        };
        self.recognize(sight)
    }

    /// What a statement has seen of the record, if it is the one that this process writes.
    fn recognize(&self, Sight { epoch, horizon }: Sight) -> Result<Horizon, StoreError> {
        if epoch.is_some_and(|epoch| epoch == self.epoch().as_str()) {
            return Ok(horizon);
        }
        Err(self.place.report_other_history())
    }

    /// The same, in a transaction that began after this revision was seen. On a server, a record that is behind it was put back.
    pub(super) fn horizon_since(&self, connection: &mut AnyConnection, seen: Revision) -> Result<Horizon, StoreError> {
        let horizon = self.horizon(connection)?;
        self.require_since(horizon, seen)
    }

    /// The same, of what a statement has seen that began after this revision was seen.
    #[cfg(feature = "postgres")]
    pub(super) fn recognize_since(&self, sight: Sight, seen: Revision) -> Result<Horizon, StoreError> {
        let horizon = self.recognize(sight)?;
        self.require_since(horizon, seen)
    }

    fn require_since(&self, horizon: Horizon, seen: Revision) -> Result<Horizon, StoreError> {
        let is_file = matches!(&*self.place, Place::File(_));
        if is_file || horizon.current >= seen { Ok(horizon) } else { Err(self.place.report_other_history()) }
    }

    /// Fails unless the last revision is that of these counters.
    pub(super) fn check(&self, connection: &mut AnyConnection, revision: Revision) -> Result<(), StoreError> {
        if self.horizon(connection)?.current == revision { Ok(()) } else { Err(self.place.report_other_history()) }
    }

    /// Writes the counters of a batch. Fails if the last revision is not that of the counters before it.
    pub(super) fn save(
        &self,
        connection: &mut AnyConnection,
        before: &Counters,
        after: &Counters,
    ) -> Result<(), StoreError> {
        if after.revision == before.revision {
            return self.check(connection, before.revision);
        }
        let saved = counters::save_next_revision(connection, self.epoch(), before.revision, after.revision)?;
        if saved == 1 { Ok(()) } else { Err(self.place.report_other_history()) }
    }
}
