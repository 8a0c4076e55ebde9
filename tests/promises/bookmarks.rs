//! Bookmarks: a feed without changes still sends its client the current revision.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{App, DEADLINE, Event, Stream};

const SOON: Duration = Duration::from_millis(100);

/// The number of comments that proves more than one quiet heartbeat.
const QUIET: usize = 3;

fn app() -> App {
    let app = App::with(|settings| settings.heartbeat = SOON);
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.post("/persons", r#"{"name":"Bob"}"#);
    app
}

/// A stream whose client is up to date.
fn live(app: &App, path: &str) -> Stream {
    let mut stream = app.follow(path, &[("Last-Event-ID", &app.get("/persons").cursor())]);
    stream.read_until(|text| text.contains("retry"));
    stream
}

fn bookmark(app: &App, data: &str) -> Event {
    Event { name: None, id: Some(app.get("/persons").cursor()), data: data.to_owned() }
}

/// Reads a few heartbeats, during which no message may arrive.
#[track_caller]
fn expect_only_comments(stream: &mut Stream) {
    let before = stream.raw.len();
    stream.read_until(|text| text[before..].matches(":\n").count() >= QUIET);
    let since = stream.raw[before..].replace(":\n", "");
    assert!(since.is_empty(), "{since:?}");
}

#[test]
fn a_quiet_feed_gets_a_bookmark_when_the_revision_advances_and_then_comments() {
    let app = app();
    let feeds = [
        ("/person-events?key=999", "{}"),
        ("/location-events", "{}"),
        ("/location-events?key=Rome&key=Oslo", "{}"),
        ("/events?collection=locations", "{}"),
        ("/persons/2/events", "{}"),
        ("/persons/999/events", "null"),
        ("/locations/Rome/events", "null"),
    ];
    let mut streams = feeds.map(|(path, _)| live(&app, path));
    streams.iter_mut().for_each(expect_only_comments);
    for _ in 0..2 {
        app.post("/persons", r#"{"name":"Cid"}"#);
        for (stream, (path, data)) in streams.iter_mut().zip(feeds) {
            assert_eq!(stream.message().unwrap(), bookmark(&app, data), "{path}");
            expect_only_comments(stream);
        }
    }
}

#[test]
fn a_client_that_received_the_latest_event_gets_no_bookmark() {
    let app = app();
    for path in ["/person-events", "/events", "/persons/2/events", "/person-events?key=2"] {
        let mut stream = live(&app, path);
        let name = format!("Bob, seen on {path}");
        let revision = app.patch("/persons/2", &serde_json::json!({ "name": name }).to_string()).revision();
        assert_eq!(stream.message().unwrap().revision(), revision);
        expect_only_comments(&mut stream);
    }
}

#[test]
fn a_bookmark_shows_whether_the_aggregate_exists() {
    let app = app();
    let mut stream = live(&app, "/persons/2/events");
    app.post("/persons", r#"{"name":"Cid"}"#);
    assert_eq!(stream.message().unwrap(), bookmark(&app, "{}"));
    app.delete("/persons/2");
    assert_eq!(stream.message().unwrap(), bookmark(&app, "null"), "the event itself");
    app.post("/persons", r#"{"name":"Dan"}"#);
    assert_eq!(stream.message().unwrap(), bookmark(&app, "null"));

    let mut rome = live(&app, "/locations/Rome/events");
    app.post("/persons", r#"{"name":"Eve"}"#);
    assert_eq!(rome.message().unwrap(), bookmark(&app, "null"));
    app.patch("/persons/1", r#"{"city":"Rome"}"#);
    assert_eq!(rome.message().unwrap(), bookmark(&app, r#"{"total":1}"#), "the event itself");
    app.post("/persons", r#"{"name":"Fay"}"#);
    assert_eq!(rome.message().unwrap(), bookmark(&app, "{}"));
}

#[test]
fn an_empty_feed_sends_the_empty_state_and_then_a_bookmark() {
    let app = app();
    for (path, frame, data) in [
        ("/location-events", "{}", "{}"),
        ("/events?collection=locations", r#"{"locations":{}}"#, "{}"),
        ("/persons/999/events", "null", "null"),
    ] {
        let mut stream = app.follow(path, &[]);
        assert_eq!(stream.message().unwrap(), Event { name: None, id: None, data: frame.to_owned() }, "{path}");
        assert_eq!(stream.message().unwrap(), bookmark(&app, data), "{path}");
        expect_only_comments(&mut stream);
    }
}

#[test]
fn a_service_without_revisions_sends_no_bookmarks() {
    let app = App::with(|settings| settings.heartbeat = SOON);
    let mut stream = app.follow("/events", &[]);
    assert!(stream.message().unwrap().id.is_none());
    // The first heartbeat comment shows that the hub has the stream.
    stream.read_until(|text| text.contains("\n:\n"));
    expect_only_comments(&mut stream);
    assert!(!stream.raw.contains("id:"), "{:?}", stream.raw);
}

#[test]
fn a_bookmark_stays_valid_after_the_events_before_it_are_pruned() {
    let app = app();
    let old = app.get("/persons").cursor();
    let mut stream = live(&app, "/person-events?key=2");
    app.post("/persons", r#"{"name":"Cid"}"#);
    app.patch("/persons/1", r#"{"city":"Rome"}"#);
    let mut last = stream.next();
    while last.id != Some(app.get("/persons").cursor()) {
        last = stream.next();
    }
    stream.close();
    app.prune_everything();
    let strict = "/person-events?key=2&strict=true";
    let gone = app.request("GET", strict, &[("Last-Event-ID", &old)], None);
    assert_eq!(gone.status, 410, "the cursor from before the bookmark is no longer retained");
    let mut resumed = app.follow(strict, &[("Last-Event-ID", last.id.as_ref().unwrap())]);
    app.patch("/persons/2", r#"{"city":"Oslo"}"#);
    assert_eq!(resumed.message().unwrap(), bookmark(&app, r#"{"2":{"city":"Oslo"}}"#), "there is nothing before it");
}

#[test]
fn shutdown_sends_a_bookmark_and_cuts_the_feed() {
    let mut app = App::with(|settings| {
        settings.heartbeat = Duration::from_secs(3600);
        // One worker means one hub: once one stream has an event, the hub has published it to all of them.
        settings.workers = Some(crate::harness::count(1));
    });
    app.post("/persons", r#"{"name":"Ann"}"#);
    let mut witness = live(&app, "/person-events");
    let mut streams = [
        ("/person-events?key=999", "{}"),
        ("/location-events", "{}"),
        ("/events?collection=locations", "{}"),
        ("/persons/1/events", "{}"),
        ("/persons/999/events", "null"),
    ]
    .map(|(path, data)| (path, data, live(&app, path)));
    app.post("/persons", r#"{"name":"Bob"}"#);
    let expected = |data| bookmark(&app, data);
    let (there, absent, now) = (expected("{}"), expected("null"), app.get("/persons").revision());
    assert_eq!(witness.message().unwrap().revision(), now);
    app.stop();
    assert_eq!(witness.message(), None, "it has already received the id with the event");
    for (path, data, stream) in &mut streams {
        let last = if *data == "null" { &absent } else { &there };
        assert_eq!(stream.message().as_ref(), Some(last), "{path}");
        assert_eq!(stream.message(), None, "{path} is cut, without the final chunk");
    }
}

#[test]
fn a_filtered_journal_sends_comments_while_other_collections_change() {
    let app = App::with(|settings| settings.heartbeat = Duration::from_millis(400));
    let mut stream = app.follow("/journal?collection=accounts", &[]);
    let (done, begin) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = app.client();
                while !done.load(Ordering::Relaxed) && begin.elapsed() < 2 * DEADLINE {
                    assert_eq!(client.request("POST", "/carts", &[], None).status, 201);
                }
            });
        }
        stream.read_until(|text| text.matches(":\n").count() >= 4);
        done.store(true, Ordering::Relaxed);
    });
    assert!(!stream.raw.contains("data"), "{}", stream.raw);
}
