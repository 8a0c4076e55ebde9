//! Two versions of a program on one database of a server: what follows from older rules is never written beside what follows
//! from newer ones.

use duality::Service;
use serde_json::json;

use crate::harness::engine::{psql, shared_server};
use crate::harness::{App, eventually};
use crate::own_collections::{parcel, parcels, parcels_and_heavy_routes, parcels_and_routes};

fn service(url: &str, collections: fn() -> Service) -> App {
    App::serving(collections, |settings| settings.database = url.into())
}

/// Everything that the record says, and its token.
fn record(url: &str) -> String {
    psql(url, "SELECT token, revision, (SELECT count(*) FROM outbox), (SELECT count(*) FROM idempotency) FROM metadata")
}

/// An older service that knows the record, and a newer one that has changed it since.
fn both(older: fn() -> Service, newer: fn() -> Service) -> Option<(String, App, App)> {
    let url = shared_server()?.new_database();
    let older = service(&url, older);
    for (city, weight) in [("Rome", 1), ("Rome", 2), ("Oslo", 3)] {
        assert_eq!(older.post("/parcels", &parcel(city, weight)).status, 201);
    }
    let newer = service(&url, newer);
    Some((url, older, newer))
}

/// The older service writes nothing, says why, and reads what the newer one has written.
#[track_caller]
fn assert_outdated(url: &str, older: &App, newer: &App, why: &str) {
    let before = record(url);
    for round in 0..3 {
        let refused = older.post("/parcels", &parcel("Rome", 4));
        refused.problem(503, "outdated");
        assert_eq!(refused.header("Retry-After"), Some("5"), "{round}");
        older.patch("/parcels/1", r#"{"weight":9}"#).problem(503, "outdated");
        older.delete("/parcels/1").problem(503, "outdated");
    }
    older.prune_everything();
    let ready = older.get("/readyz");
    ready.problem(503, "not-ready");
    assert!(ready.json()["reasons"].to_string().contains(why), "{}", ready.text());
    assert_eq!(record(url), before, "nothing was written");
    assert_eq!(newer.post("/parcels", &parcel("Oslo", 5)).status, 201);
    for path in ["/parcels", "/routes"] {
        assert_eq!(older.get(path).text(), newer.get(path).text());
    }
    older.patch("/parcels/1", r#"{"weight":9}"#).problem(503, "outdated");
    assert_eq!(newer.get("/readyz").status, 200);
}

#[test]
fn an_older_program_writes_nothing_by_a_rule_that_a_newer_one_has_changed() {
    let Some((url, older, newer)) = both(parcels_and_routes, parcels_and_heavy_routes) else { return };
    let why =
        "another version of this program has changed the rules of routes to version 2, and this one has version 1";
    assert_outdated(&url, &older, &newer, why);
    assert_eq!(newer.get("/routes").json(), json!({ "Oslo": { "kilos": 8 }, "Rome": { "kilos": 2 } }));
}

#[test]
fn an_older_program_writes_nothing_beside_a_collection_that_a_newer_one_has_added() {
    let Some((url, older, newer)) = both(parcels, parcels_and_routes) else { return };
    let before = record(&url);
    older.post("/parcels", &parcel("Rome", 4)).problem(503, "outdated");
    assert_eq!(record(&url), before);
    eventually("others get the requests", || older.get("/readyz").text().contains("routes"));
    assert_eq!(newer.get("/routes").json(), json!({ "Oslo": { "parcels": 1 }, "Rome": { "parcels": 2 } }));
}

#[test]
fn an_older_program_does_not_start_beside_newer_rules() {
    let Some((url, mut older, newer)) = both(parcels_and_routes, parcels_and_heavy_routes) else { return };
    older.stop();
    let before = record(&url);
    let refused = older.try_resume_serving(parcels_and_routes).unwrap_err();
    let expected =
        "the rules of routes are at version 2 in the database, and at version 1 in this program, which is older";
    assert!(refused.starts_with(expected) && refused.lines().count() == 1, "{refused}");
    assert_eq!(record(&url), before);
    older.resume_serving(parcels_and_heavy_routes);
    assert_eq!(older.post("/parcels", &parcel("Rome", 4)).status, 201);
    assert_eq!(newer.get("/routes").json(), older.get("/routes").json());
}
