//! The threads that read: a few, each with a read-only connection, so that no read blocks a thread that serves streams, or
//! the writer. They are no actors: a job runs on the first thread that is free, and keeps nothing on it but the connection.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use serde_json::Value;

use crate::domain::collection::Registry;
use crate::domain::error_chain::ErrorChain;
use crate::domain::feed::Feed;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, JournalPosition, Revision, Version};
use crate::events::domain_event::frames;
use crate::events::journal_pages::{Encoded, Place};
use crate::events::replay_cache::{ReplayCache, Wanted};
use crate::events::resume::{Beginning, Page, Position, ResumeReply, ResumeRequest, resume};
use crate::events::sse::Form;
use crate::metrics::Counter;
use crate::read::collection_cache::{BuildJob, BuildOutcome, CollectionRevision, CollectionRevisions, CompressJob};
use crate::read::collection_writer::{CollectionWriter, StreamTarget};
use crate::read::shared_spools::{Content, SharedSpools};
use crate::read::spool::{Cut, SpoolError};
use crate::read::thread_pool::{PoolBusy, PoolStopped, ThreadPool};
use crate::read::waiting_requests::WaitingRequests;
use crate::read_model::report::{Parameters, Report, ReportError};
use crate::storage::aggregates::Row;
use crate::storage::counters::Horizon;
use crate::storage::database::{Database, Writers};
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::health;
use crate::storage::journal::{Entries, EntriesOfOne, Folded};
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::{Excerpt, Part, Reader, View};

/// A handle to some reading threads. They end when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct Readers {
    threads: ThreadPool<ReaderThread>,
    requests: WaitingRequests,
    replay_cache: Arc<ReplayCache>,
}

/// How some reading threads are started.
pub(crate) struct PoolConfig {
    /// They are named `name-0`, `name-1` and so on.
    pub(crate) name: &'static str,
    pub(crate) threads: usize,
    /// The number of waiting requests beyond which further ones are refused.
    pub(crate) max_waiting: usize,
}

/// What the reading threads count.
#[derive(Debug, Default)]
pub(crate) struct ReadMetrics {
    /// Consumers that got the changed aggregates instead of the events.
    pub(crate) catch_ups: Counter,
    /// Consumers that had to start over.
    pub(crate) resets: Counter,
    /// Pages of the journal that were read from the database.
    pub(crate) journal_reads: Counter,
}

/// How long a stopping service waits for a job that reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// A job for a reading thread.
pub(crate) trait ReadJob: Send + 'static {
    type Output: Send + 'static;

    fn run(self, thread: &mut ReaderThread) -> Self::Output;
}

/// What one reading thread has.
pub(crate) struct ReaderThread {
    database: Arc<Database>,
    registry: Arc<Registry>,
    replay_cache: Arc<ReplayCache>,
    metrics: Arc<ReadMetrics>,
    /// `None` until the first read, and after a failure.
    reader: Option<Reader>,
}

impl Readers {
    /// Starts some threads.
    ///
    /// # Errors
    /// The operating system does not start a thread.
    pub(crate) fn start(
        PoolConfig { name, threads, max_waiting }: PoolConfig,
        database: &Arc<Database>,
        registry: &Arc<Registry>,
        replay_cache: &Arc<ReplayCache>,
        metrics: &Arc<ReadMetrics>,
    ) -> io::Result<Self> {
        let database = Arc::clone(database);
        let registry = Arc::clone(registry);
        let cache = Arc::clone(replay_cache);
        let metrics = Arc::clone(metrics);
        let state = move || ReaderThread {
            database: Arc::clone(&database),
            registry: Arc::clone(&registry),
            replay_cache: Arc::clone(&cache),
            metrics: Arc::clone(&metrics),
            reader: None,
        };
        let (threads, requests) = (ThreadPool::start(name, threads, state)?, WaitingRequests::new(max_waiting));
        Ok(Self { threads, requests, replay_cache: Arc::clone(replay_cache) })
    }

    /// Queues a job at once, and returns its output. A job that nobody waits for any more when its turn comes is skipped.
    pub(crate) fn send<J: ReadJob>(&self, job: J) -> impl Future<Output = Result<J::Output, PoolStopped>> + use<J> {
        self.threads.call(|thread| job.run(thread))
    }

