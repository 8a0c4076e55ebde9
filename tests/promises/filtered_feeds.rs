//! Filtered feeds: their streams get exactly the events that they select, and what they take is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use duality::ByteSize;
use serde_json::{Map, Value, json};

use crate::harness::{App, Event, Random, Stream, eventually};

const SSE: (&str, &str) = ("Accept", "text/event-stream");

/// Without bookmarks, however slow the machine is.
fn app() -> App {
    App::with(|settings| settings.heartbeat = Duration::from_secs(3600))
}

/// A client that notes what it gets.
struct Follower {
    path: String,
    /// From where it started.
    cursor: String,
    stream: Stream,
    got: Vec<Event>,
}

impl Follower {
    fn start(app: &App, path: String, cursor: &str) -> Self {
        let mut stream = app.follow(&path, &[("Last-Event-ID", cursor)]);
        stream.read_until(|text| text.contains("retry"));
        Self { path, cursor: cursor.to_owned(), stream, got: Vec::new() }
    }

    /// Reads up to the event of a revision.
    fn read_to(&mut self, revision: i64) {
        while self.got.last().map_or(0, Event::revision) < revision {
            let event = self.stream.message();
            self.got.push(
                event.unwrap_or_else(|| panic!("{} is cut after {:?}, before {revision}", self.path, self.got.last())),
            );
        }
    }

    /// Continues by another connection.
    fn reconnect(&mut self, app: &App) {
        let cursor = self.got.last().map_or_else(|| self.cursor.clone(), |event| event.id.clone().unwrap());
        self.stream = Self::start(app, self.path.clone(), &cursor).stream;
    }

    /// The part of an event of the whole document that this feed selects.
    fn selected(&self, patch: &Value) -> Option<Value> {
        let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let wanted: Vec<_> = query.split('&').filter_map(|part| part.split_once('=')).map(|(_, value)| value).collect();
        let only = |members: &Value| -> Option<Value> {
            let members = members.as_object()?.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
            let picked: Map<_, _> = members.map(|(name, value)| (name.clone(), value.clone())).collect();
            (!picked.is_empty()).then(|| picked.into())
        };
        match path.split('/').collect::<Vec<_>>()[..] {
            ["", "events"] => only(patch),
            ["", "person-events"] => only(patch.get("persons")?),
            ["", "location-events"] => only(patch.get("locations")?),
            ["", collection, key, "events"] => patch.get(collection)?.get(key).cloned(),
            _ => panic!("{path}"),
        }
    }
}

const CITIES: [&str; 5] = ["Rome", "Oslo", "Bonn", "Lima", "Kyiv"];

/// Some of these, one at least.
fn some<T: Copy>(all: &[T], random: &mut Random) -> Vec<T> {
    let picked: Vec<_> = all.iter().copied().filter(|_| random.below(2) == 0).collect();
    if picked.is_empty() { vec![*random.one_of(all)] } else { picked }
}

