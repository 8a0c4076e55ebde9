//! The database of this process: a file that is locked, or one on a server that others may use as well.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::connection::IfMissing;
use super::database_file::{DatabaseFile, MainConnection};
use super::error::StoreError;
use super::health::Health;
use super::location::is_url;
pub(crate) use super::lock_file::with_suffix;
use super::locked_file::LockedFile;
use super::page_caches::PageCaches;
#[cfg(feature = "postgres")]
use super::server::Server;
use crate::domain::history::History;
use crate::domain::revision::{Epoch, HighWaterMark, Revision};

/// The database of this process.
pub(crate) struct Database {
    place: Arc<Place>,
    /// The last revision that any reader has seen.
    high_water_mark: HighWaterMark,
    /// The epochs, from when the writer has opened the database.
    history: OnceLock<Arc<History>>,
    health: Arc<Health>,
    last_life: Option<LastLife>,
}

/// What this process knows of a record on a server from a life of the service that has ended.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only a record on a server can move"))]
pub(crate) struct LastLife {
    /// The epoch in which it wrote.
    pub(crate) epoch: Epoch,
    /// The last revision that it has shown or answered.
    pub(crate) revision: Revision,
}

/// Where the tables are.
pub(super) enum Place {
    /// In a file that nobody else writes.
    File(LockedFile),
    /// On a server. Other services may write them at any time.
    #[cfg(feature = "postgres")]
    Server(Server),
}

/// Who else may write a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Nobody: this process has locked it.
    ThisProcess,
    /// Other services, at any time.
    Many,
}

