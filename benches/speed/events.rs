//! Delivery of events to subscribers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::load::connection::Connection;
use super::load::latency::Latencies;
use super::load::subscribers::Subscribers;
use super::load::{events, requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};
use super::{Setup, limits, sql};

const FEED: &str = "/person-events";
const ANN: &str = r#"{"name":"Ann"}"#;

/// The last revision of a service.
async fn revision(address: SocketAddr) -> i64 {
    Connection::open(address).await.exchange(&requests::get("/persons?key=1")).await.revision
}

/// The time from a write to its delivery at all subscribers, 50 times a second.
fn delivered(setup: &Setup, address: SocketAddr, count: usize) -> Latencies {
    let time = setup.time();
    let load = thread(move || async move {
        let subscribers = Subscribers::open(address, FEED, count, revision(address).await).await;
        subscribers.watch();
        let done = workers::paced(address, 1, 50, time, requests::post(ANN), 201).await;
        subscribers.all_have(done.written.iter().map(|(revision, _)| *revision).max().unwrap()).await;
        events::delivery(&done.written, &subscribers.take())
    });
    load.join().unwrap()
}

/// The same for a bare loop that writes a prepared event to each socket when triggered.
fn delivered_bare(setup: &Setup, address: SocketAddr, count: usize) -> Latencies {
    let time = setup.time();
    let load = thread(move || async move {
        let subscribers = Subscribers::open(address, FEED, count, 0).await;
        subscribers.watch();
        let mut control = TcpStream::connect(address).await.unwrap();
        control.set_nodelay(true).unwrap();
        let (mut sent, begun) = (Vec::new(), Instant::now());
        for number in 1.. {
            let due = begun + Duration::from_millis(20) * u32::try_from(number).unwrap();
            if due - begun > time {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            control.write_all(b"T").await.unwrap();
            control.read_exact(&mut [0; 1]).await.unwrap();
            sent.push((number, due));
        }
        subscribers.all_have(i64::try_from(sent.len()).unwrap()).await;
        events::delivery(&sent, &subscribers.take())
    });
    load.join().unwrap()
}

pub fn latency(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let service = setup.start(&setup.empty(&directory));
    let count = 1000 * setup.scale;
    let (mut half, mut most) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..setup.runs {
        let mut figure = delivered(setup, service.address, count);
        // A limit process never drops a socket from its list, so every run needs a new one.
        let bare = Process::limit(&["sockets"]);
        let mut limit = delivered_bare(setup, bare.address, count);
        half.0.push(figure.percentile(50));
        half.1.push(limit.percentile(50));
        most.0.push(figure.percentile(99));
        most.1.push(limit.percentile(99));
    }
    let line = |what: &str, (figures, limits): (Vec<f64>, Vec<f64>)| Line {
        name: "deliver".to_owned(),
        what: format!("write → delivered, {count} subscribers, 50 events/s, {what}"),
        unit: "ms",
        figures,
        limit: Some(("bare loop over the sockets".to_owned(), limits)),
        target: Some(Target::Times(1.3)),
    };
    vec![line("half within", half), line("99 of 100 within", most)]
}

/// The results of one fan-out run.
struct Run {
    deliveries: f64,
    p99: f64,
    posts: f64,
}

fn fanned_out(setup: &Setup, address: SocketAddr, count: usize) -> Run {
    let time = setup.time();
    let load = thread(move || async move {
        let subscribers = Subscribers::open(address, FEED, count, revision(address).await).await;
        subscribers.watch();
        let writing =
            thread(move || async move { workers::closed(address, 16, time, &[requests::post(ANN)], 201).await });
        let (begun, before) = (Instant::now(), subscribers.events.get());
        while !writing.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let deliveries = (subscribers.events.get() - before) as f64 / begun.elapsed().as_secs_f64();
        let done = writing.join().unwrap();
        subscribers.all_have(done.written.iter().map(|(revision, _)| *revision).max().unwrap()).await;
        let p99 = events::delivery(&done.written, &subscribers.take()).percentile(99);
        Run { deliveries, p99, posts: done.rate() }
    });
    load.join().unwrap()
}

fn flooded(setup: &Setup, count: usize) -> f64 {
    let bare = Process::limit(&["sockets"]);
    let (address, time) = (bare.address, setup.time());
    let load = thread(move || async move {
        let subscribers = Subscribers::open(address, FEED, count, 0).await;
        let mut control = TcpStream::connect(address).await.unwrap();
        control.write_all(b"F").await.unwrap();
        tokio::time::sleep(time / 4).await;
        let (begun, before) = (Instant::now(), subscribers.events.get());
        tokio::time::sleep(time).await;
        (subscribers.events.get() - before) as f64 / begun.elapsed().as_secs_f64()
    });
    load.join().unwrap()
}

pub fn throughput(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let service = setup.start(&setup.empty(&directory));
    let (address, count, time) = (service.address, 1000 * setup.scale, setup.time());
    let (mut deliveries, mut flood, mut p99, mut posts, mut alone) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..setup.runs {
        let run = fanned_out(setup, address, count);
        deliveries.push(run.deliveries);
        p99.push(run.p99);
        posts.push(run.posts);
        let load = thread(move || async move { workers::closed(address, 16, time, &[requests::post(ANN)], 201).await });
        alone.push(load.join().unwrap().rate());
        flood.push(flooded(setup, count));
    }
    let line = |what: String, unit, figures, limit: Option<(String, Vec<f64>)>, target| Line {
        name: "fan-out".to_owned(),
        what,
        unit,
        figures,
        limit,
        target: Some(target),
    };
    let bare = format!("bare loop, {} events a socket write", limits::FLOOD);
    vec![
        line(
            format!("delivered, {count} subscribers, 16 writers"),
            "/s",
            deliveries,
            Some((bare, flood)),
            Target::AtLeast(5e6),
        ),
        line("99 of 100 of those within".to_owned(), "ms", p99, None, Target::AtMost(60.0)),
        line(
            "their POSTs".to_owned(),
            "/s",
            posts,
            Some(("without subscribers".to_owned(), alone)),
            Target::Share(0.5),
        ),
    ]
}

/// The events a second that a subscriber receives when it starts from the beginning.
pub fn replayed(address: SocketAddr, last: i64) -> f64 {
    let load = thread(move || async move {
        let begun = Instant::now();
        Subscribers::open(address, FEED, 1, 0).await.all_have(last).await;
        last as f64 / begun.elapsed().as_secs_f64()
    });
    load.join().unwrap()
}

pub fn catch_up(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    let events = 100_000 * setup.scale;
    sql::fill(&database, events, sql::Events::Kept);
    let last = i64::try_from(events).unwrap();
    // Wait until its projections are up to date.
    settle(&setup.start(&database));
    let (mut later, mut taken) = (Vec::new(), Vec::new());
    let (first, limits) = setup.measured(
        || {
            let service = setup.start(&database);
            settle(&service);
            let before = service.memory();
            let first = replayed(service.address, last);
            later.push(replayed(service.address, last));
            taken.push((service.memory() - before).max(0.0));
            first
        },
        || sql::scan_outbox(&database),
    );
    let line = |what: String, figures, limits| Line {
        name: "catch-up".to_owned(),
        what,
        unit: "/s",
        figures,
        limit: Some(("bare scan of the outbox".to_owned(), limits)),
        target: Some(Target::AtLeast(4e6)),
    };
    vec![
        line(format!("{events} events to the first subscriber of a new process"), first, limits.clone()),
        line("the same to those after it".to_owned(), later, limits),
        Line {
            name: "catch-up".to_owned(),
            what: "memory that both take, most of it for those to come".to_owned(),
            unit: "B",
            figures: taken,
            limit: None,
            target: None,
        },
    ]
}

/// Waits until the projections of a service are up to date, so that it is idle.
pub fn settle(service: &Process) {
    loop {
        let before = service.cpu();
        std::thread::sleep(Duration::from_millis(300));
        if service.cpu() - before < 0.02 {
            return;
        }
    }
}
