//! A cursor never lies and never expires. Each test covers a known way to get this wrong.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Stream};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Reads and applies messages up to this revision, and returns whether there was a reset (`null`).
fn follow(stream: &mut Stream, state: &mut Value, until: i64) -> bool {
    let mut reset = false;
    loop {
        let message = stream.message().expect("the stream continues");
        reset |= message.data == "null";
        json_patch::merge(state, &message.patch());
        if message.reached().is_some_and(|reached| reached >= until) {
            return reset;
        }
    }
}

/// Reconnects with an id, follows to the current state, and returns whether there was a reset.
#[track_caller]
fn resume(app: &App, state: &mut Value, id: &str) -> bool {
    let fresh = app.get("/persons");
    let reset = follow(&mut app.follow("/person-events", &[("Last-Event-ID", id)]), state, fresh.revision());
    assert_eq!(*state, fresh.json());
    reset
}

fn create(app: &App, persons: usize, bytes: usize) {
    let mut client = app.client();
    for number in 0..persons {
        let body = json!({"name": format!("{number}{}", "x".repeat(bytes)), "city": "Rome"}).to_string();
        assert_eq!(client.request("POST", "/persons", &JSON, Some(body.as_bytes())).status, 201);
    }
}

#[test]
fn the_oldest_retained_revision_is_replayed_and_an_older_cursor_gets_a_catch_up() {
    let app = App::with(|settings| settings.retention_events = Some(2));
    create(&app, 5, 0);
    app.prune();
    let mut at_the_edge = app.follow("/person-events", &[("X-Revision", "4")]);
    assert_eq!(at_the_edge.message().unwrap().revision(), 4);
    assert_eq!(at_the_edge.message().unwrap().revision(), 5);
    let mut below = app.follow("/person-events", &[("X-Revision", "3")]);
    let nulls = below.message().unwrap();
    assert_eq!((nulls.reached(), nulls.data.as_str()), (None, r#"{"3":null,"4":null,"5":null}"#));
    let whole = below.message().unwrap();
    assert_eq!(whole.revision(), 5);
    assert_eq!(whole.patch()["3"], app.get("/persons/3").json());
}

#[test]
fn no_member_survives_deletion_and_recreation() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome","spouse":2}"#);
    let (mut locations, cursor) = app.load("/locations");
    assert_eq!(locations, json!({"Rome":{"total":1,"married":1}}));
    app.delete("/persons/1");
    let last = app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#).revision();
    app.prune_everything();
    follow(&mut app.follow("/location-events", &[("Last-Event-ID", &cursor)]), &mut locations, last);
    assert_eq!(locations, json!({"Rome":{"total":1}}), "the member `married` of the old location is gone");
}

#[test]
fn a_subscriber_that_connects_during_a_burst_misses_nothing() {
    let app = App::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| create(&app, 200, 0));
        }
        for _ in 0..20 {
            scope.spawn(|| {
                let mut stream = app.follow("/person-events", &[]);
                for revision in 1..=800 {
                    assert_eq!(stream.next().revision(), revision);
                }
            });
        }
    });
}

#[test]
fn a_catch_up_that_is_cut_at_every_message_still_makes_progress() {
    let app = App::start();
    // This makes a few pages of 64 KiB.
    create(&app, 30, 10_000);
    let (mut state, mut id) = (json!({"1": {"name": "stale"}}), "0therepoch.1".to_owned());
    app.prune_everything();
    let end = app.get("/persons").cursor();
    let (mut resets, mut connections, mut length) = (0, 0, 1);
    while id != end {
        let mut stream = app.follow("/person-events", &[("Last-Event-ID", &id)]);
        // Read one message more each time until there is progress: the null of a page names where the page began.
        let place = |id: &str| id.split(".partial").next().unwrap().to_owned();
        let before = place(&id);
        for _ in 0..length {
            let message = stream.message().unwrap();
            resets += i32::from(message.data == "null");
            json_patch::merge(&mut state, &message.patch());
            id = message.id.unwrap_or(id);
            if place(&id) != before {
                break;
            }
        }
        length = if place(&id) == before { length + 1 } else { 1 };
        connections += 1;
        assert!(connections < 100, "no progress: {id}");
    }
    assert_eq!(state, app.get("/persons").json());
    assert_eq!(resets, 1, "progress is not lost");
    assert!(connections > 5, "otherwise this test proves nothing");
}