impl Database {
    /// Locks the file at `path`, which need not exist yet. `:memory:` is a private file that is removed at exit. A URL that
    /// begins with `postgres://` is a database on a server, to which this connects when it is needed.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_beside(path, Path::new(FILES))
    }

    /// The same, with the name with which the files of this process begin if the database is on a server.
    pub(crate) fn open_beside(
        path: &Path,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "there are no servers then"))]
        files: &Path,
    ) -> Result<Self, StoreError> {
        let health = Arc::new(Health::default());
        let place = match path.to_str().filter(|path| is_url(path)) {
            None => Place::File(LockedFile::lock(path, &health)?),
            #[cfg(feature = "postgres")]
            Some(url) => Place::Server(Server::new(url, files, &health)?),
            #[cfg(not(feature = "postgres"))]
            Some(_) => return Err(StoreError::NoPostgres),
        };
        let (high_water_mark, history) = (HighWaterMark::default(), OnceLock::new());
        Ok(Self { place: Arc::new(place), high_water_mark, history, health, last_life: None })
    }

    /// The same, for a process that goes on with a record that it had before. It then makes no tables: those that are not
    /// there are being restored.
    pub(crate) fn after(self, last_life: Option<LastLife>) -> Self {
        Self { last_life, ..self }
    }

    pub(super) fn last_life(&self) -> Option<&LastLife> {
        self.last_life.as_ref()
    }

    /// Leaves the address of the service in the lock file, for the error of a second process.
    pub(crate) fn record_address(&self, address: SocketAddr) {
        match &*self.place {
            Place::File(file) => file.record_address(address),
            #[cfg(feature = "postgres")]
            Place::Server(server) => server.record_address(address),
        }
    }

    /// The database file; for a database on a server, the name with which the other files of this process begin.
    pub(crate) fn path(&self) -> &Path {
        match &*self.place {
            Place::File(file) => file.path(),
            #[cfg(feature = "postgres")]
            Place::Server(server) => server.files(),
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> PathBuf {
        self.place.name()
    }

    /// Who may write it.
    pub(crate) fn writers(&self) -> Writers {
        match &*self.place {
            Place::File(_) => Writers::ThisProcess,
            #[cfg(feature = "postgres")]
            Place::Server(_) => Writers::Many,
        }
    }

    /// The directory of the file. Its disk is the place for large temporary files, too.
    pub(crate) fn directory(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new("/"))
    }

    /// Whether the file is in a temporary directory of this process.
    pub(crate) fn is_private(&self) -> bool {
        match &*self.place {
            Place::File(file) => file.is_private(),
            #[cfg(feature = "postgres")]
            Place::Server(_) => false,
        }
    }

    pub(crate) fn high_water_mark(&self) -> &HighWaterMark {
        &self.high_water_mark
    }

    /// The epochs of the database.
    ///
    /// # Panics
    /// No writer has opened the database.
    pub(crate) fn history(&self) -> &Arc<History> {
        self.history.get().expect("the writer is opened before everything else")
    }

    /// Sets the epochs of the database, once.
    pub(super) fn set_history(&self, history: History) -> &Arc<History> {
        self.history.get_or_init(|| Arc::new(history))
    }

    /// Limits the memory for pages of each connection that is opened from now on. It can be called once.
    pub(crate) fn limit_caches(&self, caches: PageCaches) {
        if let Some(file) = self.file() {
            file.limit_caches(caches);
        }
    }

    /// What works, and what does not.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Where the tables are.
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The file, and whether it is still the one that was opened; `None` for a database on a server.
    pub(super) fn file(&self) -> Option<&Arc<DatabaseFile>> {
        match &*self.place {
            Place::File(file) => Some(file.file()),
            #[cfg(feature = "postgres")]
            Place::Server(_) => None,
        }
    }

    /// Opens a connection that only reads.
    pub(super) fn open_for_reading(&self) -> Result<MainConnection, StoreError> {
        match &*self.place {
            Place::File(file) => file.file().open_for_reading(),
            #[cfg(feature = "postgres")]
            Place::Server(server) => server.open_for_reading(),
        }
    }

    /// Opens the connection of the only writer of this process.
    pub(super) fn open_for_writing(&self, if_missing: IfMissing) -> Result<MainConnection, StoreError> {
        match &*self.place {
            Place::File(file) => file.file().open_for_writing(if_missing),
            #[cfg(feature = "postgres")]
            Place::Server(server) => server.open_for_writing(),
        }
    }

    /// Looks whether the file and its log are still those that were opened. If not, nothing succeeds from then on. A server
    /// is asked in each transaction instead.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn examine(&self) -> Result<(), StoreError> {
        self.file().map_or(Ok(()), |file| file.examine())
    }

    /// Whether another process may have begun a log without a tag. The writer can correct that.
    pub(crate) fn is_log_untagged(&self) -> bool {
        self.file().is_some_and(|file| file.is_untagged())
    }

    /// The error of a read, which can be tried again if the database is on a server.
    pub(crate) fn unavailable(&self, error: StoreError) -> StoreError {
        let is_lasting = !error.is_of_file() || matches!(error, StoreError::Replaced { .. });
        match self.writers() {
            Writers::Many if !is_lasting => StoreError::Unavailable(Box::new(error)),
            Writers::Many | Writers::ThisProcess => error,
        }
    }

    /// The error of everything that is asked of a database that is not the one that was opened.
    pub(crate) fn replaced(&self) -> StoreError {
        StoreError::Replaced { path: self.name() }
    }

    /// Unlocks the file for another process, or for a later service of this one, as soon as the last connection is closed,
    /// and removes a private database.
    pub(crate) fn release(&self) {
        match &*self.place {
            Place::File(file) => file.release(),
            #[cfg(feature = "postgres")]
            Place::Server(server) => server.release(),
        }
    }
}

impl Place {
    pub(super) fn name(&self) -> PathBuf {
        match self {
            Self::File(file) => file.path().to_owned(),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.name(),
        }
    }

    /// From now on nothing succeeds: the database has another epoch or revision than the one that this process writes.
    pub(super) fn report_other_history(&self) -> StoreError {
        match self {
            Self::File(file) => file.file().report_other_history(),
            #[cfg(feature = "postgres")]
            Self::Server(server) => server.report_other_history(),
        }
    }
}

/// The name with which the files of a service begin whose database is on a server.
pub(crate) const FILES: &str = "duality-node";
