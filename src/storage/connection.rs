//! The database file: where it is, who may use it, and how its connections are set up.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use diesel::connection::SimpleConnection as _;
use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tempfile::TempDir;

use super::error::StoreError;
use crate::domain::revision::HighWaterMark;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

/// What would end or change the path in a URI.
const NOT_IN_A_PATH: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// The database file of this process; nobody else opens it while this lives.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    /// Locked exclusively. A file of its own: opening and closing the database file itself would drop SQLite's locks.
    lock: File,
    /// What its readers were shown.
    high_water_mark: HighWaterMark,
    /// The directory of a private database.
    private: Mutex<Option<TempDir>>,
}

/// Whether a file that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Create,
    Existing,
}

impl Database {
    /// Takes the file at `path`, to be created if it is not there; `:memory:` is a private file that goes at exit.
    pub(crate) fn lock(path: &Path) -> Result<Self, StoreError> {
        if path != Path::new(":memory:") {
            return Self::lock_file(resolved(path)?, None);
        }
        let directory = tempfile::Builder::new()
            .prefix("duality-")
            .tempdir()
            .map_err(|error| StoreError::Open(format!("cannot make a temporary directory: {error}")))?;
        Self::lock_file(directory.path().join("duality.db"), Some(directory))
    }

    fn lock_file(path: PathBuf, private: Option<TempDir>) -> Result<Self, StoreError> {
        let cannot = |why: &dyn std::fmt::Display| StoreError::Open(format!("cannot open {}: {why}", path.display()));
        if path.to_str().is_none() {
            return Err(cannot(&"its name is not UTF-8"));
        }
        let mut beside = path.clone().into_os_string();
        beside.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&beside)
            .map_err(|error| cannot(&error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock, high_water_mark: HighWaterMark::default(), private: Mutex::new(private) }),
            Err(TryLockError::WouldBlock) => Err(cannot(&"another process uses it")),
            Err(TryLockError::Error(error)) => Err(cannot(&error)),
        }
    }

    /// The directory of the file: on a disk that has room for what the database has room for.
    pub(crate) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Notes where the service can be asked, for command lines that find the database in use.
    pub(crate) fn record_address(&self, address: SocketAddr) {
        use std::io::{Seek as _, Write as _};
        let mut lock = &self.lock;
        let noted = lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{address}"));
        if let Err(error) = noted {
            log::warn!("the address is not noted beside {}: {error}", self.path.display());
        }
    }

    /// Where the service that uses a database can be asked.
    pub(crate) fn running_service_address(path: &Path) -> Option<SocketAddr> {
        let mut beside = resolved(path).ok()?.into_os_string();
        beside.push(".lock");
        std::fs::read_to_string(beside).ok()?.trim().parse().ok()
    }

    /// Lets another process, or a later service of this one, have the file; a private one goes. Readers may still be
    /// closing.
    pub(crate) fn release(&self) {
        let private = self.private.lock().expect("nobody panics while taking a directory").take();
        if let Some(Err(error)) = private.map(TempDir::close) {
            log::warn!("the private database was not removed: {error}");
        }
        // Nobody is to be asked any more.
        drop(self.lock.set_len(0));
        if let Err(error) = self.lock.unlock() {
            log::warn!("{} stays locked until this process ends: {error}", self.path.display());
        }
    }

    pub(crate) fn high_water_mark(&self) -> &HighWaterMark {
        &self.high_water_mark
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The connection of the only writer.
    pub(super) fn connect_for_writing(&self, mode: Mode) -> Result<SqliteConnection, StoreError> {
        // FULL: a commit that was answered survives a power cut. The page cache is of the only writer: 64 MiB at most.
        let pragmas = [
            "PRAGMA busy_timeout = 5000",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA foreign_keys = ON",
            "PRAGMA journal_size_limit = 67108864",
            "PRAGMA cache_size = -65536",
        ];
        self.connect(if mode == Mode::Create { "rwc" } else { "rw" }, &pragmas)
    }

    pub(super) fn connect_for_reading(&self) -> Result<SqliteConnection, StoreError> {
        self.connect("ro", &["PRAGMA busy_timeout = 5000"])
    }

    fn connect(&self, mode: &str, pragmas: &[&str]) -> Result<SqliteConnection, StoreError> {
        connect(&self.path, mode, pragmas)
    }
}

