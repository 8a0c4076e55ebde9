//! Who may do what: tokens, their scopes, and what a service with tokens refuses.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{App, Process, Response, Token, TokenFile, eventually};

/// A key that a token may have a scope for.
const CART: &str = "0193b2c4-1f6e-7000-8000-000000000000";

/// What a request needs, according to this test and not to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Nothing,
    AnyToken,
    ReadAnything,
    Read(&'static str),
    ReadOne(&'static str),
    Write(&'static str),
    WriteOne(&'static str),
    Report,
    Operate,
}

/// What each method of each path needs; `None` for a method that the path does not have. A path without a decision here
/// fails the test, whatever the service does with it.
fn needed(path: &str, method: &str) -> Option<Needed> {
    let is_read = method == "GET" || method == "HEAD";
    let (name, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let collection = ["persons", "locations", "carts", "accounts"].into_iter().find(|collection| {
        let feed = format!("{}-events", collection.trim_end_matches('s'));
        *collection == name || feed == name || (name == "events" && *collection == rest)
    });
    let read = |need| is_read.then_some(need);
    let post = |need| (method == "POST").then_some(need);
    if let Some(collection) = collection {
        let journaled = ["carts", "accounts"].contains(&collection);
        return match (rest, method) {
            ("" | "persons" | "locations" | "carts" | "accounts", _) if is_read => Some(Needed::Read(collection)),
            ("", "POST") if ["/persons", "/carts", "/accounts"].contains(&path) => Some(Needed::Write(collection)),
            ("{key}" | "{key}/events", _) if is_read => Some(Needed::ReadOne(collection)),
            ("{key}/journal", _) if is_read && journaled => Some(Needed::ReadOne(collection)),
            ("{key}", "PUT" | "PATCH" | "DELETE") if collection == "persons" => Some(Needed::WriteOne(collection)),
            ("{key}", "PUT") if journaled => Some(Needed::WriteOne(collection)),
            ("{key}/{command}", "POST") if journaled => Some(Needed::WriteOne(collection)),
            _ => None,
        };
    }
    match path {
        "/" | "/healthz" | "/readyz" | "/openapi.json" | "/docs" | "/page/{file}" => read(Needed::Nothing),
        "/follow.js" | "/follow_tabs.js" | "/follow.d.ts" => read(Needed::Nothing),
        "/-/tickets" => post(Needed::AnyToken),
        "/aggregates" | "/events" | "/journal" => read(Needed::ReadAnything),
        "/reports/{name}" => read(Needed::Report),
        "/projections" | "/projections/{name}" | "/metrics" => read(Needed::Operate),
        "/projections/{name}/rebuild" | "/projections/{name}/skip" | "/-/erase" => post(Needed::Operate),
        _ => panic!("{path} has no decision in this table"),
    }
}

/// Whether scopes are enough for what a request needs. The keys and the report of all paths are those below.
fn is_enough(scopes: &str, needed: Needed) -> bool {
    let has = |wanted: &str| scopes.split(',').any(|scope| scope == wanted);
    let of = |verb: &str, collection: &str| has(verb) || has(&format!("{verb}:{collection}"));
    let one = |verb: &str, collection: &str| of(verb, collection) || has(&format!("{verb}:{collection}/{CART}"));
    match needed {
        Needed::Nothing | Needed::AnyToken => true,
        Needed::ReadAnything => ["persons", "locations", "carts", "accounts"].iter().any(|name| of("read", name)),
        Needed::Read(collection) => of("read", collection),
        Needed::ReadOne(collection) => one("read", collection),
        Needed::Write(collection) => of("write", collection),
        Needed::WriteOne(collection) => one("write", collection),
        Needed::Report => of("read", "reports") || has("read:reports/popular-items"),
        Needed::Operate => has("operate"),
    }
}

/// Requests what is finite, of a stream the head.
fn send(app: &App, method: &str, path: &str, authorization: Option<&str>) -> Response {
    let page = if ["/", "/docs"].contains(&path) { "*/*" } else { "application/json, */*;q=0.1" };
    let headers = [("Accept", page), ("Authorization", authorization.unwrap_or_default())];
    let headers = if authorization.is_some() { &headers[..] } else { &headers[..1] };
    app.request(method, path, headers, (method != "GET" && method != "HEAD").then_some(b"{}"))
}

#[test]
fn every_route_is_for_those_whose_token_has_its_scope() {
    let file = TokenFile::new();
    let scopes = [
        "read",
        "write",
        "operate",
        "read:persons",
        "read:locations,write:carts",
        "write:persons",
        "read:reports",
        "read:reports/popular-items",
        "read:reports/other",
        &format!("read:carts/{CART}"),
        &format!("write:accounts/{CART},write:persons/{CART}"),
        "read:carts/0193b2c4-1f6e-7000-8000-000000000001",
    ];
    let holders: Vec<_> =
        scopes.iter().enumerate().map(|(number, scope)| (*scope, file.add(&format!("t{number}"), scope))).collect();
    let app = file.serve(|_| {});
    let paths = send(&app, "GET", "/no-such-path", None).problem(404, "no-such-path")["paths"].clone();
    let paths: Vec<String> = serde_json::from_value(paths).unwrap();
    assert!(paths.len() > 30, "{paths:?}");
    let mut requests = 0;
    for path in &paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let name = if path.starts_with("/reports") { "popular-items" } else { "cart_items" };
            let concrete = path.replace("{key}", CART).replace("{name}", name).replace("{command}", "add-item");
            let concrete = concrete.replace("{file}", "page.js");
            let Some(needed) = needed(path, method) else {
                assert_eq!(send(&app, method, &concrete, None).status, 405, "{method} {path}");
                continue;
            };
            requests += 1;
            let stranger = send(&app, method, &concrete, None);
            if needed == Needed::Nothing {
                assert_eq!(stranger.status, 200, "{method} {path}");
            } else {
                assert_eq!(stranger.status, 401, "{method} {path} without a token");
                assert_eq!(stranger.header("WWW-Authenticate"), Some("Bearer"));
                assert_eq!((stranger.header("X-Revision"), stranger.header("X-Epoch")), (None, None));
            }
            let unknown = format!("Bearer duality_{}", "0".repeat(64));
            let status = if needed == Needed::Nothing { 200 } else { 401 };
            assert_eq!(send(&app, method, &concrete, Some(&unknown)).status, status, "{method} {path}, a wrong token");
            for (scopes, token) in &holders {
                let response = send(&app, method, &concrete, Some(&token.bearer()));
                if is_enough(scopes, needed) {
                    let refused = [401, 403, 405, 500].contains(&response.status);
                    assert!(!refused, "{method} {path} with {scopes}: {}", response.status);
                } else {
                    assert_eq!(response.status, 403, "{method} {path} with {scopes}");
                    let challenge = response.header("WWW-Authenticate").unwrap();
                    assert!(challenge.contains("insufficient_scope"), "{challenge}");
                }
            }
        }
    }
    assert!(requests > 50, "{requests}");
}

#[test]
fn a_missing_scope_is_named() {
    let file = TokenFile::new();
    let token = file.add("reader", "read:persons");
    let app = file.serve(|_| {});
    for (method, path, scope) in [
        ("GET", "/carts", "read:carts".to_owned()),
        ("POST", "/persons", "write:persons".to_owned()),
        ("PATCH", "/persons/a%2Fb", "write:persons/a%2Fb".to_owned()),
        ("GET", "/aggregates?collection=carts", "read:carts".to_owned()),
        ("GET", "/carts?key=1", "read:carts".to_owned()),
        ("GET", "/reports/popular-items", "read:reports/popular-items".to_owned()),
        ("GET", "/reports/popular%2ditems", "read:reports/popular-items".to_owned()),
        ("POST", "/projections/cart_items/rebuild", "operate".to_owned()),
    ] {
        let response = send(&app, method, path, Some(&token.bearer()));
        let problem = response.problem(403, "missing-scope");
        assert_eq!(problem["scope"], scope, "{method} {path}");
        assert!(problem["detail"].as_str().unwrap().contains(&scope), "{problem}");
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
        assert_eq!(response.header("WWW-Authenticate"), Some(challenge.as_str()));
    }
}

#[test]
fn credentials_that_are_no_valid_token_are_a_401_where_one_is_needed() {
    let file = TokenFile::new();
    let Token(text) = file.add("reader", "read");
    let app = file.serve(|_| {});
    let wrong = format!("duality_{}", "1".repeat(64));
    for credentials in [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNzd29yZA==",
        text.as_str(),
        &format!("Bearer {wrong}"),
        &format!("Bearer {}", text.to_uppercase()),
        &format!("Bearer {text}0"),
        &format!("Bearer {}", &text[..text.len() - 1]),
        &format!("Token {text}"),
        &format!("Bearer {text}, Bearer {text}"),
    ] {
        for path in ["/persons", "/persons?key=1", "/events", "/metrics"] {
            let response = app.request("GET", path, &[("Authorization", credentials)], None);
            let problem = response.problem(401, "unauthorized");
            assert!(!problem.to_string().contains(&wrong[20..]), "a message repeats what was sent: {problem}");
            assert_eq!(response.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""), "{credentials}");
        }
    }
    let bearer = format!("Bearer {text}");
    let twice = [("Authorization", bearer.as_str()), ("Authorization", bearer.as_str())];
    app.request("GET", "/persons", &twice, None).problem(401, "unauthorized");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let response = app.request("GET", "/persons", &[("Authorization", &format!("{scheme} {text}"))], None);
        assert_eq!(response.status, 200, "{scheme}");
    }
}

