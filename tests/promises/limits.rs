//! How many may follow, who may read from another origin, and what a HEAD tells.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use crate::harness::{App, Response, Stream, eventually};

const SSE: (&str, &str) = ("Accept", "text/event-stream");
const ORIGIN: &str = "https://app.example";

#[track_caller]
fn is_told_to_come_back(mut stream: Stream) {
    assert_eq!(stream.message(), None, "cut, without a message and without the final chunk");
    let wait = stream.raw.strip_prefix(":\nretry: ").and_then(|rest| rest.strip_suffix('\n'));
    let wait: u64 = wait.unwrap_or_else(|| panic!("{:?}", stream.raw)).parse().unwrap();
    assert!((1..=60_000).contains(&wait), "{wait} milliseconds");
}

#[track_caller]
fn is_busy(response: &Response) {
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    assert_eq!(response.json()["type"], "busy");
}

fn open(app: &App, streams: usize) -> Vec<Stream> {
    let mut streams: Vec<_> = (0..streams).map(|_| app.follow("/person-events", &[SSE])).collect();
    streams.iter_mut().for_each(|stream| stream.read_until(|text| text.contains("retry")));
    streams
}

/// Asks from another address of this machine, as often as it takes to know the beginning of the answer.
fn ask_from(address: [u8; 4], service: SocketAddr) -> (socket2::Socket, String) {
    let mut socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&service.into()).unwrap();
    socket.write_all(b"GET /person-events HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut text = String::new();
    while !text.contains("\r\n") {
        let mut buffer = [0; 1024];
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "{text:?}");
        text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    (socket, text)
}

