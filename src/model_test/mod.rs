//! Checks the law against a model: from every cursor, a consumer that applies merge patches has the state of each revision
//! that an id names, and finally the current state.
//!
//! The operations are random writes, prunings, restarts and replacements of the database. The consumers are at all three
//! levels, with and without filters; they start at any cursor, read any number of messages, and are disconnected at any
//! point. Everything runs in one thread and without sockets; the actors only call what is called here.

mod histories;
mod model;
mod operation;
mod site;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_web::web::BytesMut;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::codec::Decoder as _;

use self::model::{Model, Write, shown};
use self::operation::{Begin, Op, ops};
use crate::aggregates::{Location, Person};
use crate::delivery::hub::LiveSubscribers;
use crate::delivery::send_queue::{QueueItem, SendQueue};
use crate::delivery::session::{State, Subscription};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::domain::command::{Change, Command};
use crate::domain::cursor::CursorParams;
use crate::domain::feed::Feed;
use crate::domain::key::Key;
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::domain::revision::Revision;
use crate::domain::selection::Selection;
use crate::events::batch::Batch;
use crate::events::replay_cache::ReplayCache;
use crate::events::resume::{Position, REPLAY_THRESHOLD, ReplayMode, resume};
use crate::memory::budget::MemoryBudget;
use crate::storage::database::Database;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::Reader;
use crate::storage::retained::Retained;
use crate::storage::writer::{Writer, WriterConfig};
use crate::write::attention::Attention;

struct World {
    directory: TempDir,
    registry: Arc<Registry>,
    writer: Option<Writer>,
    reader: Option<Reader>,
    replay_cache: ReplayCache,
    subscribers: Rc<RefCell<LiveSubscribers>>,
    attention: Arc<Attention>,
    published: Revision,
    model: Model,
    /// The document at each revision.
    history: Vec<Value>,
    databases: usize,
    consumers: Vec<Consumer>,
}

struct Consumer {
    feed: Feed,
    /// The number of aggregates or events in its pages.
    limit: usize,
    state: Value,
    last_id: Option<String>,
    connection: Option<Connection>,
}

struct Connection {
    subscription: Subscription,
    decoder: russe::Decoder,
    undecoded: BytesMut,
    /// The last revision and the last partial one that an id named.
    named: (i64, i64),
}

