//! Clients say which media types and codings they take, and the service what it takes and what can be done at a path.

use std::io::Read as _;

use serde_json::json;

use crate::harness::{App, Response};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn accepting(app: &App, path: &str, accept: &str) -> Response {
    app.request("GET", path, &[("Accept", accept)], None)
}

#[test]
fn the_most_specific_range_decides_and_then_the_quality() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (json, lines) = ("application/json", "application/x-ndjson");
    for (accept, expected) in [
        ("*/*", json),
        ("application/*", json),
        ("", json),
        ("application/x-ndjson", lines),
        ("application/json;q=0.5, application/x-ndjson;q=0.6", lines),
        ("application/json;q=0, */*", lines),
        ("application/x-ndjson, */*;q=0.1", lines),
        ("application/*;q=0.2, application/x-ndjson;q=0.1", json),
        ("text/html, application/xhtml+xml, */*;q=0.8", json),
        ("APPLICATION/X-NDJSON", lines),
    ] {
        let response = accepting(&app, "/persons", accept);
        assert_eq!((response.status, response.header("Content-Type")), (200, Some(expected)), "{accept}");
    }
    let two_lines = [("Accept", "text/html"), ("Accept", "application/x-ndjson")];
    assert_eq!(app.request("GET", "/persons", &two_lines, None).header("Content-Type"), Some(lines));
}

#[test]
fn what_is_acceptable_is_named_in_a_406() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (json, lines, events) = ("application/json", "application/x-ndjson", "text/event-stream");
    for (path, expected) in [
        ("/persons", &[json, lines][..]),
        ("/persons?key=1", &[json, lines]),
        ("/persons/1", &[json]),
        ("/aggregates", &[json]),
        ("/person-events", &[events, json, lines]),
        ("/journal", &[events, json, lines]),
        ("/projections", &[json]),
        ("/reports/popular-items", &[json]),
        ("/reports/carts.csv", &["text/csv"]),
        ("/openapi.json", &[json]),
        ("/", &[json, "text/html"]),
    ] {
        for accept in ["image/png", "*/*;q=0"] {
            let problem = accepting(&app, path, accept).problem(406, "not-acceptable");
            assert_eq!(problem["expected"], json!(expected), "{path}");
            assert!(expected.iter().all(|one| problem["detail"].as_str().unwrap().contains(one)), "{problem}");
            let head = app.request("HEAD", path, &[("Accept", accept)], None);
            assert_eq!(head.status, 406, "{path}");
        }
    }
}

#[test]
fn a_client_that_takes_no_uncompressed_body_gets_gzip_or_a_406() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for path in ["/persons", "/openapi.json", "/follow.js", "/docs"] {
        for sent in
            ["gzip, identity;q=0", "identity;q=0", "*;q=0, gzip;q=0.1", "identity;q=0, *;q=0.5", "x-gzip, identity;q=0"]
        {
            let response = app.request("GET", path, &[("Accept-Encoding", sent)], None);
            assert_eq!((response.status, response.header("Content-Encoding")), (200, Some("gzip")), "{path} {sent}");
            let mut text = String::new();
            flate2::read::GzDecoder::new(&response.body[..]).read_to_string(&mut text).unwrap();
            assert_eq!(text, app.get(path).text(), "{path}");
        }
        for sent in ["*;q=0", "identity;q=0, br", "gzip;q=0, identity;q=0"] {
            let problem = app.request("GET", path, &[("Accept-Encoding", sent)], None).problem(406, "not-acceptable");
            assert_eq!(problem["expected"], json!(["gzip", "identity"]), "{path} {sent}");
        }
    }
    for path in
        ["/persons/1", "/persons?key=1", "/aggregates", "/person-events", "/journal", "/reports/popular-items", "/"]
    {
        let sent = [("Accept-Encoding", "gzip, identity;q=0")];
        let problem = app.request("GET", path, &sent, None).problem(406, "not-acceptable");
        assert_eq!(problem["expected"], json!(["identity"]), "{path}");
        for sent in ["gzip", "gzip;q=0", "br", "*;q=0, identity;q=0.1", ""] {
            let mut client = app.client();
            client.send("GET", path, &[("Accept-Encoding", sent)], None);
            let head = client.head().unwrap();
            assert_eq!((head.status, head.header("Content-Encoding")), (200, None), "{path} {sent}");
        }
    }
    let lines = [("Accept", "application/x-ndjson"), ("Accept-Encoding", "gzip, identity;q=0")];
    app.request("GET", "/persons", &lines, None).problem(406, "not-acceptable");
}

