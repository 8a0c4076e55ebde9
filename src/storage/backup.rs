//! A copy of the database at one moment, while a service may write it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use bytesize::ByteSize;
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::SqliteConnection;
use tempfile::NamedTempFile;

use super::at_rest::read_undisturbed;
use super::connection::open_copy;
use super::database::{Database, with_suffix};
use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open, cannot_write};
use super::identity::{Identity, identify};
use super::integrity::integrity_check;
use super::location::resolve;
use super::pace::Pace;
use super::schema::metadata;
use super::verified::Verified;
use super::verify::verify_copy;
use super::{maxima, migrations};
use crate::domain::collection::Registry;

/// Which state of which history a database has. Two databases with the same one have the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) epoch: String,
    pub(crate) revision: i64,
}

/// A copy that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) content: Content,
    /// The length of the file in bytes.
    pub(crate) size: u64,
    /// What is wrong with it, if its check does not refuse that.
    pub(crate) findings: Vec<String>,
}

/// What happens to a file that has the name of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfExists {
    Fail,
    Replace,
}

/// Follows a copy while it is made.
pub(crate) trait CopyObserver: Sync {
    /// The copy is being written under a temporary name. A process that is interrupted removes that file.
    fn begin(&self, partial: &Path);

    /// So many bytes of about `total` are written. Called several times a second.
    fn progress(&self, written: u64, total: u64);

    /// The copy is complete, or was given up, and the file with the temporary name is gone.
    fn end(&self);
}

/// How a copy is checked.
#[derive(Clone, Copy)]
pub(crate) enum Check<'a> {
    /// As a file. Its tables may be those of an earlier version.
    File,
    /// As a file, and its counters, if its tables are those of this version.
    Counters(&'a Registry),
    /// As `duality verify` does, as far as its tables and its rules are those of this version.
    Everything(&'a Registry),
    /// The same, but what is wrong is only noted.
    Report(&'a Registry),
}

/// How a copy is made.
#[derive(Clone, Copy)]
pub(crate) struct Manner<'a> {
    pub(crate) check: Check<'a>,
    pub(crate) pace: Pace,
}

impl<'a> From<Check<'a>> for Manner<'a> {
    /// At full speed.
    fn from(check: Check<'a>) -> Self {
        Self { check, pace: Pace::Full }
    }
}

impl Check<'_> {
    /// Refuses a source with which the check does not go.
    fn admit(self, connection: &mut AnyConnection, source: &Path) -> Result<(), StoreError> {
        match self {
            Self::Counters(_) => require_ours(connection, source),
            Self::File | Self::Everything(_) | Self::Report(_) => Ok(()),
        }
    }

    /// What is wrong with a copy.
    fn findings(self, connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
        let is_current = migrations::pending(connection).is_ok_and(|pending| pending.is_empty());
        match self {
            Self::Everything(registry) | Self::Report(registry) if is_current => {
                let results = verify_copy(connection, registry);
                Ok(results.into_iter().flat_map(Verified::into_findings).collect())
            }
            Self::Counters(registry) if is_current => {
                let findings = integrity_check(connection.file());
                if findings.is_empty() { maxima::findings(connection, registry) } else { Ok(findings) }
            }
            _ => Ok(integrity_check(connection.file())),
        }
    }
}

/// Refuses what is not a database of this program that a service has used, or of a newer version.
pub(super) fn require_ours(connection: &mut AnyConnection, path: &Path) -> Result<(), StoreError> {
    if identify(connection, path)? == Identity::New {
        return Err(StoreError::Foreign { path: path.to_owned(), found: "it is empty".to_owned() });
    }
    migrations::pending(connection).map(|_| ())
}

