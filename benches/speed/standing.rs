//! Standing costs: memory, idle processor time, and the time to start.

use std::io::Read as _;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::events::settle;
use super::load::connection::Connection;
use super::load::subscribers::Subscribers;
use super::load::{requests, thread};
use super::process::Process;
use super::report::{Line, Target};
use super::{Setup, sql};

/// Quiet streams.
#[derive(Clone, Copy)]
struct Crowd {
    count: usize,
    /// How many of them connect at the same time.
    at_once: usize,
}

/// The memory of a process for each of these quiet streams, in bytes, and the fraction of a core that they all take.
fn standing(process: &Process, Crowd { count, at_once }: Crowd, seconds: f64) -> (f64, f64) {
    let (address, before) = (process.address, process.memory());
    let (opened, open) = std::sync::mpsc::channel();
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    let load = thread(move || async move {
        let open = |_| spawn_local(Subscribers::open(address, "/person-events", count / at_once, 0));
        let mut subscribers = Vec::new();
        for opening in (0..at_once).map(open).collect::<Vec<_>>() {
            subscribers.push(opening.await.unwrap());
        }
        opened.send(()).unwrap();
        drop(finished.await);
        drop(subscribers);
    });
    open.recv().unwrap();
    settle(process);
    let memory = (process.memory() - before) / count as f64;
    let (begun, cpu) = (Instant::now(), process.cpu());
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let share = (process.cpu() - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    drop(done);
    load.join().unwrap();
    (memory, share)
}

pub fn sessions(setup: &Setup) -> Vec<Line> {
    // The limit of open files does not allow ten times as many, so the growth is that from the first size to the
    // second.
    let counts: &[usize] = if setup.scale == 1 { &[1000, 10_000] } else { &[10_000] };
    let mut lines: Vec<_> = counts.iter().flat_map(|count| quiet(setup, Crowd { count: *count, at_once: 1 })).collect();
    lines.extend(quiet(setup, Crowd { count: 10_000, at_once: 10_000 }));
    lines
}

fn quiet(setup: &Setup, crowd: Crowd) -> Vec<Line> {
    let (mut memory, mut bare, mut share) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setup.runs {
        let directory = Setup::directory();
        let service = setup.start(&setup.empty(&directory));
        let (of_each, of_a_core) = standing(&service, crowd, 8.0 * setup.seconds);
        memory.push(of_each);
        share.push(of_a_core);
        bare.push(standing(&Process::limit(&["stream"]), crowd, 0.0).0);
    }
    let Crowd { count, at_once } = crowd;
    let (arrival, most) = if at_once == 1 { ("one after the other", 3.5) } else { ("at once", 13.0) };
    vec![
        Line {
            name: "sessions".to_owned(),
            what: format!("memory of each of {count} quiet streams that come {arrival}"),
            unit: "B",
            figures: memory,
            limit: Some(("bare actix stream".to_owned(), bare)),
            // The memory for the first stream is divided among only a thousand here.
            target: (count >= 10_000).then_some(Target::AtMost(most * 1024.0)),
        },
        Line {
            name: "sessions".to_owned(),
            what: "percent of a core that they take".to_owned(),
            unit: "%",
            figures: share,
            limit: None,
            target: Some(Target::AtMost(1.0)),
        },
    ]
}

pub fn start(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    let persons = 1_000_000 * setup.scale;
    sql::fill(&database, persons, sql::Events::Pruned);
    let figures = (0..setup.runs).map(|_| {
        let begun = Instant::now();
        let service = setup.start(&database);
        let address = service.address;
        let first = thread(move || async move {
            let answer = Connection::open(address).await.exchange(&requests::get("/persons/1")).await;
            assert_eq!(answer.status, 200);
            begun.elapsed().as_secs_f64() * 1000.0
        });
        first.join().unwrap()
    });
    vec![Line {
        name: "start".to_owned(),
        what: format!("from start to the first answer, {persons} persons"),
        unit: "ms",
        figures: figures.collect(),
        limit: None,
        target: Some(Target::AtMost(50.0)),
    }]
}

pub fn idle(setup: &Setup) -> Vec<Line> {
    let figures = (0..setup.runs).map(|_| {
        let directory = Setup::directory();
        let database = setup.empty(&directory);
        if setup.scale > 1 {
            sql::fill(&database, 1_000_000, sql::Events::Pruned);
        }
        let service = setup.start(&database);
        settle(&service);
        service.resident()
    });
    vec![Line {
        name: "idle".to_owned(),
        what: "memory of an idle service, all that is resident".to_owned(),
        unit: "B",
        figures: figures.collect(),
        limit: None,
        target: Some(Target::AtMost(20.0 * 1024.0 * 1024.0)),
    }]
}

/// How fast a database file can be read at all, and how fast its rows are streamed.
pub fn disk(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    let persons = 1_000_000 * setup.scale;
    sql::fill(&database, persons, sql::Events::Pruned);
    let service = setup.start(&database);
    let (address, length) = (service.address, std::fs::metadata(&database).unwrap().len());
    let (figures, limits) = setup.measured(
        || {
            let load = thread(move || async move {
                let begun = Instant::now();
                let answer = Connection::open(address).await.exchange(&requests::get("/aggregates")).await;
                assert_eq!(answer.status, 200);
                length as f64 / begun.elapsed().as_secs_f64()
            });
            load.join().unwrap()
        },
        || {
            let (mut file, mut buffer) = (std::fs::File::open(&database).unwrap(), vec![0; 256 * 1024]);
            let begun = Instant::now();
            while file.read(&mut buffer).unwrap() > 0 {}
            length as f64 / begun.elapsed().as_secs_f64()
        },
    );
    vec![Line {
        name: "disk".to_owned(),
        what: format!("GET /aggregates, {persons} persons, bytes of the database file"),
        unit: "B/s",
        figures,
        limit: Some(("read(2) of the file".to_owned(), limits)),
        target: None,
    }]
}
