//! Every answered command happened exactly once, even if the process is killed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{Client, Process, Random, Response, Stream, eventually, kills, output_of};

const WRITERS: u64 = 8;

/// One of three carts and three accounts that all writers share.
fn shared(number: u64) -> String {
    let collection = if number.is_multiple_of(2) { "carts" } else { "accounts" };
    format!("/{collection}/00000000-0000-4000-8000-00000000000{number}")
}

/// A command that can succeed only once, because it adds something with a unique name.
fn command(random: &mut Random, name: &str) -> (&'static str, String, Value) {
    let path = shared(random.below(6));
    match (random.below(8), path.starts_with("/carts")) {
        (0, _) => ("POST", "/carts".to_owned(), json!({})),
        (1, _) => ("PUT", path, json!({})),
        (_, true) => ("POST", format!("{path}/add-item"), json!({ "item": name })),
        (_, false) => ("POST", format!("{path}/book"), json!({"amount": 5, "text": name})),
    }
}

/// Sends commands until the connection breaks, and returns the aggregate and the mark of each that succeeded.
fn command_until_killed(mut client: Client, writer: u64, answered: &AtomicU64) -> Vec<(String, String)> {
    let (mut done, mut random) = (Vec::new(), Random::new(writer));
    for number in 0.. {
        let name = format!("{writer}-{number}");
        let (method, path, body) = command(&mut random, &name);
        let json = [("Content-Type", "application/json")];
        if client.try_send(method, &path, &json, Some(body.to_string().as_bytes())).is_err() {
            break;
        }
        let Ok(response) = client.try_response(method) else { break };
        match (response.status, response.header("Location")) {
            (201, Some(location)) => done.push((location.to_owned(), "opened".to_owned())),
            (200, _) => done.push((path.rsplit_once('/').unwrap().0.to_owned(), name)),
            (404 | 409, _) => {}
            (status, _) => panic!("{status}: {}", response.text()),
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    done
}

/// All events of the journal, from all pages.
fn journal(client: &mut Client) -> Vec<Value> {
    let (mut events, mut path) = (Vec::new(), "/journal?limit=200".to_owned());
    loop {
        let page = client.request("GET", &path, &[("Accept", "application/json")], None).json();
        let more = page["events"].as_array().unwrap();
        if more.is_empty() {
            return events;
        }
        events.extend(more.iter().cloned());
        path = format!("/journal?limit=200&lastEventId={}", page["cursor"].as_str().unwrap());
    }
}

/// The unique name that the command gave to what the event added.
fn mark(event: &Value) -> String {
    let name = event["body"].get("item").or(event["body"].get("text"));
    name.map_or("opened", |name| name.as_str().unwrap()).to_owned()
}

#[test]
fn every_answered_command_is_in_the_journal_exactly_once_after_kills() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let mut known: Vec<(String, String)> = Vec::new();
    for round in 0..u64::from(kills()) {
        let process = Process::start(&database, &[]);
        let (address, answered) = (process.address, AtomicU64::new(0));
        std::thread::scope(|scope| {
            let answered = &answered;
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let writer = 1 + round * WRITERS + writer;
                    scope.spawn(move || command_until_killed(Client::connect(address), writer, answered))
                })
                .collect();
            eventually("there are enough commands", || answered.load(Ordering::Relaxed) > 300);
            process.kill();
            known.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
    }

    // Frequent bookmarks make every feed reach every revision.
    let process = Process::start(&database, &["--heartbeat", "20ms"]);
    let mut client = Client::connect(process.address);
    let events = journal(&mut client);
    assert!(events.iter().zip(1..).all(|(event, position)| event["position"] == position), "positions are dense");
    let (mut versions, mut marks) = (BTreeMap::<String, i64>::new(), BTreeMap::<(String, String), u32>::new());
    for event in &events {
        let path = format!("/{}/{}", event["collection"].as_str().unwrap(), event["key"].as_str().unwrap());
        let version = versions.entry(path.clone()).or_default();
        *version += 1;
        assert_eq!(event["version"], *version, "versions of {path} have no gap");
        *marks.entry((path, mark(event))).or_default() += 1;
    }
    assert!(known.iter().all(|done| marks.get(done) == Some(&1)), "every answered command happened once");
    assert!(marks.values().all(|times| *times == 1), "nothing happened twice");

    let mut get = |path: &str| -> Response { client.request("GET", path, &[], None) };
    for (path, version) in &versions {
        assert_eq!(
            get(path).text(),
            get(&format!("{path}?version={version}")).text(),
            "{path} is the fold of its events"
        );
    }
    let mut paths = Vec::new();
    for (state, feed) in [("/carts", "/cart-events"), ("/accounts", "/account-events")] {
        let fresh = get(state);
        let mut folded = json!({});
        Stream::open(process.address, feed, &[]).follow(&mut folded, fresh.revision());
        assert_eq!(folded, fresh.json(), "{state} is the fold of its feed");
        paths.extend(fresh.json().as_object().unwrap().keys().map(|key| format!("{state}/{key}")));
    }
    paths.sort();
    assert_eq!(paths, versions.into_keys().collect::<Vec<_>>(), "the aggregates with rows are those with events");
}

/// Posts persons until the connection breaks, and returns the paths of those that were answered.
fn post_until_killed(mut client: Client) -> Vec<String> {
    let person = json!({"name": "x".repeat(60_000)}).to_string();
    let mut created = Vec::new();
    loop {
        let json = [("Content-Type", "application/json")];
        if client.try_send("POST", "/persons", &json, Some(person.as_bytes())).is_err() {
            return created;
        }
        let Ok(response) = client.try_response("POST") else { return created };
        assert_eq!(response.status, 201, "{}", response.text());
        created.push(response.header("Location").unwrap().to_owned());
    }
}

/// The file grows only while the log is moved into it.
#[test]
fn a_kill_while_the_log_is_moved_into_the_file_loses_nothing() {
    let mut random = Random::new(5);
    // The database grows with each kill, and so does the time to verify it.
    for first in (0..kills()).step_by(20) {
        kill_while_the_file_grows(&mut random, 20.min(kills() - first));
    }
}

fn kill_while_the_file_grows(random: &mut Random, kills: u32) {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let length = || std::fs::metadata(&database).map_or(0, |file| file.len());
    let mut known = Vec::new();
    for _ in 0..kills {
        let process = Process::start(&database, &[]);
        let address = process.address;
        let enough = length() + random.below(4_000_000);
        std::thread::scope(|scope| {
            let writers: Vec<_> =
                (0..3).map(|_| scope.spawn(move || post_until_killed(Client::connect(address)))).collect();
            let start = std::time::Instant::now();
            // Without a rest between two looks, because a checkpoint is short.
            while length() <= enough {
                assert!(start.elapsed() < crate::harness::DEADLINE, "no checkpoint");
                std::thread::yield_now();
            }
            process.kill();
            known.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
        let (code, said) = output_of(&database, &["verify"]);
        assert_eq!(code, 0, "{said}");
    }
    let process = Process::start(&database, &[]);
    let mut client = Client::connect(process.address);
    let persons = client.request("GET", "/persons", &[], None).json();
    let is_there = |path: &String| persons.get(path.trim_start_matches("/persons/")).is_some();
    assert!(known.len() > 10 && known.iter().all(is_there), "every answered command happened");
}
