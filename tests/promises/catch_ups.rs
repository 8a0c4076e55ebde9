//! Catch-ups and resets bring a client up to date even if the log does not contain its cursor.

use serde_json::{Value, json};

use crate::harness::{App, Event, Stream};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// The messages up to the one that reaches this revision.
fn messages(mut stream: Stream, until: i64) -> Vec<Event> {
    let mut messages = Vec::new();
    while messages.last().and_then(Event::reached) != Some(until) {
        messages.push(stream.message().unwrap());
    }
    messages
}

fn apply(state: &mut Value, messages: &[Event]) {
    messages.iter().for_each(|message| json_patch::merge(state, &message.patch()));
}

fn data(messages: &[Event]) -> Vec<&str> {
    messages.iter().map(|message| message.data.as_str()).collect()
}

#[test]
fn a_catch_up_sends_null_and_then_the_current_state_of_what_changed() {
    let app = App::start();
    for name in ["Ann", "Bob", "Cid"] {
        app.post("/persons", &json!({ "name": name }).to_string());
    }
    let (mut state, cursor) = app.load("/persons");
    app.patch("/persons/2", r#"{"city":"Rome"}"#);
    app.delete("/persons/3");
    app.prune_everything();
    let messages = messages(app.follow("/person-events", &[("Last-Event-ID", &cursor)]), 5);
    assert_eq!(data(&messages), [r#"{"2":null,"3":null}"#, r#"{"2":{"name":"Bob","city":"Rome"}}"#]);
    assert!(messages[0].id.as_ref().unwrap().contains(".3.partial."), "{messages:?}");
    assert_eq!(messages[1].id, Some(app.get("/persons").cursor()));
    apply(&mut state, &messages);
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_recreated_aggregate_keeps_nothing_of_the_deleted_one() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome","spouse":2}"#);
    let (mut state, cursor) = app.load("/locations");
    assert_eq!(state, json!({"Rome": {"total": 1, "married": 1}}));
    app.delete("/persons/1");
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    app.prune_everything();
    apply(&mut state, &messages(app.follow("/location-events", &[("Last-Event-ID", &cursor)]), 3));
    assert_eq!(state, json!({"Rome": {"total": 1}}));
}

#[test]
fn a_long_catch_up_can_be_resumed_from_every_partial_id() {
    let app = App::start();
    let mut client = app.client();
    let body = json!({"name": "x".repeat(1000)}).to_string();
    for _ in 0..500 {
        client.request("POST", "/persons", &[("Content-Type", "application/json")], Some(body.as_bytes()));
    }
    app.prune_everything();
    let whole = messages(app.follow("/person-events", &[]), 500);
    let ids: Vec<_> = whole.iter().filter_map(|message| message.id.clone()).collect();
    let (last, partial) = ids.split_last().unwrap();
    assert_eq!(*last, app.get("/persons").cursor());
    assert!(partial.len() > 2 && partial.iter().all(|id| id.contains(".partial.")), "{partial:?}");
    app.patch("/persons/1", r#"{"city":"Rome"}"#);
    app.delete("/persons/2");
    let expected = app.get("/persons").json();
    for cut in 0..whole.len() {
        let mut state = Value::Null;
        apply(&mut state, &whole[..=cut]);
        // Behave like an EventSource: reconnect with the last id, or with none.
        let id = whole[..=cut].iter().rev().find_map(|message| message.id.clone());
        let rest = messages(app.follow("/person-events", &[("Last-Event-ID", &id.unwrap_or_default())]), 502);
        apply(&mut state, &rest);
        assert_eq!(state, expected, "cut after message {cut}");
    }
}

#[test]
fn a_cursor_within_retention_gets_the_log() {
    let app = App::start();
    for name in ["Ann", "Bob"] {
        app.post("/persons", &json!({ "name": name }).to_string());
    }
    let oldest = app.get("/persons").cursor();
    app.prune_everything();
    app.patch("/persons/2", r#"{"city":"Rome"}"#);
    app.patch("/persons/2", r#"{"city":"Oslo"}"#);
    let log = messages(app.follow("/person-events", &[("Last-Event-ID", &oldest)]), 4);
    assert_eq!(data(&log), [r#"{"2":{"city":"Rome"}}"#, r#"{"2":{"city":"Oslo"}}"#]);
    let below = messages(app.follow("/person-events", &[("X-Revision", "2")]), 4);
    assert_eq!(
        data(&below),
        [r#"{"2":null}"#, r#"{"2":{"name":"Bob","city":"Oslo"}}"#],
        "an older cursor gets a catch-up"
    );
}

#[test]
fn compact_requests_a_catch_up_instead_of_the_log() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (mut state, cursor) = app.load("/persons");
    for city in ["Rome", "Oslo", "Rome", "Oslo"] {
        app.patch("/persons/1", &json!({ "city": city }).to_string());
    }
    let messages = messages(app.follow("/person-events?compact=true", &[("Last-Event-ID", &cursor)]), 5);
    assert_eq!(data(&messages), [r#"{"1":null}"#, r#"{"1":{"name":"Ann","city":"Oslo"}}"#]);
    apply(&mut state, &messages);
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_cursor_older_than_the_tombstones_is_reset() {
    let app = App::start();
    for name in ["Ann", "Bob"] {
        app.post("/persons", &json!({ "name": name }).to_string());
    }
    let (mut state, cursor) = app.load("/persons");
    app.delete("/persons/1");
    app.turn_clock(91 * DAY);
    app.prune();
    let messages = messages(app.follow("/person-events", &[("Last-Event-ID", &cursor)]), 3);
    assert_eq!(messages[0].data, "null", "without a reset the client would keep Ann");
    apply(&mut state, &messages);
    assert_eq!(state, json!({"2": {"name": "Bob"}}));
}

#[test]
fn a_client_that_is_cut_between_the_null_and_the_state_of_a_catch_up_does_not_go_on_by_the_log() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (mut state, cursor) = app.load("/persons");
    app.patch("/persons/1", r#"{"city":"Rome"}"#);
    let mut stream = app.follow("/person-events?compact=true", &[("Last-Event-ID", &cursor)]);
    let null = stream.message().unwrap();
    stream.close();
    assert_eq!(null.data, r#"{"1":null}"#);
    apply(&mut state, std::slice::from_ref(&null));
    // The log has the event that follows on its first cursor: the city alone.
    let id = null.id.expect("it has not everything up to its first cursor any more");
    apply(&mut state, &messages(app.follow("/person-events", &[("Last-Event-ID", &id)]), 2));
    assert_eq!(state, json!({"1": {"name": "Ann", "city": "Rome"}}));
}

#[test]
fn a_cursor_of_an_abandoned_history_is_reset_and_one_from_before_it_goes_on() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (mut early, before) = app.load("/persons");
    app.stop();
    let backup = std::fs::read(app.database()).unwrap();
    app.resume();
    app.post("/persons", r#"{"name":"Bob"}"#);
    let (mut late, abandoned) = app.load("/persons");
    app.stop();
    std::fs::write(app.database(), backup).unwrap();
    app.resume();
    // Two revisions, so that the number of the abandoned one does not give it away.
    app.post("/persons", r#"{"name":"Cid"}"#);
    app.post("/persons", r#"{"name":"Dee"}"#);
    let now = app.get("/persons");
    let epoch = now.header("X-Epoch").unwrap();
    let messages = messages(app.follow("/person-events", &[("Last-Event-ID", &abandoned)]), 3);
    assert_eq!((messages[0].id.clone(), messages[0].data.as_str()), (Some(format!("{epoch}.0.partial")), "null"));
    apply(&mut late, &messages);
    assert_eq!(late, now.json());
    let messages = crate::catch_ups::messages(app.follow("/person-events", &[("Last-Event-ID", &before)]), 3);
    assert_eq!(messages.iter().map(Event::revision).collect::<Vec<_>>(), [2, 3], "it needs no reset");
    apply(&mut early, &messages);
    assert_eq!(early, now.json());
}
