//! Feeds without a stream: the same messages in finite pages.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, Client, Response};

const JSON: (&str, &str) = ("Accept", "application/json");
const LINES: (&str, &str) = ("Accept", "application/x-ndjson");

fn three_persons() -> App {
    let app = App::start();
    for name in ["Ann", "Bob", "Cid"] {
        app.post("/persons", &json!({ "name": name }).to_string());
    }
    app
}

#[track_caller]
fn page(app: &App, path: &str) -> Value {
    let response = app.request("GET", path, &[JSON], None);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn epoch(app: &App) -> String {
    app.get("/persons").header("X-Epoch").unwrap().to_owned()
}

fn patches(page: &Value) -> Vec<Value> {
    page["events"].as_array().unwrap().iter().map(|event| event["patch"].clone()).collect()
}

fn assert_malformed(response: &Response, named: &str) {
    assert_eq!((response.status, response.json()["type"].clone()), (400, json!("malformed-request")));
    let detail = response.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with(named) && detail.contains("expected"), "{detail}");
}

#[test]
fn a_page_has_events_and_the_cursor_of_the_next_page() {
    let app = three_persons();
    let epoch = epoch(&app);
    let response = app.request("GET", "/person-events?limit=2", &[JSON], None);
    let first = format!(
        r#"{{"events":[{{"patch":{{}}}},{{"revision":1,"patch":{{"1":{{"name":"Ann"}}}}}},{{"revision":2,"patch":{{"2":{{"name":"Bob"}}}}}}],"cursor":"{epoch}.2"}}"#
    );
    assert_eq!((response.status, response.text()), (200, first.as_str()));
    for (name, value) in [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("X-Revision", "3")] {
        assert_eq!(response.header(name), Some(value));
    }
    assert_eq!(response.header("X-Epoch"), Some(epoch.as_str()));
    let next = page(&app, &format!("/person-events?limit=2&lastEventId={epoch}.2"));
    assert_eq!(
        next,
        json!({"events": [{"revision": 3, "patch": {"3": {"name": "Cid"}}}], "cursor": format!("{epoch}.3")})
    );
    let last = page(&app, &format!("/person-events?limit=2&lastEventId={epoch}.3"));
    assert_eq!(last, json!({"events": [], "cursor": format!("{epoch}.3")}));
}

#[test]
fn the_accept_header_selects_a_page_or_a_stream() {
    let app = three_persons();
    for accept in ["*/*", "text/event-stream", "text/event-stream, application/json;q=0.9", "text/html, */*;q=0.1"] {
        app.follow("/person-events", &[("Accept", accept)]);
    }
    for accept in ["application/json", "application/*", "text/event-stream;q=0.5, application/json"] {
        let response = app.request("GET", "/person-events", &[("Accept", accept)], None);
        assert_eq!(response.header("Content-Type"), Some("application/json"), "{accept}");
    }
}

