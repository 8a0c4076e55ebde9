//! The actors that read: a few threads, each with a read-only connection, so that no read blocks a thread that serves
//! streams, or the writer.

use crate::domain::error_chain::ErrorChain;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use tokio::sync::oneshot;

use crate::domain::collection::Registry;
use crate::domain::feed::push_member;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{JournalPosition, Revision, Version};
use crate::events::replay_cache::ReplayCache;
use crate::events::resume::{ResumeReply, ResumeRequest, resume};
use crate::read::collection_cache::{Make, Measure, Zip};
use crate::read::spooled_body::{Spool, SpoolError};
use crate::storage::aggregates::Row;
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::journal::{Entries, Entry, Folded};
use crate::storage::page::PageLimit;
use crate::storage::reader::{Part, Reader};
use crate::threads::name_thread;

/// One reading thread.
pub(crate) struct Readers {
    database: Arc<Database>,
    registry: Arc<Registry>,
    replay_cache: Arc<ReplayCache>,
    /// `None` until the first read, and after a failure.
    reader: Option<Reader>,
}

/// A body that is streamed is given to the client in chunks of about this many bytes.
const CHUNK: usize = 64 * 1024;

impl Readers {
    /// `name` is that of the threads, to which their number is added.
    pub(crate) fn start(
        name: &'static str,
        threads: usize,
        database: &Arc<Database>,
        registry: &Arc<Registry>,
        replay_cache: &Arc<ReplayCache>,
    ) -> Addr<Self> {
        let (database, registry, replay_cache) = (Arc::clone(database), Arc::clone(registry), Arc::clone(replay_cache));
        let started = AtomicUsize::new(0);
        SyncArbiter::start(threads, move || {
            name_thread(&format!("{name}-{}", started.fetch_add(1, Ordering::Relaxed)));
            Self {
                database: Arc::clone(&database),
                registry: Arc::clone(&registry),
                replay_cache: Arc::clone(&replay_cache),
                reader: None,
            }
        })
    }

    /// Lends the connection; one that failed is not used again. A panic is a failure of its own work only: the thread goes
    /// on.
    fn with_reader<T, E: From<StoreError>>(&mut self, work: impl FnOnce(&mut Reader) -> Result<T, E>) -> Result<T, E> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(&self.database, Arc::clone(&self.registry))?,
        };
        let outcome =
            catch_unwind(AssertUnwindSafe(|| work(&mut reader))).unwrap_or_else(|_| Err(StoreError::Panicked.into()));
        if outcome.is_ok() {
            self.reader = Some(reader);
        }
        outcome
    }
}

impl Actor for Readers {
    type Context = SyncContext<Self>;
}

impl Message for ResumeRequest {
    type Result = Result<ResumeReply, StoreError>;
}

impl Handler<ResumeRequest> for Readers {
    type Result = Result<ResumeReply, StoreError>;

    fn handle(&mut self, request: ResumeRequest, _: &mut Self::Context) -> Self::Result {
        let replay_cache = Arc::clone(&self.replay_cache);
        self.with_reader(|reader| reader.view(|view| resume(view, &replay_cache, &request)))
    }
}

/// Some aggregates, and the revision of the document that shows them.
pub(crate) struct ReadAggregates {
    pub(crate) collection: CollectionId,
    pub(crate) keys: Vec<Key>,
}

/// Those that are there, in the order of their keys.
type Aggregates = Result<(Revision, Vec<(Key, Row)>), StoreError>;

impl Message for ReadAggregates {
    type Result = Aggregates;
}

impl Handler<ReadAggregates> for Readers {
    type Result = Aggregates;

    fn handle(&mut self, ReadAggregates { collection, keys }: ReadAggregates, _: &mut Self::Context) -> Aggregates {
        self.with_reader(|reader| reader.view(|view| Ok((view.horizon()?.current, view.aggregates(collection, keys)?))))
    }
}

/// The revision of the document, and that of the last change of a collection.
pub(crate) struct LastChange(pub(crate) CollectionId);

impl Message for LastChange {
    type Result = Result<(Revision, Revision), StoreError>;
}

impl Handler<LastChange> for Readers {
    type Result = Result<(Revision, Revision), StoreError>;

    fn handle(&mut self, LastChange(collection): LastChange, _: &mut Self::Context) -> Self::Result {
        self.with_reader(|reader| reader.view(|view| Ok((view.horizon()?.current, view.last_change(collection)?))))
    }
}

/// An aggregate as its first events say, and the revision of the document now.
pub(crate) struct FoldAggregate {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    /// All of them, if not given.
    pub(crate) up_to: Option<Version>,
}

impl Message for FoldAggregate {
    type Result = Result<(Revision, Folded), StoreError>;
}

impl Handler<FoldAggregate> for Readers {
    type Result = Result<(Revision, Folded), StoreError>;

    fn handle(&mut self, fold: FoldAggregate, _: &mut Self::Context) -> Self::Result {
        let FoldAggregate { collection, key, up_to } = fold;
        self.with_reader(|reader| {
            reader.view(|view| Ok((view.horizon()?.current, view.fold(collection, &key, up_to)?)))
        })
    }
}

/// The domain events of an aggregate after a version, and the revision of the document now.
pub(crate) struct ReadEvents {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) after: Version,
    pub(crate) limit: i64,
}

impl Message for ReadEvents {
    type Result = Result<(Revision, Vec<Entry>), StoreError>;
}

