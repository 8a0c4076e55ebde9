//! What could not be done is refused, and the response says that nothing was done.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use duality::aggregates::{CartCommand, ShoppingCart};
use duality::{CommandError, Event, Projection, ProjectionError, Refusal, Report, Tables};
use serde_json::json;

use crate::harness::{App, Client, Lock, Response, eventually, lines};
use crate::own_projections::{fill, jars};

#[track_caller]
fn assert_refused(response: &Response, status: u16, slug: &str) {
    let problem = response.problem(status, slug);
    assert!(problem["detail"].as_str().unwrap().starts_with("nothing was done: "), "{problem}");
    assert!(response.header("Retry-After").unwrap().parse::<u32>().unwrap() > 0);
}

/// The test holds a lock in its own process, through a connection of its own, which is another one for SQLite.
#[test]
fn a_write_behind_the_lock_of_another_process_is_refused_and_reads_go_on() {
    let app = App::with(|settings| settings.poll_interval = Duration::from_millis(50));
    assert_eq!(app.post("/persons", r#"{"name":"Ann"}"#).status, 201);
    let lock = Lock::take(app.database());
    let mut waiting = Client::connect(app.address);
    let body = r#"{"name":"Bob"}"#.as_bytes();
    waiting.send("POST", "/persons", &[("Content-Type", "application/json")], Some(body));
    for path in ["/persons", "/persons/1", "/aggregates", "/healthz"] {
        assert_eq!(app.get(path).status, 200, "{path}");
    }
    waiting.socket().set_nonblocking(true).unwrap();
    assert!(waiting.socket().peek(&mut [0]).is_err(), "the write still waits");
    waiting.socket().set_nonblocking(false).unwrap();
    assert_refused(&waiting.response("POST"), 503, "locked");
    // Those who come later do not wait as long, and one after another.
    for _ in 0..10 {
        assert_refused(&app.post("/persons", r#"{"name":"Bob"}"#), 503, "locked");
    }
    let ready = app.get("/readyz").problem(503, "not-ready");
    assert_eq!(ready["reasons"][0]["part"], "writer", "{ready}");
    assert_eq!(app.get("/healthz").json()["status"], "degraded");
    drop(lock);
    eventually("the service is ready without a write", || app.get("/readyz").status == 200);
    let created = app.post("/persons", r#"{"name":"Cid"}"#);
    assert_eq!((created.status, created.header("Location"), created.revision()), (201, Some("/persons/2"), 2));
    assert_eq!(app.get("/persons").json(), json!({"1": {"name": "Ann"}, "2": {"name": "Cid"}}));
}

#[test]
fn a_typed_command_that_was_not_done_says_so() {
    let app = App::start();
    let lock = Lock::take(app.database());
    app.hook(|running| {
        Box::pin(async move {
            let refused = running.open::<ShoppingCart>(CartCommand::Open).await.unwrap_err();
            assert!(matches!(refused, CommandError::NotDone(Refusal::Locked)), "{refused}");
            assert_eq!(refused.to_string(), "nothing was done: another process has locked the database for writing");
        })
    });
    drop(lock);
}

#[test]
fn a_lock_is_logged_once_and_every_failure_is_counted() {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let process = crate::harness::Process::start(&database, &[]);
    let mut client = Client::connect(process.address);
    let lock = Lock::take(&database);
    let mut post =
        || client.request("POST", "/persons", &[("Content-Type", "application/json")], Some(b"{\"name\":\"x\"}"));
    for _ in 0..8 {
        assert_refused(&post(), 503, "locked");
    }
    drop(lock);
    eventually("a write succeeds", || post().status == 201);
    let lines = |text: &str| process.log().lines().filter(|line| line.contains(text)).count();
    assert_eq!(lines("another process has locked the database"), 1, "{}", process.log());
    eventually("the recovery is logged", || lines("works again after") == 1);
    let metrics = Client::connect(process.address).request("GET", "/metrics", &[], None);
    let failures =
        metrics.text().lines().find_map(|line| line.strip_prefix("duality_failures_total{part=\"writer\"} "));
    assert!(failures.unwrap().parse::<u64>().unwrap() >= 8, "{failures:?}");
}

/// A projection for which the database has no room when a jar is called `full`.
struct Greedy;

impl Projection for Greedy {
    const NAME: &'static str = "greedy";
    const VERSION: i64 = 1;
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "CREATE TABLE greed (jar TEXT NOT NULL, food BLOB NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let jar = event.key.as_str();
        let size = if jar == "full" { 1_000_000 } else { 1 };
        if jar == "full" {
            tables.batch_execute("PRAGMA max_page_count = 1")?;
        }
        Ok(tables.batch_execute(&format!("INSERT INTO greed VALUES ('{jar}', zeroblob({size}))"))?)
    }

    fn reports() -> Vec<Report> {
        Vec::new()
    }
}

/// SQLite rolls back the whole transaction then, while the service is in the middle of it.
#[test]
fn without_room_for_an_inline_projection_nothing_is_done() {
    let mut app = App::serving(|| jars().inline::<Greedy>(), |_| {});
    fill(&app, "a", 1);
    for _ in 0..3 {
        assert_refused(&app.write("PUT", "/jars/full", r#"{"marbles":1}"#), 507, "no-space");
    }
    fill(&app, "b", 1);
    assert_eq!(app.get("/jars").json().as_object().unwrap().keys().collect::<Vec<_>>(), ["a", "b"]);
    app.stop();
    for (table, column) in [("greed", "jar"), ("journal", "key"), ("outbox", "key"), ("aggregates", "key")] {
        let rows = lines(app.database(), &format!("SELECT {column} AS line FROM {table} ORDER BY {column}"));
        assert_eq!(rows, ["a", "b"], "{table}");
    }
}