#[test]
fn an_interrupted_reset_is_not_mistaken_for_a_complete_one() {
    let app = App::start();
    create(&app, 10, 10_000);
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let mut state = json!({"1": {"name": "of another life"}, "99": {"name": "gone"}});
    let mut stream = app.follow("/person-events", &[("Last-Event-ID", &format!("{epoch}.15"))]);
    let null = stream.message().unwrap();
    assert_eq!((null.data.as_str(), null.id.clone()), ("null", Some(format!("{epoch}.0.partial"))));
    json_patch::merge(&mut state, &null.patch());
    stream.close();
    create(&app, 10, 0);
    resume(&app, &mut state, &null.id.unwrap());
}

#[test]
fn a_row_that_changes_during_a_catch_up_is_sent_again() {
    let app = App::start();
    create(&app, 30, 10_000);
    app.prune_everything();
    let mut state = json!({});
    let mut stream = app.follow("/person-events", &[]);
    // Read up to the nulls of the first page.
    while !stream.message().unwrap().data.contains(":null") {}
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    app.delete("/persons/2");
    let last = app.patch("/persons/30", r#"{"city":null}"#).revision();
    follow(&mut stream, &mut state, last);
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_client_that_missed_a_deletion_without_a_tombstone_is_reset() {
    let app = App::with(|settings| settings.tombstone_retention = Duration::from_secs(60 * 60 * 24 * 90));
    create(&app, 3, 0);
    let (mut state, cursor) = app.load("/persons");
    app.delete("/persons/2");
    app.prune_everything();
    assert!(!resume(&app, &mut state.clone(), &cursor), "the tombstone still has the deletion");
    app.turn_clock(1000 * 60 * 60 * 24 * 91);
    app.prune();
    assert!(resume(&app, &mut state, &cursor), "the tombstone was pruned");
    // Neither an up-to-date client nor a new one needs a reset.
    let (mut state, cursor) = app.load("/persons");
    create(&app, 1, 0);
    app.prune_everything();
    assert!(!resume(&app, &mut state, &cursor));
    let mut fresh = json!({});
    follow(&mut app.follow("/person-events", &[]), &mut fresh, 5);
    assert_eq!(fresh, state);
}

#[test]
fn a_catch_up_from_nothing_ends_after_tombstones_were_pruned() {
    let app = App::with(|settings| settings.tombstone_retention = Duration::ZERO);
    create(&app, 30, 10_000);
    app.delete("/persons/30");
    app.prune_everything();
    let mut state = json!({});
    assert!(!follow(&mut app.follow("/person-events", &[]), &mut state, 31));
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_clock_that_jumps_back_leaves_no_gap() {
    let app = App::start();
    let day = 1000 * 60 * 60 * 24;
    create(&app, 2, 0);
    // The next events get older timestamps than those before them.
    app.turn_clock(-3 * day);
    create(&app, 2, 0);
    app.turn_clock(3 * day);
    app.prune();
    let mut stream = app.follow("/person-events?strict=true", &[]);
    for revision in 1..=4 {
        assert_eq!(stream.next().revision(), revision, "no event is pruned while an earlier one is kept");
    }
}

#[test]
fn a_session_overtaken_by_pruning_gets_a_catch_up() {
    let app = App::with(|settings| settings.session_buffer = duality::ByteSize(16 * 1024));
    create(&app, 1, 0);
    let (mut state, cursor) = app.load("/persons");
    let mut strict_state = state.clone();
    let mut stalled = app.follow("/person-events", &[("Last-Event-ID", &cursor)]);
    let mut strict = app.follow("/person-events?strict=true", &[("Last-Event-ID", &cursor)]);
    // This is far more than the kernel and the service buffer for one client.
    create(&app, 400, 10_000);
    app.delete("/persons/1");
    app.prune_everything();
    follow(&mut stalled, &mut state, 402);
    assert_eq!(state, app.get("/persons").json());
    // A strict client gets the events that were already buffered; then its stream ends, and reconnecting is a 410.
    let mut last = String::new();
    while let Some(message) = strict.message() {
        json_patch::merge(&mut strict_state, &message.patch());
        last = message.id.unwrap();
    }
    assert_ne!(last, app.get("/persons").cursor(), "otherwise this test proves nothing");
    let back = app.request("GET", "/person-events?strict=true", &[("Last-Event-ID", &last)], None);
    assert_eq!(back.status, 410);
}

#[test]
fn a_filtered_subscriber_idle_for_a_whole_retention_period_resumes_without_a_catch_up() {
    let app = App::with(|settings| settings.heartbeat = Duration::from_millis(50));
    create(&app, 1, 0);
    let cursor = app.get("/persons").cursor();
    let path = "/person-events?strict=true&key=1";
    let mut stream = app.follow(path, &[("Last-Event-ID", &cursor)]);
    create(&app, 5, 0);
    let now = app.get("/persons").cursor();
    // Each bookmark names what has been published so far; the last one names the last of the five revisions.
    let last = loop {
        let bookmark = stream.next();
        assert_eq!(bookmark.data, "{}");
        if bookmark.id.as_deref() == Some(now.as_str()) {
            break now;
        }
    };
    app.prune_everything();
    stream.close();
    let mut stream = app.follow(path, &[("Last-Event-ID", &last)]);
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    assert_eq!(
        stream.next().data,
        r#"{"1":{"city":"Oslo"}}"#,
        "the strict client needs no catch-up, which would be a 410"
    );
}

#[test]
fn similar_keys_stay_distinct_and_every_valid_key_is_delivered() {
    let app = App::start();
    let long = "k".repeat(512);
    let cities = ["e\u{301}", "\u{e9}", "🍎", "a/b", "a%2Fb", &long, "10", "9", " "];
    for city in cities {
        assert_eq!(app.post("/persons", &json!({"name": "Ann", "city": city}).to_string()).status, 201);
    }
    let fresh = app.get("/locations").json();
    assert_eq!(fresh.as_object().unwrap().len(), cities.len());
    let mut state = json!({});
    follow(&mut app.follow("/location-events", &[]), &mut state, 9);
    assert_eq!(state, fresh);
    app.prune_everything();
    let mut state = json!({});
    follow(&mut app.follow("/location-events", &[]), &mut state, 9);
    assert_eq!(state, fresh);
}

#[test]
fn compact_gives_a_catch_up_within_retention() {
    let app = App::start();
    create(&app, 1, 0);
    let (mut state, cursor) = app.load("/persons");
    for city in ["Oslo", "Rome", "Oslo"] {
        app.patch("/persons/1", &json!({ "city": city }).to_string());
    }
    let mut stream = app.follow("/person-events?compact=true", &[("Last-Event-ID", &cursor)]);
    let messages = [stream.message().unwrap(), stream.message().unwrap()];
    assert_eq!(messages[0].data, r#"{"1":null}"#);
    assert_eq!(messages[1].revision(), 4);
    for message in messages {
        json_patch::merge(&mut state, &message.patch());
    }
    assert_eq!(state, app.get("/persons").json());
}

#[test]
fn a_restart_begins_an_epoch_and_resets_nobody() {
    let mut app = App::start();
    create(&app, 2, 0);
    let (state, cursor) = app.load("/persons");
    app.restart();
    let now = app.get("/persons").cursor();
    assert_ne!(now, cursor, "a copy that went on elsewhere could not be told from this database");
    assert_eq!(app.get("/persons").revision(), 2);
    app.restart();
    create(&app, 1, 0);
    for cursor in [cursor, now] {
        let mut state = state.clone();
        assert!(!resume(&app, &mut state, &cursor), "{cursor}");
        assert_eq!(state, app.get("/persons").json(), "{cursor}");
    }
}

#[test]
fn paging_from_nothing_ends_after_tombstones_were_pruned() {
    let app = App::with(|settings| settings.tombstone_retention = Duration::ZERO);
    create(&app, 5, 0);
    app.delete("/persons/5");
    app.prune_everything();
    let (mut state, mut cursor) = (json!({"1": {"name": "stale"}}), "0therepoch.1".to_owned());
    for _ in 0..10 {
        let headers = [("Accept", "application/json"), ("Last-Event-ID", cursor.as_str())];
        let page = app.request("GET", "/person-events?limit=1", &headers, None).json();
        for event in page["events"].as_array().unwrap() {
            json_patch::merge(&mut state, &event["patch"]);
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
    assert_eq!(cursor, app.get("/persons").cursor());
    assert_eq!(state, app.get("/persons").json());
}