impl Handler<ReadEvents> for Readers {
    type Result = Result<(Revision, Vec<Entry>), StoreError>;

    fn handle(&mut self, read: ReadEvents, _: &mut Self::Context) -> Self::Result {
        let ReadEvents { collection, key, after, limit } = read;
        self.with_reader(|reader| {
            reader.view(|view| Ok((view.horizon()?.current, view.events_of(collection, &key, after, limit)?)))
        })
    }
}

/// The domain events after a position, of some collections or all, and the revision of the document now.
pub(crate) struct ReadJournal {
    pub(crate) only: Option<Arc<[CollectionId]>>,
    pub(crate) after: JournalPosition,
    pub(crate) limit: PageLimit,
}

impl Message for ReadJournal {
    type Result = Result<(Revision, Entries), StoreError>;
}

impl Handler<ReadJournal> for Readers {
    type Result = Result<(Revision, Entries), StoreError>;

    fn handle(&mut self, ReadJournal { only, after, limit }: ReadJournal, _: &mut Self::Context) -> Self::Result {
        self.with_reader(|reader| {
            reader.view(|view| Ok((view.horizon()?.current, view.journal(only.as_deref(), after, limit)?)))
        })
    }
}

impl Message for Make {
    type Result = ();
}

impl Handler<Make> for Readers {
    type Result = ();

    fn handle(&mut self, make: Make, ctx: &mut Self::Context) {
        let made = self.with_reader(|reader| reader.view(|view| make.run(view)));
        match made.map(|made| make.finish(made)) {
            Ok(None) => {}
            // In the queue like any other: what somebody else waits for comes first.
            Ok(Some(next)) => ctx.address().do_send(next),
            Err(error) => log::error!("a body was not made: {}", ErrorChain(&error)),
        }
    }
}

impl Message for Zip {
    type Result = ();
}

impl Handler<Zip> for Readers {
    type Result = ();

    fn handle(&mut self, zip: Zip, _: &mut Self::Context) {
        if catch_unwind(AssertUnwindSafe(|| zip.run())).is_err() {
            log::error!("a body was not compressed");
        }
    }
}

/// Whole collections into a spool; first of all, the revision that this shows.
pub(crate) struct ReadCollections {
    pub(crate) collections: Vec<CollectionId>,
    pub(crate) form: Form,
    /// The revision, and that of the last change of the collection, if it is one only.
    pub(crate) shown: oneshot::Sender<(Revision, Revision)>,
    pub(crate) body: Spool,
    /// For a body that there was no room to share.
    pub(crate) measure: Option<Measure>,
}

/// The form of a body that has whole collections in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One collection as an object: `{"1":{…},"2":{…}}`.
    Collection,
    /// Collections as an object of objects: `{"persons":{"1":{…}},"locations":{}}`.
    Document,
    /// A line for each aggregate: `{"key":"1","aggregate":{…}}`.
    Lines,
}

impl Message for ReadCollections {
    type Result = ();
}

impl Handler<ReadCollections> for Readers {
    type Result = ();

    fn handle(&mut self, read: ReadCollections, _: &mut Self::Context) {
        let ReadCollections { collections, form, shown, body, measure } = read;
        let registry = Arc::clone(&self.registry);
        let mut writing = Writing { form, text: String::new(), written: 0, body };
        let outcome = self.with_reader(|reader| {
            reader.collections(
                &collections,
                |revision, changed| {
                    // A client that has gone is noticed when its body is written.
                    let _ = shown.send((revision, changed));
                },
                |part| writing.write(&registry, part),
            )
        });
        match outcome.and_then(|()| writing.flush()) {
            Ok(()) => {
                if let Some(measure) = measure {
                    measure.took(writing.written);
                }
                writing.body.finish();
            }
            Err(SpoolError::ClientGone) => {}
            // The spool is dropped unfinished: the client's response is cut, and not taken for the whole.
            Err(broken) => log::error!("a response was not finished: {broken}"),
        }
    }
}

/// A body while it is written.
struct Writing {
    form: Form,
    text: String,
    /// The bytes that the body was given.
    written: usize,
    body: Spool,
}

impl Writing {
    fn write(&mut self, registry: &Registry, part: Part<'_>) -> Result<(), SpoolError> {
        match (self.form, part) {
            (Form::Document, Part::Begin) | (Form::Collection, Part::Collection { .. }) => self.text.push('{'),
            (Form::Document, Part::Collection { id, first }) => {
                self.text.push_str(if first { "" } else { "," });
                push_member(&mut self.text, registry.get(id).name(), "{");
            }
            (Form::Lines, Part::Aggregate { key, body, .. }) => {
                self.text.push('{');
                push_member(&mut self.text, "key", &serde_json::Value::from(key).to_string());
                self.text.push(',');
                push_member(&mut self.text, "aggregate", body);
                self.text.push_str("}\n");
            }
            (_, Part::Aggregate { key, body, first }) => {
                self.text.push_str(if first { "" } else { "," });
                push_member(&mut self.text, key, body);
            }
            (Form::Document, Part::End | Part::CollectionEnd) | (Form::Collection, Part::CollectionEnd) => {
                self.text.push('}');
            }
            _ => {}
        }
        if self.text.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        if self.text.is_empty() {
            return Ok(());
        }
        self.written += self.text.len();
        self.body.push(std::mem::take(&mut self.text).into())
    }
}
