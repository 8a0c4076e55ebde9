//! The law, against a model: whatever happens, and whatever cursor a consumer presents, applying merge patches gives it
//! the state of every revision that its id names, and in the end the state of now.
//!
//! Random writes, prunings, restarts and replacements of the database; consumers at all three levels, with filters and
//! without, that begin anywhere, read as much as they like, and are cut anywhere. In one thread and without sockets:
//! the actors do nothing that is not done here.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use actix_web::web::BytesMut;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio_util::codec::Decoder as _;

use crate::channel::{Channel, Next};
use crate::clock::{Clock, Timestamp};
use crate::collection::{Change, CollectionId, Command, Registry, Verb};
use crate::collections::{Location, Person};
use crate::cursor::{Presented, Revision};
use crate::feed::Feed;
use crate::follow::{History, PATIENCE, Position, follow};
use crate::hub::Audience;
use crate::key::Key;
use crate::relay::Batch;
use crate::session::Subscription;
use crate::store::{Database, Life, Reader, Retained, Room, Writer};

const CITIES: [&str; 3] = ["Rome", "Oslo", "7"];

#[derive(Debug, Clone)]
enum Write {
    Create(Option<u8>),
    Move(u8, Option<u8>),
    Marry(u8, Option<u8>),
    Replace(u8),
    Delete(u8),
}

#[derive(Debug, Clone)]
enum Begin {
    /// With the state of a GET and its cursor.
    Get,
    /// With nothing.
    Zero,
    /// With the state and the cursor of another service.
    Foreign,
    /// With a cursor of ours that is yet to come, as after a restore, and the state that belonged to it.
    Future,
}

#[derive(Debug, Clone)]
enum Op {
    /// One transaction.
    Commit(Vec<Write>),
    /// The relay publishes what there is.
    Publish,
    /// The relay publishes, and the worker misses it.
    Miss,
    /// Heartbeats.
    Tick,
    /// Change events go, but for those of the last few revisions.
    Prune(u8),
    /// All change events and tombstones go.
    Forget,
    Restart,
    /// Another database in the place of this one.
    Replace,
    Begin(usize, Begin),
    /// A consumer connects with the last id that it saw.
    Connect(usize, History),
    /// A connected consumer reads some messages.
    Read(usize, u8),
    Cut(usize),
}

/// The document, as anybody would compute it.
#[derive(Debug, Clone, Default)]
struct Model {
    persons: BTreeMap<i64, Map<String, Value>>,
    created: i64,
}

impl Model {
    fn document(&self) -> Value {
        let mut locations: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for person in self.persons.values() {
            if let Some(city) = person.get("city").and_then(Value::as_str) {
                let (total, married) = locations.entry(city.to_owned()).or_default();
                *total += 1;
                *married += u64::from(person.contains_key("spouse"));
            }
        }
        let location = |(total, married)| match married {
            0 => json!({ "total": total }),
            married => json!({ "total": total, "married": married }),
        };
        let locations: Map<_, _> = locations.into_iter().map(|(city, counts)| (city, location(counts))).collect();
        let persons: Map<_, _> = self.persons.iter().map(|(id, person)| (id.to_string(), json!(person))).collect();
        json!({"persons": persons, "locations": locations})
    }

    /// Does the write, and gives it as a verb, a key and a body; no body for a deletion.
    fn write(&mut self, write: &Write) -> (Option<i64>, Option<(Verb, Value)>) {
        let city = |city: &Option<u8>| city.map(|city| CITIES[usize::from(city) % CITIES.len()]);
        let (key, verb, body) = match write {
            Write::Create(to) => {
                self.created += 1;
                let body = json!({"name": "x", "city": city(to)});
                self.put(self.created, &body);
                return (None, Some((Verb::Create, body)));
            }
            Write::Move(key, to) => (key, Verb::Patch, json!({ "city": city(to) })),
            Write::Marry(key, to) => (key, Verb::Patch, json!({"spouse": to.map(|to| to + 1)})),
            Write::Replace(key) => (key, Verb::Replace, json!({"name": "y"})),
            Write::Delete(key) => {
                self.persons.remove(&i64::from(*key));
                return (Some(i64::from(*key)), None);
            }
        };
        let key = i64::from(*key);
        if let Some(person) = self.persons.get(&key) {
            let mut state = if verb == Verb::Patch { json!(person) } else { json!({}) };
            json_patch::merge(&mut state, &body);
            self.put(key, &state);
        }
        (Some(key), Some((verb, body)))
    }

