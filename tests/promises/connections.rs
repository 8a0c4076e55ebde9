//! A connection takes its part and no more: of all connections, of memory, and of the processor.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use duality::ByteSize;
#[cfg(feature = "direct-write")]
use serde_json::json;

#[cfg(feature = "direct-write")]
use crate::harness::Process;
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

/// The request for a stream, and others behind it.
#[cfg(feature = "direct-write")]
fn stream_with_more(others: usize) -> String {
    let follow = GET.replace("/persons ", "/person-events ");
    follow.replace("\r\n\r\n", "\r\nAccept: text/event-stream\r\n\r\n") + &GET.repeat(others)
}

#[cfg(feature = "direct-write")]
#[test]
fn what_a_client_sends_behind_its_stream_is_thrown_away() {
    let app = App::start();
    let mut persons = 0;
    for together in [0, 20] {
        let mut client = app.client();
        client.send_raw(stream_with_more(together).as_bytes());
        let head = client.head().unwrap();
        // With `close`, the fetch of Node would take a stream that is cut for one that has ended cleanly.
        assert_eq!((head.status, head.header("Connection")), (200, None));
        // More than could wait to be answered, and half a request.
        client.send_raw((GET.repeat(40) + "GET /per").as_bytes());
        let mut stream = Stream::begun(client, head);
        persons += 1;
        stream.follow(&mut json!({}), app.post("/persons", r#"{"name":"Ann"}"#).revision());
        assert_eq!(app.memory("commands"), 0, "nothing of it is kept");
        assert_eq!(app.sessions(), 1);
        drop(stream);
        eventually("the stream is over", || app.sessions() == 0);
    }
    assert_eq!(app.load("/persons").0.as_object().map(serde_json::Map::len), Some(persons));
}

#[cfg(feature = "direct-write")]
#[test]
fn a_client_that_has_sent_more_gets_the_end_of_its_stream() {
    let mut app = App::with(|settings| settings.workers = Some(count(1)));
    let mut client = app.client();
    client.send_raw(stream_with_more(20).as_bytes());
    let head = client.head().unwrap();
    client.send_raw(GET.repeat(20).as_bytes());
    let mut stream = Stream::begun(client, head);
    let mut carts = app.follow("/cart-events", &[]);
    // It changes nothing for the first stream, which gets its revision at the end.
    let revision = app.command("/carts").revision();
    assert_eq!(carts.next().revision(), revision);
    app.stop();
    let mut last = None;
    while let Some(event) = stream.message() {
        last = event.reached().or(last);
    }
    assert_eq!(last, Some(revision));
}

#[cfg(feature = "direct-write")]
#[test]
fn quiet_streams_take_little_memory_and_leave_no_descriptor() {
    let directory = crate::harness::directory();
    let process = Process::start(&directory.path().join("test.db"), &["--workers", "1"]);
    let open = |count| (0..count).map(|_| Stream::open(process.address, "/person-events", &[])).collect::<Vec<_>>();
    drop(open(50));
    eventually("they are over", || Client::metric(process.address, "duality_open_streams") == 0.0);
    let sockets = || process.descriptors()["socket"];
    let (before, memory) = (sockets(), process.memory());
    let streams = open(500);
    let each = (process.memory() - memory) / 500;
    assert!(each < 7 * 1024, "{each} bytes for each; in the framework, they take 12 KiB");
    drop(streams);
    eventually("nothing is left", || sockets() <= before);
}

#[cfg(feature = "direct-write")]
#[test]
fn a_stream_with_many_requests_behind_it_is_cut() {
    let app = App::start();
    // The framework has some of them before the stream begins.
    let mut client = app.client();
    client.send_raw(stream_with_more(4000).as_bytes());
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
fn connections_that_send_nothing_or_half_a_request_keep_nobody_out() {
    let app = App::start();
    let clients: Vec<_> = (0..400).map(|_| app.client()).collect();
    for client in &clients[200..] {
        client.socket().write_all(&GET.as_bytes()[..GET.len() / 2]).unwrap();
    }
    assert_eq!(app.get("/persons").status, 200);
    // Each of them has five seconds for its head, so nobody had to wait until they were refused.
    for client in &clients {
        client.socket().set_nonblocking(true).unwrap();
        assert_eq!(client.socket().read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
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
