//! Tickets: an `EventSource` opens one feed once, with what a token permits.

use serde_json::{Value, json};

use crate::harness::{App, Client, Process, Response, Stream, Token, TokenFile, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn ask(app: &App, token: Option<&Token>, body: &Value) -> Response {
    let bearer = token.map(Token::bearer).unwrap_or_default();
    let headers = [JSON, ("Authorization", bearer.as_str())];
    let headers = if token.is_some() { &headers[..] } else { &headers[..1] };
    app.request("POST", "/-/tickets", headers, Some(body.to_string().as_bytes()))
}

/// The URL of a feed with a new ticket.
#[track_caller]
fn ticketed(app: &App, token: &Token, feed: &str) -> String {
    let response = ask(app, Some(token), &json!({"feed": feed}));
    assert_eq!(response.status, 201, "{}", response.text());
    response.json()["url"].as_str().unwrap().to_owned()
}

/// The status that an `EventSource` gets.
fn status(app: &App, path: &str) -> u16 {
    let mut client = app.client();
    client.send("GET", path, &[("Accept", "text/event-stream")], None);
    client.head().unwrap().status
}

#[test]
fn a_ticket_opens_its_feed_once() {
    let file = TokenFile::new();
    let token = file.add("reader", "read");
    let app = file.serve(|_| {});
    for feed in [
        "/events",
        "/events?collection=persons&collection=carts",
        "/person-events",
        "/events/persons",
        "/person-events?key=1&key=2",
        "/persons/1/events",
        "/journal",
        "/journal?collection=carts",
    ] {
        let response = ask(&app, Some(&token), &json!({"feed": feed}));
        let ticket = response.json();
        assert_eq!((response.status, response.header("Cache-Control")), (201, Some("no-store")));
        assert_eq!((response.header("Location"), &ticket["seconds"]), (None, &json!(30)), "{feed}");
        let url = ticket["url"].as_str().unwrap();
        assert!(url.starts_with(feed) && url.ends_with(ticket["ticket"].as_str().unwrap()), "{url}");
        let stream = app.follow(url, &[]);
        assert_eq!(stream.head.header("Cache-Control"), Some("private, no-cache, no-transform"), "{feed}");
        let again = app.request("GET", url, &[("Accept", "text/event-stream")], None);
        let problem = again.problem(401, "unauthorized");
        assert!(problem["detail"].as_str().unwrap().contains("POST /-/tickets"), "{problem}");
        assert_eq!(again.header("WWW-Authenticate"), Some("Bearer error=\"invalid_token\""));
        stream.close();
    }
}

#[test]
fn a_ticket_ends_after_30_seconds() {
    let file = TokenFile::new();
    let token = file.add("reader", "read");
    let app = file.serve(|_| {});
    // What sets the clock of the day back does not end a ticket.
    for (milliseconds, expected) in [(29_000, 200), (31_000, 401), (-31_000, 200), (-86_400_000, 200)] {
        let url = ticketed(&app, &token, "/person-events");
        app.turn_clock(milliseconds);
        assert_eq!(status(&app, &url), expected, "after {milliseconds} ms");
    }
}

#[test]
fn a_ticket_is_for_one_feed_and_what_it_selects() {
    let file = TokenFile::new();
    let token = file.add("reader", "read");
    let app = file.serve(|_| {});
    for (asked, opened, expected) in [
        ("/person-events", "/person-events?lastEventId=&compact=true", 200),
        ("/person-events?lastEventId=4f9c21aa.8", "/person-events", 200),
        ("/person-events?key=1&key=2", "/person-events?key=2&key=1&lastEventId=4f9c21aa.8", 200),
        ("/person-events?key=a/b", "/person-events?key=a%2Fb", 200),
        (
            "/carts/0193b2c4-1f6e-7000-8000-000000000000/events",
            "/carts/0193b2c4%2D1f6e-7000-8000-000000000000/events",
            200,
        ),
        ("/person-events", "/location-events", 401),
        ("/person-events", "/events", 401),
        ("/person-events", "/events/persons", 401),
        ("/person-events", "/persons", 401),
        ("/person-events", "/persons/1/events", 401),
        ("/person-events", "/person-events?key=1", 401),
        ("/person-events?key=1", "/person-events", 401),
        ("/person-events?key=1", "/person-events?key=1&key=2", 401),
        ("/events?collection=persons", "/events?collection=carts", 401),
        ("/journal?collection=carts", "/journal", 401),
    ] {
        let url = ticketed(&app, &token, asked);
        let (_, ticket) = url.rsplit_once("ticket=").unwrap();
        let separator = if opened.contains('?') { '&' } else { '?' };
        let other = format!("{opened}{separator}ticket={ticket}");
        assert_eq!(status(&app, &other), expected, "{asked} for {opened}");
        // Whatever came of it, it is used up.
        assert_eq!(status(&app, &url), 401, "{asked} after {opened}");
    }
}

#[test]
fn a_ticket_permits_what_its_token_does_and_ends_with_it() {
    let file = TokenFile::new();
    let (reader, writer) = (file.add("reader", "read:persons"), file.add("writer", "write"));
    let one = file.add("customer", "read:carts/0193b2c4-1f6e-7000-8000-000000000000");
    let app = file.serve(|_| {});
    let person = |name: &str| {
        let bearer = writer.bearer();
        let body = json!({"name": name}).to_string();
        app.request("POST", "/persons", &[JSON, ("Authorization", &bearer)], Some(body.as_bytes())).revision()
    };
    person("Ann");
    for (token, feed, scope) in [
        (&reader, "/cart-events", "read:carts"),
        (&reader, "/events/locations", "read:locations"),
        (&reader, "/carts/1/events", "read:carts/1"),
        (&writer, "/person-events", "read:persons"),
        (&writer, "/events", "read"),
        (&one, "/carts/1/events", "read:carts/1"),
    ] {
        let refused = ask(&app, Some(token), &json!({"feed": feed}));
        assert_eq!(refused.problem(403, "missing-scope")["scope"], scope, "{feed}");
    }
    // Which keys a filtered feed may select is decided when it is opened.
    assert_eq!(status(&app, &ticketed(&app, &one, "/cart-events?key=0193b2c4-1f6e-7000-8000-000000000000")), 200);
    assert_eq!(status(&app, &ticketed(&app, &one, "/cart-events?key=1")), 403);
    let mut everything = app.follow(&ticketed(&app, &reader, "/events"), &[]);
    let mut state = Value::Null;
    everything.follow(&mut state, person("Bob"));
    assert_eq!(state, json!({"persons": {"1": {"name": "Ann"}, "2": {"name": "Bob"}}}));
    let unused = ticketed(&app, &reader, "/events");
    file.revoke("reader");
    eventually("the stream ends with its token", || everything.try_next().is_none());
    assert_eq!(status(&app, &unused), 401);
    ask(&app, Some(&reader), &json!({"feed": "/events"})).problem(401, "unauthorized");
}

#[test]
fn who_asks_for_a_ticket_needs_a_token_and_a_feed() {
    let file = TokenFile::new();
    let token = file.add("reader", "read");
    let app = file.serve(|_| {});
    ask(&app, None, &json!({"feed": "/events"})).problem(401, "unauthorized");
    for (body, member) in [
        (json!({}), Some("feed")),
        (json!([]), None),
        (json!({"feed": 1}), Some("feed")),
        (json!({"feed": null}), Some("feed")),
        (json!({"feed": "/events", "ttl": 1}), Some("ttl")),
        (json!({"feed": ""}), Some("feed")),
        (json!({"feed": "/persons"}), Some("feed")),
        (json!({"feed": "/aggregates"}), Some("feed")),
        (json!({"feed": "/persons//events"}), Some("feed")),
        (json!({"feed": "/persons/1/2/events"}), Some("feed")),
        (json!({"feed": "person-events"}), Some("feed")),
        (json!({"feed": "http://127.0.0.1/person-events"}), Some("feed")),
        (json!({"feed": "/metrics"}), Some("feed")),
    ] {
        let problem = ask(&app, Some(&token), &body).problem(422, "invalid");
        assert_eq!(problem.get("member").and_then(Value::as_str), member, "{body}");
    }
    let bearer = token.bearer();
    let send = |headers: &[(&str, &str)], body: &[u8]| app.request("POST", "/-/tickets", headers, Some(body));
    let authorization = ("Authorization", bearer.as_str());
    send(&[authorization, JSON], b"{").problem(400, "malformed-json");
    send(&[authorization], b"{}").problem(415, "unsupported-type");
    let foreign = ("Origin", "https://attacker.example");
    send(&[authorization, JSON, foreign], b"{\"feed\":\"/events\"}").problem(403, "foreign-origin");
    let unknown = app.request("GET", &format!("/events?ticket=duality_{}", "0".repeat(64)), &[], None);
    unknown.problem(401, "unauthorized");
    app.request("GET", "/events?ticket=", &[], None).problem(401, "unauthorized");
}

#[test]
fn tickets_that_nobody_uses_are_bounded() {
    let file = TokenFile::new();
    let (one, other) = (file.add("one", "read"), file.add("other", "read"));
    let app = file.serve(|_| {});
    let fill = |token: &Token| {
        let bearer = token.bearer();
        let mut client = app.client();
        let headers = [JSON, ("Authorization", bearer.as_str())];
        let mut issued = 0;
        loop {
            let response = client.request("POST", "/-/tickets", &headers, Some(b"{\"feed\":\"/events\"}"));
            if response.status != 201 {
                response.problem(503, "busy");
                assert_eq!(response.header("Retry-After"), Some("30"));
                return issued;
            }
            issued += 1;
        }
    };
    assert_eq!((fill(&one), fill(&other)), (1_000, 1_000));
    app.turn_clock(31_000);
    assert_eq!(status(&app, &ticketed(&app, &one, "/events")), 200);
}

#[test]
fn the_index_says_what_a_token_may_do() {
    let file = TokenFile::new();
    let token = file.add_with("reader", &["--scope", "read:persons,write", "--expires", "1d"]);
    let app = file.serve(|_| {});
    let index = app.request("GET", "/", &[("Authorization", &token.bearer())], None).json();
    let told = &index["token"];
    assert_eq!((&told["name"], &told["scopes"]), (&json!("reader"), &json!(["read:persons", "write"])));
    assert_eq!(told["hidden"], json!(["locations", "carts", "accounts"]));
    assert!(told["expires"].as_str().unwrap().ends_with('Z'), "{told}");
    assert_eq!(app.get("/").json().get("token"), None);
    assert_eq!(App::start().get("/").json().get("token"), None);
}

#[test]
fn a_service_without_tokens_gives_tickets_that_nobody_needs() {
    let app = App::start();
    let ticket = ask(&app, None, &json!({"feed": "/person-events"}));
    assert_eq!(ticket.status, 201);
    let url = ticket.json()["url"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(app.request("GET", &url, &[("Accept", "application/json")], None).status, 200);
        assert!(!app.follow(&url, &[]).raw.contains("ticket"), "it is a parameter like any other");
    }
}

#[test]
fn no_secret_is_in_the_log_a_metric_or_an_answer() {
    let directory = crate::harness::directory();
    let file = TokenFile::new();
    let token = file.add("everything", "read,write,operate");
    let flags = ["--tokens", file.path.to_str().unwrap()];
    let process = Process::start_in(&[("RUST_LOG", "trace")], &directory.path().join("test.db"), &flags);
    let bearer = token.bearer();
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: Option<&[u8]>| {
        Client::connect(process.address).request(method, path, headers, body)
    };
    let authorized = [JSON, ("Authorization", bearer.as_str())];
    let mut secrets = vec![token.0.clone()];
    let mut ticket = || {
        let ticket = send("POST", "/-/tickets", &authorized, Some(b"{\"feed\":\"/person-events\"}")).json();
        secrets.push(ticket["ticket"].as_str().unwrap().to_owned());
        ticket["url"].as_str().unwrap().to_owned()
    };
    let mut answers = Vec::new();
    Stream::open(process.address, &ticket(), &[]).close();
    answers.push(send(
        "GET",
        &ticket().replace("person-events?", "person-events?limit=1&"),
        &[("Accept", "application/json")],
        None,
    ));
    answers.push(send("GET", &ticket().replace("person-events?", "persons?"), &[], None));
    answers.push(send("GET", &ticket().replace("person-events?", "persons?"), &authorized, None));
    answers.push(send("GET", &ticket().replace("person-events?", "nowhere?"), &authorized, None));
    answers.push(send("BREW", &ticket(), &authorized, None));
    answers.push(send("GET", &format!("{}&limit=x", ticket()), &[("Accept", "application/json")], None));
    answers.push(send("GET", &format!("{}&nonsense=1", ticket()), &[("Accept", "application/json")], None));
    Stream::open(process.address, &format!("{}&nonsense=1", ticket()), &[]).close();
    answers.push(send("POST", "/persons", &authorized, Some(b"{\"name\":\"Ann\"}")));
    answers.push(send("POST", "/persons", &authorized, Some(b"{")));
    answers.push(send("GET", "/persons", &[("Authorization", &format!("{bearer}0"))], None));
    answers.push(send("GET", "/", &authorized, None));
    answers.push(send("GET", "/metrics", &authorized, None));
    process.signal("TERM");
    eventually("it has stopped", || process.log().contains("stopped"));
    let log = process.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    for secret in &secrets {
        let bits = secret.strip_prefix("duality_").unwrap();
        assert!(!log.contains(bits), "a secret is in the log");
        for answer in &answers {
            let head = format!("{answer:?}");
            assert!(!answer.text().contains(bits) && !head.contains(bits), "{}", answer.text());
        }
    }
}