/// How often the progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Copies the database `source` at one moment to the file `target`, which appears when it is complete, checked and on
/// disk. Only the user of this process can read it.
///
/// # Errors
/// `target` exists, there is no room for it, the source cannot be read, or the copy fails its check. Nothing is left of
/// the copy then.
pub(crate) fn copy(
    source: &Path,
    target: &Path,
    if_exists: IfExists,
    manner: Manner<'_>,
    observer: &dyn CopyObserver,
) -> Result<Copied, StoreError> {
    let target = resolve(target)?;
    refuse(source, &target, if_exists)?;
    let (partial, copied) = write_beside(source, &target, manner, observer)?;
    let persisted = match if_exists {
        IfExists::Fail => partial.persist_noclobber(&target),
        IfExists::Replace => partial.persist(&target),
    };
    observer.end();
    persisted.map_err(|failed| cannot_write(&target, failed.error))?;
    sync_directory(&target)?;
    Ok(copied)
}

/// Copies the database at one moment into a file that has no name in the end, and then to `output`.
pub(crate) fn stream(
    source: &Path,
    output: &mut dyn Write,
    manner: Manner<'_>,
    observer: &dyn CopyObserver,
) -> Result<Copied, StoreError> {
    let beside = resolve(source)?;
    let (partial, copied) = write_beside(source, &beside, manner, observer)?;
    let written = partial.reopen().and_then(|mut file| io::copy(&mut file, output)).and_then(|_| output.flush());
    drop(partial);
    observer.end();
    written.map_err(|error| cannot_write(Path::new("standard output"), error))?;
    Ok(copied)
}

/// The epoch and the revision of a database.
fn content(connection: &mut SqliteConnection) -> Result<Content, StoreError> {
    let row: Option<(String, i64)> =
        metadata::table.select((metadata::epoch, metadata::revision)).first(connection).optional()?;
    let never_used = || StoreError::NotMigrated { found: "no service has ever used it".to_owned() };
    row.map(|(epoch, revision)| Content { epoch, revision }).ok_or_else(never_used)
}

/// Writes a copy under a temporary name in the directory of `target`, and checks it. Dropping the file removes it.
pub(super) fn write_beside(
    source: &Path,
    target: &Path,
    manner: Manner<'_>,
    observer: &dyn CopyObserver,
) -> Result<(NamedTempFile, Copied), StoreError> {
    let partial = partial(target)?;
    observer.begin(partial.path());
    match fill(source, target, &partial, manner, observer) {
        Ok(copied) => Ok((partial, copied)),
        Err(error) => {
            drop(partial);
            observer.end();
            Err(error)
        }
    }
}

fn fill(
    source: &Path,
    target: &Path,
    partial: &NamedTempFile,
    manner: Manner<'_>,
    observer: &dyn CopyObserver,
) -> Result<Copied, StoreError> {
    let Manner { check, pace } = manner;
    pace.begin();
    read_undisturbed(source, |connection| {
        check.admit(connection, source)?;
        let connection = connection.file();
        let total = size(connection)?;
        require_room(target, total)?;
        // The first attempt may have been disturbed.
        partial.as_file().set_len(0).map_err(|error| cannot_write(target, error))?;
        watched(partial.path(), total, observer, || {
            let path = partial.path().to_str().unwrap_or_default();
            // The copy is synced below, before it gets its name.
            connection.batch_execute("PRAGMA synchronous = OFF")?;
            diesel::sql_query("VACUUM INTO ?").bind::<Text, _>(path).execute(connection)
        })
        .map_err(|error| cannot_write(target, error))?;
        Ok(())
    })?;
    pace.write_out(partial.as_file()).map_err(|error| cannot_write(target, error))?;
    let (content, findings) = check_copy(source, partial.path(), check)?;
    let synced = partial.as_file().sync_all().and_then(|()| partial.as_file().metadata());
    let size = synced.map_err(|error| cannot_write(target, error))?.len();
    Ok(Copied { content, size, findings })
}

/// Checks a copy, and takes away what belongs to the service that uses the original: the mark of its log.
fn check_copy(source: &Path, partial: &Path, check: Check<'_>) -> Result<(Content, Vec<String>), StoreError> {
    let mut connection = AnyConnection::Sqlite(open_copy(partial)?);
    connection.batch_execute("PRAGMA user_version = 0")?;
    let findings = check.findings(&mut connection)?;
    let path = source.to_owned();
    match (findings.first().cloned(), check) {
        (None, _) | (_, Check::Report(_)) => Ok((content(connection.file())?, findings)),
        (Some(finding), Check::Everything(_)) => Err(StoreError::DamagedSource { path, finding }),
        (Some(finding), _) => Err(StoreError::DamagedCopy { path, finding }),
    }
}

