//! A read that names a revision in `X-Revision` shows at least that: it waits for it, but not for long.

use serde_json::json;

use crate::harness::App;

const CART: &str = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";

/// What waits.
const STATES: [&str; 6] =
    ["/persons", "/persons?key=1", "/persons/1", "/aggregates", "/aggregates?collection=persons", CART];

fn filled() -> App {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.request("PUT", CART, &[], None);
    app
}

#[test]
fn a_read_of_a_revision_that_is_there_shows_the_state() {
    let app = filled();
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    for path in STATES {
        for revision in ["0", "1", "2", ""] {
            for headers in [&[("X-Revision", revision)][..], &[("X-Revision", revision), ("X-Epoch", &epoch)]] {
                for method in ["GET", "HEAD"] {
                    let read = app.request(method, path, headers, None);
                    assert_eq!((read.status, read.revision()), (200, 2), "{method} {path} {revision}");
                }
            }
        }
    }
}

#[test]
fn a_read_of_a_later_revision_waits_until_it_is_written() {
    let app = filled();
    for (round, path) in (3..).zip(STATES) {
        let mut client = app.client();
        client.send("GET", path, &[("X-Revision", &i64::to_string(&round))], None);
        // The connection of another read shows that the service has gone on meanwhile.
        assert_eq!(app.get("/persons").revision(), round - 1);
        assert_eq!(app.patch("/persons/1", &json!({ "spouse": round }).to_string()).revision(), round);
        let read = client.response("GET");
        assert_eq!(read.status, 200, "{path}: {}", read.text());
        assert!(read.revision() >= round, "{path}");
    }
}

#[test]
fn a_revision_that_does_not_come_is_a_503_that_names_it() {
    let app = filled();
    let mut clients: Vec<_> = STATES.iter().map(|path| (path, app.client())).collect();
    for (path, client) in &mut clients {
        client.send("GET", path, &[("X-Revision", "9"), ("If-None-Match", "*")], None);
    }
    for (path, client) in &mut clients {
        let refused = client.response("GET");
        let problem = refused.problem(503, "behind");
        assert_eq!((&problem["expected"], &problem["current"]), (&json!(9), &json!(2)), "{path}");
        assert_eq!((refused.header("Retry-After"), refused.revision()), (Some("1"), 2), "{path}");
    }
}

#[test]
fn a_revision_of_another_history_is_a_410_at_once() {
    let mut app = filled();
    let first = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    app.restart();
    let second = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    app.post("/persons", r#"{"name":"Bob"}"#);
    for path in STATES {
        let read = |revision: &str, epoch: &str| {
            app.request("GET", path, &[("X-Revision", revision), ("X-Epoch", epoch)], None)
        };
        for (revision, epoch) in [("2", first.as_str()), ("3", &second), ("1", &second)] {
            assert_eq!(read(revision, epoch).status, 200, "{path} {revision} {epoch}");
        }
        for (revision, epoch) in [("3", first.as_str()), ("1", "other0epoch"), ("99", "other0epoch")] {
            let refused = read(revision, epoch);
            let problem = refused.problem(410, "foreign-id");
            assert_eq!((&problem["current"], &problem["epoch"]), (&json!(3), &json!(second)), "{path}");
            let bootstrap = problem["bootstrap"].as_str().unwrap();
            assert_eq!((path.starts_with(bootstrap), app.get(bootstrap).status), (true, 200), "{path}");
        }
    }
}

#[test]
fn a_malformed_revision_of_a_read_is_a_400() {
    let app = filled();
    for path in STATES {
        for revision in ["-1", "x", "1.5", "99999999999999999999"] {
            let problem = app.request("GET", path, &[("X-Revision", revision)], None).problem(400, "malformed-request");
            assert!(problem["detail"].as_str().unwrap().starts_with("X-Revision: expected"), "{problem}");
        }
        let headers = [("X-Revision", "1"), ("X-Epoch", "!")];
        let problem = app.request("GET", path, &headers, None).problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().starts_with("X-Epoch: expected"), "{problem}");
    }
    // A feed has a meaning of its own for it, and a report lags behind anyway.
    let page = app.request("GET", "/person-events", &[("X-Revision", "9"), ("Accept", "application/json")], None);
    assert_eq!(page.status, 200);
    assert_ne!(app.request("GET", "/reports/popular-items", &[("X-Revision", "99")], None).status, 410);
}
