//! Limits for streams, CORS, and HEAD requests.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use crate::harness::{App, Response, Stream, eventually};

const SSE: (&str, &str) = ("Accept", "text/event-stream");
const ORIGIN: &str = "https://app.example";

#[track_caller]
fn assert_cut_with_retry(mut stream: Stream) {
    assert_eq!(stream.message(), None, "the stream is cut without a message and without the final chunk");
    let wait = stream.raw.strip_prefix(":\nretry: ").and_then(|rest| rest.strip_suffix('\n'));
    let wait: u64 = wait.unwrap_or_else(|| panic!("{:?}", stream.raw)).parse().unwrap();
    assert!((1..=60_000).contains(&wait), "{wait} milliseconds");
}

#[track_caller]
fn assert_busy(response: &Response) {
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

/// Sends a request from another address of this machine, and reads the beginning of the response.
fn request_from(address: [u8; 4], service: SocketAddr) -> (socket2::Socket, String) {
    let mut socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.connect(&service.into()).unwrap();
    socket.write_all(b"GET /person-events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
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
fn over_the_limit_a_stream_is_cut_with_a_retry_time() {
    for per_address in [false, true] {
        let app = App::with(|settings| {
            *if per_address { &mut settings.max_sessions_per_address } else { &mut settings.max_sessions } =
                crate::harness::count(2);
        });
        let mut streams = open(&app, 2);
        for path in ["/person-events", "/events", "/persons/1/events"] {
            assert_cut_with_retry(app.follow(path, &[SSE]));
            assert_cut_with_retry(app.follow(path, &[("Accept", "text/event-stream, */*;q=0.1")]));
        }
        assert_eq!(app.sessions(), 2);
        app.post("/persons", r#"{"name":"Ann"}"#);
        assert!(streams.iter_mut().all(|stream| stream.next().revision() == 1), "the open streams are unaffected");
    }
}

#[test]
fn over_the_limit_a_request_without_the_sse_media_type_is_a_503() {
    let app = App::with(|settings| settings.max_sessions = crate::harness::count(1));
    let _one = open(&app, 1);
    for path in ["/person-events", "/events", "/persons/1/events"] {
        assert_busy(&app.get(path));
        assert_busy(&app.request("GET", path, &[("Accept", "*/*")], None));
    }
}

#[test]
fn addresses_have_separate_limits() {
    let app = App::with(|settings| settings.max_sessions_per_address = crate::harness::count(1));
    let _one = open(&app, 1);
    assert_busy(&app.get("/person-events"));
    let (_other, answer) = request_from([127, 0, 0, 2], app.address);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (_third, answer) = request_from([127, 0, 0, 2], app.address);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn a_closed_stream_frees_its_place() {
    let app = App::with(|settings| settings.max_sessions = crate::harness::count(2));
    let mut streams = open(&app, 2);
    assert_busy(&app.get("/person-events"));
    streams.pop().unwrap().close();
    eventually("one stream has closed", || app.sessions() == 1);
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(app.follow("/person-events", &[SSE]).next().revision(), 1);
}

#[test]
fn only_streams_count_towards_the_limit() {
    let app = App::with(|settings| settings.max_sessions = crate::harness::count(1));
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
fn an_allowed_origin_can_read_responses_and_their_headers() {
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
        assert_eq!(
            exposed,
            ["etag", "idempotency-replayed", "location", "retry-after", "x-epoch", "x-request-id", "x-revision"],
            "{what}"
        );
    }
}

#[test]
fn a_preflight_of_an_allowed_origin_succeeds() {
    for allowed in [ORIGIN, "*"] {
        let app = App::with(|settings| settings.cors_origin = vec![allowed.to_owned()]);
        for (method, header) in [
            ("PATCH", "content-type"),
            ("PUT", "content-type"),
            ("PUT", "idempotency-key"),
            ("DELETE", "content-type"),
            ("GET", "last-event-id"),
        ] {
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
fn other_origins_get_no_cors_headers() {
    let assert_no_cors = |app: &App| {
        for origin in ["https://other.example", "null"] {
            let answer = app.request("GET", "/persons", &[("Origin", origin)], None);
            assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (200, None), "{origin}");
        }
    };
    assert_no_cors(&App::with(|settings| settings.cors_origin = vec![ORIGIN.to_owned()]));
    let app = App::start();
    assert_no_cors(&app);
    let answer = app.request("GET", "/persons", &[("Origin", ORIGIN)], None);
    assert_eq!(answer.header("Access-Control-Allow-Origin"), None, "CORS is off without the setting");
    let asked = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PATCH")];
    assert_eq!(app.request("OPTIONS", "/persons/1", &asked, None).header("Access-Control-Allow-Origin"), None);
}

#[test]
fn head_matches_get_on_every_route() {
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
        // If a body were sent, it would be parsed as the next response.
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
fn responses_have_no_cors_headers_without_the_setting() {
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
fn a_preflight_permits_nothing_without_the_setting() {
    let app = App::start();
    let asked = [("Origin", ORIGIN), ("Access-Control-Request-Method", "PATCH")];
    let response = app.request("OPTIONS", "/persons/1", &asked, None);
    assert_eq!((response.status, response.header("Access-Control-Allow-Methods")), (204, None));
    assert_eq!(response.header("Allow"), Some("GET, HEAD, PUT, PATCH, DELETE, OPTIONS"));
}
