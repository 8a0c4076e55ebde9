//! A request body has a deadline, and counts against a limit of memory from its first byte until its command is answered.

use std::io::Write as _;
use std::time::Duration;

use duality::ByteSize;

use crate::harness::{App, Client, Response, eventually};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The memory of all bodies and commands in these tests, in bytes.
const MEMORY: usize = 2 * 1024 * 1024;

fn app() -> App {
    App::with(|settings| settings.command_memory = Some(ByteSize(MEMORY as u64)))
}

/// The first half of a body with this length.
fn send_half(client: &mut Client, length: usize) {
    let mut request = format!(
        "POST /persons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    request.push_str(r#"{"name":""#);
    request.push_str(&"x".repeat(length / 2));
    // A refused one may be closed meanwhile.
    let _ = client.socket().write_all(request.as_bytes());
}

fn person(length: usize) -> String {
    format!(r#"{{"name":"{}"}}"#, "x".repeat(length))
}

#[track_caller]
fn assert_busy(response: &Response) {
    let problem = response.problem(503, "busy");
    assert!(problem["detail"].as_str().unwrap().starts_with("nothing was done: "), "{problem}");
    assert!(response.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
}

#[test]
fn a_body_that_stops_is_given_up_and_its_memory_is_free_again() {
    let app = App::with(|settings| settings.body_timeout = Duration::from_millis(500));
    let mut clients: Vec<_> = (0..10).map(|_| app.client()).collect();
    clients.iter_mut().for_each(|client| send_half(client, 2 * 10_000));
    eventually("the halves count", || {
        app.memory("commands") >= 10 * 10_000 || clients[0].socket().peek(&mut [0]).is_ok()
    });
    for client in &mut clients {
        client.response("POST").problem(408, "too-slow");
        assert_eq!(client.try_response("POST").unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof, "it is closed");
    }
    eventually("nothing counts", || app.memory("commands") == 0);
    assert_eq!(app.get("/persons").json(), serde_json::json!({}));
}

#[test]
fn one_address_cannot_take_the_memory_of_all() {
    let app = app();
    let mut first = Client::connect_from(2, app.address);
    send_half(&mut first, 512 * 1024);
    eventually("the half counts", || app.memory("commands") >= 256 * 1024);
    let mut strangers: Vec<_> = (0..20).map(|_| Client::connect_from(2, app.address)).collect();
    strangers.iter_mut().for_each(|stranger| send_half(stranger, 512 * 1024));
    let is_refused = |stranger: &mut Client| {
        stranger.socket().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let response = stranger.try_response("POST");
        assert!(app.memory("commands") <= MEMORY / 2);
        response.inspect(assert_busy).is_ok()
    };
    eventually("one is refused, as so much does not fit", || strangers.iter_mut().any(is_refused));
    assert!(!is_refused(&mut first), "what it has begun goes on");
    assert_eq!(app.post("/persons", &person(100_000)).status, 201, "another address has its own share");
    drop((first, strangers));
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[test]
fn a_refused_client_gets_its_answer_and_may_try_again() {
    let app = app();
    let mut holder = app.client();
    let half = MEMORY / 10;
    send_half(&mut holder, 2 * half);
    eventually("the half counts", || app.memory("commands") >= half);
    let mut client = app.client();
    let _ = client.try_send("POST", "/persons", &[JSON], Some(person(3 * half).as_bytes()));
    assert_busy(&client.response("POST"));
    drop(holder);
    eventually("nothing counts", || app.memory("commands") == 0);
    // It is refused again if what was sent before is still looked at.
    eventually("it is done", || {
        let again = app.post("/persons", &person(MEMORY / 8));
        if again.status != 201 {
            assert_busy(&again);
        }
        again.status == 201
    });
}

#[test]
fn commands_count_until_they_are_answered() {
    let app = app();
    let lock = crate::harness::Lock::take(app.database());
    let mut clients: Vec<_> = (0..20).map(|_| app.client()).collect();
    let body = person(100_000);
    for client in &mut clients {
        let _ = client.try_send("POST", "/persons", &[JSON], Some(body.as_bytes()));
    }
    // Each takes at least its state.
    eventually("the waiting commands count", || app.memory("commands") >= 100_000);
    assert!(app.memory("commands") <= MEMORY / 2);
    drop(lock);
    let statuses: Vec<_> = clients.iter_mut().map(|client| client.response("POST").status).collect();
    assert!(statuses.iter().all(|status| [201, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&503), "twenty do not fit: {statuses:?}");
    eventually("nothing counts", || app.memory("commands") == 0);
}

#[test]
fn a_body_whose_values_never_fit_is_too_large() {
    let app = app();
    let values = format!(r#"{{"name":[{}1]}}"#, "1,".repeat(50_000));
    let problem = app.post("/persons", &values).problem(413, "too-large");
    assert!(problem["detail"].as_str().unwrap().contains("too many values"), "{problem}");
    assert_eq!(app.memory("commands"), 0);
    assert_eq!(app.post("/persons", &person(100_000)).status, 201, "a text of that length fits");
}

/// More than one transaction may take.
#[test]
fn many_large_commands_are_all_executed() {
    let app = App::start();
    let mut clients: Vec<_> = (0..8).map(|_| app.client()).collect();
    let body = person(900_000);
    clients.iter_mut().for_each(|client| client.send("POST", "/persons", &[JSON], Some(body.as_bytes())));
    for client in &mut clients {
        assert_eq!(client.response("POST").status, 201);
    }
    assert_eq!(app.get("/persons").json().as_object().unwrap().len(), 8);
}
