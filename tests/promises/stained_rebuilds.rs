//! Erasures that follow each other do not keep a rebuild from ever being complete: it is served, and another one follows.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use duality::aggregates::ShoppingCart;
use duality::{Event, Feed, Projection, ProjectionError, Service, Tables};
use serde_json::{Value, json};

use crate::erasure::{NOTES, directory, key, note, wait_until_live};
use crate::harness::{App, Client, eventually, files_with, lines};

/// How many events the projection still applies. After that, each fails.
static ALLOWED: AtomicI64 = AtomicI64::new(0);

fn allow(events: i64) {
    ALLOWED.store(events, Ordering::SeqCst);
}

/// Has something of each cart, and cannot remove it.
struct SlowNotes;

impl Projection for SlowNotes {
    const NAME: &'static str = "slow_notes";
    const FEED: Feed = Feed::Changes;
    const COLLECTIONS: &'static [&'static str] = &["carts"];
    const SETUP: &'static str = NOTES;

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let is_allowed =
            ALLOWED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |events| (events > 0).then_some(events - 1));
        is_allowed.map_err(|_| ProjectionError::new("not yet"))?;
        note(tables, event, &event.patch()?.unwrap_or_default().to_string())
    }
}

fn slow() -> Service {
    Service::new().event_sourced::<ShoppingCart>().background::<SlowNotes>()
}

/// Erases a cart without waiting for the projection.
fn erase(app: &App, cart: &str) {
    let body = json!({"collection": "carts", "key": key(cart)}).to_string();
    let mut client = Client::connect(app.address);
    client.send("POST", "/-/erase", &[("Content-Type", "application/json")], Some(body.as_bytes()));
    let stage = format!("SELECT stage AS line FROM erased WHERE key = '{}'", key(cart));
    eventually("the database has nothing of it", || lines(app.database(), &stage) == ["done"]);
}

fn status(app: &App) -> Value {
    app.get("/projections/slow_notes").json()
}

#[track_caller]
fn expect_generations(app: &App, served: i64, building: i64) {
    eventually(&format!("{served} is served and {building} is built"), || {
        let status = status(app);
        let is_current = status["lag"]["events"] == 0 || status["error"]["generation"] == building;
        is_current && status["generation"] == served && status["building"]["generation"] == building
    });
}

fn generation(app: &App, number: i64) -> PathBuf {
    directory(app).join(format!("test.db.projections/slow_notes.{number}.db"))
}

#[test]
fn a_rebuild_is_completed_although_more_is_erased_and_another_one_follows() {
    allow(i64::MAX);
    let mut app = App::serving(slow, |_| {});
    let names = ["apricot-1", "banana-2", "cherry-3", "date-4"];
    let carts = names.map(|name| {
        let cart = app.open_cart();
        app.add_item(&cart, name);
        cart
    });
    let files = |app: &App, cart: usize| files_with(directory(app), names[cart]);
    eventually("it has all of them", || status(&app)["at"] == app.get("/carts").revision());
    allow(0);
    erase(&app, &carts[0]);
    expect_generations(&app, 1, 2);
    erase(&app, &carts[1]);
    // The one that is served has the second erasure, and does not begin a build for it.
    expect_generations(&app, 1, 2);
    assert!(!files(&app, 0).is_empty() && !files(&app, 1).is_empty());
    // The three carts that it began with, and no more.
    allow(3);
    expect_generations(&app, 2, 3);
    assert_eq!(files(&app, 0), Vec::<PathBuf>::new(), "the first is gone with the generation that was served");
    let of_second = generation(&app, 2).display().to_string();
    let is_of_second = |path: &PathBuf| path.display().to_string().starts_with(&of_second);
    let second = files(&app, 1);
    assert!(!second.is_empty() && second.iter().all(is_of_second), "the second waits for the next one: {second:?}");
    assert_eq!(status(&app)["erasing"], true);
    // Also if the next one is lost.
    app.stop();
    std::fs::remove_file(generation(&app, 3)).unwrap();
    app.resume();
    expect_generations(&app, 2, 4);
    assert_eq!(status(&app)["erasing"], true);
    allow(i64::MAX);
    wait_until_live(&app, &["slow_notes"]);
    assert_eq!(status(&app)["generation"], 4);
    eventually("both are gone", || {
        status(&app).get("erasing").is_none() && files(&app, 0).is_empty() && files(&app, 1).is_empty()
    });
    assert!(!files(&app, 2).is_empty() && !files(&app, 3).is_empty());
}
