//! The tables of the contract, byte for byte.

use crate::harness::{App, Stream};

/// Method, path, body, status, response body, patch of `person-events`, patch of `location-events`.
type Operation =
    (&'static str, &'static str, Option<&'static str>, u16, &'static str, Option<&'static str>, Option<&'static str>);

const OPERATIONS: [Operation; 5] = [
    (
        "POST",
        "/persons",
        Some(r#"{"name":"Ann","city":"Rome"}"#),
        201,
        r#"{"name":"Ann","city":"Rome"}"#,
        Some(r#"{"1":{"name":"Ann","city":"Rome"}}"#),
        Some(r#"{"Rome":{"total":1}}"#),
    ),
    ("POST", "/persons", Some(r#"{"name":"Bob"}"#), 201, r#"{"name":"Bob"}"#, Some(r#"{"2":{"name":"Bob"}}"#), None),
    (
        "PATCH",
        "/persons/2",
        Some(r#"{"city":"Rome"}"#),
        200,
        r#"{"name":"Bob","city":"Rome"}"#,
        Some(r#"{"2":{"city":"Rome"}}"#),
        Some(r#"{"Rome":{"total":2}}"#),
    ),
    (
        "PATCH",
        "/persons/1",
        Some(r#"{"city":null}"#),
        200,
        r#"{"name":"Ann"}"#,
        Some(r#"{"1":{"city":null}}"#),
        Some(r#"{"Rome":{"total":1}}"#),
    ),
    ("DELETE", "/persons/2", None, 204, "", Some(r#"{"2":null}"#), Some(r#"{"Rome":null}"#)),
];

fn expect(stream: &mut Stream, epoch: &str, revision: usize, patch: Option<&str>) {
    if let Some(patch) = patch {
        let event = stream.next();
        assert_eq!((event.id, event.data.as_str()), (Some(format!("{epoch}.{revision}")), patch));
    }
}

#[test]
fn the_five_operations_produce_their_revisions_and_events() {
    let app = App::start();
    let (mut persons, mut locations) = (app.follow("/person-events", &[]), app.follow("/location-events", &[]));
    for (index, (method, path, body, status, answer, person_event, location_event)) in
        OPERATIONS.into_iter().enumerate()
    {
        let revision = index + 1;
        let response = app.request(method, path, &[("Content-Type", "application/json")], body.map(str::as_bytes));
        assert_eq!((response.status, response.text()), (status, answer), "{method} {path}");
        assert_eq!(response.header("X-Revision"), Some(revision.to_string().as_str()));
        let epoch = response.header("X-Epoch").unwrap().to_owned();
        expect(&mut persons, &epoch, revision, person_event);
        expect(&mut locations, &epoch, revision, location_event);
    }
    assert_eq!(app.get("/persons").text(), r#"{"1":{"name":"Ann"}}"#);
    assert_eq!(app.get("/locations").text(), "{}");
}

#[test]
fn later_subscribers_get_the_same_events() {
    let app = App::start();
    for (method, path, body, ..) in OPERATIONS {
        app.request(method, path, &[("Content-Type", "application/json")], body.map(str::as_bytes));
    }
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let (mut persons, mut locations) = (app.follow("/person-events", &[]), app.follow("/location-events", &[]));
    for (index, (.., person_event, location_event)) in OPERATIONS.into_iter().enumerate() {
        expect(&mut persons, &epoch, index + 1, person_event);
        expect(&mut locations, &epoch, index + 1, location_event);
    }
}

#[test]
fn a_location_counts_married_persons_and_omits_a_zero() {
    let app = App::start();
    let mut locations = app.follow("/location-events", &[]);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome","spouse":1}"#);
    assert_eq!(app.get("/locations/Rome").text(), r#"{"total":2,"married":1}"#);
    app.patch("/persons/2", r#"{"spouse":null}"#);
    assert_eq!(app.get("/locations").text(), r#"{"Rome":{"total":2}}"#);
    let patches: Vec<_> = (0..3).map(|_| locations.next().data).collect();
    assert_eq!(
        patches,
        [r#"{"Rome":{"total":1}}"#, r#"{"Rome":{"total":2,"married":1}}"#, r#"{"Rome":{"married":null}}"#]
    );
}