    fn put(&mut self, key: i64, body: &Value) {
        let members = body.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        self.persons.insert(key, members.map(|(name, value)| (name.clone(), value.clone())).collect());
    }
}

/// The document as a feed shows it.
fn shown(document: &Value, feed: &Feed, registry: &Registry) -> Value {
    let name = |id: CollectionId| registry.get(id).name();
    match feed {
        Feed::Everything(None) => document.clone(),
        Feed::Everything(Some(only)) => {
            only.iter().map(|id| (name(*id).to_owned(), document[name(*id)].clone())).collect::<Map<_, _>>().into()
        }
        Feed::Collection(id, None) => document[name(*id)].clone(),
        Feed::Collection(id, Some(keys)) => {
            let aggregates = document[name(*id)].as_object().unwrap().iter();
            let picked = aggregates.filter(|(key, _)| keys.iter().any(|wanted| wanted.as_str() == key.as_str()));
            picked.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into()
        }
        Feed::Aggregate(id, key) => document[name(*id)].get(key.as_str()).cloned().unwrap_or(Value::Null),
    }
}

struct World {
    directory: TempDir,
    registry: Arc<Registry>,
    writer: Option<Writer>,
    reader: Reader,
    audience: Rc<RefCell<Audience>>,
    published: Revision,
    model: Model,
    /// The document at each revision.
    history: Vec<Value>,
    databases: usize,
    consumers: Vec<Consumer>,
}

struct Consumer {
    feed: Feed,
    /// Aggregates or events that its pages have room for.
    room: usize,
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
        let directory = tempfile::tempdir().unwrap();
        let (writer, reader) = open(&directory, 0, &registry);
        let consumers = consumers
            .iter()
            .map(|(level, room)| Consumer {
                feed: feed(*level, &registry),
                room: *room,
                state: Value::Null,
                last_id: None,
                connection: None,
            })
            .collect();
        let audience = Rc::new(RefCell::new(Audience::new(writer.epoch().clone())));
        let history = vec![Model::default().document()];
        let (writer, published, model) = (Some(writer), Revision::ZERO, Model::default());
        let mut world =
            Self { directory, registry, writer, reader, audience, published, model, history, databases: 0, consumers };
        world.publish();
        world
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    fn act(&mut self, op: &Op) {
        let now = Clock::default().now();
        let forever = now.before(std::time::Duration::from_secs(1 << 40));
        match op {
            Op::Commit(writes) => self.commit(writes, now),
            Op::Publish => self.publish(),
            Op::Miss => self.published = self.writer().revision(),
            Op::Tick => self.audience.borrow_mut().tick(1),
            Op::Prune(keep) => {
                self.prune(Retained { events: forever, keep: Some((*keep).into()), tombstones: forever });
            }
            Op::Forget => self.prune(Retained { events: forever, keep: Some(0), tombstones: now.after_all() }),
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
            Op::Cut(consumer) => self.cut(*consumer),
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
            commands.push(Command { collection, key: key.map(Key::of_number), change });
            let document = self.model.document();
            if self.history.last() != Some(&document) {
                self.history.push(document);
            }
            revisions.push(i64::try_from(self.history.len() - 1).unwrap());
        }
        let committed = self.writer().commit(commands, now).unwrap();
        for (answer, revision) in committed.answers.iter().zip(revisions) {
            // A refused one is of a person that is not there.
            assert!(answer.as_ref().is_ok_and(|written| written.revision.number() == revision) || answer.is_err());
        }
        assert_eq!(committed.revision.number() + 1, i64::try_from(self.history.len()).unwrap());
    }

