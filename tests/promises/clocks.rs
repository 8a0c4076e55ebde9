//! The clock may be wrong, and may be set right: nothing is kept for as long as it was wrong, and nothing breaks.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::App;

const HOUR: i64 = 60 * 60 * 1000;
const YEAR: i64 = 365 * 24 * HOUR;

/// Creates persons.
fn create(app: &App, number: usize) {
    for _ in 0..number {
        assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
    }
}

/// The oldest revision whose change event is kept; `None` if none is.
fn oldest(app: &App) -> Option<i64> {
    let current = app.get("/persons").revision();
    let cursor = format!("{}.0", app.get("/persons").header("X-Epoch").unwrap());
    let path = format!("/person-events?strict=true&lastEventId={cursor}");
    let response = app.request("GET", &path, &[("Accept", "application/json")], None);
    match response.status {
        410 => response.json()["oldest"].as_i64().filter(|oldest| *oldest <= current),
        200 => Some(1),
        status => panic!("{status}: {}", response.text()),
    }
}

#[test]
fn an_event_from_the_future_is_pruned_after_the_retention_period() {
    let mut app = App::start();
    create(&app, 2);
    app.turn_clock(YEAR);
    create(&app, 2);
    app.turn_clock(-YEAR);
    create(&app, 2);
    app.turn_clock(25 * HOUR);
    create(&app, 1);
    app.prune();
    assert_eq!(oldest(&app), Some(3), "it counts as written when it is first seen");
    // A prune and a restart do not see it for the first time. The clock of a service starts with the right time.
    app.restart();
    app.turn_clock(25 * HOUR + 23 * HOUR);
    app.prune();
    assert_eq!(oldest(&app), Some(3));
    app.turn_clock(2 * HOUR);
    app.prune();
    assert_eq!(oldest(&app), None, "also those that were written after the one from the future");
    create(&app, 1);
    app.prune();
    assert_eq!(oldest(&app), Some(8));
}

#[test]
fn a_clock_that_jumps_back_does_not_stop_pruning() {
    let app = App::start();
    create(&app, 3);
    app.turn_clock(-YEAR);
    create(&app, 3);
    app.prune();
    assert_eq!(oldest(&app), Some(1));
    app.turn_clock(25 * HOUR);
    app.prune();
    assert_eq!(oldest(&app), None);
}

#[test]
fn a_clock_that_is_set_right_again_prunes_nothing_that_is_recent() {
    let app = App::start();
    create(&app, 3);
    app.turn_clock(-YEAR);
    app.prune();
    app.turn_clock(YEAR + HOUR);
    app.prune();
    assert_eq!(oldest(&app), Some(1), "their own time counts, once it is not in the future");
}

#[test]
fn a_tombstone_from_the_future_is_pruned_after_its_retention_period() {
    let app = App::start();
    create(&app, 3);
    app.turn_clock(YEAR);
    app.delete("/persons/1");
    app.turn_clock(-YEAR);
    app.delete("/persons/2");
    let before = format!("{}.3", app.get("/persons").header("X-Epoch").unwrap());
    let is_reset = || {
        let path = format!("/person-events?lastEventId={before}");
        let page = app.request("GET", &path, &[("Accept", "application/json")], None).json();
        page["events"][0]["patch"].is_null()
    };
    app.prune_everything();
    assert!(!is_reset(), "the tombstones have the deletions");
    app.turn_clock(89 * 24 * HOUR);
    app.prune();
    assert!(!is_reset());
    app.turn_clock(2 * 24 * HOUR);
    app.prune();
    assert!(is_reset(), "the tombstones were pruned");
}

#[test]
fn keys_are_unique_and_the_journal_is_in_order_whatever_the_clock_does() {
    let app = App::start();
    let mut carts = BTreeSet::new();
    for turn in [0, YEAR, -YEAR, -HOUR, HOUR, -10 * YEAR] {
        app.turn_clock(turn);
        for _ in 0..5 {
            let cart = app.open_cart();
            assert_eq!(app.add_item(&cart, "apple").status, 200);
            carts.insert(cart);
        }
    }
    assert_eq!(carts.len(), 30);
    let journal = app.request("GET", "/journal?limit=100", &[("Accept", "application/json")], None).json();
    let positions: Vec<_> =
        journal["events"].as_array().unwrap().iter().map(|event| event["position"].clone()).collect();
    assert_eq!(json!(positions), json!((1..=60).collect::<Vec<_>>()));
}