#[test]
fn credentials_that_are_no_valid_token_take_away_nothing_that_everybody_gets() {
    let file = TokenFile::new();
    let token = file.add("reader", "read,operate");
    let app = file.serve(|_| {});
    let wrong = format!("Bearer duality_{}", "1".repeat(64));
    for credentials in ["Basic dXNlcjpwYXNzd29yZA==", wrong.as_str(), "nonsense", ""] {
        for (method, path, status) in [
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/", 200),
            ("GET", "/docs", 200),
            ("GET", "/page/page.js", 200),
            ("GET", "/follow.js", 200),
            ("GET", "/openapi.json", 200),
            ("OPTIONS", "/persons", 204),
            ("BREW", "/persons", 405),
            ("GET", "/nowhere", 404),
        ] {
            let with = send(&app, method, path, Some(credentials));
            assert_eq!(with.status, status, "{method} {path} with {credentials:?}: {}", with.text());
        }
        let health = send(&app, "GET", "/healthz", Some(credentials)).json();
        assert!(health.get("projections").is_none(), "as for everybody: {health}");
    }
    assert!(token.is_in_force(&app) && !Token("nonsense".to_owned()).is_in_force(&app));
    let twice = [("Authorization", wrong.as_str()), ("Authorization", wrong.as_str())];
    assert_eq!(app.request("GET", "/healthz", &twice, None).status, 200);
}

