//! Parts of the pipeline that `benches/micro.rs` measures one by one, as plain functions: without HTTP and without actors.
//! There only with the feature `test-hooks`, for this crate's own benchmarks; no part of its interface.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::bodies::{self, Asked};
use crate::clock::Clock;
use crate::collection::{self, CollectionId, Derived, Document, EventSourced, Registry, Verb};
use crate::cursor::{Revision, Version};
use crate::feed;
use crate::follow::{Answer, Ask, History, PATIENCE, Position, follow};
use crate::frames::{Form, Frames};
use crate::key::Key;
use crate::merge_patch;
use crate::precondition::Precondition;
use crate::segments::Segments;
use crate::store::{Committed, Database, Entry, Life, Reader, Room, StoreError, Writer};

/// What came of a step; a benchmark in which one fails has no figures.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The smallest merge patch that turns `before` into `after`; `None` when they are equal.
#[must_use]
pub fn diff(before: &Value, after: &Value) -> Option<Value> {
    merge_patch::diff(before, after)
}

/// Applies a merge patch.
pub fn apply(target: &mut Value, patch: Value) {
    merge_patch::apply(target, patch);
}

/// Collections that are being registered.
#[derive(Default)]
pub struct Registration(Registry);

impl Registration {
    /// Adds a collection of documents.
    #[must_use]
    pub fn document<T: Document>(mut self) -> Self {
        self.0.document::<T>();
        self
    }

    /// Adds a collection that follows from one of them.
    #[must_use]
    pub fn derived<T: Derived>(mut self) -> Self {
        self.0.derived::<T>();
        self
    }

    /// Adds a collection of event-sourced aggregates.
    #[must_use]
    pub fn event_sourced<T: EventSourced>(mut self) -> Self {
        self.0.event_sourced::<T>();
        self
    }
}

/// The collections of a store, for those who make commands while it is used.
#[derive(Clone)]
pub struct Collections(Arc<Registry>);

/// A command, checked as far as that goes without the state.
pub struct Command(collection::Command);

impl Collections {
    /// A new aggregate, whose key is given by the collection.
    ///
    /// # Errors
    /// It is none of this collection.
    pub fn create(&self, collection: &str, body: Value) -> Outcome<Command> {
        self.command(collection, None, Verb::Create, body)
    }

    /// A merge patch for an aggregate that is there.
    ///
    /// # Errors
    /// It is none for this collection.
    pub fn patch(&self, collection: &str, key: Key, patch: Value) -> Outcome<Command> {
        self.command(collection, Some(key), Verb::Patch, patch)
    }

    /// A command by name for an event-sourced aggregate that is there.
    ///
    /// # Errors
    /// It is none of this collection.
    pub fn handle(&self, collection: &str, key: Key, name: &str, fields: Value) -> Outcome<Command> {
        self.command(collection, Some(key), Verb::Command(name), fields)
    }

    /// The feed of a collection.
    ///
    /// # Errors
    /// There is no such collection.
    pub fn feed(&self, collection: &str) -> Outcome<Feed> {
        Ok(Feed(feed::Feed::Collection(self.id(collection)?, None)))
    }

    fn id(&self, name: &str) -> Outcome<CollectionId> {
        self.0.id(name).ok_or_else(|| format!("there is no collection {name:?}").into())
    }

    fn command(&self, collection: &str, key: Option<Key>, verb: Verb<'_>, json: Value) -> Outcome<Command> {
        let collection = self.id(collection)?;
        let change = self.0.get(collection).change(verb, json)?;
        Ok(Command(collection::Command { collection, key, precondition: Precondition::default(), change }))
    }
}

/// A database file with its writer and a reader.
pub struct Store {
    collections: Collections,
    writer: Writer,
    reader: Reader,
    /// Held as long as the file is open.
    _database: Database,
}

/// What a batch came to.
pub struct Batch(Committed);

impl Batch {
    /// The aggregates that the commands were for, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.answers.iter().flatten().map(|written| &written.key)
    }

    /// The last revision before it.
    #[must_use]
    pub fn after(&self) -> i64 {
        self.0.after.number()
    }
}

/// What a consumer follows.
pub struct Feed(feed::Feed);

impl Feed {
    /// The feed of the whole document.
    #[must_use]
    pub fn document() -> Self {
        Self(feed::Feed::Everything(None))
    }
}

/// Events of a feed as bytes.
pub struct Encoded(Frames);

impl Encoded {
    /// The bytes that they take.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.all().content().len()
    }
}

/// A page of the log, as a stream has it.
pub struct Page {
    /// Server-Sent Events.
    pub text: String,
    /// The last revision in it.
    pub to: i64,
}

/// The domain events of one aggregate.
pub struct Events(CollectionId, Vec<Entry>);

impl Store {
    /// Opens a database, to be created if it is not there.
    ///
    /// # Errors
    /// A registration that cannot work, or the database's.
    pub fn open(path: &Path, Registration(registry): Registration) -> Outcome<Self> {
        registry.check()?;
        let (database, registry) = (Database::take(path)?, Arc::new(registry));
        let writer = Writer::open(&database, Arc::clone(&registry), [].into(), Clock::default().now(), Life::Same)?;
        let reader = Reader::open(&database, Arc::clone(&registry))?;
        Ok(Self { collections: Collections(registry), writer, reader, _database: database })
    }

    /// Its collections.
    #[must_use]
    pub fn collections(&self) -> Collections {
        self.collections.clone()
    }

