//! Errors of the main database.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use diesel::result::{DatabaseErrorKind, Error as QueryError};

use crate::domain::body::CorruptState;

/// An error of the database. Its `source()` has the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file cannot be opened or created: no such directory, no permission, not a database.
    #[error("cannot open {}", .path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the operating system or SQLite reports.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server of the database cannot be reached, or refuses the connection.
    #[error("cannot connect to {}", .path.display())]
    Unreachable {
        /// The database, without secrets.
        path: PathBuf,
        /// What libpq reports.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another process uses the file, or another service of this process; perhaps under another name.
    #[error(
        "cannot open {}: another process uses it ({}); stop that one first, or choose another file with --database",
        .path.display(),
        .holder.as_deref().unwrap_or("perhaps under another name of the file")
    )]
    Locked {
        /// The database file.
        path: PathBuf,
        /// The process and the address of its service, as far as they are known: `pid 4711, http://127.0.0.1:3000`.
        holder: Option<String>,
    },
    /// The program cannot use a database on a server.
    #[error("this program was built without PostgreSQL: build it with `--features postgres`, or name a file")]
    NoPostgres,
    /// An inline projection writes its tables in the transactions of commands, which only SQLite lets it.
    #[error(
        "the projection {name} is inline, and its tables are SQLite's: with a database on a server, register it with \
         `background_projection` instead, or keep the database in a file"
    )]
    NotInline {
        /// The name of the projection.
        name: &'static str,
    },
    /// The file does not exist, and this operation does not create it.
    #[error("there is no database {}; check the path, or that of --database", .path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not an SQLite database; it was not changed: name another file", .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("{} is a database of another program ({found}); it was not changed: name another file", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// A counter is smaller than a number that was given already. To go on would give a number twice.
    #[error("the database is damaged: {finding}; restore a backup (`duality restore`), or see `duality verify`")]
    Counters {
        /// The counter and what contradicts it.
        finding: String,
    },
    /// A copy is not as it should be, so it was not kept.
    #[error("the copy of {} is damaged, and so is the file itself, probably: {finding}", .path.display())]
    DamagedCopy {
        /// What was copied.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// What should be restored is not as it should be.
    #[error("{} is damaged: {finding}; `duality restore --force` restores it nevertheless", .path.display())]
    DamagedSource {
        /// What should be restored.
        path: PathBuf,
        /// The first finding.
        finding: String,
    },
    /// A task would leave files that the owner of the database cannot use.
    #[error(
        "{} belongs to the user {owner}, who could not use the files that this command writes: run it as that user, or \
         start the service, which does it when it is asked",
        .path.display()
    )]
    OtherOwner {
        /// The database file.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
    },
    /// There is already a file where a copy should be written.
    #[error("{} exists; another name, or --force to replace it", .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A copy cannot be written, or cannot get its name. Nothing is left of it.
    #[error("cannot write {}", .path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// What the operating system or SQLite reports.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A newer version of this program has migrated the database.
    #[error(
        "the database belongs to a newer version of this program: this version does not know its migration {version}"
    )]
    NewerSchema {
        /// The first migration that this version does not know.
        version: String,
    },
    /// The database has tables or rows of an older version of this program, and this operation only reads.
    #[error("the database belongs to another version of this program ({found}): start the service once")]
    NotMigrated {
        /// What does not match.
        found: String,
    },
    /// An epoch is to begin in a file, where none is needed.
    #[error(
        "{} is a file, in which each start of a service begins an epoch: there is nothing to do; for a database on a server, \
         add --database postgres://…",
        .path.display()
    )]
    EpochOfFile {
        /// The database file.
        path: PathBuf,
    },
    /// A database on a server lacks a part, as it does while it is being restored.
    #[error("the database has no {part}: if it is being restored, wait for the end of that; otherwise it is damaged")]
    Incomplete {
        /// The first part that it lacks, such as an index.
        part: String,
    },
    /// A migration failed. The database is unchanged.
    #[error("cannot migrate the database")]
    Migration(#[source] Box<dyn Error + Send + Sync>),
    /// A stored document is not one of its type. The database is unchanged.
    #[error(
        "the document {key} of {collection} does not fit its type: {problem}; either let the type read it (`Option`, \
         `#[serde(default)]`), or set its VERSION to {next} and let `upgrade` convert the documents; nothing was changed"
    )]
    Unfit {
        /// The name of the collection.
        collection: String,
        /// The key of the first such document.
        key: String,
        /// The member, and what is wrong with it.
        problem: String,
        /// The version after that of the program.
        next: i64,
    },
    /// A stored document cannot be converted to the version of its type. The database is unchanged.
    #[error(
        "the document {key} of {collection} cannot be converted from version {from} to version {to}: {problem}; let \
         `upgrade` convert it; nothing was changed"
    )]
    NotUpgraded {
        /// The name of the collection.
        collection: String,
        /// The key of the first such document.
        key: String,
        /// The version that it has.
        from: i64,
        /// The version of the type.
        to: i64,
        /// The member, and what is wrong with it.
        problem: String,
    },
    /// The documents are of a version that this program does not know.
    #[error(
        "the documents of {collection} are of version {version}, and this program knows version {own}: start a program with \
         version {version}, or go back to a copy from before the upgrade"
    )]
    NewerDocuments {
        /// The name of the collection.
        collection: String,
        /// The version of the documents.
        version: i64,
        /// The version of the type.
        own: i64,
    },
    /// Another version of the program has converted only some of the documents.
    #[error(
        "some documents of {collection} are already of version {version}, and others are not: start a program with that \
         version first, which converts the rest"
    )]
    HalfUpgraded {
        /// The name of the collection.
        collection: String,
        /// The version to which they are being converted.
        version: i64,
    },
    /// Another program with the same version has converted some of the documents, to members that this one does not have.
    #[error(
        "some documents of {collection} are already of version {version}, but the document {key} does not fit its type: \
         {problem}; start the program that has converted it, which converts the rest; nothing was changed"
    )]
    HalfFit {
        /// The name of the collection.
        collection: String,
        /// The key of the first such document.
        key: String,
        /// The version to which they are being converted.
        version: i64,
        /// The member, and what is wrong with it.
        problem: String,
    },
    /// The journal has an event that the program cannot read. The database is unchanged.
    #[error(
        "{place} has an event {kind:?} of schema {schema} that this program cannot read: {problem}; either keep what it needs, \
         or set EVENT_VERSION to {next} and let `upcast` make it an event that there is; nothing was changed"
    )]
    UnreadableEvent {
        /// The position of the first event of this kind and schema, with its collection, its key and its version.
        place: String,
        /// The name of the event, as it is in the journal.
        kind: String,
        /// The version of the shape in which it was written.
        schema: i64,
        /// Why it cannot be read.
        problem: String,
        /// The version after that of the program.
        next: i64,
    },
    /// The database has a collection that this program does not register.
    #[error(
        "the database has the collection {name:?}, which this program does not register: register it again, or remove it with \
         all of its aggregates: {command}"
    )]
    UnregisteredCollection {
        /// The name of the collection.
        name: String,
        /// The command line that removes it.
        command: String,
    },
    /// Another version of this program has added a collection to a record on a server. Nothing was written.
    #[error("another version of this program has added the collection {name:?}: writes go through that version")]
    UnknownCollection {
        /// The name of the collection.
        name: String,
    },
    /// Another version of this program has dropped a collection of a record on a server, which this one registers.
    #[error(
        "another version of this program has dropped the collection {name:?}: start that version instead of this one"
    )]
    DroppedCollection {
        /// The name of the collection.
        name: String,
    },
    /// A collection that is to be registered again is still being dropped.
    #[error("only a part of {name:?} is dropped, and it cannot be registered again before the rest is: {command}")]
    HalfDropped {
        /// The name of the collection.
        name: String,
        /// The command line that removes the rest.
        command: String,
    },
    /// A collection that is to be dropped does not exist.
    #[error("there is no collection {name:?}; expected one of {known}")]
    NoCollection {
        /// The name.
        name: String,
        /// The names of all collections.
        known: String,
    },
    /// Another version of this program has changed the rule of a collection of a record on a server. Nothing was written.
    #[error(
        "another version of this program has changed the rules of {collection} to version {version}, and this one has version \
         {own}: writes go through that version"
    )]
    OtherRule {
        /// The name of the collection.
        collection: String,
        /// The version of the rule as it is in the record.
        version: i64,
        /// The version in this program.
        own: i64,
    },
    /// A newer version of this program has raised the rule of a collection of a record on a server.
    #[error(
        "the rules of {collection} are at version {version} in the database, and at version {own} in this program, which is \
         older: start a program that has version {version}; to go back to the older rules, give them a higher version"
    )]
    NewerRule {
        /// The name of the collection.
        collection: String,
        /// The version of the rule as it is in the record.
        version: i64,
        /// The version in this program.
        own: i64,
    },
    /// The operating system has no random numbers for a new epoch.
    #[error("cannot create an epoch")]
    Epoch(#[source] getrandom::Error),
    /// Another process has held the lock for writing for too long.
    #[error("another process has locked the database for writing")]
    Busy,
    /// There is no room for the database.
    #[error("the disk of the database is full")]
    Full,
    /// A server does not answer, or refuses what it is asked, for now.
    #[error("the database on the server cannot be read now")]
    Unavailable(#[source] Box<Self>),
    /// A statement failed, for example with an I/O error.
    #[error("a database statement failed")]
    Query(#[source] QueryError),
    /// The file could not be written again. It is as it was.
    #[error("`VACUUM` failed")]
    Vacuum(#[source] Box<Self>),
    /// The database has data that this program cannot read.
    #[error("the database has unexpected data: {0}")]
    Corrupt(String),
    /// An inline projection rejected an event, so that its transaction was rolled back.
    #[error("{0}")]
    Projection(String),
    /// SQLite found damage while it read the tables of an inline projection.
    #[error("a report cannot be read: {0}")]
    Report(String),
    /// SQLite has rolled back a transaction on its own, for example because of an I/O error.
    #[error("the transaction was rolled back: {0}")]
    RolledBack(String),
    /// The code that used the database panicked. The panic is in the log.
    #[error("the operation panicked; the panic is in the log")]
    Panicked,
    /// The write-ahead log beside the file belongs to another file. Nothing was changed.
    #[error(
        "cannot open {}: the log {} does not belong to it ({why}). To continue with the database of the log, put its \
         own file back; to continue with this file, move the -wal and the -shm file away first: what only the log has is \
         not in it",
        .path.display(),
        .log.display()
    )]
    ForeignLog {
        /// The database file.
        path: PathBuf,
        /// The log.
        log: PathBuf,
        /// How that is known.
        why: &'static str,
    },
    /// The file is not the one that was opened at start, or has another history.
    #[error("{} was replaced by another database", .path.display())]
    Replaced {
        /// The database file.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether SQLite has found pages that do not fit together.
    pub(super) fn is_malformed(&self) -> bool {
        let error = match self {
            Self::Query(error) => error,
            Self::Vacuum(cause) => return cause.is_malformed(),
            _ => return false,
        };
        let message = error.to_string();
        message.starts_with("database disk image is malformed") || message.starts_with("malformed database schema")
    }

    /// Whether the database as a whole cannot be used, and not only some of its data.
    pub(crate) fn is_of_file(&self) -> bool {
        !matches!(self, Self::Corrupt(_) | Self::Projection(_) | Self::Panicked)
    }

    /// Whether the server of the database cannot be reached, or was not until the answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. }) || self.is_lost_connection()
    }

    /// Whether the server of the database was reached, and the connection to it was lost.
    pub(super) fn is_lost_connection(&self) -> bool {
        matches!(self, Self::Query(error) if is_lost(error))
    }

    /// Whether a record on a server that cannot be opened now perhaps can be opened later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Open { .. }
                | Self::Unreachable { .. }
                | Self::Query(_)
                | Self::Busy
                | Self::Incomplete { .. }
                | Self::NotMigrated { .. }
                | Self::Replaced { .. }
        )
    }

    /// Whether the record follows the rules of another version of this program, while nothing is wrong with the database.
    pub(crate) fn is_of_other_version(&self) -> bool {
        matches!(self, Self::OtherRule { .. } | Self::UnknownCollection { .. } | Self::DroppedCollection { .. })
    }

    /// Whether SQLite reports a file that is damaged, or not a database. Diesel does not expose its error codes.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::NotADatabase { .. } => true,
            Self::Vacuum(cause) => cause.is_damage(),
            Self::Query(QueryError::DatabaseError(_, info)) => {
                ["database disk image is malformed", "file is not a database"].contains(&info.message())
            }
            _ => false,
        }
    }
}

