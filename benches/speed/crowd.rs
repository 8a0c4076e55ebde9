//! As many streams as the limit of open files allows: whether they stay exact while others write, and when they are again after
//! a restart of the service.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Setup;
use super::load::connection::Connection;
use super::load::crowd::Crowd;
use super::load::{events, requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};

/// The streams of which everything is kept and compared.
const WHOLE: usize = 8;

/// The open files that the service and the client need besides.
const OTHER_FILES: usize = 1500;

/// Longer than a run: what says that a quiet stream lives depends on when it began.
const FLAGS: [&str; 2] = ["--heartbeat", "10min"];

const ANN: &str = r#"{"name":"Ann"}"#;

/// What one run has come to.
struct Run {
    delivered: f64,
    posted: f64,
    rate: f64,
    back: f64,
}

/// How many streams a process may have.
fn most() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap();
    // The default of `--max-sessions` is 20,000.
    most.min(20_000) - OTHER_FILES
}

pub fn all(setup: &Setup) -> Vec<Line> {
    let count = most();
    // One is long enough.
    let runs = [run(setup, count)];
    let line = |what: String, unit, figure: fn(&Run) -> f64, target| Line {
        name: "crowd".to_owned(),
        what,
        unit,
        figures: runs.iter().map(figure).collect(),
        limit: None,
        target,
    };
    let within = "99 of 100 within";
    vec![
        line(
            format!("write → delivered, {count} subscribers, 1000 events/s, {within}"),
            "s",
            |run| run.delivered / 1000.0,
            None,
        ),
        line(format!("their POSTs, {within}"), "ms", |run| run.posted, None),
        line("their POSTs".to_owned(), "/s", |run| run.rate, Some(Target::AtLeast(990.0))),
        line(
            "from the end of the service to the last subscriber that is exact again".to_owned(),
            "s",
            |run| run.back / 1000.0,
            None,
        ),
    ]
}

fn run(setup: &Setup, count: usize) -> Run {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    let service = Process::service(&setup.binary, &database, &FLAGS);
    let (address, time) = (service.address, setup.time() * 30);
    let ((ask, asked), (answer, answered)) = (mpsc::channel(), mpsc::channel());
    let load = thread(move || async move {
        let crowd = Crowd::open(address, "/person-events", count, WHOLE, 0).await;
        let writing =
            thread(move || async move { workers::paced(address, 16, 1000, time, requests::post(ANN), 201).await });
        while !writing.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut done = writing.join().unwrap();
        crowd.all_have(done.written.iter().map(|(revision, _)| *revision).max().unwrap()).await;
        let delivered = events::delivery(&done.written, &crowd.arrivals()).percentile(99);
        crowd.assert_same();
        crowd.assert_exact(&state(address).await);
        ask.send(()).unwrap();
        let stopped: Instant = loop {
            match answered.try_recv() {
                Ok(stopped) => break stopped,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let last = Connection::open(address).await.exchange(&requests::post(ANN)).await.revision;
        crowd.all_have(last).await;
        let back = stopped.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(crowd.returns(), count, "each comes back once");
        crowd.assert_exact(&state(address).await);
        Run { delivered, posted: done.latencies.percentile(99), rate: done.rate(), back }
    });
    asked.recv().unwrap();
    let stopped = Instant::now();
    let _restarted = service.restart(&setup.binary, &database, &FLAGS);
    answer.send(stopped).unwrap();
    load.join().unwrap()
}

/// All persons.
async fn state(address: SocketAddr) -> Value {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /persons HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    serde_json::from_slice(&answer[head + 4..]).unwrap()
}
