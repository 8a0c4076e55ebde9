//! Whether the files that this process has open are still those that bear their names, with the content that it gave them.
//!
//! SQLite notices none of that: it goes on in a file that was removed, and copies its log into one that was overwritten.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use diesel::sqlite::SqliteConnection;

use super::connection::{self, IfMissing, LogFrames};
use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open};
use super::file_lock::{FileId, FileLock, Reach};
use super::health::Health;
use super::main_file::{Fingerprint, Header, Tag};
use super::page_caches::PageCaches;

/// The database file and its log, as they are open.
pub(super) struct DatabaseFile {
    path: PathBuf,
    log: PathBuf,
    health: Arc<Health>,
    /// The limits of the page caches, once a service has set them.
    caches: OnceLock<PageCaches>,
    /// `None` after the file has been closed.
    open: Mutex<Option<OpenFile>>,
}

struct OpenFile {
    /// `None` until the writer has opened the database. It has a connection, so it is dropped before the lock.
    watched: Option<Watched>,
    /// Every connection has a part in it.
    lock: Arc<FileLock>,
}

/// A connection to the database file, which stays locked until the last one is closed. To close the descriptor of the lock
/// earlier would drop the locks of SQLite, under which this connection still reads or writes.
pub(crate) struct MainConnection {
    /// Closed before the lock ends.
    connection: AnyConnection,
    /// `None` for a server.
    _lock: Option<Arc<FileLock>>,
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
    tags: Tags,
    /// When the file was last written, if a part of what was committed is in the log only. Nobody moves that without writing
    /// the file again, so the log need not be measured for each transaction.
    in_log_since: Option<SystemTime>,
    /// The length of the log at the last look, in pages.
    frames: u64,
    /// Whether another process has moved the log into the file, and perhaps begun one without a tag of ours.
    is_untagged: bool,
    /// Whether the writer is moving the log into the file at the moment.
    is_moving: bool,
}

/// The tags that a checkpoint by somebody else may have brought into the file since it had everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags {
    /// That of the log.
    pub(super) log: Tag,
    /// That of the file on which the log follows, as far as it has not been moved.
    pub(super) follows: Option<Tag>,
    /// That of the log which the current transaction begins.
    pub(super) next: Option<Tag>,
}

/// The file when it had everything.
struct Whole {
    file: Fingerprint,
    /// When it was last written by a checkpoint. `None` after a warning that somebody else has written it.
    modified: Option<SystemTime>,
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
        let open = OpenFile { watched: None, lock: Arc::new(lock) };
        Self { path: path.to_owned(), log, health, caches: OnceLock::new(), open: Mutex::new(Some(open)) }
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

    /// Opens a connection that only reads.
    pub(super) fn open_for_reading(&self) -> Result<MainConnection, StoreError> {
        self.connect(connection::open_read_only, self.page_caches().reader)
    }

    /// Opens the connection of the only writer.
    pub(super) fn open_for_writing(&self, if_missing: IfMissing) -> Result<MainConnection, StoreError> {
        self.connect(|path| connection::open_for_writing(path, if_missing), self.page_caches().writer)
    }

    /// Limits the memory for pages of each connection that is opened from now on. It can be called once.
    pub(super) fn limit_caches(&self, caches: PageCaches) {
        let _ = self.caches.set(caches);
    }

    fn page_caches(&self) -> PageCaches {
        self.caches.get().copied().unwrap_or(PageCaches::OF_TASK)
    }

    fn connect(
        &self,
        open: impl FnOnce(&Path) -> Result<SqliteConnection, StoreError>,
        cache: usize,
    ) -> Result<MainConnection, StoreError> {
        let lock = self.open().as_ref().map(|open| Arc::clone(&open.lock));
        // Without the lock, it may belong to another process already.
        let lock = lock.ok_or_else(|| cannot_open(&self.path, "the service has stopped"))?;
        let mut connection = open(&self.path)?;
        connection::limit_cache(&mut connection, cache)?;
        Ok(MainConnection { connection: AnyConnection::Sqlite(connection), _lock: Some(lock) })
    }

    /// Watches the database, which the writer has opened.
    pub(super) fn watch(&self, tags: Tags) -> Result<(), StoreError> {
        let mut keeper = connection::open_read_only(&self.path)?;
        let counters = connection::root_page(&mut keeper, "metadata")?;
        let log = std::fs::metadata(&self.log).map_err(|error| cannot_open(&self.log, error))?;
        let log = FileId::of(&log);
        if let Some(open) = &mut *self.open() {
            open.watched = Some(Watched::new(keeper, log, counters, tags));
        }
        Ok(())
    }

