//! What cannot be read as a request gets a problem document as well, after the responses to what came before it.

use crate::harness::{App, Client, Response};

const HOST: &str = "Host: localhost\r\n";

/// The response to bytes, after which the connection ends.
fn last_response(app: &App, bytes: &[u8]) -> Response {
    let mut client = app.client();
    // The service may have answered and closed before it has read everything.
    let _ = std::io::Write::write_all(&mut client.socket(), bytes);
    let response = client.response("GET");
    assert_ended(&mut client);
    response
}

#[track_caller]
fn assert_ended(client: &mut Client) {
    assert!(client.try_response("GET").is_err(), "nothing follows");
}

#[cfg(feature = "direct-write")]
#[test]
fn what_is_no_request_of_http_gets_a_problem() {
    let app = App::start();
    let post = format!("POST /persons HTTP/1.1\r\n{HOST}Content-Type: application/json\r\n");
    for bytes in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n".to_owned(),
        format!("GET /persons\r\n{HOST}\r\n"),
        format!("GET /persons HTTP/3.0\r\n{HOST}\r\n"),
        "GET /persons HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /persons HTTP/1.1\r\n{HOST}{HOST}\r\n"),
        format!("GET /per<sons\u{80} HTTP/1.1\r\n{HOST}\r\n"),
        format!("GET /persons HTTP/1.1\r\n{HOST}Bro ken: 1\r\n\r\n"),
        format!("HEAD /persons HTTP/1.1\r\n{HOST}Broken\r\n\r\n"),
        format!("{post}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("{post}Content-Length: -2\r\n\r\n{{}}"),
        format!("{post}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        "POST /persons HTTP/1.0\r\n\r\n".to_owned(),
    ] {
        let response = last_response(&app, bytes.as_bytes());
        let problem = response.problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().contains("expected a first line such as"), "{problem}");
        assert_eq!(response.header("Connection"), Some("close"), "{bytes:?}");
    }
    assert_eq!(app.get("/persons").revision(), 0);
}

#[cfg(feature = "direct-write")]
#[test]
fn a_head_that_is_too_large_gets_a_problem() {
    let app = App::start();
    let many: String = (0..97).map(|number| format!("X-{number}: x\r\n")).collect();
    let problem = last_response(&app, format!("GET /persons HTTP/1.1\r\n{HOST}{many}\r\n").as_bytes());
    problem.problem(431, "head-too-large");
    let few: String = (0..95).map(|number| format!("X-{number}: x\r\n")).collect();
    let mut client = app.client();
    client.send_raw(format!("GET /persons HTTP/1.1\r\n{HOST}{few}\r\n").as_bytes());
    assert_eq!(client.response("GET").status, 200);
}

#[cfg(feature = "direct-write")]
#[test]
fn a_connection_that_was_good_before_gets_a_problem_too() {
    let app = App::start();
    let mut client = app.client();
    for _ in 0..2 {
        assert_eq!(client.request("GET", "/persons", &[], None).text(), "{}");
    }
    client.send_raw(b"nonsense\r\n\r\n");
    client.response("GET").problem(400, "malformed-request");
    assert_ended(&mut client);
}

#[test]
fn a_chunk_that_is_malformed_is_a_problem_and_the_only_response() {
    let app = App::start();
    let head =
        format!("POST /persons HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    for body in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}x\r\n0\r\n\r\n",
        "-1\r\n{}\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    ] {
        let problem = last_response(&app, format!("{head}{body}").as_bytes()).problem(400, "malformed-request");
        assert!(problem["detail"].as_str().unwrap().contains("expected as many bytes as"), "{body:?}: {problem}");
    }
    assert_eq!(app.get("/persons").revision(), 0);
}

#[test]
fn a_request_to_upgrade_to_http_2_is_answered_and_the_last_one() {
    let app = App::start();
    let mut client = app.client();
    let headers =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    let response = client.request("GET", "/persons", &headers, None);
    assert_eq!((response.status, response.text(), response.header("Connection")), (200, "{}", Some("close")));
    assert_ended(&mut client);
}

#[test]
fn connect_and_an_absolute_target_are_requests_like_any_other() {
    let app = App::start();
    let connect = format!("CONNECT localhost:80 HTTP/1.1\r\n{HOST}\r\n");
    let mut client = app.client();
    client.send_raw(connect.as_bytes());
    client.response("CONNECT").problem(404, "no-such-path");
    let mut client = app.client();
    client.send_raw(format!("GET http://localhost/persons HTTP/1.1\r\n{HOST}\r\n").as_bytes());
    assert_eq!(client.response("GET").status, 200);
}
