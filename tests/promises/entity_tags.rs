//! Everything that can be read has an entity tag: a client that has it already is not sent it again, and one that expects
//! another state gets an error.

use crate::harness::{App, Response, eventually};

const CART: &str = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";

/// A service in which every path below exists.
fn filled() -> App {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.request("PUT", CART, &[], None);
    app.add_item(CART, "apple");
    app.command(&format!("{CART}/close"));
    eventually("the reports are built", || {
        ["/reports/carts.csv", "/reports/popular-items"].iter().all(|path| app.get(path).status == 200)
            && app.get("/reports/carts.csv").text().contains(CART.rsplit('/').next().unwrap())
    });
    app
}

/// What does not change while nothing is written.
const QUIET: [&str; 14] = [
    "/",
    "/persons",
    "/persons?key=1&key=2",
    "/persons/1",
    "/locations/Rome",
    CART,
    "/carts/0193a5b0-7b2c-7def-8000-123456789abc?version=1",
    "/aggregates",
    "/aggregates?collection=persons&collection=carts",
    "/reports/popular-items",
    "/reports/city-history?city=Rome",
    "/reports/carts.csv",
    "/openapi.json",
    "/follow.js",
];

#[track_caller]
fn tag(response: &Response) -> String {
    response.header("ETag").unwrap_or_else(|| panic!("no ETag: {response:?}")).to_owned()
}