    /// Queues a job of a request, unless too many wait already.
    pub(crate) fn try_send<J: ReadJob>(
        &self,
        job: J,
    ) -> Result<impl Future<Output = Result<J::Output, PoolStopped>> + use<J>, PoolBusy> {
        let turn = self.requests.wait()?;
        Ok(self.threads.call(|thread| {
            drop(turn);
            job.run(thread)
        }))
    }

    /// Queues a job of a request that has no output, unless too many wait already.
    pub(crate) fn try_post<J: ReadJob<Output = ()>>(&self, job: J) -> Result<(), PoolBusy> {
        let turn = self.requests.wait()?;
        self.threads.post(|thread| {
            drop(turn);
            job.run(thread);
        });
        Ok(())
    }

    /// The events that another thread can read while the page of a stream is read. `None` if other jobs wait.
    fn ahead(&self, request: &ResumeRequest, current: Revision) -> Option<ReadAhead> {
        let Position::Log(after) = request.position else { return None };
        if self.waiting() > 0 {
            return None;
        }
        let (page, page_bytes) = (Span { after, to: current }, request.limit.bytes);
        let span = self.replay_cache.ahead(&request.feed, &request.form, page, page_bytes)?;
        Some(ReadAhead { feed: request.feed.clone(), form: request.form.clone(), span, page_bytes })
    }

    /// The number of jobs that no thread has begun.
    pub(crate) fn waiting(&self) -> usize {
        self.threads.waiting()
    }

    /// Ends the threads, and waits a while until they have closed their connections.
    pub(crate) fn stop(&self) {
        if !self.threads.stop(PATIENCE) {
            log::warn!("a reading thread is busy, so the write-ahead log stays beside the database");
        }
    }
}

impl ReaderThread {
    /// Lends the connection, which is reopened after a failure. A panic fails this work only.
    fn with_reader<T, E: From<StoreError>>(&mut self, work: impl FnOnce(&mut Reader) -> Result<T, E>) -> Result<T, E> {
        // An open connection still reads from a file that is gone.
        if self.database.health().is_replaced() {
            return Err(self.database.replaced().into());
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.database, Arc::clone(&self.registry))?,
        };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| work(&mut reader))).unwrap_or_else(|_| Err(StoreError::Panicked.into()));
        if outcome.is_ok() {
            self.reader = Some(reader);
            return outcome;
        }
        // Perhaps it failed because the files are not there any more.
        self.database.examine()?;
        outcome
    }

    /// Lends a view of the database, in one read transaction.
    fn view<T>(&mut self, work: impl FnOnce(&mut View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.read(|reader| reader.view(work))
    }

    /// Lends the connection, and notes whether the database can be read.
    fn read<T>(&mut self, work: impl FnOnce(&mut Reader) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let outcome = self.with_reader(work);
        self.note(outcome.as_ref().err());
        outcome.map_err(|error| self.database.unavailable(error))
    }

    /// Notes whether the database can be read.
    fn note(&self, error: Option<&StoreError>) {
        let health = self.database.health();
        match error {
            None => health.recover(health::Part::Reader),
            // It is in the health of the file.
            Some(StoreError::Replaced { .. }) => {}
            Some(error) if error.is_of_file() => {
                health
                    .fail(health::Part::Reader, &format!("{}: {}", self.database.name().display(), ErrorChain(error)));
            }
            // It is about some data, and in the log.
            Some(_) => {}
        }
    }
}

/// The threads for pages, and those for pages that take longer.
#[derive(Clone)]
pub(crate) struct PageReaders {
    pub(crate) short: Readers,
    pub(crate) long: Readers,
}

impl PageReaders {
    /// Reads a page of a stream, for which `current` is the last revision. It is never refused: a stream reads one page at
    /// a time, and their number is limited.
    pub(crate) fn send(
        &self,
        request: ResumeRequest,
        current: Revision,
    ) -> impl Future<Output = Result<Result<ResumeReply, StoreError>, PoolStopped>> + use<> {
        let ahead = self.short.ahead(&request, current);
        // Whether the log is too long is decided with the first page, which may have had no memory.
        let readers = if request.sent_initial_state { &self.short } else { self.for_request(&request, current) };
        let page = readers.send(request);
        if let Some(ahead) = ahead {
            self.short.threads.post(|thread| ahead.run(thread));
        }
        page
    }