/// `.duality.db.partial-1a2b3c`, in the directory of the target; a file that only the user of this process can read.
pub(super) fn partial(target: &Path) -> Result<NamedTempFile, StoreError> {
    let directory = target.parent().unwrap_or(Path::new("/"));
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".partial-");
    tempfile::Builder::new().prefix(&prefix).tempfile_in(directory).map_err(|error| cannot_write(target, error))
}

/// Removes what copies left beside a locked database when their process was killed: those before a migration or a restore,
/// which only the process that has the lock makes.
pub(super) fn remove_leftovers(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".{name}.before-");
    let entries = path.parent().map(fs::read_dir).into_iter().flatten().flatten().filter_map(Result::ok);
    let is_leftover = |file: &str| file.starts_with(&prefix) && file.contains(".partial-");
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_leftover)) {
        match fs::remove_file(entry.path()) {
            Ok(()) => log::info!("removed {}, an incomplete copy", entry.path().display()),
            Err(error) => log::warn!("cannot remove {}, an incomplete copy: {error}", entry.path().display()),
        }
    }
}

/// Refuses a target that would destroy something.
fn refuse(source: &Path, target: &Path, if_exists: IfExists) -> Result<(), StoreError> {
    if resolve(source)? == *target {
        return Err(cannot_write(target, "it is the database itself"));
    }
    if if_exists == IfExists::Fail && target.symlink_metadata().is_ok() {
        return Err(StoreError::Exists { path: target.to_owned() });
    }
    require_unused(target)?;
    for suffix in ["-wal", "-journal"] {
        let log = with_suffix(target, suffix);
        if log.exists() {
            // SQLite would apply it to the copy.
            return Err(cannot_write(target, format!("{} is the log of another database; remove it", log.display())));
        }
    }
    Ok(())
}

/// Refuses to replace a database that a service uses.
fn require_unused(target: &Path) -> Result<(), StoreError> {
    if !target.is_file() {
        return Ok(());
    }
    let lock = with_suffix(target, ".lock");
    let had_lock = lock.exists();
    let locked = Database::open(target).map(|database| database.release());
    if locked.is_ok() && !had_lock {
        // A file that stays does no harm.
        let _ = fs::remove_file(lock);
    }
    locked
}

/// The size of a copy in bytes, approximately.
pub(crate) fn size(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let query = "SELECT (page_count - freelist_count) * page_size AS bytes
                 FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    let size: Size = diesel::sql_query(query).get_result(connection)?;
    Ok(size.bytes.unsigned_abs())
}

/// The bytes that this user may still write where `path` is.
pub(crate) fn room(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path.parent().unwrap_or(Path::new("/")))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn require_room(target: &Path, needed: u64) -> Result<(), StoreError> {
    let room = room(target).map_err(|error| cannot_write(target, error))?;
    if room >= needed {
        return Ok(());
    }
    let (needed, room) = (ByteSize(needed), ByteSize(room));
    Err(cannot_write(target, format!("it needs {needed}, and the disk has room for {room}")))
}

/// Runs `work`, which writes a file, and reports the length of the file meanwhile.
fn watched<T>(path: &Path, total: u64, observer: &dyn CopyObserver, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (done, working) = sync_channel::<()>(0);
        scope.spawn(move || watch(path, total, observer, &working));
        let outcome = work();
        drop(done);
        outcome
    })
}

fn watch(path: &Path, total: u64, observer: &dyn CopyObserver, working: &Receiver<()>) {
    while working.recv_timeout(PROGRESS_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let written = fs::metadata(path).map_or(0, |file| file.len());
        observer.progress(written.min(total), total);
    }
}

/// Makes the names in the directory of a file durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| cannot_open(directory, error))
}

#[derive(QueryableByName)]
struct Size {
    #[diesel(sql_type = BigInt)]
    bytes: i64,
}
