//! Answered writes survive, whatever happens, and no number is used twice.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, Response, Stream, eventually, kills};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

#[test]
fn numbers_are_not_reused_after_deletion_pruning_and_a_restart() {
    let mut app = App::start();
    for name in ["Ann", "Bob"] {
        app.post("/persons", &json!({ "name": name, "city": "Rome" }).to_string());
    }
    app.delete("/persons/1");
    app.delete("/persons/2");
    app.prune_everything();
    app.restart();
    let empty = app.get("/persons");
    assert_eq!((empty.text(), empty.revision()), ("{}", 4));
    let created = app.post("/persons", r#"{"name":"Cid"}"#);
    assert_eq!((created.revision(), created.header("Location")), (5, Some("/persons/3")));
}

#[test]
fn a_restart_changes_nothing_for_a_consumer() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    let (mut persons, cursor) = app.load("/persons");
    let paths = ["/persons", "/persons/1", "/aggregates"];
    let before = paths.map(|path| app.get(path));
    app.restart();
    for (path, before) in paths.iter().zip(&before) {
        let after = app.get(path);
        assert_eq!((before.text(), before.revision(), tag(before)), (after.text(), after.revision(), tag(&after)));
        assert_eq!(app.request("GET", path, &[("If-None-Match", tag(before))], None).status, 304, "{path}");
    }
    let json = [JSON[0], ("If-Match", tag(&before[1]))];
    assert_eq!(app.request("PATCH", "/persons/1", &json, Some(br#"{"city":"Oslo"}"#)).status, 200);
    let mut stream = app.follow("/person-events", &[("Last-Event-ID", &cursor)]);
    let first = stream.message().unwrap();
    assert_eq!((first.revision(), first.data.as_str()), (2, r#"{"1":{"city":"Oslo"}}"#), "nothing comes twice");
    json_patch::merge(&mut persons, &first.patch());
    assert_eq!(persons, app.get("/persons").json());
}

fn tag(response: &Response) -> &str {
    response.header("ETag").unwrap()
}

/// Writes until the connection breaks, and counts the responses.
fn write_until_killed(mut client: Client, writer: usize, answered: &AtomicU64) -> Vec<(String, String)> {
    let mut created = Vec::new();
    for number in 0.. {
        let body = json!({"name": format!("{writer}-{number}"), "city": format!("c{}", number % 7)}).to_string();
        if client.try_send("POST", "/persons", &JSON, Some(body.as_bytes())).is_err() {
            break;
        }
        let Ok(response) = client.try_response("POST") else { break };
        assert_eq!(response.status, 201);
        answered.fetch_add(1, Ordering::Relaxed);
        created.push((response.header("Location").unwrap().to_owned(), body));
    }
    created
}

#[test]
fn every_answered_write_survives_a_kill_and_the_feeds_add_up_to_the_state() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let mut known: Vec<(String, String)> = Vec::new();
    for round in 0..usize::try_from(kills()).unwrap() {
        let process = Process::start(&database, &[]);
        let (address, answered) = (process.address, AtomicU64::new(0));
        std::thread::scope(|scope| {
            let answered = &answered;
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    scope.spawn(move || write_until_killed(Client::connect(address), round * 8 + writer, answered))
                })
                .collect();
            eventually("there are enough writes", || answered.load(Ordering::Relaxed) > 300);
            process.kill();
            known.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
    }

    let process = Process::start(&database, &[]);
    let get = |path: &str| Client::connect(process.address).request("GET", path, &[], None);
    let persons = get("/persons").json();
    for (location, body) in &known {
        let key = location.strip_prefix("/persons/").unwrap();
        assert_eq!(persons[key], serde_json::from_str::<Value>(body).unwrap(), "the write of {location} was answered");
    }
    for (state, events) in [("/persons", "/person-events"), ("/locations", "/location-events")] {
        let fresh = get(state);
        let mut folded = json!({});
        Stream::open(process.address, events, &[]).follow(&mut folded, fresh.revision());
        assert_eq!(folded, fresh.json(), "{state}");
    }
}