    /// Reads a page for a request that is no stream, unless too many wait already.
    pub(crate) fn try_send(
        &self,
        request: ResumeRequest,
        current: Revision,
    ) -> Result<impl Future<Output = Result<Result<ResumeReply, StoreError>, PoolStopped>> + use<>, PoolBusy> {
        self.for_request(&request, current).try_send(request)
    }

    fn for_request(&self, request: &ResumeRequest, current: Revision) -> &Readers {
        if request.is_long(current) { &self.long } else { &self.short }
    }
}

impl ReadJob for ResumeRequest {
    type Output = Result<ResumeReply, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        let replay_cache = Arc::clone(&thread.replay_cache);
        let reply = thread.view(|view| resume(view, &replay_cache, &self))?;
        if let ResumeReply::Page(Page { begins: Some(beginning), .. }) = &reply {
            match beginning {
                Beginning::CatchUp => thread.metrics.catch_ups.add(1),
                Beginning::Reset => thread.metrics.resets.add(1),
            }
        }
        Ok(reply)
    }
}

/// Reads events into the cache.
struct ReadAhead {
    feed: Feed,
    form: Form,
    span: Span,
    page_bytes: usize,
}

impl ReadJob for ReadAhead {
    type Output = ();

    fn run(self, thread: &mut ReaderThread) {
        let Self { feed, form, span, page_bytes } = self;
        let replay_cache = Arc::clone(&thread.replay_cache);
        // Whoever needs them reads them then, and learns what is wrong.
        let _ = thread.view(|view| {
            let Horizon { pruned, current, erasures, .. } = view.horizon()?;
            if pruned <= span.after && span.to <= current {
                let wanted = Wanted { feed: &feed, form: &form, span, page_bytes, erasures };
                replay_cache.prepare(view, wanted)?;
            }
            Ok(())
        });
    }
}

/// Returns the revision of the document, and the row of an aggregate if it exists at it.
pub(crate) struct ReadAggregate {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
}

impl ReadJob for ReadAggregate {
    type Output = Result<(Revision, Option<Row>), StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.read(|reader| reader.aggregate(self.collection, &self.key))
    }
}

/// Returns how often something of the past was overwritten.
pub(crate) struct CountErasures;

impl ReadJob for CountErasures {
    type Output = Result<i64, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.view(|view| Ok(view.horizon()?.erasures))
    }
}

/// Returns the erasure of an aggregate, if it was erased.
pub(crate) struct ReadErasure {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
}

impl ReadJob for ReadErasure {
    type Output = Result<Option<Erasure>, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.view(|view| {
            view.horizon()?;
            view.erasure(self.collection, &self.key)
        })
    }
}

/// Returns the revision of the document, and that of the last change of each collection.
pub(crate) struct ReadLastChanges;

impl ReadJob for ReadLastChanges {
    type Output = Result<CollectionRevisions, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.view(|view| Ok(CollectionRevisions { document: view.horizon()?.current, changed: view.last_changes()? }))
    }
}

/// Returns the revision of the document, and an aggregate folded from its first events.
pub(crate) struct FoldAggregate {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// The version to stop at; `None` for the last one.
    pub(crate) up_to: Option<Version>,
}

impl ReadJob for FoldAggregate {
    type Output = Result<(Revision, Folded), StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.view(|view| Ok((view.horizon()?.current, view.fold(self.collection, &self.key, self.up_to)?)))
    }
}

/// Returns the revision of the document, and the domain events of an aggregate after a version.
pub(crate) struct ReadEvents {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) after: Version,
    pub(crate) limit: PageLimit,
}

impl ReadJob for ReadEvents {
    type Output = Result<(Revision, EntriesOfOne), StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        let Self { collection, key, after, limit } = self;
        thread.view(|view| Ok((view.horizon()?.current, view.events_of(collection, &key, after, limit)?)))
    }
}