#[test]
fn an_ndjson_page_ends_with_its_cursor() {
    let app = three_persons();
    let epoch = epoch(&app);
    let response = app.request("GET", "/person-events?limit=2", &[LINES], None);
    let lines = format!(
        "{{\"patch\":{{}}}}\n{{\"revision\":1,\"patch\":{{\"1\":{{\"name\":\"Ann\"}}}}}}\n{{\"revision\":2,\"patch\":{{\"2\":{{\"name\":\"Bob\"}}}}}}\n{{\"cursor\":\"{epoch}.2\"}}\n"
    );
    assert_eq!((response.status, response.text()), (200, lines.as_str()));
    assert_eq!(response.header("Content-Type"), Some("application/x-ndjson"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    let nothing = app.request("GET", &format!("/person-events?lastEventId={epoch}.3"), &[LINES], None);
    assert_eq!(nothing.text(), format!("{{\"cursor\":\"{epoch}.3\"}}\n"));
}

/// Reads all pages, and applies every patch.
fn page_through(app: &App, path: &str, limit: usize, cursor: Option<String>) -> Value {
    let (mut state, mut cursor) = (Value::Null, cursor);
    let separator = if path.contains('?') { '&' } else { '?' };
    for _ in 0..1000 {
        let from = cursor.as_ref().map_or_else(String::new, |cursor| format!("&lastEventId={cursor}"));
        let body = page(app, &format!("{path}{separator}limit={limit}{from}"));
        let news = patches(&body);
        news.iter().for_each(|patch| json_patch::merge(&mut state, patch));
        let next = body["cursor"].as_str().unwrap().to_owned();
        if next == app.get("/persons").cursor() {
            return state;
        }
        assert_ne!(Some(&next), cursor.as_ref(), "each page makes progress");
        cursor = Some(next);
    }
    panic!("{path} does not end");
}

#[test]
fn all_pages_together_give_the_state() {
    let app = App::start();
    for number in 0..12 {
        let city = if number % 2 == 0 { "Rome" } else { "Oslo" };
        app.post("/persons", &json!({"name": "x", "city": city}).to_string());
    }
    for number in [2, 4, 6, 7] {
        app.delete(&format!("/persons/{number}"));
        app.patch(&format!("/persons/{}", number + 1), r#"{"city":null,"spouse":1}"#);
    }
    for when in ["within retention", "after it"] {
        for limit in [1, 2, 3, 7, 1000] {
            for (state, events) in [
                ("/aggregates", "/events"),
                ("/aggregates?collection=locations", "/events?collection=locations"),
                ("/persons", "/person-events"),
                ("/persons?key=3&key=4", "/person-events?key=3&key=4"),
                ("/persons/5", "/persons/5/events"),
            ] {
                let expected = app.get(state).json();
                assert_eq!(page_through(&app, events, limit, None), expected, "{events} by {limit} {when}");
                let foreign = Some("other0epoch.5".to_owned());
                assert_eq!(page_through(&app, events, limit, foreign), expected, "{events} by {limit} {when}, reset");
            }
        }
        app.prune_everything();
    }
}

#[test]
fn a_page_advances_past_filtered_events() {
    let app = three_persons();
    let epoch = epoch(&app);
    for path in ["/person-events?key=1", "/location-events", "/events?collection=locations", "/persons/1/events"] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let body = page(&app, &format!("{path}{separator}lastEventId={epoch}.1"));
        assert_eq!(body, json!({"events": [], "cursor": format!("{epoch}.3")}), "{path}");
    }
}

#[test]
fn catch_up_pages_have_no_revisions_and_partial_cursors_until_the_last() {
    let app = three_persons();
    let epoch = epoch(&app);
    app.prune_everything();
    let mut cursor = format!("{epoch}.0");
    let mut state = Value::Null;
    for (expected, key) in [("1.partial.1.3", "1"), ("2.partial.2.3", "2"), ("3", "3")] {
        let body = page(&app, &format!("/person-events?limit=1&lastEventId={cursor}"));
        assert!(body["events"].as_array().unwrap().iter().all(|event| event.get("revision").is_none()), "{body}");
        let known = json!({ key: app.get(&format!("/persons/{key}")).json() });
        let mut parts = patches(&body);
        assert_eq!(parts.pop(), Some(known), "the current state of the aggregate");
        assert_eq!(parts.pop(), Some(json!({ key: null })), "a null first, since the client may have an older state");
        patches(&body).iter().for_each(|patch| json_patch::merge(&mut state, patch));
        cursor = body["cursor"].as_str().unwrap().to_owned();
        assert_eq!(cursor, format!("{epoch}.{expected}"));
    }
    let last = page(&app, &format!("/person-events?limit=1&lastEventId={cursor}"));
    assert_eq!(last["cursor"], json!(format!("{epoch}.3")));
    patches(&last).iter().for_each(|patch| json_patch::merge(&mut state, patch));
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_reset_begins_with_null() {
    let app = three_persons();
    let epoch = epoch(&app);
    for id in ["other0epoch.2".to_owned(), format!("{epoch}.4"), "other0epoch.2.partial".to_owned()] {
        let body = page(&app, &format!("/events?lastEventId={id}"));
        assert_eq!(body["events"][0], json!({"patch": null}), "{id}");
        assert_eq!(
            body["events"][1],
            json!({"patch": {"persons": {}, "locations": {}, "carts": {}, "accounts": {}}}),
            "{id}"
        );
        assert_eq!(body["cursor"], json!(format!("{epoch}.3")));
    }
}

#[test]
fn a_long_poll_returns_when_something_changes() {
    let app = three_persons();
    let epoch = epoch(&app);
    let mut client = app.client();
    client.send("GET", &format!("/person-events?wait=30&lastEventId={epoch}.3"), &[JSON], None);
    // Workers serve connections in turn: once these requests have been answered, the poll has been read.
    for _ in 0..20 {
        Client::connect(app.address).request("GET", "/persons", &[], None);
    }
    let begin = Instant::now();
    app.delete("/persons/2");
    let body = client.response("GET").json();
    assert_eq!(body, json!({"events": [{"revision": 4, "patch": {"2": null}}], "cursor": format!("{epoch}.4")}));
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
}

#[test]
fn a_long_poll_from_the_beginning_waits_for_more_than_the_empty_state() {
    let app = App::start();
    let mut client = app.client();
    client.send("GET", "/person-events?wait=30", &[JSON], None);
    for _ in 0..20 {
        Client::connect(app.address).request("GET", "/persons", &[], None);
    }
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(patches(&client.response("GET").json()), [json!({}), json!({"1": {"name": "Ann"}})]);
}

#[test]
fn a_long_poll_returns_existing_events_immediately() {
    let app = three_persons();
    let begin = Instant::now();
    assert_eq!(page(&app, "/person-events?wait=30")["events"].as_array().unwrap().len(), 4);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_long_poll_times_out_with_the_current_cursor() {
    let app = three_persons();
    let epoch = epoch(&app);
    let begin = Instant::now();
    let body = page(&app, &format!("/person-events?wait=1&lastEventId={epoch}.3"));
    assert_eq!(body, json!({"events": [], "cursor": format!("{epoch}.3")}));
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());

    // A filtered event does not end the poll, but its cursor is past that event.
    let mut client = app.client();
    client.send("GET", &format!("/person-events?key=2&wait=1&lastEventId={epoch}.3"), &[JSON], None);
    for _ in 0..20 {
        Client::connect(app.address).request("GET", "/persons", &[], None);
    }
    app.delete("/persons/1");
    assert_eq!(client.response("GET").json(), json!({"events": [], "cursor": format!("{epoch}.4")}));
}

#[test]
fn an_invalid_limit_or_wait_is_rejected_with_the_expected_values() {
    let app = three_persons();
    for (query, named) in [
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=10001", "limit"),
        ("wait=abc", "wait"),
        ("wait=-1", "wait"),
        ("wait=1.5", "wait"),
        ("wait=301", "wait"),
    ] {
        for form in [JSON, LINES] {
            assert_malformed(&app.request("GET", &format!("/person-events?{query}"), &[form], None), named);
        }
    }
}

#[test]
fn a_strict_page_is_a_410_when_events_are_missing() {
    let app = three_persons();
    let epoch = epoch(&app);
    app.prune_everything();
    app.post("/persons", r#"{"name":"Dan"}"#);
    for (query, headers) in [
        ("?strict=true&lastEventId=other0epoch.1", vec![JSON]),
        ("?strict=true&revision=3", vec![LINES]),
        ("", vec![JSON, ("Prefer", "handling=strict")]),
    ] {
        let response = app.request("GET", &format!("/person-events{query}"), &headers, None);
        assert_eq!(response.status, 410, "{query} {}", response.text());
        assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        let body = response.json();
        assert_eq!((&body["type"], &body["oldest"], &body["current"]), (&json!("not-retained"), &json!(4), &json!(4)));
        assert_eq!((&body["epoch"], &body["bootstrap"]), (&json!(epoch), &json!("/persons")));
    }
    let body = page(&app, &format!("/person-events?strict=true&lastEventId={epoch}.3"));
    assert_eq!(patches(&body), [json!({"4": {"name": "Dan"}})]);
}

#[test]
fn a_collection_can_be_read_as_ndjson() {
    let app = App::start();
    assert_eq!(app.request("GET", "/persons", &[LINES], None).text(), "");
    for name in ["Ann", "Bob", "Cid"] {
        app.post("/persons", &json!({"name": name, "city": "a \"b\""}).to_string());
    }
    let line =
        |key: &str, name: &str| format!("{}\n", json!({"key": key, "aggregate": {"name": name, "city": "a \"b\""}}));
    let all = app.request("GET", "/persons", &[LINES], None);
    assert_eq!(all.text(), line("1", "Ann") + &line("2", "Bob") + &line("3", "Cid"));
    assert_eq!((all.header("Content-Type"), all.revision()), (Some("application/x-ndjson"), 3));
    let some = app.request("GET", "/persons?key=3&key=1&key=9", &[LINES], None);
    assert_eq!(some.text(), line("1", "Ann") + &line("3", "Cid"));
    let cities = app.request("GET", "/locations", &[LINES], None);
    assert_eq!(cities.text(), "{\"key\":\"a \\\"b\\\"\",\"aggregate\":{\"total\":3}}\n");
}

#[test]
fn a_long_poll_returns_when_the_service_stops() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let cursor = app.get("/persons").cursor();
    let mut client = app.client();
    let path = format!("/person-events?wait=30&lastEventId={cursor}");
    client.send("GET", &path, &[("Accept", "application/json")], None);
    // Workers serve connections in turn: once these requests have been answered, the poll has been read.
    for _ in 0..20 {
        app.get("/persons");
    }
    app.stop();
    assert_eq!(client.response("GET").json()["events"], serde_json::json!([]));
}
