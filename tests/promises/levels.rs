//! The document has three levels: everything, a collection, and one aggregate. Each has a state and a feed of changes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Stream};

/// The five operations of the contract's table, with the patch of each on the feed of everything.
const OPERATIONS: [(&str, &str, &str, &str); 5] = [
    (
        "POST",
        "/persons",
        r#"{"name":"Ann","city":"Rome"}"#,
        r#"{"persons":{"1":{"name":"Ann","city":"Rome"}},"locations":{"Rome":{"total":1}}}"#,
    ),
    ("POST", "/persons", r#"{"name":"Bob"}"#, r#"{"persons":{"2":{"name":"Bob"}}}"#),
    (
        "PATCH",
        "/persons/2",
        r#"{"city":"Rome"}"#,
        r#"{"persons":{"2":{"city":"Rome"}},"locations":{"Rome":{"total":2}}}"#,
    ),
    ("PATCH", "/persons/1", r#"{"city":null}"#, r#"{"persons":{"1":{"city":null}},"locations":{"Rome":{"total":1}}}"#),
    ("DELETE", "/persons/2", "", r#"{"persons":{"2":null},"locations":{"Rome":null}}"#),
];

/// The empty document.
const EMPTY: &str = r#"{"persons":{},"locations":{},"carts":{},"accounts":{}}"#;

/// The state, the feed and the empty state of every level, with and without filters.
const VIEWS: [(&str, &str, &str); 8] = [
    ("/aggregates", "/events", EMPTY),
    ("/aggregates?collection=locations", "/events?collection=locations", r#"{"locations":{}}"#),
    ("/persons", "/person-events", "{}"),
    ("/persons?key=2", "/person-events?key=2", "{}"),
    ("/locations", "/location-events", "{}"),
    ("/persons/2", "/persons/2/events", "null"),
    ("/locations/Rome", "/locations/Rome/events", "null"),
    ("/persons/abc", "/persons/abc/events", "null"),
];

fn operate(app: &App, number: usize) -> i64 {
    let (method, path, body, _) = OPERATIONS[number];
    if method == "DELETE" { app.delete(path) } else { app.write(method, path, body) }.revision()
}

fn after_all_operations() -> App {
    let app = App::start();
    (0..OPERATIONS.len()).for_each(|number| _ = operate(&app, number));
    app
}

/// The state at a path, or null for a 404, and its cursor.
fn load(app: &App, path: &str) -> (Value, String) {
    let response = app.get(path);
    let state = if response.status == 404 { Value::Null } else { response.json() };
    (state, response.cursor())
}

fn named(stream: &mut Stream) -> (i64, String) {
    let event = stream.next();
    (event.revision(), event.data)
}

#[test]
fn a_revision_is_one_event_on_the_feed_of_everything() {
    let app = App::start();
    let mut stream = app.follow("/events", &[]);
    let empty = stream.message().unwrap();
    assert_eq!((empty.id, empty.data.as_str()), (None, EMPTY));
    for (number, (.., patch)) in OPERATIONS.iter().enumerate() {
        let revision = operate(&app, number);
        assert_eq!(named(&mut stream), (revision, (*patch).to_owned()));
    }
    let mut later = app.follow("/events", &[]);
    for (number, (.., patch)) in (1..).zip(OPERATIONS) {
        assert_eq!(named(&mut later), (number, patch.to_owned()));
    }
}

#[test]
fn the_whole_document_is_read_at_one_revision() {
    let app = App::start();
    let empty = app.get("/aggregates");
    assert_eq!((empty.status, empty.text(), empty.revision()), (200, EMPTY, 0));
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    let response = app.get("/aggregates");
    assert_eq!(
        response.text(),
        r#"{"persons":{"1":{"name":"Ann","city":"Rome"}},"locations":{"Rome":{"total":1}},"carts":{},"accounts":{}}"#
    );
    assert_eq!(response.revision(), 1);
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    assert_eq!(response.header("Cache-Control"), Some("no-cache"));
}

#[test]
fn state_plus_later_changes_is_the_current_state_at_every_level() {
    let app = App::start();
    let mut loaded: Vec<Vec<_>> = vec![VIEWS.iter().map(|(state, ..)| load(&app, state)).collect()];
    for number in 0..OPERATIONS.len() {
        operate(&app, number);
        loaded.push(VIEWS.iter().map(|(state, ..)| load(&app, state)).collect());
    }
    // One event for every view, so that each ends with a known cursor.
    app.post("/persons", r#"{"name":"Cid","city":"Rome"}"#);
    for round in loaded {
        for ((path, events, _), (mut state, cursor)) in VIEWS.into_iter().zip(round) {
            let mut body =
                app.request("GET", events, &[("Last-Event-ID", &cursor), ("Accept", "application/json")], None).json();
            for event in body["events"].as_array_mut().unwrap() {
                json_patch::merge(&mut state, &event["patch"]);
            }
            assert_eq!(state, load(&app, path).0, "{events} after {cursor}");
            assert_eq!(body["cursor"], json!(app.get(path).cursor()));
        }
    }
}

#[test]
fn everything_can_be_filtered_by_collection() {
    let app = after_all_operations();
    app.post("/persons", r#"{"name":"Cid","city":"Oslo"}"#);
    assert_eq!(app.get("/aggregates?collection=locations").text(), r#"{"locations":{"Oslo":{"total":1}}}"#);
    let both = r#"{"persons":{"1":{"name":"Ann"},"3":{"name":"Cid","city":"Oslo"}},"locations":{"Oslo":{"total":1}}}"#;
    for query in ["collection=persons&collection=locations", "collection=locations&collection=persons"] {
        assert_eq!(app.get(&format!("/aggregates?{query}")).text(), both);
    }
    let mut persons = app.follow("/events?collection=persons", &[]);
    assert_eq!(persons.message().unwrap().data, r#"{"persons":{}}"#);
    assert_eq!(named(&mut persons), (1, r#"{"persons":{"1":{"name":"Ann","city":"Rome"}}}"#.to_owned()));
    let mut locations = app.follow("/events?collection=locations", &[]);
    assert_eq!(locations.message().unwrap().data, r#"{"locations":{}}"#);
    // Revision 2 is Bob without a city, so the gap is expected.
    let revisions: Vec<_> = (0..5).map(|_| locations.next().revision()).collect();
    assert_eq!(revisions, [1, 3, 4, 5, 6]);
    let mut both = app.follow("/events?collection=persons&collection=locations", &[]);
    assert_eq!(both.message().unwrap().data, r#"{"persons":{},"locations":{}}"#);
}

#[test]
fn an_unknown_collection_is_rejected_with_the_known_ones() {
    let app = App::start();
    for path in ["/aggregates?collection=cities", "/events?collection=cities", "/events?collection=persons&collection="]
    {
        let response = app.get(path);
        assert_eq!((response.status, response.json()["type"].clone()), (400, json!("malformed-request")), "{path}");
        assert!(response.text().contains("expected persons, locations"), "{}", response.text());
    }
}

#[test]
fn one_aggregate_can_be_followed_from_before_its_creation_to_its_deletion() {
    let app = App::start();
    let mut stream = app.follow("/persons/2/events", &[]);
    let nothing = stream.message().unwrap();
    assert_eq!((nothing.id, nothing.data.as_str()), (None, "null"));
    assert_eq!(app.get("/persons/2").status, 404);
    (0..OPERATIONS.len()).for_each(|number| _ = operate(&app, number));
    for expected in [(2, r#"{"name":"Bob"}"#), (3, r#"{"city":"Rome"}"#), (5, "null")] {
        assert_eq!(named(&mut stream), (expected.0, expected.1.to_owned()));
    }
    let gone = app.get("/persons/2");
    assert_eq!((gone.status, gone.revision()), (404, 5));
}

#[test]
fn a_deleted_aggregate_can_be_recreated() {
    let app = App::start();
    let mut rome = app.follow("/locations/Rome/events", &[]);
    (0..OPERATIONS.len()).for_each(|number| _ = operate(&app, number));
    app.post("/persons", r#"{"name":"Cid","city":"Rome"}"#);
    for expected in
        [(1, r#"{"total":1}"#), (3, r#"{"total":2}"#), (4, r#"{"total":1}"#), (5, "null"), (6, r#"{"total":1}"#)]
    {
        assert_eq!(named(&mut rome), (expected.0, expected.1.to_owned()));
    }
}

#[test]
fn the_feed_of_a_valid_key_is_never_a_404() {
    let app = after_all_operations();
    let now = app.get("/persons").cursor();
    for path in ["/persons/abc/events", "/persons/999/events", "/persons/2/events", "/locations/a%2Fb/events"] {
        let mut stream = app.follow(path, &[("Last-Event-ID", &now)]);
        stream.read_until(|text| text.contains("retry"));
        assert!(stream.is_quiet_for(Duration::from_millis(50)), "{path} waits");
        assert_eq!(app.follow(path, &[]).message().unwrap().data, "null", "{path}");
    }
    for path in
        ["/persons/__proto__/events", "/locations/%2E%2E/events", "/person-events?key=", "/persons?key=constructor"]
    {
        let response = app.get(path);
        assert_eq!((response.status, response.json()["type"].clone()), (422, json!("invalid")), "{path}");
    }
}

#[test]
fn a_collection_can_be_filtered_by_key() {
    let app = App::start();
    for name in ["Ann", "Bob", "Cid"] {
        app.post("/persons", &json!({"name": name, "city": "Rome"}).to_string());
    }
    let (ann, cid) = (r#"{"name":"Ann","city":"Rome"}"#, r#"{"name":"Cid","city":"Rome"}"#);
    for (query, body) in [
        ("key=1&key=3", format!(r#"{{"1":{ann},"3":{cid}}}"#)),
        ("key=3&key=1&key=3&key=999", format!(r#"{{"1":{ann},"3":{cid}}}"#)),
        ("key=999", "{}".to_owned()),
    ] {
        let response = app.get(&format!("/persons?{query}"));
        assert_eq!((response.status, response.text(), response.revision()), (200, body.as_str(), 3), "{query}");
    }
    let mut picked = app.follow("/person-events?key=1&key=3", &[]);
    assert_eq!(picked.message().unwrap().data, "{}");
    assert_eq!(named(&mut picked), (1, format!(r#"{{"1":{ann}}}"#)));
    assert_eq!(named(&mut picked), (3, format!(r#"{{"3":{cid}}}"#)));
    app.patch("/persons/2", r#"{"city":"Oslo"}"#);
    app.patch("/persons/3", r#"{"city":"Oslo"}"#);
    assert_eq!(named(&mut picked), (5, r#"{"3":{"city":"Oslo"}}"#.to_owned()));
    let mut oslo = app.follow("/location-events?key=Oslo", &[]);
    assert_eq!(named(&mut oslo), (4, r#"{"Oslo":{"total":1}}"#.to_owned()));
}

#[test]
fn a_stream_from_the_beginning_starts_with_the_empty_state_without_an_id() {
    let app = after_all_operations();
    app.post("/persons", r#"{"name":"Cid","city":"Rome"}"#);
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let zero = format!("{epoch}.0");
    for pruned in [false, true] {
        if pruned {
            app.prune_everything();
        }
        for (_, events, frame) in VIEWS {
            for headers in [vec![], vec![("Last-Event-ID", zero.as_str())], vec![("X-Revision", "1")]] {
                let first = app.follow(events, &headers).message().unwrap();
                assert_eq!((first.id, first.data.as_str()), (None, frame), "{events} {headers:?}, pruned: {pruned}");
            }
        }
    }
}

#[test]
fn a_reset_sends_null_and_then_the_empty_state() {
    let app = after_all_operations();
    let (epoch, now) = (app.get("/persons").header("X-Epoch").unwrap().to_owned(), app.get("/persons").revision());
    for (path, events, frame) in VIEWS {
        for id in ["other0epoch.3".to_owned(), "nonsense".to_owned(), format!("{epoch}.{}", now + 1)] {
            let mut stream = app.follow(events, &[("Last-Event-ID", &id)]);
            let null = stream.message().unwrap();
            assert_eq!((null.id, null.data.as_str()), (Some(format!("{epoch}.0.partial")), "null"), "{events} {id}");
            let skeleton = stream.message().unwrap();
            assert_eq!((skeleton.id, skeleton.data.as_str()), (None, frame), "{events} {id}");
            let mut state: Value = serde_json::from_str(frame).unwrap();
            stream.follow(&mut state, now);
            assert_eq!(state, load(&app, path).0, "{events} {id}");
        }
    }
}

#[test]
fn the_empty_state_is_sent_once() {
    for _ in 0..10 {
        let app = App::start();
        let mut stream = app.follow("/events", &[]);
        assert!(stream.message().unwrap().id.is_none());
        app.post("/persons", r#"{"name":"Ann"}"#);
        assert!(stream.message().unwrap().id.is_some(), "{}", stream.raw);
    }
}

#[test]
fn the_feed_of_a_collection_has_a_second_path() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    let carts = app.open_cart();
    app.add_item(&carts, "apple");
    let json = [("Accept", "application/json")];
    for (one, other) in [
        ("/person-events", "/events/persons"),
        ("/location-events", "/events/locations"),
        ("/cart-events", "/events/carts"),
        ("/person-events?key=2", "/events/persons?key=2"),
    ] {
        let (mut first, mut second) = (app.follow(one, &[]), app.follow(other, &[]));
        assert_eq!(first.next(), second.next(), "{other}");
        let page = |path| app.request("GET", path, &json, None);
        assert_eq!(page(one).text(), page(other).text(), "{other}");
    }
    let strict = app.get("/events/persons?strict=true&lastEventId=zzzzzzzz.1").problem(410, "not-retained");
    assert_eq!(strict["bootstrap"], "/persons");
}