/// Returns the revision of the document, and the domain events after a position, of some collections or of all.
pub(crate) struct ReadJournal {
    pub(crate) only: Option<Arc<[CollectionId]>>,
    pub(crate) after: JournalPosition,
    pub(crate) limit: PageLimit,
}

impl ReadJob for ReadJournal {
    type Output = Result<(Revision, Entries), StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        let Self { only, after, limit } = self;
        thread.metrics.journal_reads.add(1);
        thread.view(|view| Ok((view.horizon()?.current, view.journal(only.as_deref(), after, limit)?)))
    }
}

/// Returns a page of the journal as streams send it.
pub(crate) struct ReadJournalPage {
    pub(crate) place: Place,
    /// The epoch that the ids name.
    pub(crate) epoch: Epoch,
}

impl ReadJob for ReadJournalPage {
    type Output = Result<Encoded, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        let Self { place, epoch } = self;
        thread.metrics.journal_reads.add(1);
        let page = thread.view(|view| view.journal(place.only.as_deref(), place.after, place.limit()))?;
        Ok(Encoded { text: frames(&thread.registry, &epoch, &page.entries), to: page.to })
    }
}

/// Returns the report of an inline projection.
pub(crate) struct ReadReport {
    pub(crate) report: Report,
    pub(crate) parameters: Parameters,
}

impl ReadJob for ReadReport {
    type Output = Result<Result<Value, ReportError>, StoreError>;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        let Self { report, parameters } = self;
        thread.view(|view| match view.query(|connection| (report.read)(connection.file(), &parameters))? {
            // The tables are a part of the database.
            Err(ReportError::Failed(error)) if error.is_damage() => Err(StoreError::Report(error.to_string())),
            content => Ok(content),
        })
    }
}

impl ReadJob for BuildJob {
    type Output = BuildOutcome;

    fn run(self, thread: &mut ReaderThread) -> Self::Output {
        thread.view(|view| self.build(view)).unwrap_or_else(|error| {
            if !error.is_of_file() {
                log::error!("a collection was not read: {}", ErrorChain(&error));
            }
            BuildOutcome::Failed
        })
    }
}

impl ReadJob for CompressJob {
    type Output = Option<Bytes>;

    fn run(self, _: &mut ReaderThread) -> Self::Output {
        self.compress()
    }
}

/// Writes whole collections, or some aggregates of one, into a spool.
pub(crate) struct ReadCollections {
    pub(crate) content: Content,
    pub(crate) target: StreamTarget,
    /// Where the length is noted.
    pub(crate) spools: Arc<SharedSpools>,
}

impl ReadJob for ReadCollections {
    type Output = ();

    fn run(self, thread: &mut ReaderThread) {
        let registry = Arc::clone(&thread.registry);
        let Self { content, target, spools } = self;
        let mut writer = CollectionWriter::new(target, &registry);
        let excerpt = Excerpt { collections: &content.collections, keys: content.keys.as_deref() };
        let outcome = thread.with_reader(|reader| {
            reader.collections(excerpt, |part| match part {
                Part::Begin { document, changed } => {
                    writer.begin(CollectionRevision { document, changed })?;
                    writer.write(part)
                }
                part => writer.write(part),
            })
        });
        match outcome.and_then(|()| writer.flush()) {
            Ok(()) => {
                spools.note(content, writer.written());
                writer.finish();
            }
            // It is at least so long.
            Err(SpoolError::Cut(Cut::NoRoom)) => spools.note(content, writer.written()),
            // Nobody waits for it, or the directory of the temporary files has noted a failure.
            Err(SpoolError::Cut(_)) => {}
            Err(SpoolError::Store(error)) => {
                writer.cut(match (&error, thread.database.writers()) {
                    (StoreError::Replaced { .. }, _) => Cut::Replaced,
                    (_, Writers::Many) if error.is_of_file() => Cut::Interrupted,
                    (_, Writers::Many | Writers::ThisProcess) => Cut::Unreadable,
                });
                thread.note(Some(&error));
                if !error.is_of_file() {
                    log::error!("a response was not finished: {}", ErrorChain(&error));
                }
            }
        }
    }
}