    /// Stops watching: the writer's is the last connection then, and SQLite removes the log when it closes it.
    pub(super) fn unwatch(&self) {
        let watched = self.open().as_mut().and_then(|open| open.watched.take());
        drop(watched);
    }

    /// Notes that the writer begins to move the log into the file.
    pub(super) fn note_checkpoint_begun(&self) {
        self.note(|_, watched| watched.is_moving = true);
    }

    /// Notes that the writer could not move the whole log into the file. It may have written some pages nevertheless.
    pub(super) fn note_checkpoint_partial(&self) {
        self.note(|lock, watched| {
            watched.is_moving = false;
            watched.read_again(lock.file());
        });
    }

    /// Notes that the file has everything, and its log nothing else.
    pub(super) fn note_whole(&self) {
        self.note(|lock, watched| {
            watched.is_moving = false;
            // After a `VACUUM`, it is another page.
            if let Ok(counters) = connection::root_page(&mut watched.keeper, "metadata") {
                watched.counters = counters;
            }
            let file = Fingerprint::read(lock.file(), watched.counters).ok().flatten();
            let log = connection::log_frames(&mut watched.keeper).ok();
            // Without it, the check is less strict.
            watched.whole = file.zip(log).map(|(file, log)| Whole { modified: Some(file.modified), file, log });
        });
    }

    /// Notes that the current transaction may bring this tag into the file.
    pub(super) fn expect_tag(&self, tag: Tag) {
        self.note(|_, watched| watched.tags.next = Some(tag));
    }

    /// Notes that the transaction was rolled back that would have brought another tag.
    pub(super) fn withdraw_tag(&self) {
        self.note(|_, watched| watched.tags.next = None);
    }

    /// Notes that the log has begun with this tag.
    pub(super) fn note_log_begun(&self, tag: Tag) {
        self.note(|_, watched| {
            watched.tags = Tags::of(tag);
            watched.frames = 0;
            watched.is_untagged = false;
        });
    }

    /// Notes which tags were found after the writer had to open the database again.
    pub(super) fn set_tags(&self, tags: Tags) {
        self.note(|_, watched| watched.tags = tags);
    }

    fn note(&self, note: impl FnOnce(&FileLock, &mut Watched)) {
        if let Some(OpenFile { watched: Some(watched), lock }) = &mut *self.open() {
            note(lock, watched);
        }
    }

    /// Whether the log may have begun without a tag of ours.
    pub(super) fn is_untagged(&self) -> bool {
        let open = self.open();
        open.as_ref().and_then(|open| open.watched.as_ref()).is_some_and(|watched| watched.is_untagged)
    }

    /// Whether the file has everything, so that the transaction in progress begins another log.
    ///
    /// # Errors
    /// It does not have what this process wrote.
    pub(super) fn is_log_moved(&self) -> Result<bool, StoreError> {
        let place = match &mut *self.open() {
            Some(OpenFile { watched: Some(watched), lock }) => Some(watched.place(lock.file())?),
            _ => None,
        };
        match place {
            None | Some(Place::Log) => Ok(false),
            Some(Place::File) => Ok(true),
            Some(Place::FileByAnother) => {
                // What lies there counts as whole from now on.
                self.examine()?;
                self.note_whole();
                Ok(true)
            }
        }
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

    /// From now on nothing succeeds: the database has another epoch or revision than the one that this process writes.
    pub(super) fn report_other_history(&self) -> StoreError {
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

    /// Lets nobody open the file any more. It is unlocked when the last connection is closed.
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
            match FileId::at(path) {
                // Remote file systems number files as they like.
                Ok(found) if found != id && self.lock.reach() == Reach::Everyone => {
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
        // The writer may be beginning a log itself.
        watched.is_untagged |= frames < watched.frames && watched.tags.next.is_none();
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
                Ok(Some(header)) if watched.accepts(self.lock.file(), &header, path) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err(Damage::Truncated(path.to_owned())),
                // A disk that cannot be read is no proof.
                Err(_) => return Ok(()),
            }
        }
        Err(Damage::Overwritten(path.to_owned()))
    }
}

/// A file that is written twice within a tick of the kernel's clock may have the same time.
const TICK: Duration = Duration::from_millis(20);

/// Where all that was written is.
enum Place {
    /// A part of it is in the log only.
    Log,
    /// In the file, by a checkpoint of this process.
    File,
    /// In the file, by a checkpoint of another process.
    FileByAnother,
}

impl Watched {
    fn new(keeper: SqliteConnection, log: FileId, counters: u64, tags: Tags) -> Self {
        Self {
            keeper,
            log,
            counters,
            whole: None,
            tags,
            in_log_since: None,
            frames: 0,
            is_untagged: false,
            is_moving: false,
        }
    }