    fn publish(&mut self) {
        loop {
            let (after, epoch) = (self.published, self.writer().epoch().clone());
            let (read, current, after) = self
                .reader
                .view(|view| {
                    let horizon = view.horizon()?;
                    let after = after.max(horizon.pruned);
                    let room = Room { items: 2, bytes: usize::MAX };
                    Ok((view.changes(&Feed::Everything(None), after, horizon.current, room)?, horizon.current, after))
                })
                .unwrap();
            let batch = Batch::new(after, read.to, read.changes, epoch, Arc::clone(&self.registry));
            self.audience.borrow_mut().publish(Arc::new(batch));
            self.published = read.to;
            if read.to == current {
                return;
            }
        }
    }

    fn prune(&mut self, retained: Retained) {
        while self.writer().prune(retained).unwrap() == crate::store::Pruned::Some {}
    }

    fn restart(&mut self) {
        for consumer in 0..self.consumers.len() {
            self.cut(consumer);
        }
        self.writer.take().unwrap().close().unwrap();
        let (writer, reader) = open(&self.directory, self.databases, &self.registry);
        self.published = writer.revision();
        self.audience = Rc::new(RefCell::new(Audience::new(writer.epoch().clone())));
        (self.writer, self.reader) = (Some(writer), reader);
        self.publish();
    }

