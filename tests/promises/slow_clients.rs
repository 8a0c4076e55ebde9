//! Nobody waits for a slow client, and it loses nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Process, Stream};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
const LIVE: usize = 100;
const STALLED: usize = 10;
/// Together more than the kernel and the service buffer for one client.
const EVENTS: usize = 400;
const NAME_BYTES: usize = 4 * 1024;

/// Writes events, each of which all live subscribers read; gives the longest time from an answer to its last delivery.
fn publish(process: &Process, live: &mut [Stream]) -> Duration {
    let body = json!({"name": "x".repeat(NAME_BYTES)}).to_string();
    let mut client = Client::connect(process.address);
    let mut longest = Duration::ZERO;
    for _ in 0..EVENTS {
        let revision = client.request("POST", "/persons", &JSON, Some(body.as_bytes())).revision();
        let answered = Instant::now();
        for stream in &mut *live {
            assert_eq!(stream.next().revision(), revision);
        }
        longest = longest.max(answered.elapsed());
    }
    longest
}

#[test]
fn a_stalled_subscriber_delays_nobody_costs_little_and_gets_everything_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(&directory.path().join("test.db"), &[]);
    let follow = || {
        let mut stream = Stream::open(process.address, "/person-events", &[]);
        stream.read_until(|text| text.contains("retry"));
        stream
    };
    let mut live: Vec<_> = (0..LIVE).map(|_| follow()).collect();
    // Before, so that what the caches take is not counted.
    publish(&process, &mut live);
    let before = process.memory();
    publish(&process, &mut live);
    let growth_without = process.memory() - before;

    let mut stalled: Vec<_> = (0..STALLED)
        .map(|_| {
            let cursor = Client::connect(process.address).request("GET", "/persons/1", &[], None).cursor();
            Stream::open(process.address, "/person-events", &[("Last-Event-ID", &cursor)])
        })
        .collect();
    let before = process.memory();
    let longest = publish(&process, &mut live);
    let growth_with = process.memory() - before;
    let each = (growth_with - growth_without) / i64::try_from(STALLED).unwrap();
    eprintln!("a stalled subscriber costs {each} bytes; the live ones were served after {longest:?} at most");
    assert!(each < 1024 * 1024, "a stalled subscriber costs {each} bytes");
    // The promise is 100 ms, which the benchmarks show; a busy machine must not fail the test.
    assert!(longest < Duration::from_secs(5), "{longest:?}");

    let first = 2 * i64::try_from(EVENTS).unwrap() + 1;
    for stream in &mut stalled {
        for revision in first..first + i64::try_from(EVENTS).unwrap() {
            assert_eq!(stream.next().revision(), revision);
        }
    }
}
