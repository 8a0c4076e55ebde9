//! HTTP as old proxies, scripts and scanners speak it: each request is answered once, and framed as its version requires.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::harness::{App, DEADLINE};

/// Sends bytes on a connection of their own.
fn send(app: &App, text: &str) -> TcpStream {
    let mut socket = TcpStream::connect(app.address).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

/// Everything that comes until the service closes the connection.
fn answer(app: &App, text: &str) -> String {
    let mut received = String::new();
    send(app, text).read_to_string(&mut received).unwrap();
    received
}

/// What comes until it contains a text.
fn answer_with(socket: &mut TcpStream, text: &str) -> String {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let read = socket.read(&mut piece).unwrap();
        assert_ne!(read, 0, "{:?}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..read]);
        let received = String::from_utf8_lossy(&received);
        if received.contains(text) {
            return received.into_owned();
        }
    }
}

fn with_ann() -> App {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app
}

#[test]
fn a_body_for_http_1_0_has_no_chunks_and_ends_with_the_connection() {
    let app = with_ann();
    // Those that the service sends while it reads them have no length, so not even `keep-alive` keeps their connection.
    let (sized, streamed) = (true, false);
    for (path, accept, body, is_sized) in [
        ("/persons", "*/*", r#"{"1":{"name":"Ann"}}"#, sized),
        ("/persons/1", "*/*", r#"{"name":"Ann"}"#, sized),
        ("/persons", "application/x-ndjson", "{\"key\":\"1\",\"aggregate\":{\"name\":\"Ann\"}}\n", streamed),
        ("/aggregates", "*/*", r#"{"persons":{"1":{"name":"Ann"}},"locations":{},"carts":{},"accounts":{}}"#, streamed),
        ("/reports/carts.csv", "*/*", "cart,opened,closed,items,minutes_open\r\n", sized),
        ("/person-events", "application/x-ndjson", "{\"cursor\":\"EPOCH.1\"}\n", sized),
    ] {
        for connection in ["", "Connection: keep-alive\r\n", "Connection: close\r\n"] {
            let request = format!("GET {path} HTTP/1.0\r\nAccept: {accept}\r\n{connection}\r\n");
            let received = if is_sized && connection.contains("keep-alive") {
                answer_with(&mut send(&app, &request), body.split("EPOCH").last().unwrap())
            } else {
                answer(&app, &request)
            };
            let body = body.replace("EPOCH", app.get("/persons").header("X-Epoch").unwrap());
            assert!(received.starts_with("HTTP/1.0 200 "), "{received}");
            assert!(!received.to_lowercase().contains("transfer-encoding"), "{received}");
            assert_eq!(received.contains("content-length: "), is_sized, "{received}");
            assert!(received.split_once("\r\n\r\n").unwrap().1.ends_with(&body), "{path} {received}");
        }
    }
}

#[test]
fn a_stream_for_http_1_0_has_no_chunks_whoever_writes_it() {
    let app = with_ann();
    for path in ["/person-events", "/events/persons", "/events", "/persons/1/events"] {
        let mut socket = send(&app, &format!("GET {path} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n"));
        let first = answer_with(&mut socket, "Ann");
        assert!(!first.to_lowercase().contains("transfer-encoding"), "{first}");
        assert!(first.contains("\r\n\r\n:\nretry: "), "{first}");
        // Live, where a hub writes to the connection itself.
        for name in ["Bob", "Cid", "Ann"] {
            app.patch("/persons/1", &format!(r#"{{"name":"{name}"}}"#));
            let event = answer_with(&mut socket, &format!("{name}\"}}"));
            let lines = event.lines().filter(|line| !line.is_empty());
            assert!(lines.clone().all(|line| line.starts_with("id: ") || line.starts_with("data: ")), "{event:?}");
        }
    }
    let mut journal = send(&app, "GET /journal HTTP/1.0\r\n\r\n");
    app.open_cart();
    let received = answer_with(&mut journal, "CartOpened");
    assert!(!received.to_lowercase().contains("transfer-encoding"), "{received}");
}

#[test]
fn nothing_is_done_after_the_last_request_of_a_connection() {
    let app = with_ann();
    let next = "POST /persons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n\
                {\"name\":\"Bob\"}POST /carts HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for first in [
        "GET /persons/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /persons HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n",
        "GET /persons/1 HTTP/1.0\r\n\r\n",
        "GET /aggregates HTTP/1.0\r\n\r\n",
        "GET /aggregates HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /aggregates HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "HEAD /persons HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "DELETE /persons/9 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ] {
        let received = answer(&app, &format!("{first}{next}"));
        assert_eq!(received.matches("HTTP/1.").count(), 1, "{first} {received}");
        assert_eq!(app.get("/persons").text(), r#"{"1":{"name":"Ann"}}"#, "{first}");
        assert_eq!(app.get("/carts").text(), "{}", "{first}");
    }
    let both = "GET /persons/1 HTTP/1.1\r\nHost: localhost\r\n\r\n\
                GET /persons/1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(answer(&app, both).matches(r#"{"name":"Ann"}"#).count(), 2);
}

#[test]
fn a_long_last_response_arrives_whole_although_more_requests_were_sent() {
    let app = App::start();
    let name = "x".repeat(500_000);
    (0..24).for_each(|_| assert_eq!(app.post("/persons", &format!(r#"{{"name":"{name}"}}"#)).status, 201));
    let expected = app.get("/persons").body.len();
    let close = "GET /persons HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut socket = send(&app, &format!("{close}GET /persons HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    // The kernel's buffers do not hold all of it, so the service has to wait for the client.
    let mut received = answer_with(&mut socket, "\r\n\r\n").into_bytes();
    socket.read_to_end(&mut received).unwrap();
    let head = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(received.len() - head, expected);
}

#[test]
fn a_quiet_connection_is_closed_after_the_time_that_the_settings_say() {
    let app = App::with(|settings| settings.keep_alive = Duration::from_secs(1));
    let received = answer(&app, "GET /persons HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(received.ends_with("\r\n\r\n{}"), "{received}");
    assert_eq!(duality::Settings::default().keep_alive, Duration::from_secs(75));
    // A connection with a stream is not quiet.
    let mut stream = app.follow("/person-events", &[]);
    stream.message();
    assert!(stream.is_quiet_for(Duration::from_secs(2)));
    app.post("/persons", r#"{"name":"Ann"}"#);
    assert_eq!(stream.next().revision(), 1);
}

#[test]
fn a_request_in_the_absolute_form_is_answered() {
    let app = with_ann();
    let received =
        answer(&app, "GET http://localhost/persons/1 HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n");
    assert!(received.starts_with("HTTP/1.1 200 ") && received.ends_with(r#"{"name":"Ann"}"#), "{received}");
    let mut socket = send(&app, "GET http://elsewhere.example/persons/1 HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n");
    assert!(answer_with(&mut socket, "unknown-host").starts_with("HTTP/1.1 421 "));
    socket.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_client_of_http_1_0_ends_no_connection_of_others() {
    let app = App::start();
    for _ in 0..10 {
        let mut old = app.client();
        old.send_raw(b"GET /persons/1 HTTP/1.0\r\n\r\n");
        assert_eq!(old.response("GET").status, 404);
    }
    for _ in 0..10 {
        let mut client = app.client();
        for _ in 0..3 {
            let response = client.request("GET", "/persons/1", &[], None);
            assert_eq!((response.status, response.header("Connection")), (404, None));
        }
    }
    let mut kept = app.client();
    for _ in 0..3 {
        kept.send_raw(b"GET /persons HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(kept.response("GET").status, 200);
    }
}
