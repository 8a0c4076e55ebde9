//! Reading whole collections.

use std::net::SocketAddr;
use std::time::Duration;

use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};
use super::{Setup, sql};

const CONNECTIONS: usize = 16;

/// Responses a second.
fn gets(setup: &Setup, address: SocketAddr) -> workers::Done {
    let time = setup.time();
    let load =
        thread(
            move || async move { workers::closed(address, CONNECTIONS, time, &[requests::get("/persons")], 200).await },
        );
    load.join().unwrap()
}

/// A service with this many persons, a limit that serves a body of the same length, and the directory of the database.
fn with_persons(setup: &Setup, persons: usize) -> (Process, Process, tempfile::TempDir) {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    sql::fill(&database, persons, sql::Events::Pruned);
    let service = setup.start(&database);
    let address = service.address;
    let first = thread(move || async move {
        workers::closed(address, 1, Duration::from_millis(1), &[requests::get("/persons")], 200).await
    });
    let length = first.join().unwrap().length;
    let shared = Process::limit(&["body", &length.to_string()]);
    (service, shared, directory)
}

fn unchanged(setup: &Setup, name: &str, persons: usize) -> Vec<Line> {
    let (service, shared, _directory) = with_persons(setup, persons);
    let (figures, limits) =
        setup.measured(|| gets(setup, service.address).rate(), || gets(setup, shared.address).rate());
    vec![Line {
        name: name.to_owned(),
        what: format!("GET /persons, {persons} persons, unchanged, {CONNECTIONS} connections"),
        unit: "/s",
        figures,
        limit: Some(("one shared body".to_owned(), limits)),
        target: Some(Target::Share(0.8)),
    }]
}

pub fn thousand(setup: &Setup) -> Vec<Line> {
    unchanged(setup, "get-1k", 1000 * setup.scale)
}

pub fn hundred_thousand(setup: &Setup) -> Vec<Line> {
    unchanged(setup, "get-100k", 100_000 * setup.scale)
}

/// Concurrent writes a second.
const WRITES: u32 = 1000;

/// The 99th percentile of the latency of writes in milliseconds: changes of existing persons.
fn writes(setup: &Setup, address: SocketAddr) -> std::thread::JoinHandle<f64> {
    let time = setup.time();
    thread(move || async move {
        let post = requests::post(r#"{"name":"Ann"}"#);
        workers::paced(address, CONNECTIONS, WRITES, time, post, 201).await.latencies.percentile(99)
    })
}

pub fn while_it_moves(setup: &Setup) -> Vec<Line> {
    let persons = 100_000 * setup.scale;
    let (service, shared, _directory) = with_persons(setup, persons);
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    let (figures, limits) = setup.measured(
        || {
            alone.push(writes(setup, service.address).join().unwrap());
            let writing = writes(setup, service.address);
            let rate = gets(setup, service.address).rate();
            beside.push(writing.join().unwrap());
            rate
        },
        || gets(setup, shared.address).rate(),
    );
    vec![
        Line {
            name: "get-moving".to_owned(),
            what: format!("GET /persons, {persons} persons, {WRITES} writes a second meanwhile"),
            unit: "/s",
            figures,
            limit: Some(("one shared body".to_owned(), limits)),
            target: Some(Target::Share(0.2)),
        },
        Line {
            name: "get-moving".to_owned(),
            what: "those writes, 99 of 100 within".to_owned(),
            unit: "ms",
            figures: beside,
            limit: Some(("the same writes without readers".to_owned(), alone)),
            target: Some(Target::Times(2.0)),
        },
    ]
}
