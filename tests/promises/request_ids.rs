//! Every response names its request, and so does what is logged and refused while it is answered.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{App, Response, sql};

const SENT: (&str, &str) = ("X-Request-Id", "4bf92f35-\"7\"");

/// Requests of all kinds, with the status of each.
const REQUESTS: [(&str, &str, u16); 16] = [
    ("GET", "/persons", 200),
    ("HEAD", "/persons", 200),
    ("GET", "/persons/1", 200),
    ("GET", "/persons/2", 404),
    ("GET", "/persons?key=1", 200),
    ("GET", "/aggregates", 200),
    ("GET", "/persons?nonsense=1", 400),
    ("POST", "/carts", 201),
    ("POST", "/persons", 415),
    ("DELETE", "/persons/2", 404),
    ("GET", "/nowhere", 404),
    ("BREW", "/persons", 405),
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/follow.js", 200),
    ("GET", "/openapi.json", 200),
];

fn id(response: &Response) -> &str {
    response.header("X-Request-Id").unwrap_or_else(|| panic!("no id: {response:?}"))
}

fn app() -> App {
    let app = App::with(|settings| settings.cors_origin = vec!["https://app.example".to_owned()]);
    app.post("/persons", r#"{"name":"Ann"}"#);
    app
}

#[test]
fn every_response_has_the_id_of_its_request_or_a_new_one() {
    let app = app();
    let mut new = BTreeSet::new();
    for (method, path, status) in REQUESTS {
        let response = app.request(method, path, &[SENT], None);
        assert_eq!((response.status, id(&response)), (status, SENT.1), "{method} {path}");
        let response = app.request(method, path, &[], None);
        assert!(new.insert(id(&response).to_owned()), "{method} {path}");
    }
    for headers in [
        &[SENT, ("If-None-Match", "*")][..],
        &[SENT, ("If-Match", "\"none\"")],
        &[SENT, ("Host", "unknown.example")],
        &[SENT, ("Accept", "text/plain")],
    ] {
        let response = app.request("GET", "/persons", headers, None);
        assert_eq!(id(&response), SENT.1, "{headers:?}: {}", response.status);
    }
    let foreign = app.request("POST", "/carts", &[SENT, ("Origin", "https://other.example")], None);
    assert_eq!((foreign.status, id(&foreign)), (403, SENT.1));
    let preflight = [SENT, ("Origin", "https://app.example"), ("Access-Control-Request-Method", "PATCH")];
    assert_eq!(id(&app.request("OPTIONS", "/persons/1", &preflight, None)), SENT.1);
    assert_eq!(id(&app.follow("/person-events", &[SENT]).head), SENT.1);
    assert_eq!(id(&app.follow("/journal", &[SENT]).head), SENT.1);
    let is_uuid = |id: &String| id.len() == 36 && id.as_bytes()[14] == b'8';
    assert!(new.iter().all(is_uuid), "{new:?}");
}

#[test]
fn an_id_that_is_not_well_formed_is_replaced() {
    let app = app();
    let too_long = "x".repeat(129);
    for sent in ["", "two words", "é", &too_long] {
        let response = app.request("GET", "/persons", &[("X-Request-Id", sent)], None);
        assert_eq!((response.status, id(&response).len()), (200, 36), "{sent:?}");
    }
    let longest = "x".repeat(128);
    assert_eq!(id(&app.request("GET", "/persons", &[("X-Request-Id", &longest)], None)), longest);
}

#[test]
fn a_problem_has_the_id_of_its_request() {
    let app = app();
    for (method, path, status) in REQUESTS.into_iter().filter(|(_, _, status)| *status >= 400) {
        let response = app.request(method, path, &[SENT], None);
        assert_eq!(response.json()["request"], SENT.1, "{method} {path}: {status}");
        let response = app.request(method, path, &[], None);
        assert_eq!(response.json()["request"], id(&response), "{method} {path}: {status}");
    }
    let unknown = app.request("GET", "/persons", &[SENT, ("Host", "unknown.example")], None);
    assert_eq!(unknown.problem(421, "unknown-host")["request"], SENT.1);
    let refused = [SENT, ("Origin", "https://other.example"), ("Access-Control-Request-Method", "PATCH")];
    let refused = app.request("OPTIONS", "/persons/1", &refused, None);
    assert_eq!((refused.json()["request"].clone(), id(&refused)), (json!(SENT.1), SENT.1));
}

#[test]
fn the_correlation_of_a_write_is_the_id_of_its_request() {
    let app = app();
    let sent = app.request("POST", "/carts", &[SENT], None);
    let new = app.request("POST", "/carts", &[], None);
    let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None).json();
    for (event, response) in journal["events"].as_array().unwrap().iter().zip([sent, new]) {
        assert_eq!(event["metadata"], json!({"correlation": id(&response)}));
    }
}

#[test]
fn scripts_of_an_allowed_origin_can_read_the_id() {
    let response = app().request("GET", "/persons", &[("Origin", "https://app.example")], None);
    let exposed = response.header("Access-Control-Expose-Headers").unwrap().to_lowercase();
    assert!(exposed.split(',').any(|name| name.trim() == "x-request-id"), "{exposed}");
}

#[test]
fn an_internal_failure_names_its_request() {
    let app = app();
    sql(app.database(), "UPDATE aggregates SET body = '{' WHERE collection = 'persons'");
    let patch = [SENT, ("Content-Type", "application/json")];
    let failed = app.request("PATCH", "/persons/1", &patch, Some(br#"{"city":"Rome"}"#));
    assert_eq!(failed.problem(500, "internal")["request"], SENT.1);
}