    fn cursor(&mut self, revision: usize) -> String {
        format!("{}.{revision}", self.writer().epoch())
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
            // It is told at once; who is cut before that, and comes back when it is not in the future any more, is lost.
            self.connect(consumer, History::Any);
            self.read(consumer);
        }
    }

    fn connect(&mut self, consumer: usize, history: History) {
        self.cut(consumer);
        let epoch = self.writer().epoch().clone();
        let ours = &mut self.consumers[consumer];
        let presented =
            Presented { last_event_id: ours.last_id.as_ref().map(String::as_bytes), ..Presented::default() };
        let channel = Channel::new(200);
        let mut subscription = Subscription {
            feed: ours.feed.clone(),
            position: Position::of(&presented.cursor().unwrap(), &epoch),
            epoch,
            history,
            patience: if history == History::Any { 3 } else { PATIENCE },
            room: Room { items: ours.room, bytes: usize::MAX },
            channel,
            audience: Rc::clone(&self.audience),
        };
        let first = self.reader.view(|view| follow(view, &subscription.ask())).unwrap();
        subscription.take(first);
        let (decoder, undecoded) = (russe::Decoder::default(), BytesMut::new());
        ours.connection = Some(Connection { subscription, decoder, undecoded, named: (-1, -1) });
    }

    fn cut(&mut self, consumer: usize) {
        if let Some(connection) = self.consumers[consumer].connection.take() {
            connection.subscription.channel.close();
        }
    }

    /// Reads one message, if there is one.
    fn read(&mut self, consumer: usize) -> bool {
        let Some(mut connection) = self.consumers[consumer].connection.take() else { return false };
        let mut pages = 0;
        let message = loop {
            pages += 1;
            assert!(pages < 1000, "it reads on for ever: {:?}", connection.subscription.ask());
            match connection.decoder.decode(&mut connection.undecoded).unwrap() {
                Some(russe::Event::Message(message)) => break message,
                Some(_) => continue,
                None => {}
            }
            match connection.subscription.channel.poll_next(&Context::from_waker(Waker::noop())) {
                Poll::Ready(Next::Chunk(chunk)) => connection.undecoded.extend_from_slice(&chunk),
                Poll::Ready(Next::Room) => {
                    let ask = connection.subscription.ask();
                    let answer = self.reader.view(|view| follow(view, &ask)).unwrap();
                    connection.subscription.take(answer);
                }
                Poll::Ready(Next::End) => return false,
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

    /// What a client may conclude from an id: the revisions come in order and once, none is split, a bookmark overtakes
    /// nothing, and at a whole one the state is exactly that of the revision.
    fn validate(&self, consumer: usize, connection: &mut Connection, id: &str) {
        let (_, rest) = id.split_once('.').unwrap();
        if let Some(partial) = rest.strip_suffix(".partial") {
            let partial: i64 = partial.parse().unwrap();
            // After a reset it begins at 0 again.
            assert!(partial > connection.named.1 || partial == 0, "{id} after {:?}", connection.named);
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

    /// Everybody comes back, and reads to the end.
    fn converge(&mut self) {
        self.publish();
        for consumer in 0..self.consumers.len() {
            if self.consumers[consumer].connection.is_none() {
                self.connect(consumer, History::Any);
            }
            while self.read(consumer) {}
            if self.consumers[consumer].connection.is_none() {
                // It had wanted every event, and they were not there.
                self.connect(consumer, History::Any);
                while self.read(consumer) {}
            }
            let ours = &self.consumers[consumer];
            assert_eq!(ours.state, shown(self.history.last().unwrap(), &ours.feed, &self.registry), "{:?}", ours.feed);
        }
    }
}

fn open(directory: &TempDir, number: usize, registry: &Arc<Registry>) -> (Writer, Reader) {
    let database = Database::take(&directory.path().join(format!("{number}.db"))).unwrap();
    let writer = Writer::open(&database, Arc::clone(registry), Clock::default().now(), Life::Same).unwrap();
    let reader = Reader::open(&database, Arc::clone(registry)).unwrap();
    (writer, reader)
}

fn feed(level: u8, registry: &Registry) -> Feed {
    let (persons, locations) = (registry.id("persons").unwrap(), registry.id("locations").unwrap());
    let key = |text: &str| Key::parse(text).unwrap();
    match level {
        0 => Feed::Everything(None),
        1 => Feed::Everything(Some([locations].into())),
        2 => Feed::Collection(persons, None),
        3 => Feed::Collection(locations, None),
        4 => Feed::Collection(persons, Some([key("1"), key("3")].into())),
        5 => Feed::Aggregate(persons, key("2")),
        _ => Feed::Aggregate(locations, key("Rome")),
    }
}

fn writes() -> impl Strategy<Value = Write> {
    let city = || prop::option::weighted(0.8, 0..3_u8);
    prop_oneof![
        4 => city().prop_map(Write::Create),
        3 => (1..8_u8, city()).prop_map(|(key, city)| Write::Move(key, city)),
        1 => (1..8_u8, prop::option::of(0..2_u8)).prop_map(|(key, spouse)| Write::Marry(key, spouse)),
        1 => (1..8_u8).prop_map(Write::Replace),
        2 => (1..8_u8).prop_map(Write::Delete),
    ]
}

fn ops(consumers: usize) -> impl Strategy<Value = Op> {
    let begin = prop_oneof![Just(Begin::Get), Just(Begin::Zero), Just(Begin::Foreign), Just(Begin::Future)];
    let history = prop_oneof![4 => Just(History::Any), 1 => Just(History::Compact), 1 => Just(History::EveryEvent)];
    prop_oneof![
        8 => prop::collection::vec(writes(), 1..4).prop_map(Op::Commit),
        4 => Just(Op::Publish),
        1 => Just(Op::Miss),
        2 => Just(Op::Tick),
        2 => (0..6_u8).prop_map(Op::Prune),
        1 => Just(Op::Forget),
        1 => Just(Op::Restart),
        1 => Just(Op::Replace),
        3 => (0..consumers, begin).prop_map(|(consumer, begin)| Op::Begin(consumer, begin)),
        5 => (0..consumers, history).prop_map(|(consumer, history)| Op::Connect(consumer, history)),
        8 => (0..consumers, 1..6_u8).prop_map(|(consumer, messages)| Op::Read(consumer, messages)),
        2 => (0..consumers).prop_map(Op::Cut),
    ]
}

const CONSUMERS: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, max_shrink_time: 60_000, ..ProptestConfig::default() })]
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