impl From<QueryError> for StoreError {
    /// SQLite's result codes do not reach us, but its messages for them never change.
    fn from(error: QueryError) -> Self {
        let message = match &error {
            QueryError::DatabaseError(_, information) => information.message(),
            // The transaction was over when it was to be rolled back.
            QueryError::RollbackErrorOnCommit { commit_error, .. } => match commit_error.as_ref() {
                QueryError::DatabaseError(_, information) => information.message(),
                _ => "",
            },
            _ => "",
        };
        match message {
            "database is locked" => Self::Busy,
            DISK_FULL => Self::Full,
            _ => Self::Query(error),
        }
    }
}

/// Whether a connection to a server was lost.
fn is_lost(error: &QueryError) -> bool {
    match error {
        QueryError::DatabaseError(kind, _) => {
            matches!(kind, DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand)
        }
        QueryError::RollbackErrorOnCommit { commit_error, rollback_error } => {
            is_lost(commit_error) || is_lost(rollback_error)
        }
        QueryError::BrokenTransactionManager => true,
        _ => false,
    }
}

/// SQLite's message for `SQLITE_FULL`.
pub(super) const DISK_FULL: &str = "database or disk is full";

pub(super) fn cannot_open(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Open { path: path.to_owned(), source: explained(path, source.into()) }
}

