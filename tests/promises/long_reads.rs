//! Long reads have threads of their own, and a queue that is bounded: short reads do not wait for them.

use std::sync::{Condvar, Mutex};

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Keys, Root, Service};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::harness::{App, Client, Process, count, eventually};

/// Counts those who went through.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Turnstile {
    passed: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    /// So many go through, one by one.
    Open { people: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Event {
    Passed {},
}

/// There is none.
#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Rule {}

impl BusinessRule for Rule {}

/// Whether the turnstile is locked, and how many wait at it.
struct Gate {
    state: Mutex<(Locked, usize)>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Locked {
    Yes,
    No,
}

static GATE: Gate = Gate { state: Mutex::new((Locked::No, 0)), changed: Condvar::new() };

impl Gate {
    fn set(&self, locked: Locked) {
        self.state.lock().unwrap().0 = locked;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        let mut state = self.changed.wait_while(state, |state| state.0 == Locked::Yes).unwrap();
        state.1 -= 1;
    }

    fn waiting(&self) -> usize {
        self.state.lock().unwrap().1
    }
}

impl EventSourced for Turnstile {
    const NAME: &'static str = "turnstiles";
    const KEYS: Keys = Keys::Text;

    type Command = Command;
    type Event = Event;
    type Error = Rule;

    fn handle(root: &mut Root<'_, Self>, Command::Open { people }: Command) -> Result<(), Rule> {
        (0..people).for_each(|_| root.record(Event::Passed {}));
        Ok(())
    }

    fn apply(state: Option<Self>, Event::Passed {}: &Event) -> Option<Self> {
        GATE.pass();
        Some(Self { passed: state.map_or(0, |state| state.passed) + 1 })
    }
}

#[test]
fn short_reads_are_answered_while_more_folds_than_threads_are_stuck() {
    const THREADS: usize = 2;
    const QUEUE: usize = 4;
    let app = App::serving(
        || Service::new().event_sourced::<Turnstile>(),
        |settings| (settings.readers, settings.scan_queue) = (count(THREADS), count(QUEUE)),
    );
    assert_eq!(app.write("PUT", "/turnstiles/north", &json!({"people": 150}).to_string()).status, 201);
    let fold = || {
        let mut client = app.client();
        client.send("GET", "/turnstiles/north?version=120", &[], None);
        client
    };
    GATE.set(Locked::Yes);
    let mut stuck: Vec<_> = (0..THREADS).map(|_| fold()).collect();
    eventually("all threads for long reads are busy", || GATE.waiting() == THREADS);
    let waiting = || Client::metric(app.address, "duality_waiting_reads{pool=\"collections\"}");
    let keys: String = ('a'..='k').map(|key| format!("&key={key}")).collect();
    let stream = |_| {
        let mut client = app.client();
        client.send("GET", &format!("/turnstile-events?compact=true{keys}"), &[("Accept", "text/event-stream")], None);
        client
    };
    let _streams: Vec<_> = (0..QUEUE).map(stream).collect();
    eventually("pages of streams wait as well", || waiting() >= QUEUE as f64);
    stuck.extend((0..QUEUE).map(|_| fold()));
    eventually("as many requests wait as may, without the streams", || waiting() >= (2 * QUEUE) as f64);
    let refused = app.get("/turnstiles/north?version=120");
    refused.problem(503, "busy");
    assert_eq!(refused.header("Retry-After"), Some("1"));
    assert_eq!(app.get("/turnstiles/north").json(), json!({"passed": 150}));
    assert_eq!(app.get("/turnstiles/north/journal?limit=2").json()["events"].as_array().unwrap().len(), 2);
    let page = app.request("GET", "/turnstile-events", &[("Accept", "application/json")], None);
    assert_eq!(page.status, 200);
    GATE.set(Locked::No);
    for mut client in stuck {
        assert_eq!(client.response("GET").json(), json!({"passed": 120}));
    }
}

#[test]
fn a_page_of_the_journal_of_one_aggregate_is_bounded_in_bytes() {
    let directory = crate::harness::directory();
    let process = Process::start(&directory.path().join("test.db"), &["--max-aggregate", "16MiB"]);
    let mut client = Client::connect(process.address);
    let account = client.request("POST", "/accounts", &[], None).header("Location").unwrap().to_owned();
    let headers = [("Content-Type", "application/json"), ("If-Match", "*")];
    let booking = json!({"amount": 1, "text": "x".repeat(300_000)}).to_string();
    for _ in 0..9 {
        let booked = client.request("POST", &format!("{account}/book"), &headers, Some(booking.as_bytes()));
        assert_eq!(booked.status, 200, "{}", booked.text());
    }
    let (mut next, mut versions) = (Some(format!("{account}/journal")), Vec::new());
    while let Some(path) = next {
        let page = client.request("GET", &path, &[], None);
        assert!(page.body.len() < 1_500_000, "{} bytes", page.body.len());
        let page = page.json();
        versions.extend(page["events"].as_array().unwrap().iter().map(|event| event["version"].as_i64().unwrap()));
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!(versions, (1..=10).collect::<Vec<_>>());
}