fn connect(file: &Path, mode: &str, pragmas: &[&str]) -> Result<SqliteConnection, StoreError> {
    let cannot = |why: String| StoreError::Open(format!("cannot open {}: {why}", file.display()));
    let path = utf8_percent_encode(file.to_str().unwrap_or_default(), NOT_IN_A_PATH).to_string();
    let mut connection =
        SqliteConnection::establish(&format!("file:{path}?mode={mode}")).map_err(|error| cannot(error.to_string()))?;
    for pragma in pragmas {
        connection.batch_execute(pragma).map_err(|error| cannot(error.to_string()))?;
    }
    Ok(connection)
}

/// A connection to a database beside the main one, which has one writer as well; it is made if it is not there.
///
/// NORMAL: a power cut may take the last transactions, whole ones; what they took comes again from the main database. So
/// that nothing beside it costs the writer of that one its turn at the disk.
pub(crate) fn open_sidecar(path: &Path) -> Result<SqliteConnection, StoreError> {
    let pragmas = [
        "PRAGMA busy_timeout = 5000",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = NORMAL",
        // Deleted rows are overwritten with zeros, because they may contain personal data.
        "PRAGMA secure_delete = ON",
    ];
    connect(path, "rwc", &pragmas)
}

/// A read-only connection to the main database or one beside it.
pub(crate) fn open_read_only(path: &Path) -> Result<SqliteConnection, StoreError> {
    connect(path, "ro", &["PRAGMA busy_timeout = 5000"])
}

/// A read-only connection to a database that this process does not hold, and that has the tables of this program.
pub(super) fn open_foreign(path: &Path) -> Result<SqliteConnection, StoreError> {
    let mut connection = connect(&resolved(path)?, "ro", &["PRAGMA busy_timeout = 5000"])?;
    let other = |why: &dyn std::fmt::Display| {
        StoreError::Open(format!(
            "its tables are not those of this version of the program ({why}): start the service once"
        ))
    };
    // It would make its table of migrations where there is none, and fails.
    let pending = connection.has_pending_migration(MIGRATIONS).map_err(|error| other(&error))?;
    let applied = connection.applied_migrations().map_err(|error| other(&error))?.len();
    let known = MigrationSource::<diesel::sqlite::Sqlite>::migrations(&MIGRATIONS).map_err(|error| other(&error))?;
    if pending || applied != known.len() {
        return Err(other(&format!("{applied} of {} migrations", known.len())));
    }
    Ok(connection)
}

/// The path without links, so that one file has one lock; the file itself may not be there yet.
fn resolved(path: &Path) -> Result<PathBuf, StoreError> {
    let cannot = |why: String| StoreError::Open(format!("cannot open {}: {why}", path.display()));
    if path.exists() {
        return path.canonicalize().map_err(|error| cannot(error.to_string()));
    }
    let absolute = std::path::absolute(path).map_err(|error| cannot(error.to_string()))?;
    let (Some(directory), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(cannot("it is no file".to_owned()));
    };
    Ok(directory.canonicalize().map_err(|error| cannot(error.to_string()))?.join(name))
}

/// Runs the migrations that the database has not seen; refuses one that a later program has migrated further.
pub(super) fn migrate(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    use diesel::migration::{Migration, MigrationVersion};
    let failed = |error: &dyn std::fmt::Display| StoreError::Open(format!("cannot migrate the database: {error}"));
    let known: Vec<Box<dyn Migration<diesel::sqlite::Sqlite>>> =
        MIGRATIONS.migrations().map_err(|error| failed(&error))?;
    let known: Vec<MigrationVersion<'_>> = known.iter().map(|migration| migration.name().version()).collect();
    let applied = connection.applied_migrations().map_err(|error| failed(&error))?;
    if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
        return Err(StoreError::Open(format!(
            "the database is of a newer version of this program: its schema has {newer}, which this one does not know"
        )));
    }
    connection.run_pending_migrations(MIGRATIONS).map(drop).map_err(|error| failed(&error))
}

/// Moves everything from the log into the database file and lets SQLite note what it learned.
pub(super) fn tidy(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    connection.batch_execute("PRAGMA optimize")?;
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")?;
    Ok(())
}
