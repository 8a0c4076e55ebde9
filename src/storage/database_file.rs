//! Whether the files that this process has open are still those that bear their names, with the content that it gave them.
//!
//! SQLite notices none of that: it goes on in a file that was removed, and copies its log into one that was overwritten.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use diesel::sqlite::SqliteConnection;

use super::connection::{self, LogFrames};
use super::error::{StoreError, cannot_open};
use super::file_lock::{FileId, FileLock, Reach};
use super::health::Health;
use super::main_file::{Fingerprint, Header, Tag};

/// The database file and its log, as they are open.
pub(super) struct DatabaseFile {
    path: PathBuf,
    log: PathBuf,
    health: Arc<Health>,
    /// `None` after the file has been closed.
    open: Mutex<Option<OpenFile>>,
}

struct OpenFile {
    /// `None` until the writer has opened the database. It has a connection, so it is dropped before the lock.
    watched: Option<Watched>,
    lock: FileLock,
}

/// What is known about a database that the writer has opened.
struct Watched {
    /// Keeps the log from being removed by SQLite when the writer closes its connection after a failure.
    keeper: SqliteConnection,
    log: FileId,
    /// The number of the page that has the counters.
    counters: u64,
    /// The file when it last had everything. `None` until then.
    whole: Option<Whole>,
    /// The tags that a checkpoint by somebody else may have brought into the file since: that of the log, and that of the
    /// one which is about to begin.
    tags: Vec<Tag>,
    /// The length of the log at the last look, in pages.
    frames: u64,
    /// Whether another process has moved the log into the file since, so that a log began without a tag of ours.
    was_moved: bool,
    /// Whether the writer is moving the log into the file at the moment.
    is_moving: bool,
    /// A time at which somebody else has written the file, if that is not explained yet.
    written: Option<Written>,
}

#[derive(Debug, Clone, Copy)]
struct Written {
    modified: SystemTime,
    seen: Instant,
}

/// How long another process may take for the last pages of a checkpoint, until it has flushed them.
const CHECKPOINT_TIME: Duration = Duration::from_secs(2);

/// The file when it had everything.
struct Whole {
    file: Fingerprint,
    /// How far the log was that it had been moved from.
    log: LogFrames,
}

/// Something that must not happen to files in use.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("the file {} was removed or renamed", .0.display())]
    Removed(PathBuf),
    #[error("{} is another file than the one that is open", .0.display())]
    Exchanged(PathBuf),
    #[error("another file was copied over {}", .0.display())]
    Overwritten(PathBuf),
    #[error("{} was truncated", .0.display())]
    Truncated(PathBuf),
    #[error("the database {} has another history than the one that this process writes", .0.display())]
    OtherHistory(PathBuf),
}

