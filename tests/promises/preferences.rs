//! What a client prefers (RFC 7240): no body in the answer to a write, or every event of a feed.

use serde_json::json;

use crate::harness::{App, Response};

const CART: &str = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";

/// A write with preferences.
fn preferring(app: &App, (method, path, json): (&str, &str, &str), prefer: &[&str]) -> Response {
    let headers: Vec<_> =
        prefer.iter().map(|prefer| ("Prefer", *prefer)).chain([("Content-Type", "application/json")]).collect();
    app.request(method, path, &headers, Some(json.as_bytes()))
}

#[test]
fn a_write_that_wants_no_body_gets_everything_else() {
    let app = App::start();
    let item = format!("{CART}/add-item");
    for (write, status) in [
        (("POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#), 201),
        (("PATCH", "/persons/1", r#"{"city":"Oslo"}"#), 204),
        (("PATCH", "/persons/1", "{}"), 204),
        (("PUT", "/persons/1", r#"{"name":"Anna"}"#), 204),
        (("PUT", CART, "{}"), 201),
        (("POST", item.as_str(), r#"{"item":"apple"}"#), 204),
    ] {
        let (method, path, _) = write;
        let done = preferring(&app, write, &["return=minimal"]);
        assert_eq!((done.status, done.text(), done.header("Content-Type")), (status, "", None), "{method} {path}");
        assert_eq!(done.header("Preference-Applied"), Some("return=minimal"), "{method} {path}");
        assert_eq!(done.header("Location").is_some(), status == 201, "{method} {path}");
        let read = app.get(done.header("Location").unwrap_or(if path == item { CART } else { path }));
        assert_eq!((done.header("ETag"), done.cursor()), (read.header("ETag"), read.cursor()), "{method} {path}");
    }
    assert_eq!(app.get("/persons/1").json(), json!({"name": "Anna"}));
    assert_eq!(app.get(CART).json()["items"].as_object().unwrap().len(), 1);
    let deleted = preferring(&app, ("DELETE", "/persons/1", ""), &["return=minimal"]);
    assert_eq!((deleted.status, deleted.header("ETag").is_some()), (204, true));
}

#[test]
fn a_connection_goes_on_after_an_answer_without_a_body() {
    let app = App::start();
    let mut client = app.client();
    let headers = [("Content-Type", "application/json"), ("Prefer", "return=minimal")];
    for number in 1..=3 {
        let created = client.request("POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#));
        assert_eq!((created.status, created.header("Content-Length")), (201, Some("0")));
        assert_eq!(created.header("Location"), Some(format!("/persons/{number}").as_str()));
        let changed = client.request("PATCH", "/persons/1", &headers, Some(br#"{"city":"Rome"}"#));
        assert_eq!(changed.status, 204);
    }
}

#[test]
fn preferences_come_in_lists_and_lines_and_the_first_of_a_name_counts() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let minimal = (204, Some("return=minimal"));
    let whole = (200, Some("return=representation"));
    for (prefer, expected) in [
        (&["respond-async, wait=10, return=minimal"][..], minimal),
        (&["respond-async", "RETURN = \"minimal\"; foo=bar"], minimal),
        (&["return=minimal, return=representation"], minimal),
        (&["return=representation"], whole),
        (&["return=representation, return=minimal"], whole),
        (&["x=\"a, return=minimal\""], (200, None)),
        (&["return=everything", "handling=strict"], (200, None)),
        (&[], (200, None)),
    ] {
        let done = preferring(&app, ("PATCH", "/persons/1", "{}"), prefer);
        assert_eq!((done.status, done.header("Preference-Applied")), expected, "{prefer:?}");
    }
}

#[test]
fn an_error_is_explained_whatever_the_client_prefers() {
    let app = App::start();
    preferring(&app, ("POST", "/persons", "{}"), &["return=minimal"]).problem(422, "invalid");
    preferring(&app, ("PATCH", "/persons/1", "{}"), &["return=minimal"]).problem(404, "not-found");
}

#[test]
fn a_strict_feed_says_that_it_is_one() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let strict = ("Prefer", "wait=5, handling=strict");
    assert_eq!(app.follow("/events", &[strict]).head.header("Preference-Applied"), Some("handling=strict"));
    assert_eq!(app.follow("/events", &[("Prefer", "handling=lenient")]).head.header("Preference-Applied"), None);
    let page = app.request("GET", "/events", &[strict, ("Accept", "application/json")], None);
    assert_eq!((page.status, page.header("Preference-Applied")), (200, Some("handling=strict")));
    app.prune_everything();
    for accept in ["text/event-stream", "application/json", "application/x-ndjson"] {
        for path in ["/events", "/person-events", "/persons/1/events"] {
            let get = app.request("GET", path, &[strict, ("Accept", accept)], None);
            get.problem(410, "not-retained");
            let head = app.request("HEAD", path, &[strict, ("Accept", accept)], None);
            assert_eq!(
                (head.status, head.header("Content-Type")),
                (410, Some("application/problem+json")),
                "{path} {accept}"
            );
        }
    }
}