    /// Does a batch of commands in one transaction, durable afterwards.
    ///
    /// # Errors
    /// A command that is refused, or the database's.
    pub fn commit(&mut self, commands: Vec<Command>) -> Outcome<Batch> {
        let commands = commands.into_iter().map(|Command(command)| command).collect();
        let committed = self.writer.commit(commands, Clock::default().now())?;
        match committed.answers.iter().find_map(|answer| answer.as_ref().err()) {
            Some(refusal) => Err(format!("a command was refused: {refusal:?}").into()),
            None => Ok(Batch(committed)),
        }
    }

    /// Encodes the change events of a batch for all who follow a feed.
    #[must_use]
    pub fn encode(&self, Feed(feed): &Feed, Batch(batch): &Batch) -> Encoded {
        Encoded(Frames::encode(feed, &self.collections.0, self.writer.epoch(), &batch.events))
    }

    /// The next page of a feed for a consumer that has everything up to a revision: from the log, as Server-Sent Events.
    ///
    /// # Errors
    /// The database's, or a log that does not reach back so far.
    pub fn follow(&mut self, Feed(feed): &Feed, after: i64) -> Outcome<Page> {
        let ask = Ask {
            feed: feed.clone(),
            position: Position::Log(Revision::stored(after)),
            history: History::EveryEvent,
            room: Room::PAGE,
            form: Form::Stream(self.writer.epoch().clone()),
            has_frame: true,
            patience: PATIENCE,
        };
        // Each page is read.
        let unshared = Segments::new(0);
        match self.reader.view(|view| follow(view, &unshared, &ask))? {
            Answer::Step(step) => {
                let Position::Log(to) = step.position else { return Err("it is no page of the log".into()) };
                Ok(Page { text: step.messages.text, to: to.number() })
            }
            Answer::Gone(_) => Err("the log does not reach back so far".into()),
        }
    }

    /// Folds an aggregate from its events in the journal: their number, and the size of its state in bytes.
    ///
    /// # Errors
    /// The database's, or an event that cannot be read.
    pub fn rehydrate(&mut self, collection: &str, key: &Key) -> Outcome<(i64, usize)> {
        let id = self.collections.id(collection)?;
        let folded = self.reader.view(|view| view.fold(id, key, None))?;
        Ok((folded.version.number(), folded.body.map_or(0, |body| body.as_str().len())))
    }

    /// The domain events of an aggregate.
    ///
    /// # Errors
    /// The database's.
    pub fn events(&mut self, collection: &str, key: &Key) -> Outcome<Events> {
        let id = self.collections.id(collection)?;
        Ok(Events(id, self.reader.view(|view| view.events_of(id, key, Version::ZERO, i64::MAX))?))
    }
}

impl Events {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.1.len()
    }

    /// Folds them, without the database: the size of the state in bytes.
    ///
    /// # Errors
    /// An event that cannot be read.
    pub fn fold(&self, collections: &Collections) -> Outcome<usize> {
        let journaled = collections.0.get(self.0).journaled().ok_or("the collection has no events")?;
        let mut fold = journaled.fold();
        for Entry { event, schema, .. } in &self.1 {
            fold.apply(&event.kind, *schema, &event.fields).map_err(StoreError::from)?;
        }
        Ok(fold.body().map_err(StoreError::from)?.map_or(0, |body| body.as_str().len()))
    }
}

/// The body of one collection that all who ask for it share.
pub struct SharedBody {
    bodies: Arc<bodies::Bodies>,
    collection: CollectionId,
}

/// The order to bring a shared body up to date. Doing it leaves the body as it is, until the outcome is kept; so the same
/// can be done again.
pub struct Order(bodies::Make);

/// A body that was made.
pub struct Made(bodies::Made);

impl SharedBody {
    /// Of a collection, with room for so many bytes; nothing of it is there yet.
    ///
    /// # Errors
    /// There is no such collection.
    pub fn new(collections: &Collections, collection: &str, limit: usize) -> Outcome<Self> {
        let bodies = Arc::new(bodies::Bodies::new(collections.0.ids().count(), limit));
        Ok(Self { bodies, collection: collections.id(collection)? })
    }

    /// What has to be done for somebody who asks now; nothing, if the body shows the last revision.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn order(&self, store: &Store) -> Outcome<Option<Order>> {
        match self.ask(store) {
            Asked::Here(_) => Ok(None),
            Asked::Pending { make, .. } => Ok(make.map(Order)),
            Asked::TooLarge => Err("there is no room for it".into()),
        }
    }

    /// The size of the body in bytes, if it shows the last revision.
    #[must_use]
    pub fn size(&self, store: &Store) -> Option<usize> {
        match self.ask(store) {
            Asked::Here(shown) => Some(shown.body.size()),
            Asked::Pending { .. } | Asked::TooLarge => None,
        }
    }

    fn ask(&self, store: &Store) -> Asked {
        let changed = store.writer.changed()[self.collection.index()];
        self.bodies.ask(self.collection, (store.writer.revision(), changed))
    }
}

impl Order {
    /// Makes the body, from what has changed since the one before, or anew if there is none.
    ///
    /// # Errors
    /// The database's.
    pub fn run(&self, store: &mut Store) -> Outcome<Made> {
        Ok(Made(store.reader.view(|view| self.0.run(view))?))
    }

    /// Keeps the body for all who ask.
    pub fn keep(self, Made(made): Made) {
        // Nobody else has asked, so there is no further order.
        drop(self.0.finish(made));
    }
}
