//! `duality verify` finds whatever is left of an aggregate that was erased.

use std::path::Path;

use duality::aggregates::ShoppingCart;
use duality::{Event, Feed, Projection, ProjectionError, Service, Tables};
use serde_json::json;

use crate::erasure::{MARKER, NOTES, assert_verified, directory, erase, key, note, wait_until_live};
use crate::harness::{App, eventually, files_with, lines, sql};

/// Keeps the change events of carts.
struct CartNotes;

impl Projection for CartNotes {
    const NAME: &'static str = "cart_notes";
    const FEED: Feed = Feed::Changes;
    const KEEPS_HISTORY: bool = true;
    const COLLECTIONS: &'static [&'static str] = &["carts"];
    const SETUP: &'static str = NOTES;

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        note(tables, event, &event.patch()?.unwrap_or_default().to_string())
    }
}

fn keeping() -> Service {
    Service::new().event_sourced::<ShoppingCart>().background::<CartNotes>()
}

fn add_once(app: &App, cart: &str, once: &str) -> u16 {
    let sent = [("Content-Type", "application/json"), ("Idempotency-Key", once), ("X-Correlation-Id", "because")];
    let item = json!({"item": "apple"}).to_string();
    app.request("POST", &format!("{cart}/add-item"), &sent, Some(item.as_bytes())).status
}

/// Executes `damage` on a file, and expects the finding.
fn expect_finding(app: &App, file: &Path, damage: &str, finding: &str) {
    let before = std::fs::read(file).unwrap();
    sql(file, damage);
    let verified = format!("{:?}", keeping().verify(app.database()).unwrap());
    assert!(verified.contains(finding), "{damage}: {verified}");
    std::fs::write(file, before).unwrap();
}

#[test]
fn whatever_is_left_of_an_erased_aggregate_is_found() {
    let mut app = App::serving(keeping, |_| {});
    let cart = app.open_cart();
    assert_eq!(add_once(&app, &cart, "one"), 200);
    let other = app.open_cart();
    assert_eq!(add_once(&app, &other, "other"), 200);
    wait_until_live(&app, &["cart_notes"]);
    let position =
        lines(app.database(), "SELECT position || '' AS line FROM idempotency ORDER BY position LIMIT 1").remove(0);
    let answer =
        lines(app.database(), "SELECT hex(answer) AS line FROM idempotency ORDER BY position LIMIT 1").remove(0);
    erase(&app, &cart);
    // What is kept of that is no leftover.
    assert_eq!(add_once(&app, &cart, "late"), 409);
    app.stop();
    assert_verified(&app, keeping);
    let key = key(&cart);
    let erased = format!("carts/{key}: it was erased, but ");
    for (damage, finding) in [
        (
            "UPDATE journal SET metadata = '{}' WHERE version = 2 AND erased = 1".to_owned(),
            "is erased, but it has metadata".to_owned(),
        ),
        (
            format!("UPDATE outbox SET metadata = '{{}}' WHERE key = '{key}' AND revision = 2"),
            format!("{erased}its change at revision 2 has metadata"),
        ),
        (
            format!("UPDATE outbox SET patch = '{{}}' WHERE key = '{key}' AND revision = 2"),
            format!("{erased}its change at revision 2 is not"),
        ),
        (
            format!("UPDATE idempotency SET answer = CAST(x'{answer}' AS TEXT) WHERE position = {position}"),
            format!("{erased}the answer at position {position} is not"),
        ),
        (
            format!("UPDATE journal SET kind = 'ItemAdded' WHERE key = '{key}' AND kind = 'Erased'"),
            format!("{erased}its last event does not say so"),
        ),
        ("UPDATE erased SET position = NULL".to_owned(), format!("{erased}its last event does not say so")),
    ] {
        expect_finding(&app, app.database(), &damage, &finding);
    }
    let history = directory(&app).join("test.db.projections/history.db");
    let damage = format!(
        "INSERT INTO changes (sequence, revision, collection, key, patch, time) VALUES (1, 1, 'carts', '{key}', '{{}}', 0)"
    );
    expect_finding(&app, &history, &damage, &format!("{erased}its change at revision 1 is not"));
    assert_verified(&app, keeping);
}

/// How many transactions have overwritten something.
fn overwritten(app: &App) -> i64 {
    lines(app.database(), "SELECT erasures || '' AS line FROM metadata")[0].parse().unwrap()
}

#[test]
fn large_change_events_are_overwritten_some_megabytes_at_a_time() {
    let app = App::start();
    let name = |number: usize| json!({"name": format!("{number}{}", "x".repeat(999_000))}).to_string();
    assert_eq!(app.post("/persons", &name(0)).status, 201);
    for number in 1..10 {
        assert_eq!(app.patch("/persons/1", &name(number)).status, 200);
    }
    let before = overwritten(&app);
    let erased = app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#);
    assert_eq!(erased.status, 200, "{}", erased.text());
    // The beginning, five megabytes twice, and the end.
    assert_eq!(overwritten(&app) - before, 4);
    assert_eq!(lines(app.database(), "SELECT DISTINCT patch AS line FROM outbox"), ["null"]);
}

#[test]
fn who_deleted_a_document_is_erased_with_it() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(app.request("DELETE", "/persons/1", &[("X-Correlation-Id", MARKER)], None).status, 204);
    assert!(!files_with(directory(&app), MARKER).is_empty());
    let erased = app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#);
    assert_eq!(erased.status, 200, "{}", erased.text());
    eventually("no file has it", || files_with(directory(&app), MARKER).is_empty());
}
