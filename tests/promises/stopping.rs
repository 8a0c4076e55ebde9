//! Shutdown is quick and orderly, and loses nothing.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use duality::{Event, Parameters, Projection, ProjectionError, Report, ReportError, Tables};
use serde_json::Value;

use crate::harness::{App, Client, Process, Stream, eventually, sql};
use crate::own_projections::{fill, jars};

const SUBSCRIBERS: usize = 1000;

fn stops_with_a_thousand_subscribers(signal: &str) {
    let directory = crate::harness::directory();
    let database = directory.path().join("test.db");
    let mut process = Process::start(&database, &[]);
    let mut streams: Vec<_> = (0..SUBSCRIBERS).map(|_| Stream::open(process.address, "/person-events", &[])).collect();
    streams.iter_mut().for_each(|stream| stream.read_until(|text| text.contains("retry")));
    let written = Client::connect(process.address).request(
        "POST",
        "/persons",
        &[("Content-Type", "application/json")],
        Some(br#"{"name":"Ann"}"#),
    );
    assert_eq!(written.status, 201);
    for stream in &mut streams {
        assert_eq!(stream.next().revision(), 1);
    }
    let begin = Instant::now();
    process.signal(signal);
    let status = process.wait();
    let took = begin.elapsed();
    eprintln!("{signal}: stopped in {took:?}");
    assert!(status.success(), "{}", process.log());
    // It waits for no client. Whatever does takes as long as a heartbeat, which is 15 seconds, or longer.
    assert!(took < Duration::from_secs(14), "{took:?}");
    for stream in &mut streams {
        assert!(stream.try_next().is_none(), "the stream is cut: after a clean end some clients never reconnect");
    }
    let log = process.log();
    for line in ["stopping", "connections are closed", "stopped"] {
        assert!(log.contains(line), "{line:?} in {log}");
    }
    let wal = database.with_extension("db-wal");
    assert!(
        std::fs::metadata(wal).map_or(0, |wal| wal.len()) == 0,
        "the write-ahead log is empty, so one file has everything"
    );
}

#[test]
fn sigterm_stops_a_service_with_a_thousand_subscribers() {
    stops_with_a_thousand_subscribers("TERM");
}

#[test]
fn sigint_stops_a_service_with_a_thousand_subscribers() {
    stops_with_a_thousand_subscribers("INT");
}

#[test]
fn a_write_in_flight_is_answered() {
    let directory = crate::harness::directory();
    let mut process = Process::start(&directory.path().join("test.db"), &[]);
    let mut client = Client::connect(process.address);
    let body = br#"{"name":"Ann"}"#;
    let head = format!(
        "POST /persons HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send_raw(head.as_bytes());
    // Workers serve connections in turn: once these requests have been answered, the head above has been read.
    for _ in 0..20 {
        Client::connect(process.address).request("GET", "/persons", &[], None);
    }
    process.signal("TERM");
    client.send_raw(body);
    assert_eq!(client.response("POST").status, 201);
    assert!(process.wait().success());
}

#[test]
fn a_journal_stream_is_cut_in_the_middle_of_a_replay() {
    let mut app = App::start();
    app.stop();
    sql(
        app.database(),
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000)
         INSERT INTO journal (position, collection, key, version, kind, schema, body, time)
         SELECT i, 'accounts', 'a', i, 'AmountBooked', 1, '{\"text\":\"' || hex(zeroblob(200)) || '\"}', 0
         FROM n",
    );
    app.resume();
    let mut stream = app.follow("/journal", &[]);
    let reading = std::thread::spawn(move || std::iter::from_fn(|| stream.try_next()).count());
    let begin = Instant::now();
    app.stop();
    eprintln!("stopping took {:?}", begin.elapsed());
    assert!(reading.join().unwrap() < 200_000, "the stream was cut midway");
}

/// Its report waits for the test, with an open connection to the database.
struct Slow;

static GATE: Mutex<Option<Receiver<()>>> = Mutex::new(None);

impl Projection for Slow {
    const NAME: &'static str = "slow";
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "CREATE TABLE slow (jar TEXT NOT NULL)";

    type Sink = Tables;

    fn apply(_: &mut Tables, _: &Event<'_>) -> Result<(), ProjectionError> {
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "slow", parameters: &[], read: wait_for_gate }]
    }
}

fn wait_for_gate(_: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    let gate = GATE.lock().unwrap().take().unwrap();
    gate.recv().unwrap();
    Ok(Value::Null)
}

#[test]
fn a_database_stays_locked_until_the_last_read_of_a_stopped_service_has_ended() {
    let collections = || jars().inline::<Slow>();
    let mut app = App::serving(collections, |_| {});
    fill(&app, "a", 1);
    let (open, gate) = channel();
    *GATE.lock().unwrap() = Some(gate);
    let mut client = app.client();
    client.send("GET", "/reports/slow", &[], None);
    eventually("the report is being read", || GATE.lock().unwrap().is_none());
    app.stop();
    let refused = app.try_resume_serving(collections).unwrap_err();
    assert!(refused.contains("another process uses it"), "{refused}");
    let (code, said) = crate::harness::output_of(app.database(), &["migrate"]);
    assert!(code == 1 && said.contains("another process uses it"), "{said}");
    open.send(()).unwrap();
    eventually("the database is free", || app.try_resume_serving(collections).is_ok());
    assert_eq!(app.get("/jars").json().as_object().unwrap().len(), 1);
}