#[test]
fn a_report_has_one_name_however_it_is_written() {
    let file = TokenFile::new();
    let one = file.add("one", "read:reports/popular-items");
    let app = file.serve(|_| {});
    let get = |path| send(&app, "GET", path, Some(&one.bearer()));
    eventually("the report is built", || get("/reports/popular-items").status == 200);
    for path in ["/reports/popular%2ditems", "/reports/%70opular%2Ditems"] {
        assert_eq!((get(path).status, get(path).text()), (200, get("/reports/popular-items").text()), "{path}");
    }
    let other = file.add("all", "read:reports,operate");
    eventually("the token is known", || other.is_in_force(&app));
    for path in ["/reports/popular%252ditems", "/reports/%ff", "/projections/cart%5Fitem"] {
        let response = send(&app, "GET", path, Some(&other.bearer()));
        assert!([404, 422].contains(&response.status), "{path}: {}", response.text());
    }
    assert_eq!(send(&app, "GET", "/projections/cart%5Fitems", Some(&other.bearer())).status, 200);
}

#[test]
fn a_token_that_is_taken_away_ends_its_streams_and_no_others() {
    let file = TokenFile::new();
    let (gone, stays) = (file.add("gone", "read"), file.add("stays", "read,write"));
    let app = file.serve(|settings| {
        settings.poll_interval = Duration::from_secs(3600);
        settings.heartbeat = Duration::from_millis(50);
    });
    let follow = |path: &str, token: &Token| {
        app.follow(path, &[("Accept", "text/event-stream"), ("Authorization", &token.bearer())])
    };
    let paths = ["/events", "/person-events", "/persons/1/events", "/journal"];
    let mut ending: Vec<_> = paths.iter().map(|path| follow(path, &gone)).collect();
    let mut going_on = follow("/person-events", &stays);
    file.revoke("gone");
    for stream in &mut ending {
        while stream.try_next().is_some() {}
        assert!(!stream.raw.contains("Ann"));
    }
    let response = app.request("GET", "/person-events", &[("Authorization", &gone.bearer())], None);
    response.problem(401, "unauthorized");
    let headers = [("Content-Type", "application/json"), ("Authorization", &stays.bearer())];
    assert_eq!(app.request("POST", "/persons", &headers, Some(br#"{"name":"Ann"}"#)).status, 201);
    going_on.read_until(|text| text.contains("Ann"));
}

#[test]
fn what_everybody_may_read_names_no_collection_and_no_projection() {
    let file = TokenFile::new();
    let (reader, operator) = (file.add("reader", "read:persons"), file.add("operator", "operate"));
    let app = file.serve(|_| {});
    let index = |token: Option<&Token>| {
        let index = send(&app, "GET", "/", token.map(Token::bearer).as_deref()).json();
        let names = index["collections"].as_array().unwrap().iter().map(|collection| collection["name"].clone());
        Value::from_iter(names)
    };
    assert_eq!(index(None), json!([]));
    assert_eq!(index(Some(&reader)), json!(["persons"]));
    let health = |token: Option<&Token>| send(&app, "GET", "/healthz", token.map(Token::bearer).as_deref()).json();
    assert!(health(None).get("projections").is_none() && health(Some(&reader)).get("projections").is_none());
    assert!(health(Some(&operator))["projections"].is_array());
}

#[test]
fn why_a_service_is_not_ready_is_for_those_who_operate_it() {
    let file = TokenFile::new();
    let (reader, operator) = (file.add("reader", "read"), file.add("operator", "operate"));
    let app = file.serve(|settings| settings.min_free = duality::ByteSize::pb(1000));
    for (token, sees) in [(None, false), (Some(&reader), false), (Some(&operator), true)] {
        let token = token.map(Token::bearer);
        let ready = send(&app, "GET", "/readyz", token.as_deref());
        let problem = ready.problem(503, "not-ready");
        assert_eq!(problem["reasons"][0]["part"], "disk", "{problem}");
        let health = send(&app, "GET", "/healthz", token.as_deref()).json();
        assert_eq!(health["status"], "degraded");
        for text in [problem.to_string(), health.to_string()] {
            assert_eq!(text.contains("free"), sees, "{text}");
        }
    }
}

#[test]
fn a_service_that_others_can_reach_does_not_start_without_a_decision_who_may_do_what() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let file = TokenFile::new();
    file.add("reader", "read");
    let tokens = file.path.to_str().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let none = directory.path().join("none.db");
        let output = Process::output_on(listen, &none, &[]);
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{log}");
        let line = log.lines().next().unwrap();
        assert!(line.contains(&format!("{listen} can be reached from other machines")), "{log}");
        assert!(line.contains("--tokens FILE") && line.contains("--insecure") && log.lines().count() == 1, "{log}");
        assert!(!none.exists(), "it fails before anything is opened");
        let listen = listen.parse().unwrap();
        let process = Process::start_on(listen, &database, &["--insecure"]);
        assert!(process.log().contains("can read and write everything (--insecure)"), "{}", process.log());
        process.kill();
        let process = Process::start_on(listen, &database, &["--tokens", tokens]);
        assert!(!process.log().contains("can read and write everything"), "{}", process.log());
        process.kill();
    }
    for listen in ["127.0.0.1:0", "127.8.8.8:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        Process::start_on(listen.parse().unwrap(), &database, &[]).kill();
    }
}
