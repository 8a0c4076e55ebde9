//! Whatever key is erased: nothing is left of it, also if the service itself knows nothing of it any more.

use duality::aggregates::{Location, Person, ShoppingCart};
use duality::{Event, Feed, Projection, ProjectionError, Service, Tables};
use serde_json::{Value, json};

use crate::erasure::{MARKER, NOTES, assert_verified, directory, erase, key, note};
use crate::harness::{App, eventually, files_with, lines, output_of};

/// Has all change events of persons, for ever.
struct PersonNotes;

impl Projection for PersonNotes {
    const NAME: &'static str = "person_notes";
    const FEED: Feed = Feed::Changes;
    const KEEPS_HISTORY: bool = true;
    const COLLECTIONS: &'static [&'static str] = &["persons"];
    const SETUP: &'static str = NOTES;

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        note(tables, event, &event.patch()?.unwrap_or_default().to_string())
    }
}

fn remembering() -> Service {
    Service::new()
        .document::<Person>()
        .derived::<Location>()
        .event_sourced::<ShoppingCart>()
        .background::<PersonNotes>()
}

/// A thousand days later, nothing is known of what was deleted.
fn forget(app: &App) {
    app.turn_clock(1000 * 24 * 60 * 60 * 1000);
    app.prune();
}

#[track_caller]
fn erase_person(app: &App, key: &str) -> Value {
    let response = app.post("/-/erase", &json!({"collection": "persons", "key": key}).to_string());
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

#[test]
fn a_document_that_was_deleted_long_ago_is_erased_from_the_history() {
    let mut app = App::serving(remembering, |_| {});
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.post("/persons", &json!({ "name": MARKER }).to_string());
    assert_eq!(app.request("DELETE", "/persons/2", &[], None).status, 204);
    // It looks up to date as long as it has not been told of the deletion.
    eventually("the projection has the deletion", || app.get("/projections/person_notes").json()["at"] == 3);
    forget(&app);
    let rows =
        "SELECT (SELECT COUNT(*) FROM outbox) || ' ' || (SELECT COUNT(*) FROM aggregates WHERE key = '2') AS line";
    assert_eq!(lines(app.database(), rows), ["0 0"]);
    assert!(!files_with(directory(&app), MARKER).is_empty(), "the history has it");
    let (mut state, cursor) = app.load("/persons");
    let mut follower = app.follow("/person-events", &[("Last-Event-ID", &cursor)]);
    let erased = erase_person(&app, "2");
    assert_eq!((&erased["known"], &erased["pending"]), (&json!(false), &json!([])));
    assert!(files_with(directory(&app), MARKER).is_empty());
    follower.follow(&mut state, erased["revision"].as_i64().unwrap());
    assert_eq!(state, app.get("/persons").json());
    assert!(follower.raw.contains(r#"data: {"2":null}"#), "{}", follower.raw);
    for _ in 0..2 {
        app.write("PUT", "/persons/2", r#"{"name":"Bob"}"#).problem(409, "erased");
        assert_eq!(app.get("/persons/2").problem(404, "not-found")["erased"], true);
        assert_eq!(erase_person(&app, "2")["known"], true, "it is known as erased");
        forget(&app);
    }
    assert_eq!(app.post("/persons", r#"{"name":"Eve"}"#).header("Location"), Some("/persons/3"));
    assert_verified(&app, remembering);
    app.restart();
    app.write("PUT", "/persons/2", r#"{"name":"Bob"}"#).problem(409, "erased");
}

#[test]
fn a_key_of_which_only_a_refusal_is_kept_is_erased_and_closed() {
    let mut app = App::start();
    let cart = "/carts/0193a5b0-7b2c-4def-8000-123456789abc";
    let sent = [("Content-Type", "application/json"), ("Idempotency-Key", "once")];
    let add = |app: &App| {
        app.request("POST", &format!("{cart}/add-item"), &sent, Some(json!({ "item": MARKER }).to_string().as_bytes()))
    };
    add(&app).problem(404, "not-found");
    let answers = "SELECT (CASE WHEN answer IS NULL THEN 1 ELSE 0 END) || '' || octet_length(fingerprint) AS line FROM idempotency";
    assert_ne!(lines(app.database(), answers), ["10"]);
    assert_eq!(erase(&app, cart)["known"], false);
    assert_eq!(lines(app.database(), answers), ["10"]);
    add(&app).problem(409, "erased");
    for _ in 0..2 {
        // Also without its tombstone, after a restart.
        app.write("PUT", cart, "{}").problem(409, "erased");
        app.command(&format!("{cart}/close")).problem(409, "erased");
        assert_eq!(app.get(cart).problem(404, "not-found")["erased"], true);
        forget(&app);
        assert_eq!(lines(app.database(), "SELECT key AS line FROM aggregates"), Vec::<String>::new());
        app.restart();
    }
    assert_verified(&app, duality::aggregates::shipped);
}

#[test]
fn the_command_line_asks_whether_an_unknown_key_is_right() {
    let mut app = App::start();
    let cart = app.open_cart();
    let unknown = "0193a5b0-7b2c-4def-8000-123456789abc";
    let question = format!("the database had neither a state nor events of carts/{unknown}: is this the key?");
    let erase = |app: &App, key: &str| {
        let (code, said) = output_of(app.database(), &["erase", "carts", key]);
        assert_eq!(code, 0, "{said}");
        said
    };
    assert!(erase(&app, unknown).contains(&question));
    assert!(!erase(&app, unknown).contains(&question), "it is erased already");
    assert!(!erase(&app, key(&cart)).contains("is this the key"));
    app.stop();
    let other = "0193a5b0-7b2c-4def-8000-000000000000";
    assert!(erase(&app, other).contains("is this the key"));
    app.resume();
    eventually("both are closed", || {
        [unknown, other].iter().all(|key| app.write("PUT", &format!("/carts/{key}"), "{}").status == 409)
    });
}