#[test]
fn over_the_limit_a_stream_is_cut_with_a_time_to_come_back() {
    for per_address in [false, true] {
        let app = App::with(|settings| {
            *if per_address { &mut settings.max_sessions_per_address } else { &mut settings.max_sessions } = 2;
        });
        let mut streams = open(&app, 2);
        for path in ["/person-events", "/events", "/persons/1/events"] {
            is_told_to_come_back(app.follow(path, &[SSE]));
            is_told_to_come_back(app.follow(path, &[("Accept", "text/event-stream, */*;q=0.1")]));
        }
        assert_eq!(app.sessions(), 2);
        app.post("/persons", r#"{"name":"Ann"}"#);
        assert!(streams.iter_mut().all(|stream| stream.next().revision() == 1), "those inside notice nothing");
    }
}

#[test]
fn over_the_limit_who_does_not_say_that_it_is_a_stream_gets_a_problem() {
    let app = App::with(|settings| settings.max_sessions = 1);
    let _one = open(&app, 1);
    for path in ["/person-events", "/events", "/persons/1/events"] {
        is_busy(&app.get(path));
        is_busy(&app.request("GET", path, &[("Accept", "*/*")], None));
    }
}

#[test]
fn the_limit_of_an_address_is_not_that_of_another() {
    let app = App::with(|settings| settings.max_sessions_per_address = 1);
    let _one = open(&app, 1);
    is_busy(&app.get("/person-events"));
    let (_other, answer) = ask_from([127, 0, 0, 2], app.address);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_third, answer) = ask_from([127, 0, 0, 2], app.address);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn there_is_room_again_when_one_leaves() {
    let app = App::with(|settings| settings.max_sessions = 2);
    let mut streams = open(&app, 2);
    is_busy(&app.get("/person-events"));
    streams.pop().unwrap().close();
    eventually("one has left", || app.sessions() == 1);
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(app.follow("/person-events", &[SSE]).next().revision(), 1);
}

#[test]
fn what_is_no_stream_needs_no_room() {
    let app = App::with(|settings| settings.max_sessions = 1);
    let _one = open(&app, 1);
    for (method, path, accept) in [
        ("GET", "/person-events", "application/json"),
        ("GET", "/events", "application/x-ndjson"),
        ("HEAD", "/person-events", "text/event-stream"),
        ("GET", "/persons", "*/*"),
    ] {
        assert_eq!(app.request(method, path, &[("Accept", accept)], None).status, 200, "{method} {path} {accept}");
    }
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
}

/// The names in a header that is a list, in lower case.
fn names(response: &Response, header: &str) -> Vec<String> {
    let list = response.header(header).unwrap_or_else(|| panic!("{header} in {response:?}"));
    list.split(',').map(|name| name.trim().to_lowercase()).collect()
}

#[test]
fn a_page_of_an_allowed_origin_may_read_the_answers_and_their_headers() {
    let app = App::with(|settings| settings.cors_origin = vec![ORIGIN.to_owned()]);
    app.post("/persons", r#"{"name":"Ann"}"#);
    let origin = ("Origin", ORIGIN);
    let mut answers: Vec<_> = ["/persons", "/persons/1", "/persons/2", "/aggregates", "/nothing", "/persons?x=y"]
        .iter()
        .map(|path| (*path, app.request("GET", path, &[origin], None)))
        .collect();
    answers.extend(
        ["/person-events", "/events", "/persons/2/events"].map(|path| (path, app.follow(path, &[origin, SSE]).head)),
    );
    let json = ("Content-Type", "application/json");
    answers.push(("POST", app.request("POST", "/persons", &[origin, json], Some(br#"{"name":"Bob"}"#))));
    answers.push(("POST {", app.request("POST", "/persons", &[origin, json], Some(b"{"))));
    for (what, answer) in answers {
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(ORIGIN), "{what}");
        let mut exposed = names(&answer, "Access-Control-Expose-Headers");
        exposed.sort();
        assert_eq!(exposed, ["etag", "location", "retry-after", "x-epoch", "x-revision"], "{what}");
    }
}

#[test]
fn a_page_of_an_allowed_origin_may_write() {
    for allowed in [ORIGIN, "*"] {
        let app = App::with(|settings| settings.cors_origin = vec![allowed.to_owned()]);
        for (method, header) in
            [("PATCH", "content-type"), ("PUT", "content-type"), ("DELETE", "content-type"), ("GET", "last-event-id")]
        {
            let asked = [
                ("Origin", ORIGIN),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", header),
            ];
            let response = app.request("OPTIONS", "/persons/1", &asked, None);
            assert!(matches!(response.status, 200 | 204), "{method} {}", response.status);
            assert_eq!(response.header("Access-Control-Allow-Origin"), Some(allowed));
            assert!(names(&response, "Access-Control-Allow-Methods").contains(&method.to_lowercase()));
            assert!(names(&response, "Access-Control-Allow-Headers").contains(&header.to_owned()));
        }
    }
}

#[test]
fn other_origins_are_told_nothing() {
    let silent = |app: &App| {
        for origin in ["https://other.example", "null"] {
            let answer = app.request("GET", "/persons", &[("Origin", origin)], None);
            assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (200, None), "{origin}");
        }
    };
    silent(&App::with(|settings| settings.cors_origin = vec![ORIGIN.to_owned()]));
    let app = App::start();
    silent(&app);
    let answer = app.request("GET", "/persons", &[("Origin", ORIGIN)], None);
    assert_eq!(answer.header("Access-Control-Allow-Origin"), None, "not without the setting");
    let asked = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PATCH")];
    assert_eq!(app.request("OPTIONS", "/persons/1", &asked, None).header("Access-Control-Allow-Origin"), None);
}

#[test]
fn head_is_get_without_the_body_on_every_route() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    let lines = ("Accept", "application/x-ndjson");
    for (path, headers, status) in [
        ("/aggregates", vec![], 200),
        ("/aggregates?collection=persons", vec![], 200),
        ("/persons?key=1", vec![], 200),
        ("/persons", vec![lines], 200),
        ("/events", vec![], 200),
        ("/events", vec![lines], 200),
        ("/person-events", vec![("Accept", "application/json")], 200),
        ("/persons/1/events", vec![], 200),
        ("/persons/9/events", vec![], 200),
        ("/persons/9", vec![], 404),
        ("/locations/Rome", vec![], 404),
        ("/events?collection=none", vec![], 400),
    ] {
        let mut client = app.client();
        let response = client.request("HEAD", path, &headers, None);
        assert_eq!(response.status, status, "{path}");
        if status != 400 {
            assert_eq!((response.revision(), response.header("X-Epoch").is_some()), (1, true), "{path}");
        }
        // A body that was sent all the same would be taken for the next answer.
        assert_eq!(client.request("GET", "/persons/1", &[], None).text(), r#"{"name":"Ann"}"#, "after HEAD {path}");
        let expected = if headers.is_empty() && path.contains("events") && status == 200 {
            app.follow(path, &[]).head
        } else {
            app.request("GET", path, &headers, None)
        };
        for name in ["Content-Type", "Cache-Control", "Vary", "X-Revision", "X-Epoch"] {
            assert_eq!(response.header(name), expected.header(name), "{name} of {path}");
        }
    }
}

#[test]
fn without_the_setting_nothing_is_said_about_other_origins() {
    let app = App::start();
    let asked = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PATCH")];
    for (method, path, headers) in
        [("GET", "/persons", &asked[..1]), ("GET", "/persons", &[]), ("OPTIONS", "/persons/1", &asked)]
    {
        let answer = app.request(method, path, headers, None);
        for name in ["Allow-Origin", "Expose-Headers", "Allow-Methods", "Allow-Headers", "Max-Age"] {
            assert_eq!(answer.header(&format!("Access-Control-{name}")), None, "{name} {method} {path}");
        }
    }
}

#[test]
fn a_preflight_is_a_problem_where_no_other_origin_is_let_in() {
    let app = App::start();
    let asked = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PATCH")];
    let response = app.request("OPTIONS", "/persons/1", &asked, None);
    assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
}
