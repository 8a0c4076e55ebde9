//! `GET /` is the page for browsers, and an index of the service for other clients. The files of the page are in the
//! program.

use serde_json::{Value, json};

use crate::harness::{App, Response};

const CHROMIUM: &str =
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8";
const POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'; form-action 'self'";

fn index(app: &App) -> Value {
    let response = app.get("/");
    assert_eq!((response.status, response.header("Content-Type")), (200, Some("application/json")));
    response.json()
}

fn get(app: &App, path: &str, headers: &[(&str, &str)]) -> Response {
    app.request("GET", path, headers, None)
}

#[test]
fn a_browser_gets_the_page_and_other_clients_the_index() {
    let app = App::start();
    for (accept, expected) in [
        (CHROMIUM, "text/html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("text/*", "text/html; charset=utf-8"),
        ("application/json;q=0.5, text/html", "text/html; charset=utf-8"),
        ("application/json;q=0, */*", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/html, application/json", "application/json"),
        ("text/html;q=0.9, */*", "application/json"),
        ("text/html;q=0, */*;q=0.1", "application/json"),
    ] {
        for method in ["GET", "HEAD"] {
            let response = app.request(method, "/", &[("Accept", accept)], None);
            assert_eq!((response.status, response.header("Content-Type")), (200, Some(expected)), "{method} {accept}");
            assert_eq!(response.header("Vary"), Some("Accept, Accept-Encoding"), "{method} {accept}");
        }
    }
    get(&app, "/", &[("Accept", "image/png")]).problem(406, "not-acceptable");
    assert_eq!(app.get("/").header("Content-Type"), Some("application/json"), "without the header");
}

