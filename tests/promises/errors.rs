//! Errors are RFC 9457 problem documents that name what was wrong and what was expected. They change nothing.

use serde_json::Value;

use crate::harness::{App, Client, Process, Response, eventually, sql};

#[track_caller]
fn problem(response: &Response, status: u16, slug: &str, named: &str) -> Value {
    let body = response.problem(status, slug);
    assert!(body["detail"].as_str().unwrap().contains(named), "{named:?} in {body}");
    body
}

#[test]
fn a_body_that_is_not_json_is_rejected() {
    let app = App::start();
    let deep = "[".repeat(65) + &"]".repeat(65);
    let json = [("Content-Type", "application/json")];
    for (body, named) in [
        (&b""[..], "the body is empty; expected JSON"),
        (b"{", "the text ends within an object at line 1"),
        (b"{'name':1}", "line 1 column 2"),
        (b"{\"name\":\"Ann\"} x", "trailing characters"),
        (b"{\"name\":\"\xff\"}", "UTF-8 at byte 9"),
        (deep.as_bytes(), "deeper than 64"),
    ] {
        problem(&app.request("POST", "/persons", &json, Some(body)), 400, "malformed-json", named);
    }
    assert_eq!(app.get("/persons").revision(), 0);
}

#[test]
fn a_validation_error_names_the_member() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for (body, member, named) in [
        (r#"{"name":"Ann","name":"Bob"}"#, Some("name"), "duplicate member"),
        (r#"{"name":"Ann","nmae":"Bob"}"#, Some("nmae"), "nmae: unknown member; expected name, city, spouse"),
        (r#"{"name":"Ann","nmae":null}"#, Some("nmae"), "expected name, city, spouse"),
        (r#"{"name":5}"#, Some("name"), "expected a string"),
        (r#"{"name":""}"#, Some("name"), "at least one character"),
        (r#"{"name":"Ann","spouse":0}"#, Some("spouse"), "expected a whole number from 1, got 0"),
        (r#"{"name":"Ann","spouse":-1}"#, Some("spouse"), "-1"),
        (r#"{"name":"Ann","spouse":1.5}"#, Some("spouse"), "1.5"),
        (r#"{"name":"Ann","city":["Rome"]}"#, Some("city"), "expected a string"),
        (r#"{"name":"Ann","city":""}"#, Some("city"), "is empty"),
        (r#"{"name":"Ann","city":"a\u0007"}"#, Some("city"), "control character"),
        (r#"{"name":null}"#, Some("name"), "is missing"),
        (r#"["Ann"]"#, None, "got an array"),
        (r#""Ann""#, None, "got a string"),
        ("null", None, "got null"),
    ] {
        for (method, path) in [("POST", "/persons"), ("PUT", "/persons/1"), ("PATCH", "/persons/1")] {
            let body = problem(&app.write(method, path, body), 422, "invalid", named);
            assert_eq!(body.get("member").and_then(Value::as_str), member, "{method} {body}");
        }
    }
    problem(&app.post("/persons", "{}"), 422, "invalid", "name: is missing");
    assert_eq!(app.get("/persons").revision(), 1, "a rejected command creates no revision");
    assert_eq!(app.post("/persons", r#"{"name":"Bob"}"#).header("Location"), Some("/persons/2"));
}

#[test]
fn a_problem_repeats_little_of_what_was_sent() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let (long, longer) = ("x".repeat(30_000), "\u{1f34e}".repeat(200_000));
    let tags: Vec<_> = (0..2000).map(|number| format!("\"{number}\"")).collect();
    let named = |name: &str| format!(r#"{{"{name}":1}}"#);
    let json = ("Content-Type", "application/json");
    let mut answers: Vec<_> = [
        ("POST", "/persons".to_owned(), vec![json], named(&longer)),
        ("POST", "/persons".to_owned(), vec![json], format!(r#"{{"name":"Ann","spouse":"{longer}"}}"#)),
        ("POST", "/persons".to_owned(), vec![json], format!(r#"{{"name":"Ann","city":"{longer}"}}"#)),
        ("POST", "/persons".to_owned(), vec![json], format!(r#"{{"name":{}}}"#, named(&longer))),
        ("POST", "/persons".to_owned(), vec![json], format!(r#"{{"{longer}":1,"{longer}":1}}"#)),
        ("PATCH", "/persons/1".to_owned(), vec![json, ("If-Match", &tags.join(","))], "{}".to_owned()),
        ("POST", "/persons".to_owned(), vec![("Content-Type", &long)], "{}".to_owned()),
        ("POST", "/persons".to_owned(), vec![json, ("Origin", &long)], "{}".to_owned()),
        ("GET", format!("/{long}"), vec![], String::new()),
        ("GET", format!("/persons/{long}"), vec![], String::new()),
        ("GET", format!("/persons?{long}=1"), vec![], String::new()),
        ("GET", format!("/events?collection={long}"), vec![], String::new()),
        ("GET", format!("/reports/{long}"), vec![], String::new()),
        ("POST", format!("/carts/1/{long}"), vec![json], "{}".to_owned()),
        ("POST", format!("/projections/{long}/rebuild"), vec![], String::new()),
        ("BREW", format!("/persons/{long}"), vec![], String::new()),
        ("GET", "/persons".to_owned(), vec![("Host", &long)], String::new()),
    ]
    .into_iter()
    .map(|(method, path, headers, body)| app.request(method, &path, &headers, Some(body.as_bytes())))
    .collect();
    let cart = app.open_cart();
    answers.push(app.post(&format!("{cart}/add-item"), &named(&longer)));
    for answer in answers {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"));
        assert!(answer.body.len() < 8192, "{}: {} bytes", answer.json()["type"], answer.body.len());
    }
}

#[test]
fn a_city_that_is_not_a_valid_key_is_rejected() {
    let app = App::start();
    let long = "x".repeat(513);
    for city in [".", "..", "__proto__", "constructor", "prototype", "hasOwnProperty", &long] {
        let body = serde_json::json!({"name": "Ann", "city": city}).to_string();
        problem(&app.post("/persons", &body), 422, "invalid", "city");
    }
    for path in ["/locations/%2E", "/locations/%2e%2E", "/locations/__proto__", "/locations/%00", "/locations/%FF"] {
        problem(&app.get(path), 422, "invalid", "the key");
    }
}

#[test]
fn an_unknown_path_is_a_404() {
    let app = App::start();
    for (path, nearest, is_near) in [
        ("/person", "/persons", true),
        ("/persons/", "/persons", false),
        ("/persons/1/2", "/persons/{key}", true),
        ("/person/1", "/persons/{key}", true),
        ("/persons-events", "/person-events", true),
        ("/events-person", "/person-events", false),
        ("/Persons", "/persons", true),
        ("/events/person", "/events/persons", true),
        ("/metrcis", "/metrics", true),
        ("/nothing/", "/", false),
    ] {
        let body = problem(&app.get(path), 404, "no-such-path", path);
        let paths: Vec<_> = body["paths"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        for known in ["/persons", "/persons/{key}", "/person-events", "/events/persons", "/journal", "/healthz"] {
            assert!(paths.contains(&known), "{known} in {paths:?}");
        }
        assert!(path == "/events-person" || path == "/nothing/" || paths[0] == nearest, "{path}: {paths:?}");
        let detail = body["detail"].as_str().unwrap();
        assert_eq!(detail.ends_with(&format!("; did you mean {nearest}?")), is_near, "{detail}");
        assert!(!detail.contains("expected") || path == "/persons/", "{body}");
    }
}

#[test]
fn a_slash_at_the_end_is_a_404_with_the_path_that_was_meant() {
    let app = App::start();
    for path in ["/persons", "/persons/1", "/person-events", "/events/persons", "/carts/1/add-item", "/reports/x"] {
        let body = problem(&app.get(&format!("{path}/")), 404, "no-such-path", &format!("expected {path},"));
        assert_eq!(body["detail"], format!("no route matches {path}/; expected {path}, without a slash at the end"));
    }
}

#[test]
fn an_unsupported_method_is_rejected_with_the_allowed_ones() {
    let app = App::start();
    for (path, method, allowed) in [
        ("/persons", "DELETE", "GET, HEAD, POST, OPTIONS"),
        ("/persons/1", "POST", "GET, HEAD, PUT, PATCH, DELETE, OPTIONS"),
        ("/locations", "POST", "GET, HEAD, OPTIONS"),
        ("/locations/Rome", "DELETE", "GET, HEAD, OPTIONS"),
        ("/person-events", "POST", "GET, HEAD, OPTIONS"),
        ("/persons", "BREW", "GET, HEAD, POST, OPTIONS"),
    ] {
        let response = app.write(method, path, "{}");
        problem(&response, 405, "method-not-allowed", allowed);
        assert_eq!(response.header("Allow"), Some(allowed));
    }
}

#[test]
fn an_unsupported_content_type_is_rejected() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for content_type in
        ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin1", "nonsense"]
    {
        let response = app.request("POST", "/persons", &[("Content-Type", content_type)], Some(b"{}"));
        problem(&response, 415, "unsupported-type", "expected application/json");
    }
    problem(&app.request("POST", "/persons", &[], Some(b"{}")), 415, "unsupported-type", "Content-Type: missing");
    let merge_patch = [("Content-Type", "application/merge-patch+json")];
    problem(&app.request("PUT", "/persons/1", &merge_patch, Some(b"{}")), 415, "unsupported-type", "merge-patch");
}

#[test]
fn an_unsupported_accept_header_is_rejected() {
    let app = App::start();
    let html = [("Accept", "text/html")];
    for path in ["/persons", "/persons/1", "/person-events"] {
        problem(&app.request("GET", path, &html, None), 406, "not-acceptable", "Accept");
    }
}

#[test]
fn a_body_over_the_limit_is_rejected() {
    let app = App::with(|settings| settings.max_body = duality::ByteSize(100));
    let json = ("Content-Type", "application/json");
    let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(100));
    let refused = problem(&app.post("/persons", &body), 413, "too-large", "100 bytes");
    assert_eq!(refused["limit"], 100);

    // A chunked body has no length in its head.
    let mut client = app.client();
    client.send("POST", "/persons", &[json, ("Transfer-Encoding", "chunked")], None);
    client.send_raw(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
    problem(&client.response("POST"), 413, "too-large", "100 bytes");

    let just = format!(r#"{{"name":"{}"}}"#, "x".repeat(100 - 11));
    assert_eq!(just.len(), 100);
    assert_eq!(app.post("/persons", &just).status, 201);
}

#[test]
fn a_body_far_over_the_limit_is_rejected_while_it_is_being_sent() {
    let app = App::start();
    let body = vec![b' '; 8 * 1024 * 1024];
    let mut client = app.client();
    // The service may close the connection before it has received the whole body.
    let _ = client.try_send("POST", "/persons", &[("Content-Type", "application/json")], Some(&body));
    problem(&client.response("POST"), 413, "too-large", "1048576 bytes");
}

#[test]
fn a_server_error_shows_nothing_of_its_cause_which_is_in_the_log() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = Process::start(&database, &[]);
    let request = |method: &str, path: &str, body: Option<&[u8]>| {
        let json = [("Content-Type", "application/json")];
        Client::connect(process.address).request(method, path, &json, body)
    };
    assert_eq!(request("POST", "/persons", Some(br#"{"name":"Ann"}"#)).status, 201);
    sql(&database, "ALTER TABLE aggregates RENAME TO elsewhere");
    for (method, path, body, status) in [
        ("GET", "/persons/1", None, 500),
        ("GET", "/persons", None, 500),
        ("GET", "/aggregates", None, 500),
        ("PATCH", "/persons/1", Some(&br#"{"city":"Rome"}"#[..]), 503),
    ] {
        let failed = request(method, path, body);
        failed.problem(status, if status == 500 { "internal" } else { "unavailable" });
        for secret in ["aggregates", "table", "elsewhere", "sqlite", "SQL", ".rs", "test.db"] {
            assert!(!failed.text().contains(secret), "{method} {path}: {}", failed.text());
        }
    }
    eventually("the log has it", || process.log().contains("no such table: aggregates"));
}

#[test]
fn websocket_upgrade_is_rejected() {
    let app = App::start();
    for path in ["/person-events", "/persons", "/journal"] {
        for upgrade in ["websocket", "WebSocket"] {
            let headers = [("Connection", "Upgrade"), ("Upgrade", upgrade), ("Sec-WebSocket-Version", "13")];
            let answer = app.request("GET", path, &headers, None);
            problem(&answer, 400, "malformed-request", "Server-Sent Events");
        }
    }
    // Some proxies send this header with every request.
    let mut stream = app.follow("/person-events", &[("Connection", "upgrade")]);
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(stream.next().revision(), 1);
    app.post("/persons", r#"{"name":"Bob"}"#);
    assert_eq!(stream.next().revision(), 2);
}

#[test]
fn an_unknown_query_parameter_is_rejected() {
    let app = App::start();
    problem(&app.get("/persons?nmae=Ann"), 400, "malformed-request", "nmae");
    let page = app.request("GET", "/person-events?revison=8", &[("Accept", "application/json")], None);
    problem(&page, 400, "malformed-request", "expected lastEventId, revision, epoch");
    problem(&app.post("/persons?dry=true", r#"{"name":"Ann"}"#), 400, "malformed-request", "dry");
}

#[test]
fn every_response_to_a_write_has_the_revision() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for response in [
        app.post("/persons", "{"),
        app.post("/persons", "{}"),
        app.patch("/persons/9", "{}"),
        app.delete("/persons/9"),
        app.request("POST", "/persons", &[("Content-Type", "text/plain")], Some(b"")),
    ] {
        assert!(response.status >= 400);
        assert_eq!(response.revision(), 1);
        assert!(response.header("X-Epoch").is_some());
    }
}

#[test]
fn head_returns_what_get_returns_without_the_body() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for (path, status) in [("/persons", 200), ("/persons/1", 200), ("/persons/2", 404), ("/person-events", 200)] {
        let mut client = app.client();
        let response = client.request("HEAD", path, &[], None);
        assert_eq!((response.status, response.revision()), (status, 1), "{path}");
        let next = client.request("GET", "/persons/1", &[], None);
        assert_eq!(next.text(), r#"{"name":"Ann"}"#, "the connection is usable after HEAD {path}");
    }
}

#[test]
fn every_error_about_the_document_has_the_revision() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    for (method, path, headers, status) in [
        ("GET", "/persons?nmae=Ann", &[][..], 400),
        ("GET", "/persons/9", &[], 404),
        ("GET", "/persons/1", &[("Accept", "text/html")], 406),
        ("GET", "/carts/1/journal", &[], 404),
        ("GET", "/person-events?limit=x", &[("Accept", "application/json")], 400),
        ("GET", "/aggregates?collection=carrots", &[], 400),
        ("GET", "/events?limit=x", &[("Accept", "application/json")], 400),
        ("POST", "/journal", &[], 405),
        ("GET", "/locations/%FF", &[], 422),
        ("DELETE", "/persons", &[], 405),
    ] {
        let response = app.request(method, path, headers, None);
        assert_eq!((response.status, response.revision()), (status, 1), "{path}");
        assert!(response.header("X-Epoch").is_some(), "{path}");
    }
}
