//! A connection takes its part and no more: of all connections, of memory, and of the processor.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use duality::ByteSize;

use crate::harness::{App, Client, Stream, count, eventually};

const GET: &str = "GET /persons HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends as much as the other side takes, until the connection has ended.
#[track_caller]
fn send_until_cut(client: &Client) {
    let bytes = GET.repeat(1000);
    client.socket().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut socket = client.socket();
    eventually("the connection is cut", || match socket.write(bytes.as_bytes()) {
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    });
}

/// Whether the service ends a connection, whatever it sends before.
fn ends(client: &Client) -> bool {
    let end = client.socket().read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    !matches!(end, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[cfg(feature = "direct-write")]
#[test]
fn a_stream_whose_client_sends_without_an_end_is_cut() {
    let app = App::start();
    let mut client = app.client();
    client.send("GET", "/person-events", &[("Accept", "text/event-stream")], None);
    assert_eq!(client.head().unwrap().status, 200);
    send_until_cut(&client);
    eventually("the stream is over", || app.sessions() == 0);
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[cfg(feature = "direct-write")]
#[test]
fn what_a_client_sends_behind_its_stream_counts() {
    let app = App::start();
    let mut client = app.client();
    client.send("GET", "/person-events", &[("Accept", "text/event-stream")], None);
    assert_eq!(client.head().unwrap().status, 200);
    // The memory of a parsed request is mostly that of its headers.
    client.send_raw(GET.repeat(16).as_bytes());
    eventually("it counts", || app.memory("commands") >= 16 * 1024);
    assert_eq!(app.sessions(), 1);
    drop(client);
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[cfg(feature = "direct-write")]
#[test]
fn a_stream_behind_which_too_many_requests_wait_is_cut() {
    let app = App::start();
    let mut client = app.client();
    client.send("GET", "/person-events", &[("Accept", "text/event-stream")], None);
    assert_eq!(client.head().unwrap().status, 200);
    client.send_raw(GET.repeat(17).as_bytes());
    assert!(ends(&client));
    eventually("the stream is over", || app.sessions() == 0);
    // Together with the request for the stream: the framework has all of them before the stream begins.
    let mut client = app.client();
    let follow =
        GET.replace("/persons ", "/person-events ").replace("\r\n\r\n", "\r\nAccept: text/event-stream\r\n\r\n");
    client.send_raw((follow + &GET.repeat(4000)).as_bytes());
    assert!(ends(&client));
    eventually("the stream is over", || app.sessions() == 0);
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[cfg(feature = "direct-write")]
#[test]
fn the_head_of_a_later_request_has_a_deadline() {
    let app = App::with(|settings| settings.keep_alive = Duration::from_secs(1));
    let mut client = app.client();
    assert_eq!(client.request("GET", "/persons", &[], None).status, 200);
    client.send_raw(format!("GET /persons HTTP/1.1\r\nHost: localhost\r\nX-Filler: {}", "x".repeat(50_000)).as_bytes());
    assert!(ends(&client));
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[test]
fn many_requests_on_one_connection_leave_nothing_that_counts() {
    let app = App::start();
    let mut client = app.client();
    let headers = [("Content-Type", "application/json"), ("X-Filler", "x")];
    for _ in 0..300 {
        assert_eq!(client.request("GET", "/persons?key=1", &headers, None).status, 200);
        let body = format!(r#"{{"name":"{}"}}"#, "x".repeat(1000));
        assert_eq!(client.request("POST", "/persons", &headers, Some(body.as_bytes())).status, 201);
    }
    // The last command counts until its answer is on the way.
    eventually("nothing counts", || app.memory("commands") == 0);
    // Pipelined: everything is answered, and then nothing counts any more.
    client.send_raw(GET.repeat(30).as_bytes());
    for _ in 0..30 {
        assert_eq!(client.response("GET").status, 200);
    }
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[test]
fn requests_with_bodies_in_chunks_wait_as_others_do() {
    let app = App::start();
    let mut client = app.client();
    let head = "POST /persons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "{\n\n\n\"name\"\n\n:\n\n\"Ann\"\n\n}"
        .bytes()
        .map(|byte| format!("1\r\n{}\r\n", byte as char))
        .collect::<String>();
    client.send_raw(format!("{head}{body}0\r\n\r\n").repeat(12).as_bytes());
    for _ in 0..12 {
        let created = client.response("POST");
        assert_eq!((created.status, created.header("Connection")), (201, None));
    }
}

#[test]
fn one_address_has_so_many_connections_and_others_have_theirs() {
    let app = App::with(|settings| settings.max_connections_per_address = Some(count(4)));
    let mut open: Vec<_> = (0..4).map(|_| Client::connect_from(2, app.address)).collect();
    for client in &mut open {
        assert_eq!(client.request("GET", "/healthz", &[], None).status, 200);
    }
    assert!(ends(&Client::connect_from(2, app.address)));
    assert_eq!(app.get("/healthz").status, 200, "another address");
    assert!(Client::metric(app.address, "duality_refused_connections_total") >= 1.0);
    drop(open);
    eventually("it may connect again", || {
        let mut client = Client::connect_from(2, app.address);
        client.try_send("GET", "/healthz", &[], None).is_ok()
            && client.try_response("GET").is_ok_and(|response| response.status == 200)
    });
}

#[test]
fn the_streams_of_one_address_leave_it_connections_for_requests() {
    let app = App::with(|settings| settings.max_connections_per_address = Some(count(8)));
    let streams: Vec<_> =
        (0..7).map(|_| Stream::on(Client::connect_from(2, app.address), "/person-events", &[])).collect();
    assert_eq!(Client::connect_from(2, app.address).request("GET", "/persons", &[], None).status, 200);
    drop(streams);
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Creates the first person, whose state has this many bytes; the response may have no room.
fn create_large_one(app: &App, bytes: usize) {
    let mut client = app.client();
    client.send("POST", "/persons", &[JSON], Some(format!(r#"{{"name":"{}"}}"#, "x".repeat(bytes)).as_bytes()));
    let _ = client.try_response("POST");
}

/// Changes the first person without reading the response.
fn change(app: &App, spouse: usize) -> Client {
    let mut client = app.client();
    client.send("PATCH", "/persons/1", &[JSON], Some(format!(r#"{{"spouse":{spouse}}}"#).as_bytes()));
    client
}

#[test]
fn a_response_to_a_write_counts_until_it_is_read() {
    let app = App::start();
    create_large_one(&app, 1_000_000);
    let mut clients: Vec<_> = (1..6).map(|spouse| change(&app, spouse)).collect();
    eventually("they count", || app.memory("answers") >= 5_000_000);
    for client in &mut clients {
        assert_eq!(client.response("PATCH").status, 200);
    }
    eventually("nothing counts", || app.memory("answers") == 0);
}

#[test]
fn a_write_whose_response_has_no_room_is_done_and_its_connection_ends() {
    let app = App::with(|settings| {
        settings.answer_memory = Some(ByteSize::kib(64));
        settings.spool_size = ByteSize(0);
    });
    create_large_one(&app, 200_000);
    let mut client = change(&app, 7);
    assert_eq!(client.try_response("PATCH").unwrap_err().kind(), ErrorKind::UnexpectedEof);
    let changed = app.patch("/persons/1", r#"{"name":"Ann"}"#);
    assert_eq!(changed.json()["spouse"], 7);
}
