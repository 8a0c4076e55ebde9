//! Following changes: where a stream starts, what it contains, and how it ends.

use std::time::Duration;

use serde_json::json;

use crate::harness::{App, Stream, eventually};

fn three_persons() -> App {
    let app = App::start();
    for name in ["Ann", "Bob", "Cid"] {
        app.post("/persons", &json!({ "name": name }).to_string());
    }
    app
}

fn revisions(mut stream: Stream, count: usize) -> Vec<i64> {
    (0..count).map(|_| stream.next().revision()).collect()
}

#[test]
fn a_stream_sends_its_head_immediately() {
    let app = App::start();
    let mut stream = app.follow("/person-events", &[]);
    for (name, value) in [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("X-Revision", "0"),
    ] {
        assert_eq!(stream.head.header(name), Some(value));
    }
    assert_eq!(stream.head.header("Content-Encoding"), None);
    stream.read_until(|text| text.starts_with(":\nretry: ") && text.ends_with("\n"));
    assert!(
        !stream.raw.contains(":\n\n"),
        "there is no blank line, which some clients mistake for a message: {:?}",
        stream.raw
    );
}

#[test]
fn every_form_of_cursor_resumes_after_what_the_client_has() {
    let app = three_persons();
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let id = format!("{epoch}.1");
    for headers in [
        vec![("Last-Event-ID", id.as_str())],
        vec![("X-Revision", "2")],
        vec![("X-Revision", "2"), ("X-Epoch", epoch.as_str())],
        vec![("Last-Event-ID", id.as_str()), ("X-Revision", "1")],
        vec![("Last-Event-ID", ""), ("X-Revision", "2")],
    ] {
        assert_eq!(revisions(app.follow("/person-events", &headers), 2), [2, 3], "{headers:?}");
    }
    for query in [
        format!("lastEventId={id}"),
        format!("lastEventId={epoch}.0&lastEventId={id}"),
        "revision=2".to_owned(),
        format!("revision=2&epoch={epoch}"),
    ] {
        assert_eq!(revisions(app.follow(&format!("/person-events?{query}"), &[]), 2), [2, 3], "{query}");
    }
    for first in ["0", "1"] {
        assert_eq!(revisions(app.follow("/person-events", &[("X-Revision", first)]), 3), [1, 2, 3]);
    }
}