#[test]
fn a_415_names_what_the_method_takes() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let cart = app.open_cart();
    let (json, patch) = ("application/json", "application/merge-patch+json, application/json");
    for (method, path, header, expected) in [
        ("POST", "/persons", "Accept-Post", json),
        ("POST", &format!("{cart}/add-item"), "Accept-Post", json),
        ("POST", "/projections/cart_items/skip", "Accept-Post", json),
        ("PATCH", "/persons/1", "Accept-Patch", patch),
        ("PUT", "/persons/1", "Accept", json),
    ] {
        let refused = app.request(method, path, &[("Content-Type", "text/plain")], Some(b"{}"));
        let problem = refused.problem(415, "unsupported-type");
        assert_eq!(refused.header(header), Some(expected), "{method} {path}");
        assert_eq!(refused.header("Accept"), Some(expected), "{method} {path}");
        assert_eq!(problem["expected"], json!(expected.split(", ").collect::<Vec<_>>()), "{method} {path}");
        let encoded = app.request(method, path, &[JSON, ("Content-Encoding", "gzip")], Some(b"{}"));
        assert_eq!(encoded.problem(415, "unsupported-type")["expected"], json!(["identity"]), "{method} {path}");
        assert_eq!((encoded.header("Accept-Encoding"), encoded.header("Accept")), (Some("identity"), None));
    }
    assert_eq!(app.get("/persons").json(), json!({"1": {"name": "Ann"}}), "nothing was done");
}

#[test]
fn options_says_what_can_be_done_at_every_path() {
    for app in [App::start(), App::with(|settings| settings.cors_origin = vec!["https://app.example".to_owned()])] {
        let read = "GET, HEAD, OPTIONS";
        let (json, patch) = (Some("application/json"), Some("application/merge-patch+json, application/json"));
        for (path, allowed, posted, patched) in [
            ("/persons", "GET, HEAD, POST, OPTIONS", json, None),
            ("/persons/1", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS", None, patch),
            ("/persons/999", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS", None, patch),
            ("/carts", "GET, HEAD, POST, OPTIONS", json, None),
            ("/carts/1", "GET, HEAD, PUT, OPTIONS", None, None),
            ("/carts/1/add-item", "POST, OPTIONS", json, None),
            ("/locations", read, None, None),
            ("/person-events", read, None, None),
            ("/events?unknown=1", read, None, None),
            ("/aggregates", read, None, None),
            ("/journal", read, None, None),
            ("/projections/cart_items/skip", "POST, OPTIONS", json, None),
            ("/reports/popular-items", read, None, None),
            ("/healthz", read, None, None),
            ("/", read, None, None),
            ("/follow.js", read, None, None),
            ("*", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", json, patch),
        ] {
            let mut client = app.client();
            let response = client.request("OPTIONS", path, &[], None);
            assert_eq!((response.status, response.header("Allow")), (204, Some(allowed)), "{path}");
            assert_eq!((response.header("Accept-Post"), response.header("Accept-Patch")), (posted, patched), "{path}");
            assert_eq!(response.header("Access-Control-Allow-Origin"), None, "{path}");
            assert_eq!(client.request("GET", "/healthz", &[], None).status, 200, "after OPTIONS {path}");
        }
        app.request("OPTIONS", "/nothing", &[], None).problem(404, "no-such-path");
    }
}

#[test]
fn a_method_that_nobody_knows_is_a_405_as_any_other() {
    let app = App::start();
    for method in ["TRACE", "BREW", "get", "PROPFIND"] {
        for path in ["/persons", "/persons/1", "/person-events", "/healthz", "/carts/1/add-item"] {
            let refused = app.request(method, path, &[], None);
            let problem = refused.problem(405, "method-not-allowed");
            assert!(problem["detail"].as_str().unwrap().contains(method), "{problem}");
            assert!(refused.header("Allow").unwrap().ends_with("OPTIONS"), "{method} {path}");
        }
    }
}