#[test]
fn everything_that_can_be_read_has_a_tag_and_is_a_304_while_it_is_the_same() {
    let app = filled();
    for path in QUIET {
        let read = app.get(path);
        let tag = tag(&read);
        assert!(tag.len() > 3 && tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        let quoted = format!("\"a,b\", W/{tag}");
        for sent in [tag.as_str(), &quoted, "*"] {
            for method in ["GET", "HEAD"] {
                let known = app.request(method, path, &[("If-None-Match", sent)], None);
                assert_eq!((known.status, known.text()), (304, ""), "{method} {path} {sent}");
                for name in ["ETag", "Vary", "Cache-Control", "X-Revision", "X-Epoch"] {
                    assert_eq!(known.header(name), read.header(name), "{name} of {path}");
                }
            }
        }
        let other = app.request("GET", path, &[("If-None-Match", "\"a,b\", \"0\"")], None);
        assert_eq!((other.status, other.body == read.body), (200, true), "{path}");
    }
}

#[test]
fn a_read_that_expects_another_state_is_a_412_on_every_path() {
    let app = filled();
    for path in QUIET {
        let tag = tag(&app.get(path));
        for sent in [tag.clone(), format!("\"x\", {tag}"), format!("{}-gzip\"", &tag[..tag.len() - 1]), "*".to_owned()]
        {
            assert_eq!(app.request("GET", path, &[("If-Match", &sent)], None).status, 200, "{path} {sent}");
        }
        let two_lines = [("If-Match", "\"x\""), ("If-Match", tag.as_str())];
        assert_eq!(app.request("GET", path, &two_lines, None).status, 200, "{path}: two lines are one list");
        for sent in ["\"x\"", &format!("W/{tag}"), "\"a,b\",\"\""] {
            for method in ["GET", "HEAD"] {
                let refused = app.request(method, path, &[("If-Match", sent)], None);
                assert_eq!(
                    (refused.status, refused.header("ETag")),
                    (412, Some(tag.as_str())),
                    "{method} {path} {sent}"
                );
            }
            let problem = app.request("GET", path, &[("If-Match", sent)], None).problem(412, "unexpected-state");
            assert_eq!(problem["actual"], tag.as_str(), "{path}");
        }
        for name in ["If-Match", "If-None-Match"] {
            app.request("GET", path, &[(name, "nonsense")], None).problem(400, "malformed-request");
        }
        // The first condition decides.
        let both = [("If-Match", "\"x\""), ("If-None-Match", tag.as_str())];
        assert_eq!(app.request("GET", path, &both, None).status, 412, "{path}");
    }
}

#[test]
fn a_state_is_asked_for_again_each_time_and_errors_and_pages_are_never_kept() {
    let app = filled();
    for path in ["/persons", "/persons?key=1", "/persons/1", "/aggregates", CART] {
        for method in ["GET", "HEAD"] {
            let read = app.request(method, path, &[], None);
            assert_eq!(read.header("Cache-Control"), Some("no-cache"), "{method} {path}");
            assert_eq!(read.header("Vary"), Some("Accept, Accept-Encoding"), "{method} {path}");
        }
    }
    let page = ("Accept", "application/json");
    for (path, headers) in [
        ("/persons/9", &[][..]),
        ("/persons?x=1", &[]),
        ("/nothing", &[]),
        ("/persons", &[("If-Match", "\"x\"")]),
        ("/persons", &[("Accept", "image/png")]),
        ("/person-events", &[page]),
        ("/events", &[page]),
        ("/journal", &[page]),
        ("/persons/1/events", &[page]),
    ] {
        assert_eq!(app.request("GET", path, headers, None).header("Cache-Control"), Some("no-store"), "{path}");
    }
    assert_eq!(app.follow("/events", &[]).head.header("Cache-Control"), Some("no-cache, no-transform"));
}

#[test]
fn a_304_a_head_and_the_404_of_a_valid_key_have_the_revision_and_the_epoch() {
    let app = filled();
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    let any = [("If-None-Match", "*")];
    for (method, path, headers, status) in [
        ("GET", "/persons/1", &any[..], 304),
        ("GET", "/persons", &any, 304),
        ("GET", "/persons?key=1", &any, 304),
        ("GET", "/aggregates", &any, 304),
        ("HEAD", "/persons/1", &any, 304),
        ("HEAD", "/persons/1", &[], 200),
        ("HEAD", "/persons", &[], 200),
        ("HEAD", "/persons?key=1", &[], 200),
        ("HEAD", "/aggregates", &[], 200),
        ("GET", "/persons/99", &[], 404),
        ("GET", "/persons/no%20number", &[], 404),
        ("HEAD", "/locations/Nowhere", &[], 404),
        ("GET", "/carts/0193a5b0-7b2c-7def-8000-000000000000", &[], 404),
    ] {
        let response = app.request(method, path, headers, None);
        assert_eq!((response.status, response.cursor()), (status, format!("{epoch}.4")), "{method} {path}");
    }
}

#[test]
fn the_length_of_selected_aggregates_is_that_of_their_body_for_head_too() {
    let app = filled();
    for path in
        ["/persons/1", "/persons?key=1", "/persons?key=999", CART, "/reports/popular-items", "/reports/carts.csv", "/"]
    {
        let (head, get) = (app.request("HEAD", path, &[], None), app.get(path));
        assert_eq!(get.header("Content-Length"), Some(get.body.len().to_string().as_str()), "{path}");
        for name in ["Content-Length", "Content-Type", "ETag", "Vary", "Cache-Control", "X-Revision", "X-Epoch"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
}

#[test]
fn a_condition_ignores_the_suffix_of_another_representation() {
    let app = filled();
    let lines = app.request("GET", "/persons", &[("Accept", "application/x-ndjson")], None);
    assert!(tag(&lines).ends_with("-ndjson\""));
    assert_eq!(app.request("GET", "/persons", &[("If-Match", &tag(&lines))], None).status, 200);
    let one = tag(&app.get("/persons/1"));
    let zipped = format!("{}-gzip\"", &one[..one.len() - 1]);
    let json = ("Content-Type", "application/json");
    assert_eq!(app.request("PATCH", "/persons/1", &[json, ("If-Match", &zipped)], Some(b"{}")).status, 200);
}

#[test]
fn a_report_has_another_tag_when_it_says_something_else() {
    let app = filled();
    let before: Vec<_> = ["/reports/popular-items", "/reports/carts.csv"].map(|path| (path, app.get(path))).into();
    let cart = app.open_cart();
    app.add_item(&cart, "pear");
    app.command(&format!("{cart}/close"));
    for (path, before) in before {
        let read = || app.request("GET", path, &[("If-None-Match", &tag(&before))], None);
        eventually("the report has changed", || read().status == 200);
        let after = read();
        assert!(after.body != before.body && tag(&after) != tag(&before), "{path}");
    }
}

#[test]
fn the_status_of_a_projection_has_a_tag_and_health_has_none() {
    let app = filled();
    for path in ["/projections", "/projections/cart_items"] {
        let read = app.get(path);
        assert_eq!(read.header("Cache-Control"), Some("no-cache"), "{path}");
        tag(&read);
        app.request("GET", path, &[("If-Match", "\"x\"")], None).problem(412, "unexpected-state");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let read = app.request("GET", path, &[("If-None-Match", "*")], None);
        assert_eq!((read.status, read.header("ETag")), (200, None), "{path}: whoever asks wants to know it now");
        assert_eq!(read.header("Cache-Control"), Some("no-store"), "{path}");
    }
}

#[test]
fn some_collections_have_the_tag_of_their_last_change() {
    let app = filled();
    let path = |names: &[&str]| format!("/aggregates?collection={}", names.join("&collection="));
    let at = |names: &[&str]| tag(&app.get(&path(names))).rsplit('.').next().unwrap().trim_matches('"').to_owned();
    assert_eq!(at(&["persons", "locations"]), "1");
    assert_eq!(at(&["persons", "carts"]), "4");
    let before = tag(&app.get(&path(&["persons", "locations"])));
    app.open_cart();
    let known = app.request("GET", &path(&["persons", "locations"]), &[("If-None-Match", &before)], None);
    assert_eq!((known.status, known.revision()), (304, 5), "another collection has changed");
    assert_eq!(app.request("GET", "/aggregates", &[("If-None-Match", &before)], None).status, 200);
}

#[test]
fn a_version_of_the_past_keeps_its_tag_and_no_write_expects_it() {
    let app = filled();
    let past = format!("{CART}?version=2");
    let before = tag(&app.get(&past));
    assert_ne!(before, tag(&app.get(&format!("{CART}?version=1"))));
    assert_ne!(before, tag(&app.get(CART)));
    let refused = app.request("POST", &format!("{CART}/close"), &[("If-Match", &before)], None);
    refused.problem(412, "unexpected-state");
    assert_eq!(app.request("GET", &past, &[("If-None-Match", &before)], None).status, 304);
}