impl World {
    fn new(consumers: &[(u8, usize)]) -> Self {
        let mut registry = Registry::default();
        registry.document::<Person>();
        registry.derived::<Location>();
        let registry = Arc::new(registry);
        let directory = directory();
        let (writer, reader) = open(&directory, 0, &registry);
        let consumers = consumers
            .iter()
            .map(|(level, limit)| Consumer {
                feed: feed(*level, &registry),
                limit: *limit,
                state: Value::Null,
                last_id: None,
                connection: None,
            })
            .collect();
        let subscribers = Rc::new(RefCell::new(LiveSubscribers::new(writer.history().epoch().clone())));
        let history = vec![Model::default().document()];
        let (writer, published, model) = (Some(writer), Revision::ZERO, Model::default());
        let mut world = Self {
            directory,
            registry,
            writer,
            reader: Some(reader),
            replay_cache: replay_cache(),
            subscribers,
            attention: Arc::default(),
            published,
            model,
            history,
            databases: 0,
            consumers,
        };
        world.register_hub();
        world
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    fn act(&mut self, op: &Op) {
        let now = Clock::default().now();
        let forever = now.minus(std::time::Duration::from_secs(1 << 40));
        match op {
            Op::Commit(writes) => self.commit(writes, now),
            Op::Publish => self.publish(),
            Op::Miss => self.published = self.writer().revision(),
            Op::Tick => self.subscribers.borrow_mut().tick(1),
            Op::Prune(keep) => {
                self.prune(Retained {
                    now,
                    events: forever,
                    keep: Some((*keep).into()),
                    tombstones: forever,
                    answers: forever,
                });
            }
            Op::Forget => self.prune(Retained {
                now,
                events: forever,
                keep: Some(0),
                tombstones: now.after_all(),
                answers: forever,
            }),
            Op::Restart => self.restart(),
            Op::Replace => {
                self.databases += 1;
                self.model = Model::default();
                self.history = vec![self.model.document()];
                self.restart();
            }
            Op::Begin(consumer, begin) => self.begin(*consumer, begin),
            Op::Connect(consumer, history) => self.connect(*consumer, *history),
            Op::Read(consumer, messages) => {
                for _ in 0..*messages {
                    self.read(*consumer);
                }
            }
            Op::StreamAborted(consumer) => self.cut(*consumer),
        }
    }

    fn commit(&mut self, writes: &[Write], now: Timestamp) {
        let collection = self.registry.id("persons").unwrap();
        let (mut commands, mut revisions) = (Vec::new(), Vec::new());
        for write in writes {
            let (key, body) = self.model.write(write);
            let change = match body {
                Some((verb, body)) => self.registry.get(collection).change(verb, body).unwrap(),
                None => Change::Delete,
            };
            let precondition = Precondition::default();
            let (key, metadata) = (key.map(Key::of_number), Metadata::default());
            commands.push(Command { collection, key, precondition, idempotency: None, change, metadata });
            let document = self.model.document();
            if self.history.last() != Some(&document) {
                self.history.push(document);
            }
            revisions.push(i64::try_from(self.history.len() - 1).unwrap());
        }
        let committed = self.writer().commit(&mut commands.into_iter(), now).unwrap();
        for (answer, revision) in committed.answers.iter().zip(revisions) {
            // A rejected one is for a person that does not exist.
            assert!(answer.as_ref().is_ok_and(|written| written.revision.number() == revision) || answer.is_err());
        }
        assert_eq!(committed.revision.number() + 1, i64::try_from(self.history.len()).unwrap());
    }

    fn publish(&mut self) {
        loop {
            let (after, epoch) = (self.published, self.writer().history().epoch().clone());
            let (read, current, after) = self
                .reader
                .as_mut()
                .unwrap()
                .view(|view| {
                    let horizon = view.horizon()?;
                    let after = after.max(horizon.pruned);
                    let limit = PageLimit { items: 2, bytes: usize::MAX };
                    let span = Span { after, to: horizon.current };
                    Ok((view.changes(&Feed::Everything(None), span, limit)?, horizon.current, after))
                })
                .unwrap();
            let batch = Batch::new(after, read.to, read.changes, epoch, Arc::clone(&self.registry));
            // As the relay does.
            if self.attention.is_followed() {
                self.subscribers.borrow_mut().publish(Arc::new(batch));
            }
            self.published = read.to;
            if read.to == current {
                return;
            }
        }
    }

    fn prune(&mut self, retained: Retained) {
        while self.writer().prune(retained, &crate::metrics::Counter::default()).unwrap()
            == crate::storage::page::Progress::More
        {}
    }

    fn restart(&mut self) {
        for consumer in 0..self.consumers.len() {
            self.cut(consumer);
        }
        self.reader = None;
        self.writer.take().unwrap().close().unwrap();
        let (writer, reader) = open(&self.directory, self.databases, &self.registry);
        self.replay_cache = replay_cache();
        self.published = writer.revision();
        self.subscribers = Rc::new(RefCell::new(LiveSubscribers::new(writer.history().epoch().clone())));
        (self.writer, self.reader) = (Some(writer), Some(reader));
        self.register_hub();
    }

    /// Lets the hub know after which revision it joins, as the relay does.
    fn register_hub(&mut self) {
        let (published, epoch) = (self.published, self.writer().history().epoch().clone());
        let batch = Batch::new(published, published, Vec::new(), epoch, Arc::clone(&self.registry));
        self.subscribers.borrow_mut().publish(Arc::new(batch));
    }

    fn cursor(&mut self, revision: usize) -> String {
        format!("{}.{revision}", self.writer().history().epoch())
    }

    fn begin(&mut self, consumer: usize, begin: &Begin) {
        self.cut(consumer);
        let now = self.history.len() - 1;
        let (state, last_id) = match begin {
            Begin::Get => {
                let state = shown(&self.history[now], &self.consumers[consumer].feed, &self.registry);
                (state, Some(self.cursor(now)))
            }
            Begin::Zero => (Value::Null, None),
            Begin::Foreign => (json!({"1": {"name": "stale"}, "persons": []}), Some("0therepoch.1".to_owned())),
            Begin::Future => (json!({"1": {"name": "stale"}, "name": 1}), Some(self.cursor(now + 3))),
        };
        let ours = &mut self.consumers[consumer];
        (ours.state, ours.last_id) = (state, last_id);
        if matches!(begin, Begin::Future) {
            // It reads the reset at once. If it were disconnected before, and reconnected when its cursor is no longer in the
            // future, it would not get one.
            self.connect(consumer, ReplayMode::Auto);
            self.read(consumer);
        }
    }

    fn connect(&mut self, consumer: usize, mode: ReplayMode) {
        self.cut(consumer);
        let history = Arc::clone(self.writer().history());
        let epoch = history.epoch().clone();
        let ours = &mut self.consumers[consumer];
        let presented =
            CursorParams { last_event_id: ours.last_id.as_ref().map(String::as_bytes), ..CursorParams::default() };
        let queue = SendQueue::new(200);
        let mut subscription = Subscription {
            feed: ours.feed.clone(),
            position: Position::of(&presented.cursor().unwrap(), &history),
            form: crate::events::sse::Form::Stream(epoch),
            mode,
            replay_threshold: if mode == ReplayMode::Auto { 3 } else { REPLAY_THRESHOLD },
            sent_initial_state: false,
            limit: PageLimit { items: ours.limit, bytes: usize::MAX },
            state: State::CatchingUp,
            queue,
            subscribers: Rc::clone(&self.subscribers),
            _following: self.attention.follow(),
        };
        let first = self
            .reader
            .as_mut()
            .unwrap()
            .view(|view| resume(view, &self.replay_cache, &subscription.next_request()))
            .unwrap();
        subscription.accept(first, None);
        let (decoder, undecoded) = (russe::Decoder::default(), BytesMut::new());
        ours.connection = Some(Connection { subscription, decoder, undecoded, named: (-1, -1) });
    }

    fn cut(&mut self, consumer: usize) {
        if let Some(connection) = self.consumers[consumer].connection.take() {
            connection.subscription.queue.close();
        }
    }

    /// Reads one message, if there is one.
    fn read(&mut self, consumer: usize) -> bool {
        let Some(mut connection) = self.consumers[consumer].connection.take() else { return false };
        let mut pages = 0;
        let message = loop {
            pages += 1;
            assert!(pages < 1000, "it reads on endlessly: {:?}", connection.subscription.next_request());
            match connection.decoder.decode(&mut connection.undecoded).unwrap() {
                Some(russe::Event::Message(message)) => break message,
                Some(_) => continue,
                None => {}
            }
            match connection.subscription.queue.poll_next(&Context::from_waker(Waker::noop())) {
                Poll::Ready(QueueItem::Chunk(chunk)) => connection.undecoded.extend_from_slice(&chunk),
                Poll::Ready(QueueItem::Drained) => {
                    let request = connection.subscription.next_request();
                    let answer =
                        self.reader.as_mut().unwrap().view(|view| resume(view, &self.replay_cache, &request)).unwrap();
                    connection.subscription.accept(answer, None);
                }
                Poll::Ready(QueueItem::End) => return false,
                Poll::Pending => {
                    self.consumers[consumer].connection = Some(connection);
                    return false;
                }
            }
        };
        let ours = &mut self.consumers[consumer];
        json_patch::merge(&mut ours.state, &serde_json::from_str(&message.data).unwrap());
        if let Some(id) = message.id {
            let id = id.to_string();
            self.validate(consumer, &mut connection, &id);
            self.consumers[consumer].last_id = Some(id);
        }
        self.consumers[consumer].connection = Some(connection);
        true
    }

    /// Checks what a client may conclude from an id: revisions come in order, once and whole, a bookmark overtakes nothing,
    /// and after an id that is not partial the state is exactly that of its revision.
    fn validate(&self, consumer: usize, connection: &mut Connection, id: &str) {
        let (_, rest) = id.split_once('.').unwrap();
        if let Some((partial, _)) = rest.split_once(".partial") {
            let partial: i64 = partial.parse().unwrap();
            // A reset restarts at 0.
            assert!(partial >= connection.named.1 || partial == 0, "{id} after {:?}", connection.named);
            connection.named = (-1, partial);
            return;
        }
        let revision: i64 = rest.parse().unwrap();
        assert!(revision > connection.named.0 && revision >= connection.named.1, "{id} after {:?}", connection.named);
        connection.named = (revision, revision);
        let ours = &self.consumers[consumer];
        let truth = shown(&self.history[usize::try_from(revision).unwrap()], &ours.feed, &self.registry);
        assert_eq!(ours.state, truth, "at {id} of {:?}", ours.feed);
    }

    /// Reconnects every consumer and reads to the end.
    fn converge(&mut self) {
        self.publish();
        for consumer in 0..self.consumers.len() {
            if self.consumers[consumer].connection.is_none() {
                self.connect(consumer, ReplayMode::Auto);
            }
            while self.read(consumer) {}
            if self.consumers[consumer].connection.is_none() {
                // A strict consumer whose events have been pruned.
                self.connect(consumer, ReplayMode::Auto);
                while self.read(consumer) {}
            }
            let ours = &self.consumers[consumer];
            assert_eq!(ours.state, shown(self.history.last().unwrap(), &ours.feed, &self.registry), "{:?}", ours.feed);
        }
    }
}

/// A directory for the files of one case: in memory, if that has room, as a case would wait for a disk half of its time.
/// `TMPDIR` takes precedence.
fn directory() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let has_room = rustix::fs::statvfs(memory).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 1 << 30);
    let is_chosen = std::env::var_os("TMPDIR").is_some();
    if has_room && !is_chosen { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn open(directory: &TempDir, number: usize, registry: &Arc<Registry>) -> (Writer, Reader) {
    let database = Arc::new(Database::open(&directory.path().join(format!("{number}.db"))).unwrap());
    let writer = Writer::open(&database, WriterConfig::new(registry, &[].into()), Clock::default().now()).unwrap();
    let reader = Reader::open(&database, Arc::clone(registry)).unwrap();
    (writer, reader)
}

/// A cache with a cut every three revisions, so that consumers share many segments.
fn replay_cache() -> ReplayCache {
    ReplayCache::between_cuts(&MemoryBudget::new(4 << 20), 3)
}

fn feed(level: u8, registry: &Registry) -> Feed {
    let (persons, locations) = (registry.id("persons").unwrap(), registry.id("locations").unwrap());
    let key = |text: &str| Key::parse(text).unwrap();
    match level {
        0 => Feed::Everything(None),
        1 => Feed::Everything(Some([locations].into())),
        2 => Feed::Collection(persons, None),
        3 => Feed::Collection(locations, None),
        4 => {
            let selection = Selection::new(&[key("1"), key("3")], 0, &MemoryBudget::new(1000)).unwrap();
            Feed::Collection(persons, Some(selection))
        }
        5 => Feed::Aggregate(persons, key("2")),
        _ => Feed::Aggregate(locations, key("Rome")),
    }
}

const CONSUMERS: usize = 4;

/// The number of cases: `DUALITY_CASES`. The default is a tenth of the 1000 that CI runs.
fn cases() -> u32 {
    std::env::var("DUALITY_CASES").map_or(100, |text| text.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), max_shrink_time: 60_000, ..ProptestConfig::default() })]
    #[test]
    fn merge_patches_alone_bring_any_consumer_to_the_state_of_now(
        consumers in prop::collection::vec((0..7_u8, 1..4_usize), CONSUMERS),
        ops in prop::collection::vec(ops(CONSUMERS), 1..40),
    ) {
        let mut world = World::new(&consumers);
        for op in &ops {
            world.act(op);
        }
        world.converge();
    }
}
