//! Publishing through the public interface only, into a broker in memory that fails, forgets, and is put back.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use duality::aggregates::shipped;
use duality::{Message, Output, Service};
use serde_json::json;

use crate::harness::carrier::{Consumer, Contents, Fault, Loss, MemoryBroker, await_changes, await_journal};
use crate::harness::{App, Random, cases, eventually, output_of};

/// A service, the two streams into which it publishes, and programs that follow it.
struct World {
    random: Random,
    app: App,
    changes: MemoryBroker,
    journal: MemoryBroker,
    consumers: [Consumer; 2],
    databases: Vec<Vec<u8>>,
    streams: Vec<[Contents; 2]>,
    done: Vec<String>,
}

/// The shipped service, which publishes both outputs.
fn publishing(changes: &MemoryBroker, journal: &MemoryBroker) -> Service {
    shipped().publish(Output::Changes, changes.carrier()).publish(Output::Journal, journal.carrier())
}

fn start(changes: &MemoryBroker, journal: &MemoryBroker) -> App {
    let (changes, journal) = (changes.clone(), journal.clone());
    App::serving(
        move || publishing(&changes, &journal),
        |settings| {
            // The streams are looked at often, so that it is noticed soon what others do to them.
            settings.poll_interval = Duration::from_millis(10);
        },
    )
}

impl World {
    fn new(seed: u64) -> Self {
        let (changes, journal) = (MemoryBroker::default(), MemoryBroker::default());
        let app = start(&changes, &journal);
        let consumers = [None, Some("persons")].map(|only| Consumer::load(only, &app, &changes));
        Self {
            random: Random::new(seed),
            app,
            changes,
            journal,
            consumers,
            databases: Vec::new(),
            streams: Vec::new(),
            done: Vec::new(),
        }
    }

    fn write(&mut self) {
        let (key, number) = (1 + self.random.below(5), self.random.below(3));
        let city = [json!("Rome"), json!("St. Gallen"), json!(null)][usize::try_from(number).unwrap()].clone();
        let uuid = format!("00000000-0000-4000-8000-00000000000{number}");
        let (method, path, body) = match self.random.below(8) {
            0 | 1 => ("POST", "/persons".to_owned(), json!({"name": "Ann", "city": city})),
            2 | 3 => ("PATCH", format!("/persons/{key}"), json!({"city": city})),
            4 => ("DELETE", format!("/persons/{key}"), json!(null)),
            5 => ("PUT", format!("/carts/{uuid}"), json!({})),
            6 => ("POST", format!("/carts/{uuid}/add-item"), json!({"item": key.to_string()})),
            _ => {
                self.app.write("PUT", &format!("/accounts/{uuid}"), "{}");
                ("POST", format!("/accounts/{uuid}/book"), json!({"amount": 5, "text": "rent"}))
            }
        };
        self.app.write(method, &path, &body.to_string());
    }

    fn fail(&mut self) {
        let stored = usize::try_from(self.random.below(12)).unwrap();
        let append = Fault::Append(stored);
        let faults = [
            append,
            append,
            append,
            Fault::NoPosition,
            Fault::NoLastOf,
            Fault::NoReset,
            Fault::ResetWithoutAnswer,
            Fault::EmptiedBefore,
            Fault::ForeignBefore,
        ];
        let fault = *self.random.one_of(&faults);
        self.done.push(format!("{fault:?}"));
        if self.random.below(2) == 0 { &self.changes } else { &self.journal }.fail(fault);
    }

    fn restart(&mut self, between: impl FnOnce(&Path)) {
        self.app.stop();
        self.changes.forgotten();
        self.journal.forgotten();
        between(self.app.database());
        self.app.resume();
    }

    fn save(&mut self) {
        self.streams.push([self.changes.contents(), self.journal.contents()]);
        let mut copy = Vec::new();
        self.restart(|database| copy = std::fs::read(database).unwrap());
        self.databases.push(copy);
    }

    /// Does something to a stream that no service has asked for.
    fn disturb(&mut self) {
        let what = self.random.below(4);
        let is_journal = self.random.below(2) == 0;
        self.done.push(format!("disturbance {what}, of the journal: {is_journal}"));
        let broker = if is_journal { &self.journal } else { &self.changes };
        match what {
            0 => broker.empty(),
            1 => broker.append_foreign(),
            2 => broker.remove_oldest(usize::try_from(self.random.below(6)).unwrap()),
            // It was deleted.
            _ => broker.put_back(Contents::default()),
        }
    }

