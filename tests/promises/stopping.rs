//! Shutdown is quick and orderly, and loses nothing.

use std::time::{Duration, Instant};

use crate::harness::{App, Client, Process, Stream, sql};

const SUBSCRIBERS: usize = 1000;

fn stops_with_a_thousand_subscribers(signal: &str) {
    let directory = tempfile::tempdir().unwrap();
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
    assert!(took < Duration::from_secs(5), "{took:?}");
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
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(&directory.path().join("test.db"), &[]);
    let mut client = Client::connect(process.address);
    let body = br#"{"name":"Ann"}"#;
    let head = format!(
        "POST /persons HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
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
         INSERT INTO journal SELECT i, 'accounts', 'a', i, 'AmountBooked', 1, '{\"text\":\"' || hex(zeroblob(200)) || '\"}', 0
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
