//! Reads of the main database, as long as it is the one that this process has opened.

use std::sync::Arc;

use crate::domain::collection::Registry;
use crate::domain::history::History;
use crate::storage::counters::Horizon;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::reader::{Reader, View};

/// A reader of the main database. What it reads belongs to the current epoch.
pub(crate) struct MainReader {
    reader: Reader,
    database: Arc<Database>,
}

impl MainReader {
    pub(crate) fn open(database: &Arc<Database>, registry: &Arc<Registry>) -> Result<Self, StoreError> {
        let reader = Reader::open(database, Arc::clone(registry))?;
        Ok(Self { reader, database: Arc::clone(database) })
    }

    /// The epochs of the database.
    pub(crate) fn epochs(&self) -> &Arc<History> {
        self.database.history()
    }

    /// Runs several queries in one read transaction. Fails if the database has another history now: its events must not be
    /// applied to the generations of this one.
    pub(crate) fn view<T>(
        &mut self,
        work: impl FnOnce(&mut View<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.view_from(|view, _| work(view))
    }

    /// The same, for work that needs the horizon: what reads that compares the epoch.
    pub(crate) fn view_from<T>(
        &mut self,
        work: impl FnOnce(&mut View<'_>, Horizon) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.reader.view(|view| {
            let horizon = view.horizon()?;
            work(view, horizon)
        })
    }
}