fn query<T: std::fmt::Display>(name: &str, values: &[T]) -> String {
    values.iter().map(|value| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn feeds(random: &mut Random) -> Vec<String> {
    let persons: Vec<u64> = (1..=8).collect();
    let mut feeds =
        vec!["/events?collection=locations".to_owned(), "/events?collection=persons&collection=carts".to_owned()];
    feeds.extend(["/persons/1/events", "/persons/3/events", "/locations/Rome/events"].map(str::to_owned));
    for _ in 0..6 {
        feeds.push(format!("/person-events?{}", query("key", &some(&persons, random))));
        feeds.push(format!("/location-events?{}", query("key", &some(&CITIES, random))));
    }
    // Somebody else follows the same.
    feeds.push(feeds[5].clone());
    feeds
}

/// Creates, moves, renames or deletes one of eight persons.
fn write(app: &App, random: &mut Random, created: &mut u64) {
    if *created < 8 {
        *created += 1;
        app.post("/persons", &json!({"name": "Ann", "city": random.one_of(&CITIES)}).to_string());
        return;
    }
    let path = format!("/persons/{}", 1 + random.below(8));
    match random.below(8) {
        // A deleted person never comes back, but a location does.
        0 => drop(app.delete(&format!("/persons/{}", 5 + random.below(4)))),
        1 => drop(app.patch(&path, r#"{"city":null}"#)),
        2..5 => drop(app.patch(&path, &json!({"city": random.one_of(&CITIES)}).to_string())),
        _ => drop(app.patch(&path, &json!({"name": random.below(1000).to_string()}).to_string())),
    }
}

#[test]
fn filtered_streams_get_exactly_the_events_that_they_select() {
    let (app, mut random, mut created) = (app(), Random::new(13), 0);
    // Who starts from nothing gets the state of an empty document first.
    write(&app, &mut random, &mut created);
    let cursor = app.get("/aggregates").cursor();
    let mut all = Follower::start(&app, "/events".to_owned(), &cursor);
    let mut followers: Vec<_> =
        feeds(&mut random).into_iter().map(|path| Follower::start(&app, path, &cursor)).collect();
    for round in 0..12 {
        for _ in 0..25 {
            write(&app, &mut random, &mut created);
        }
        all.read_to(app.get("/aggregates").revision());
        for follower in &mut followers {
            let last = all.got.iter().rev().find(|event| follower.selected(&event.patch()).is_some());
            follower.read_to(last.map_or(0, Event::revision));
        }
        match round % 4 {
            // All streams are parked, and come back.
            1 => app.lose_batch(),
            2 => followers.iter_mut().step_by(2).for_each(|follower| follower.reconnect(&app)),
            _ => {}
        }
    }
    let deleted = all.got.iter().filter(|event| event.data.contains("null}")).count();
    assert!(deleted > 20, "{deleted} deletions");
    for follower in &followers {
        let expected: BTreeMap<_, _> =
            all.got.iter().filter_map(|event| Some((event.revision(), follower.selected(&event.patch())?))).collect();
        let got: Vec<_> = follower.got.iter().map(|event| (event.revision(), event.patch())).collect();
        assert_eq!(got, expected.into_iter().collect::<Vec<_>>(), "{}", follower.path);
        assert!(!got.is_empty(), "{}", follower.path);
    }
}

#[test]
fn a_slow_client_of_a_filtered_feed_misses_nothing() {
    // 2 MB are more than the kernel and the service buffer for one client.
    const EVENTS: i64 = 500;
    let app = App::with(|settings| {
        settings.heartbeat = Duration::from_secs(3600);
        settings.peer_timeout = Duration::from_secs(600);
    });
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.post("/persons", r#"{"name":"Bob"}"#);
    let cursor = app.get("/persons").cursor();
    let mut slow = app.follow("/person-events?key=1&key=7", &[("Last-Event-ID", &cursor)]);
    let mut quiet = Follower::start(&app, "/person-events?key=2".to_owned(), &cursor);
    let mut client = app.client();
    for number in 0..EVENTS {
        let body = json!({"name": format!("{number} {}", "x".repeat(4096))}).to_string();
        let json = [("Content-Type", "application/json")];
        assert_eq!(client.request("PATCH", "/persons/1", &json, Some(body.as_bytes())).status, 200);
    }
    eventually("the slow client is parked", || app.get("/metrics").text().contains("duality_parked_streams 1\n"));
    for revision in 3..3 + EVENTS {
        assert_eq!(slow.next().revision(), revision);
    }
    eventually("it is live again", || app.get("/metrics").text().contains("duality_parked_streams 0\n"));
    for path in ["/persons/1", "/persons/2"] {
        app.patch(path, r#"{"name":"Cid"}"#);
    }
    assert_eq!(slow.next().revision(), 3 + EVENTS);
    quiet.read_to(4 + EVENTS);
    assert_eq!(quiet.got.len(), 1, "only what it selects");
}

fn of_keys(keys: impl Iterator<Item = u32>) -> String {
    format!("/person-events?{}", query("key", &keys.collect::<Vec<_>>()))
}

#[test]
fn a_feed_takes_a_thousand_keys_and_not_one_more() {
    let app = app();
    let mut stream = app.follow(&of_keys(1..1001), &[SSE]);
    stream.read_until(|text| text.contains("retry"));
    for accept in ["text/event-stream", "application/json", "application/x-ndjson", "*/*"] {
        let response = app.request("GET", &of_keys(1..1002), &[("Accept", accept)], None);
        let problem = response.problem(400, "malformed-request");
        assert_eq!((&problem["parameter"], &problem["limit"]), (&json!("key"), &json!(1000)), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("key: ") && detail.contains("1000") && detail.contains("1001"), "{detail}");
    }
    assert_eq!(app.request("GET", &of_keys(1..1001), &[("Accept", "application/json")], None).status, 200);
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(stream.next().patch(), json!({"1": {"name": "Ann"}}));
}

/// The bytes that the keys of filtered feeds take.
fn taken(app: &App) -> u64 {
    let metrics = app.get("/metrics");
    let sample = r#"duality_memory_bytes{what="filters"} "#;
    metrics.text().lines().find_map(|line| line.strip_prefix(sample)).unwrap().parse().unwrap()
}

#[test]
fn the_keys_of_all_filtered_feeds_together_are_bounded() {
    const LIMIT: u64 = 100_000;
    let app = App::with(|settings| {
        settings.filter_memory = Some(ByteSize(LIMIT));
        // A heartbeat notices that a client has gone.
        settings.heartbeat = Duration::from_secs(1);
    });
    let open = |first: u32| app.request("GET", &of_keys(first..first + 1000), &[("Accept", "application/json")], None);
    let mut streams = Vec::new();
    for first in [0, 1000, 2000] {
        let mut stream = app.follow(&of_keys(first..first + 1000), &[SSE]);
        stream.read_until(|text| text.contains("retry"));
        streams.push(stream);
    }
    let held = taken(&app);
    assert!(held > 3 * 1000 * 20 && held <= LIMIT, "{held} bytes");
    let refused = app.get(&of_keys(3000..4000));
    refused.problem(503, "busy");
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    open(3000).problem(503, "busy");
    // Any other status would stop a client for good that reconnects by itself.
    let mut cut = app.follow(&of_keys(3000..4000), &[SSE]);
    assert_eq!(cut.message(), None);
    assert!(cut.raw.starts_with(":\nretry: "), "{:?}", cut.raw);
    assert_eq!(taken(&app), held, "what was refused holds nothing");
    let mut small = app.follow("/person-events?key=1", &[]);
    small.read_until(|text| text.contains("retry"));
    app.post("/persons", r#"{"name":"Ann"}"#);
    for stream in [&mut streams[0], &mut small] {
        assert_eq!(stream.next().patch(), json!({"1": {"name": "Ann"}}), "a feed of few keys had room");
    }
    streams.into_iter().chain([small]).for_each(Stream::close);
    eventually("the memory is free again", || taken(&app) == 0);
    assert_eq!(open(3000).status, 200);
}