pub(super) fn cannot_write(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
    StoreError::Copy { path: path.to_owned(), source: explained(path, source.into()) }
}

/// What the operating system reports about a file, in words that say what to do, where something can be done.
pub(crate) fn explained(path: &Path, source: Box<dyn Error + Send + Sync>) -> Box<dyn Error + Send + Sync> {
    let Some(error) = source.downcast_ref::<io::Error>() else { return source };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    match error.kind() {
        ErrorKind::NotFound if !directory.exists() => {
            format!("the directory {0} does not exist; create it first: mkdir -p {0}", directory.display()).into()
        }
        ErrorKind::NotADirectory => format!("{} is not a directory", directory.display()).into(),
        ErrorKind::IsADirectory => {
            let inside = path.join("duality.db");
            format!("it is a directory; expected a file, such as {}", inside.display()).into()
        }
        ErrorKind::PermissionDenied => {
            format!("{error}: the user of this process must be able to write the file and its directory").into()
        }
        _ => source,
    }
}

impl From<CorruptState> for StoreError {
    fn from(corrupt: CorruptState) -> Self {
        Self::Corrupt(corrupt.to_string())
    }
}

/// Why a batch did not read something.
#[derive(Debug)]
pub(super) enum ReadError {
    Store(StoreError),
    /// It was not fetched. That is noted.
    #[cfg(feature = "postgres")]
    Missing,
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