#[test]
fn the_index_names_the_revision_and_everything_that_is_registered() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let response = app.get("/");
    let index = index(&app);
    assert_eq!(index["revision"], 1);
    assert_eq!(format!("{}.1", index["epoch"].as_str().unwrap()), response.cursor());
    assert_eq!((&index["name"], &index["version"]), (&json!("duality"), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!(index["everything"], json!({"state": "/aggregates", "events": "/events"}));
    let named = |name: &str| {
        let collections = index["collections"].as_array().unwrap();
        collections.iter().find(|collection| collection["name"] == name).unwrap().clone()
    };
    let persons = json!({"name": "persons", "state": "/persons", "events": "/person-events", "kind": "state",
        "keys": "sequence", "create": true, "commands": []});
    let locations = json!({"name": "locations", "state": "/locations", "events": "/location-events", "kind": "derived",
        "keys": "text", "create": false, "commands": [], "source": "persons"});
    let command = |name: &str| json!({"name": name, "path": format!("/carts/{{key}}/{name}")});
    let carts = json!({"name": "carts", "state": "/carts", "events": "/cart-events", "kind": "event-sourced",
        "keys": "uuid", "create": true, "commands": [command("add-item"), command("remove-item"), command("close")],
        "journal": "/journal?collection=carts"});
    for expected in [persons, locations, carts] {
        let mut actual = named(expected["name"].as_str().unwrap());
        actual.as_object_mut().unwrap().remove("schema");
        assert_eq!(actual, expected);
    }
}

#[test]
fn every_path_of_the_index_has_a_route() {
    let app = App::start();
    let index = index(&app);
    let mut paths: Vec<String> = Vec::new();
    for collection in index["collections"].as_array().unwrap() {
        for member in ["state", "events", "journal"] {
            paths.extend(collection.get(member).map(|path| path.as_str().unwrap().to_owned()));
        }
        for command in collection["commands"].as_array().unwrap() {
            let path = command["path"].as_str().unwrap().replace("{key}", "1");
            let problem = app.get(&path).problem(405, "method-not-allowed");
            assert!(problem["detail"].as_str().unwrap().ends_with("expected one of POST, OPTIONS"), "{problem}");
        }
    }
    let members = index.as_object().unwrap().iter();
    paths.extend(members.filter_map(|(_, path)| path.as_str().filter(|path| path.starts_with('/')).map(str::to_owned)));
    paths.extend(["/aggregates".to_owned(), "/events".to_owned()]);
    assert!(paths.len() > 12, "{paths:?}");
    for path in paths {
        // A feed would be a stream otherwise.
        let response = get(&app, &path, &[("Accept", "application/json, */*;q=0.1")]);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }
}

/// What follows `name` in a line, up to the next quote.
fn quoted(line: &str, name: &str) -> Option<String> {
    line.split_once(name).and_then(|(_, rest)| rest.split('"').next()).map(str::to_owned)
}

#[test]
fn the_page_loads_only_what_is_in_the_program() {
    let app = App::start();
    let page = get(&app, "/", &[("Accept", CHROMIUM)]);
    assert_eq!(page.header("Content-Security-Policy"), Some(POLICY));
    let text = page.text();
    let tags = text.lines().filter(|line| line.contains("<script") || line.contains("<link"));
    let links = tags.flat_map(|line| ["src=\"", "href=\""].map(|name| quoted(line, name))).flatten();
    let mut loaded: Vec<String> = Vec::new();
    let mut next: Vec<String> = links.collect();
    while let Some(path) = next.pop() {
        if loaded.contains(&path) {
            continue;
        }
        let file = app.get(&path);
        assert_eq!(file.status, 200, "{path}");
        let imports = file.text().lines().filter_map(|line| quoted(line, "from \""));
        let imports = imports.map(|name| name.strip_prefix('.').map_or(name.clone(), |name| format!("/page{name}")));
        next.extend(imports.filter(|import| import.starts_with('/')));
        loaded.push(path);
    }
    assert!(loaded.len() > 3 && loaded.contains(&"/follow.js".to_owned()), "{loaded:?}");
    for inline in ["<style", " style=", " onclick=", "http://", "https://", "data:", "<script>"] {
        assert!(!text.contains(inline), "the policy forbids {inline}");
    }
}

#[test]
fn a_file_is_asked_for_again_and_again_and_sent_once() {
    let app = App::start();
    for (path, media_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/follow.js", "text/javascript; charset=utf-8"),
        ("/follow_tabs.js", "text/javascript; charset=utf-8"),
        ("/follow.d.ts", "application/typescript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let accept = ("Accept", if path == "/" { "text/html" } else { "*/*" });
        let file = get(&app, path, &[accept]);
        let tag = file.header("ETag").unwrap().to_owned();
        let zipped = get(&app, path, &[accept, ("Accept-Encoding", "gzip, br")]);
        assert_eq!(
            (file.header("Content-Encoding"), zipped.header("Content-Encoding")),
            (None, Some("gzip")),
            "{path}"
        );
        assert_eq!(zipped.header("ETag").unwrap(), tag.trim_end_matches('"').to_owned() + "-gzip\"");
        assert_eq!((&zipped.body[..3], zipped.body.len() < 200_000), (&[0x1f, 0x8b, 8][..], true), "{path}");
        let head = app.request("HEAD", path, &[accept], None);
        assert_eq!(head.header("Content-Length"), Some(file.body.len().to_string().as_str()), "{path}");
        for response in [&file, &zipped, &head] {
            assert_eq!((response.status, response.header("Content-Type")), (200, Some(media_type)), "{path}");
        }
        for sent in [tag.as_str(), zipped.header("ETag").unwrap(), "*", &format!("\"x\", W/{tag}")] {
            let again = get(&app, path, &[accept, ("If-None-Match", sent)]);
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {sent}");
            assert!(sent.contains(again.header("ETag").unwrap()) || sent == "*", "{path} {sent}");
        }
        assert_eq!(get(&app, path, &[accept, ("If-None-Match", "\"x\"")]).status, 200, "{path}");
        let again = get(&app, path, &[accept, ("If-None-Match", &tag)]);
        for response in [&file, &zipped, &head, &again] {
            assert_eq!(response.header("Cache-Control"), Some("no-cache"), "{path}");
            assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
            assert_eq!(response.header("Referrer-Policy"), Some("no-referrer"), "{path}");
            assert!(response.header("Vary").unwrap().ends_with("Accept-Encoding"), "{path}");
        }
    }
}

#[test]
fn a_page_of_any_origin_may_import_the_module_but_nothing_of_the_page() {
    let other = ("Origin", "https://elsewhere.example");
    for listed in [&[][..], &["https://app.example"], &["*"]] {
        let app = App::with(|settings| settings.cors_origin = listed.iter().map(|&origin| origin.to_owned()).collect());
        for origin in [other, ("Origin", "null")] {
            let module = get(&app, "/follow.js", &[origin]);
            assert_eq!((module.status, module.header("Access-Control-Allow-Origin")), (200, Some("*")), "{listed:?}");
            assert_eq!(module.header("Cross-Origin-Resource-Policy"), Some("cross-origin"));
        }
        let style = get(&app, "/page/style.css", &[other]);
        let allowed = style.header("Access-Control-Allow-Origin");
        assert_eq!(allowed, if listed == ["*"] { Some("*") } else { None }, "{listed:?}");
        assert_eq!(style.header("Cross-Origin-Resource-Policy"), None);
    }
}

#[test]
fn the_page_is_only_for_requests_to_this_service() {
    let app = App::start();
    for path in ["/", "/follow.js", "/page/style.css"] {
        get(&app, path, &[("Host", "attacker.example")]).problem(421, "unknown-host");
        app.command(path).problem(405, "method-not-allowed");
    }
}

#[test]
fn a_file_that_is_not_in_the_program_does_not_exist() {
    let app = App::start();
    for path in
        ["/page/nothing.js", "/page/..%2fCargo.toml", "/page/%2e%2e", "/page/", "/page", "/page/a/b", "/follow.mjs"]
    {
        app.get(path).problem(404, "no-such-path");
    }
}