impl DatabaseFile {
    pub(super) fn new(path: &Path, log: PathBuf, lock: FileLock, health: Arc<Health>) -> Self {
        Self { path: path.to_owned(), log, health, open: Mutex::new(Some(OpenFile { watched: None, lock })) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The log of the database, which need not exist.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// The header of the file without its log. `None` if the file is too short, or closed.
    pub(super) fn header(&self) -> io::Result<Option<Header>> {
        self.open().as_ref().map_or(Ok(None), |open| Header::read(open.lock.file()))
    }

    /// Watches the database, which the writer has opened.
    pub(super) fn watch(&self, tag: Tag) -> Result<(), StoreError> {
        let mut keeper = connection::open_read_only(&self.path)?;
        let counters = connection::root_page(&mut keeper, "metadata")?;
        let log = std::fs::metadata(&self.log).map_err(|error| cannot_open(&self.log, error))?;
        let log = FileId::of(&log);
        if let Some(open) = &mut *self.open() {
            open.watched = Some(Watched::new(keeper, log, counters, tag));
        }
        Ok(())
    }

    /// Stops watching: the writer's is the last connection then, and SQLite removes the log when it closes it.
    pub(super) fn unwatch(&self) {
        let watched = self.open().as_mut().and_then(|open| open.watched.take());
        drop(watched);
    }

    /// Notes that the writer begins to move the log into the file.
    pub(super) fn is_moving(&self) {
        self.note(|_, watched| watched.is_moving = true);
    }

    /// Notes that the writer has moved a part of the log into the file.
    pub(super) fn is_partly_moved(&self) {
        self.note(|_, watched| watched.is_moving = false);
    }

    /// Notes that the file has everything, and its log nothing else.
    pub(super) fn is_whole(&self) {
        self.note(|lock, watched| {
            (watched.is_moving, watched.written) = (false, None);
            let file = Fingerprint::read(lock.file(), watched.counters).ok().flatten();
            // Without it, the check is less strict.
            watched.whole =
                file.zip(connection::log_frames(&mut watched.keeper).ok()).map(|(file, log)| Whole { file, log });
        });
    }

    /// Notes that a transaction may bring this tag into the file.
    pub(super) fn may_have(&self, tag: Tag) {
        self.note(|_, watched| watched.tags.push(tag));
    }

    /// Notes that the log has this tag, and no other.
    pub(super) fn has(&self, tag: Tag) {
        self.note(|_, watched| (watched.tags, watched.frames) = (vec![tag], 0));
    }

    fn note(&self, note: impl FnOnce(&FileLock, &mut Watched)) {
        if let Some(OpenFile { watched: Some(watched), lock }) = &mut *self.open() {
            note(lock, watched);
        }
    }

    /// Whether another process has moved the log into the file since the last call.
    pub(super) fn take_moved(&self) -> bool {
        let mut open = self.open();
        open.as_mut()
            .and_then(|open| open.watched.as_mut())
            .is_some_and(|watched| std::mem::take(&mut watched.was_moved))
    }

    /// Checks that the files are still those that bear their names: cheap enough for every commit.
    pub(super) fn check_names(&self) -> Result<(), StoreError> {
        self.check(|open| open.check_names(&self.path, &self.log))
    }

    /// Checks names, lengths and content.
    pub(super) fn examine(&self) -> Result<(), StoreError> {
        self.check(|open| {
            open.check_names(&self.path, &self.log)?;
            open.check_log_length(&self.log)?;
            open.check_content(&self.path)
        })
    }

    /// The error for a database with another epoch or revision than the one that this process writes.
    pub(super) fn has_other_history(&self) -> StoreError {
        self.replaced(&Damage::OtherHistory(self.path.clone()))
    }

    fn check(&self, check: impl FnOnce(&mut OpenFile) -> Result<(), Damage>) -> Result<(), StoreError> {
        if self.health.is_replaced() {
            return Err(StoreError::Replaced { path: self.path.clone() });
        }
        let damage = self.open().as_mut().map_or(Ok(()), check);
        damage.map_err(|damage| self.replaced(&damage))
    }

    fn replaced(&self, damage: &Damage) -> StoreError {
        self.health.replaced(&format!(
            "it was replaced: {damage}. From now on nothing succeeds, and the process ends with exit code \
             1, because what it writes would be lost. Put back the files that you want to continue with ({} together \
             with the -wal that belongs to it, or without any), and start the service again",
            self.path.display()
        ));
        StoreError::Replaced { path: self.path.clone() }
    }

    /// Unlocks the file. No connection may be open.
    pub(super) fn close(&self) {
        let open = self.open().take();
        if self.health.is_replaced() {
            // SQLite copies the log into the file when the last connection closes. It must not touch what lies there now.
            std::mem::forget(open.and_then(|open| open.watched));
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenFile>> {
        self.open.lock().expect("no thread panics while it holds this lock")
    }
}

impl OpenFile {
    fn check_names(&self, path: &Path, log: &Path) -> Result<(), Damage> {
        let Some(watched) = &self.watched else { return Ok(()) };
        for (path, id) in [(path, self.lock.id()), (log, watched.log)] {
            match std::fs::metadata(path) {
                // Remote file systems number files as they like.
                Ok(found) if FileId::of(&found) != id && self.lock.reach() == Reach::Everyone => {
                    return Err(Damage::Exchanged(path.to_owned()));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damage::Removed(path.to_owned())),
                // What cannot be looked at for another reason need not have changed.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// The log is shorter than what SQLite has written into it.
    fn check_log_length(&mut self, log: &Path) -> Result<(), Damage> {
        let (Some(watched), Ok(Some(header))) = (&mut self.watched, Header::read(self.lock.file())) else {
            return Ok(());
        };
        let Ok(LogFrames { frames, .. }) = connection::log_frames(&mut watched.keeper) else { return Ok(()) };
        // While the writer begins a log, it has two tags.
        watched.was_moved |= frames < watched.frames && watched.tags.len() == 1;
        watched.frames = frames;
        let needed = log_length(frames, header.page_size());
        let length = std::fs::metadata(log).map_or(needed, |log| log.len());
        // Another process may have moved the log into the file meanwhile, and truncated it as SQLite does.
        let again = connection::log_frames(&mut watched.keeper).map(|log| log.frames);
        if length < needed && again.is_ok_and(|again| again >= frames) {
            return Err(Damage::Truncated(log.to_owned()));
        }
        Ok(())
    }

    /// The file has neither what it had when it last had everything, nor what a checkpoint of the log would make of it.
    fn check_content(&mut self, path: &Path) -> Result<(), Damage> {
        let Some(watched) = &mut self.watched else { return Ok(()) };
        // While another process moves the log into the file, the header may be read before and the counters after that.
        for _ in 0..2 {
            match Header::read(self.lock.file()) {
                Ok(Some(header)) if watched.accepts(self.lock.file(), &header) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err(Damage::Truncated(path.to_owned())),
                // A disk that cannot be read is no proof.
                Err(_) => return Ok(()),
            }
        }
        Err(Damage::Overwritten(path.to_owned()))
    }
}

impl Watched {
    fn new(keeper: SqliteConnection, log: FileId, counters: u64, tag: Tag) -> Self {
        let (whole, tags, written) = (None, vec![tag], None);
        Self { keeper, log, counters, whole, tags, frames: 0, was_moved: false, is_moving: false, written }
    }

    fn accepts(&mut self, file: &File, header: &Header) -> bool {
        let known = self.whole.as_ref().map(|whole| &whole.file);
        if known.is_some_and(|known| known.header == *header) {
            return self.accepts_as_whole(file);
        }
        let is_later = known.is_none_or(|known| header.change_counter() >= known.header.change_counter());
        // A file that `VACUUM INTO` made has our tag, but its pages are in another order, and its schema is a later one.
        let is_ours = |ours: u32| header.schema_version() <= ours;
        self.tags.contains(&header.tag()) && is_later && connection::schema_version(&mut self.keeper).is_ok_and(is_ours)
    }

    /// Accepts a file with the header that it had when it last had everything.
    fn accepts_as_whole(&mut self, file: &File) -> bool {
        let (Ok(Some(found)), Ok(log)) =
            (Fingerprint::read(file, self.counters), connection::log_frames(&mut self.keeper))
        else {
            return false;
        };
        let Some(whole) = &self.whole else { return true };
        if found.header != whole.file.header || found.length < whole.file.length {
            return false;
        }
        // Pages of the log are in the file without the header if a reader needs an older state of that.
        let has_begun = !self.tags.contains(&whole.file.header.tag());
        if self.is_moving || (if has_begun { log.moved > 0 } else { log != whole.log }) {
            return true;
        }
        found.counters == whole.file.counters && self.is_settled(found.modified)
    }

    /// Whether nobody has written the file since it had everything. If it was only just written, a checkpoint may be in
    /// progress, which counts its pages at its end.
    fn is_settled(&mut self, modified: SystemTime) -> bool {
        if self.whole.as_ref().is_some_and(|whole| whole.file.modified == modified) {
            self.written = None;
            return true;
        }
        match self.written {
            Some(written) if written.modified == modified => written.seen.elapsed() < CHECKPOINT_TIME,
            _ => {
                self.written = Some(Written { modified, seen: Instant::now() });
                true
            }
        }
    }
}

/// The length in bytes of a log with this many frames.
fn log_length(frames: u64, page_size: u64) -> u64 {
    if frames == 0 { 0 } else { 32 + frames * (24 + page_size) }
}