    fn place(&mut self, file: &File) -> Result<Place, StoreError> {
        let written = file.metadata().and_then(|found| found.modified()).ok();
        if written.is_some() && written == self.in_log_since {
            return Ok(Place::Log);
        }
        self.in_log_since = None;
        let log = connection::log_frames(&mut self.keeper)?;
        Ok(match &self.whole {
            _ if log.frames != log.moved => {
                let is_past = |written: &SystemTime| written.elapsed().is_ok_and(|elapsed| elapsed > TICK);
                self.in_log_since = written.filter(is_past);
                Place::Log
            }
            Some(whole) if whole.log == log => Place::File,
            _ => Place::FileByAnother,
        })
    }

    /// Notes what the writer has changed in a file that does not have everything. The header is another one as soon as it
    /// has pages of a log that has begun with another tag.
    fn read_again(&mut self, file: &File) {
        if let (Some(whole), Ok(Some(found))) = (&mut self.whole, Fingerprint::read(file, self.counters))
            && whole.file.header == found.header
        {
            whole.modified = Some(found.modified);
            whole.file = found;
        }
    }

    fn accepts(&mut self, file: &File, header: &Header, path: &Path) -> bool {
        let known = self.whole.as_ref().map(|whole| &whole.file);
        if known.is_some_and(|known| known.header == *header) {
            return self.accepts_as_whole(file, path);
        }
        let is_later = known.is_none_or(|known| header.change_counter() >= known.header.change_counter());
        // A file that `VACUUM INTO` made has our tag, but its pages are in another order, and its schema is a later one.
        let is_ours = |ours: u32| header.schema_version() <= ours;
        self.tags.contain(header.tag()) && is_later && connection::schema_version(&mut self.keeper).is_ok_and(is_ours)
    }

    /// Accepts a file with the header that it had when it last had everything.
    fn accepts_as_whole(&mut self, file: &File, path: &Path) -> bool {
        let Ok(Some(found)) = Fingerprint::read(file, self.counters) else { return false };
        let Ok(log) = connection::log_frames(&mut self.keeper) else { return false };
        let Some(whole) = &mut self.whole else { return true };
        if found.header != whole.file.header || found.length < whole.file.length {
            return false;
        }
        // Pages of the log are in the file without the header if a reader needs an older state of that.
        let has_begun = self.tags.log != whole.file.header.tag();
        if self.is_moving || (if has_begun { log.moved > 0 } else { log != whole.log }) {
            return true;
        }
        if found.counters != whole.file.counters {
            return false;
        }
        whole.note_time(found.modified, path);
        true
    }
}

impl Whole {
    /// Warns once if somebody else has written the file, although it has the same header and the same counters.
    ///
    /// That is no proof of damage. The tag in the header came by chance, and each revision changes the counters, so no
    /// other state of this or another history has both: whoever copied the file over itself has changed nothing. Others
    /// who write it like that are `touch`, file systems that invent times, and a checkpoint of another process that was
    /// interrupted: its pages are still in the log, from which they are read. Only who changes rows in a copy, leaves its
    /// counters alone and puts it back would have to be stopped, and cannot be told from those without reading all pages.
    fn note_time(&mut self, found: SystemTime, path: &Path) {
        if self.modified.is_some_and(|known| known != found) {
            self.modified = None;
            log::warn!(
                "another program has written {}, or changed its time; what was compared is as before, so the service \
                 goes on",
                path.display()
            );
        }
    }
}

impl Tags {
    pub(super) const fn of(log: Tag) -> Self {
        Self { log, follows: None, next: None }
    }

    fn contain(&self, tag: Tag) -> bool {
        tag == self.log || Some(tag) == self.follows || Some(tag) == self.next
    }
}

#[cfg(feature = "postgres")]
impl MainConnection {
    pub(super) fn of_server(connection: AnyConnection) -> Self {
        Self { connection, _lock: None }
    }
}

impl Deref for MainConnection {
    type Target = AnyConnection;

    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl DerefMut for MainConnection {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}

/// The length in bytes of a log with this many frames.
fn log_length(frames: u64, page_size: u64) -> u64 {
    if frames == 0 { 0 } else { 32 + frames * (24 + page_size) }
}