    fn step(&mut self) {
        let step = self.random.below(20);
        self.done.push(format!("step {step}"));
        match step {
            0..8 => self.write(),
            8..12 => self.fail(),
            12 => self.app.prune_everything(),
            13 => self.restart(|_| ()),
            14 => self.save(),
            15 if !self.databases.is_empty() => {
                let copy = self.random.one_of(&self.databases).clone();
                self.restart(|database| std::fs::write(database, copy).unwrap());
            }
            16 if !self.streams.is_empty() => {
                let [changes, journal] = self.random.one_of(&self.streams).clone();
                self.changes.put_back(changes);
                self.journal.put_back(journal);
            }
            17 => self.disturb(),
            _ => {
                for consumer in &mut self.consumers {
                    consumer.read(&self.app, &self.changes);
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), String> {
        await_changes(&self.app, &self.changes)?;
        await_journal(&self.app, &self.journal)?;
        self.changes.heal();
        self.journal.heal();
        // What nobody has written about since, a consumer cannot know to have been put back.
        self.app.post("/persons", r#"{"name":"Zoe","city":"Rome"}"#);
        await_changes(&self.app, &self.changes)?;
        let document = self.app.get("/aggregates").json();
        for consumer in &mut self.consumers {
            consumer.read(&self.app, &self.changes);
        }
        let [all, persons] = &self.consumers;
        if all.document != document || persons.document != json!({ "persons": document["persons"] }) {
            let contents = self.changes.contents();
            return Err(format!("{:?} are no copies of {document}: {contents:#?}", self.consumers));
        }
        Ok(())
    }
}

/// They mostly wait, but each has threads and descriptors of its own.
const SERVICES_AT_ONCE: usize = 20;

/// Unlocks before the seed is used.
fn next_of(seeds: &Mutex<RangeInclusive<u64>>) -> Option<u64> {
    seeds.lock().unwrap().next()
}

#[test]
fn whatever_a_broker_does_its_messages_make_the_state_and_the_journal() {
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..2 {
            for _ in 0..15 {
                world.step();
            }
            if let Err(wrong) = world.check() {
                panic!("seed {seed}: {wrong}, after {:?}", world.done);
            }
        }
    };
    let seeds = &Mutex::new(1..=u64::from(cases(60)));
    std::thread::scope(|scope| {
        for _ in 0..SERVICES_AT_ONCE {
            scope.spawn(move || {
                while let Some(seed) = next_of(seeds) {
                    run(seed);
                }
            });
        }
    });
}

#[test]
fn a_stream_that_is_emptied_between_two_batches_gets_all_states_again() {
    let (changes, journal) = (MemoryBroker::default(), MemoryBroker::default());
    let app = start(&changes, &journal);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    await_changes(&app, &changes).unwrap();
    changes.fail(Fault::EmptiedBefore);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    eventually("the stream was emptied", || !changes.has_faults());
    let contents = await_changes(&app, &changes).unwrap();
    assert_eq!(contents.loss, Loss::None);
}

#[test]
fn what_was_erased_goes_before_a_catch_up_replaces_the_rest() {
    const MARKER: &str = "Zanzibar-7319";
    let (changes, journal) = (MemoryBroker::erasing(), MemoryBroker::erasing());
    let mut app = start(&changes, &journal);
    let cart = app.open_cart();
    let other = app.open_cart();
    for number in 0..5 {
        app.add_item(&cart, &format!("{MARKER} {number}"));
        app.add_item(&other, &format!("apple {number}"));
    }
    await_changes(&app, &changes).unwrap();
    await_journal(&app, &journal).unwrap();
    app.stop();
    let key = cart.strip_prefix("/carts/").unwrap();
    assert_eq!(output_of(app.database(), &["erase", "carts", key]).0, 0);
    // Somebody else has appended something, so that the stream has to be replaced.
    changes.append_foreign();
    app.resume();
    app.post("/persons", r#"{"name":"Ann"}"#);
    await_changes(&app, &changes).unwrap();
    let replaced = changes.replaced();
    let about = |key: &str| {
        replaced.iter().filter(|message| message.key.as_ref().is_some_and(|known| known.as_str() == key)).count()
    };
    assert_eq!(about(key), 0, "{replaced:#?}");
    assert!(about(other.strip_prefix("/carts/").unwrap()) > 0, "{replaced:#?}");
    eventually("the journal has lost it", || {
        let contents = journal.contents();
        let mut bodies = contents.messages.iter().filter_map(|stored| Some(&stored.message.as_ref()?.body));
        !bodies.any(|body| body.contains(MARKER))
    });
    let is_last = |message: &Message| message.key.as_ref().is_some_and(|known| known.as_str() == key);
    let left = journal.contents().messages.into_iter().filter_map(|stored| stored.message).filter(is_last).count();
    assert_eq!(left, 1);
}

#[test]
fn a_carrier_that_removes_nothing_gets_the_last_messages_about_what_was_erased_and_nobody_waits_for_it() {
    let (changes, journal) = (MemoryBroker::default(), MemoryBroker::default());
    let app = start(&changes, &journal);
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    await_journal(&app, &journal).unwrap();
    let key = cart.strip_prefix("/carts/").unwrap();
    let erased = app.post("/-/erase", &json!({"collection": "carts", "key": key}).to_string());
    assert_eq!((erased.status, &erased.json()["pending"]), (200, &json!([])));
    let last = |broker: &MemoryBroker| broker.contents().messages.last().unwrap().message.clone().unwrap();
    eventually("null is published", || {
        last(&changes).key.is_some_and(|last| last.as_str() == key) && last(&changes).body == "null"
    });
    eventually("an event says so", || last(&journal).body.contains("Erased"));
    let published = [&changes, &journal].map(|broker| broker.contents().messages.len());
    app.add_item(&app.open_cart(), "pear");
    await_changes(&app, &changes).unwrap();
    eventually("two more", || journal.contents().messages.len() == published[1] + 2);
    assert!(published[0] < changes.contents().messages.len());
}

#[test]
fn a_broker_that_never_answers_is_asked_again_and_gets_nothing_twice() {
    let (changes, journal) = (MemoryBroker::default(), MemoryBroker::default());
    let app = start(&changes, &journal);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    await_changes(&app, &changes).unwrap();
    for broker in [&changes, &journal] {
        broker.fail(Fault::Silence);
    }
    let cart = app.open_cart();
    eventually("the broker is silent", || !changes.has_faults() && !journal.has_faults());
    // Nobody waits for it.
    assert_eq!(app.add_item(&cart, "apple").status, 200);
    await_changes(&app, &changes).unwrap();
    await_journal(&app, &journal).unwrap();
}