#[test]
fn an_up_to_date_cursor_waits_for_the_next_event() {
    let app = three_persons();
    let mut stream = app.follow("/person-events", &[("Last-Event-ID", &app.get("/persons").cursor())]);
    stream.read_until(|text| text.contains("retry"));
    app.delete("/persons/2");
    let event = stream.next();
    assert_eq!((event.revision(), event.data.as_str()), (4, r#"{"2":null}"#));
}

#[test]
fn a_malformed_revision_is_rejected_with_the_expected_form() {
    let app = three_persons();
    for (headers, path, named) in [
        (vec![("X-Revision", "two")], "/person-events", "X-Revision"),
        (vec![("X-Revision", "2"), ("X-Epoch", "NO")], "/person-events", "X-Epoch"),
        (vec![], "/person-events?revision=-2", "revision"),
        (vec![], "/person-events?revision=2&epoch=%20", "epoch"),
        (vec![("Accept", "application/json")], "/person-events?lastEventId=undefined.undefined", "lastEventId"),
        (vec![], "/person-events?strict=maybe", "strict"),
    ] {
        let response = app.request("GET", path, &headers, None);
        assert_eq!((response.status, response.json()["type"].clone()), (400, json!("malformed-request")));
        assert!(response.text().contains(named) && response.text().contains("expected"), "{}", response.text());
    }
}

#[test]
fn a_stream_is_reset_by_an_unreadable_cursor_in_the_query_as_by_one_in_the_header() {
    let app = three_persons();
    for feed in ["/person-events", "/events/persons", "/events", "/persons/1/events"] {
        for cursor in ["undefined.undefined", "null", "123", "abc", "01HV3T6Z0V4XJ9.5", "4f9c21aa.8.partial.x", "%FF"] {
            let mut query = app.follow(&format!("{feed}?lastEventId={cursor}"), &[]);
            let mut header = app.follow(feed, &[("Last-Event-ID", cursor)]);
            let first = query.message().unwrap();
            assert_eq!(
                (first.data.as_str(), first.id.as_deref().map(|id| id.contains(".0.partial"))),
                ("null", Some(true))
            );
            assert_eq!((Some(first), query.next()), (header.message(), header.next()), "{feed} {cursor}");
            let page =
                app.request("GET", &format!("{feed}?lastEventId={cursor}"), &[("Accept", "application/json")], None);
            page.problem(400, "malformed-request");
        }
    }
}

#[test]
fn a_stream_ignores_unknown_parameters_and_says_so_in_a_comment() {
    let app = three_persons();
    app.open_cart();
    for (path, comment) in [
        (
            "/person-events?kye=1",
            ": kye: unknown query parameter, ignored; expected lastEventId, revision, epoch, strict, compact, ticket, key",
        ),
        (
            "/events/persons?a%0Ad=1&key=3",
            ": a\\nd: unknown query parameter, ignored; expected lastEventId, revision, ",
        ),
        ("/events?limit=0", ": limit: ignored, because it is for pages (Accept: application/json)"),
        (
            "/persons/1/events?wait=x&evs_preamble=",
            ": evs_preamble: unknown query parameter, ignored; expected lastEventId, ",
        ),
        ("/journal?revision=2", ": revision: unknown query parameter, ignored; expected lastEventId, collection"),
        ("/journal?limit=x", ": limit: ignored, because it is for pages (Accept: application/json)"),
    ] {
        let mut stream = app.follow(path, &[]);
        stream.next();
        let lines: Vec<_> =
            stream.raw.lines().take_while(|line| !line.starts_with("id") && !line.starts_with("data")).collect();
        assert!(lines.iter().any(|line| line.starts_with(comment)), "{path}: {lines:?}");
        assert!(
            lines.iter().all(|line| !line.is_empty()),
            "a blank line would be a message for some clients: {lines:?}"
        );
        let page = app.request("GET", path, &[("Accept", "application/json")], None);
        page.problem(400, "malformed-request");
    }
    let mut selected = app.follow("/person-events?key=3&kye=1", &[]);
    assert_eq!(selected.next().data, r#"{"3":{"name":"Cid"}}"#);
}

#[test]
fn a_strict_client_gets_410_when_events_are_missing() {
    let app = three_persons();
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let strict = ("Prefer", "respond-async, handling=strict");
    let gone = |path: &str, headers: &[(&str, &str)]| {
        let response = app.request("GET", path, headers, None);
        assert_eq!((response.status, response.json()["type"].clone()), (410, json!("not-retained")), "{headers:?}");
        response.json()
    };
    let (future, partial) = (format!("{epoch}.4"), format!("{epoch}.1.partial"));
    for id in ["other0epoch.1", "nonsense", &future, &partial] {
        let body = gone("/person-events", &[("Last-Event-ID", id), strict]);
        assert_eq!((&body["current"], &body["epoch"]), (&json!(3), &json!(epoch)));
        assert_eq!((&body["oldest"], &body["bootstrap"]), (&json!(1), &json!("/persons")));
    }
    assert_eq!(revisions(app.follow("/person-events", &[("X-Revision", "1"), strict]), 3), [1, 2, 3]);
    app.prune_everything();
    for (path, bootstrap) in
        [("/person-events", "/persons"), ("/events", "/aggregates"), ("/persons/2/events", "/persons/2")]
    {
        let body = gone(&format!("{path}?strict=true&revision=3"), &[]);
        assert_eq!((&body["oldest"], &body["bootstrap"]), (&json!(4), &json!(bootstrap)));
    }
    app.post("/persons", r#"{"name":"Dan"}"#);
    assert_eq!(revisions(app.follow("/person-events", &[("X-Revision", "4"), strict]), 1), [4]);
    gone("/person-events", &[("X-Revision", "3"), strict]);
}

#[test]
fn an_event_is_delivered_immediately_although_the_relay_polls_rarely() {
    let app = App::with(|settings| settings.poll_interval = Duration::from_secs(3600));
    let mut stream = app.follow("/person-events", &[]);
    stream.read_until(|text| text.contains("retry"));
    let mut client = app.client();
    let json = [("Content-Type", "application/json")];
    for number in 1..=100 {
        client.request("POST", "/persons", &json, Some(br#"{"name":"Ann"}"#));
        // The benchmarks show milliseconds; this only has to prove that the relay did not wait for its poll.
        assert_eq!(stream.next().revision(), number);
    }
}

#[test]
fn an_event_arrives_within_the_poll_interval_when_the_wake_up_is_lost() {
    let app = App::with(|settings| {
        settings.poll_interval = Duration::from_millis(300);
        // It wakes nobody, either.
        settings.heartbeat = Duration::from_secs(3600);
    });
    app.lose_wake_ups();
    let mut stream = app.follow("/person-events", &[]);
    for number in 1..=3 {
        app.post("/persons", r#"{"name":"Ann"}"#);
        assert_eq!(stream.next().revision(), number);
    }
}

#[test]
fn a_batch_that_a_worker_missed_arrives_within_the_poll_interval() {
    let app = App::with(|settings| settings.poll_interval = Duration::from_millis(300));
    let mut stream = app.follow("/person-events", &[]);
    stream.read_until(|text| text.contains("retry"));
    app.lose_batch();
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(stream.next().revision(), 1);
    app.post("/persons", r#"{"name":"Bob"}"#);
    assert_eq!(stream.next().revision(), 2);
}

#[test]
fn nothing_is_delivered_without_polls_and_wake_ups() {
    let app = App::with(|settings| settings.poll_interval = Duration::from_secs(3600));
    let mut stream = app.follow("/person-events", &[]);
    assert_eq!(stream.message().unwrap().data, "{}", "the empty state comes before all events");
    app.lose_wake_ups();
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert!(stream.is_quiet_for(Duration::from_millis(200)), "otherwise the two tests above prove nothing");
}

#[test]
fn a_quiet_stream_gets_comment_lines() {
    let app = App::with(|settings| settings.heartbeat = Duration::from_millis(100));
    let mut stream = app.follow("/person-events", &[]);
    stream.read_until(|text| text.matches("\n:\n").count() >= 4);
    assert!(!stream.raw.contains(":\n\n"));
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(stream.next().revision(), 1);
}

#[test]
fn closing_a_quiet_stream_ends_its_session_immediately() {
    let app = App::with(|settings| settings.heartbeat = Duration::from_secs(3600));
    let mut streams: Vec<_> = (0..10).map(|_| app.follow("/person-events", &[])).collect();
    streams.iter_mut().for_each(|stream| stream.read_until(|text| text.contains("retry")));
    assert_eq!(app.sessions(), 10);
    streams.drain(..9).for_each(Stream::close);
    eventually("nine sessions have ended", || app.sessions() == 1);
}

#[test]
fn a_long_history_is_replayed_in_order_and_continues_live() {
    let app = App::start();
    let mut client = app.client();
    let json = [("Content-Type", "application/json")];
    // This makes more than a few pages of the outbox.
    let name = "x".repeat(500);
    let body = json!({ "name": name }).to_string();
    for _ in 0..1000 {
        client.request("POST", "/persons", &json, Some(body.as_bytes()));
    }
    let mut stream = app.follow("/person-events", &[]);
    for revision in 1..=500 {
        assert_eq!(stream.next().revision(), revision);
    }
    client.request("DELETE", "/persons/1", &[], None);
    for revision in 501..=1001 {
        assert_eq!(stream.next().revision(), revision);
    }
}
