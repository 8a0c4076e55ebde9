//! Writes, which are durable when they are answered.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};
use super::{Setup, sql};

const ANN: &str = r#"{"name":"Ann"}"#;
const ANN_IN_ROME: &str = r#"{"name":"Ann","city":"Rome"}"#;

/// The number of persons created a second.
pub fn posts(setup: &Setup, address: SocketAddr, connections: usize, body: &'static str) -> f64 {
    let time = setup.time();
    let load = thread(move || async move {
        workers::closed(address, connections, time, &[requests::post(body)], 201).await.rate()
    });
    load.join().unwrap()
}

fn against_all(setup: &Setup, name: &str, what: &str, connections: usize, body: &'static str) -> Vec<Line> {
    let directory = Setup::directory();
    let service = setup.start(&setup.empty(&directory));
    let handler = Process::limit(&["handler"]);
    let (figures, limits) = setup.measured(
        || posts(setup, service.address, connections, body),
        || posts(setup, handler.address, connections, body),
    );
    drop(service);
    let with_city = body == ANN_IN_ROME;
    let bare = |batch: usize| -> Vec<f64> {
        let directory = Setup::directory();
        let database = setup.empty(&directory);
        (0..setup.runs).map(|run| sql::writes(&database, batch, setup.seconds, body, with_city, run)).collect()
    };
    let line = |limit: &str, limits: Vec<f64>, target: Option<Target>| Line {
        name: name.to_owned(),
        what: what.to_owned(),
        unit: "/s",
        figures: figures.clone(),
        limit: Some((limit.to_owned(), limits)),
        target,
    };
    vec![
        line("actix handler that reads the body and answers", limits, Some(Target::Share(0.4))),
        line("bare SQL, 64 writes a transaction", bare(64), Some(Target::Share(0.6))),
        line("bare SQL, 256 writes a transaction", bare(256), None),
    ]
}

pub fn many(setup: &Setup) -> Vec<Line> {
    let connections = 64 * setup.scale;
    against_all(setup, "post-64", &format!("durable POST /persons, {connections} connections"), connections, ANN)
}

pub fn with_a_city(setup: &Setup) -> Vec<Line> {
    let connections = 64 * setup.scale;
    let what = format!("the same, each with a city to derive, {connections} connections");
    against_all(setup, "post-city", &what, connections, ANN_IN_ROME)
}

pub fn one(setup: &Setup) -> Vec<Line> {
    let (directory, bare) = (Setup::directory(), Setup::directory());
    let (database, bare) = (filled(setup, &directory), filled(setup, &bare));
    let service = setup.start(&database);
    let handler = Process::limit(&["handler"]);
    let (mut figures, mut transactions, mut in_turn) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..setup.runs {
        figures.push(posts(setup, service.address, 1, ANN));
        let transaction = sql::writes(&bare, 1, setup.seconds, ANN, false, run);
        transactions.push(transaction);
        // A write is a round trip and a transaction, and these cannot overlap.
        in_turn.push(1.0 / (1.0 / transaction + 1.0 / posts(setup, handler.address, 1, ANN)));
    }
    let line = |limit: &str, limits: Vec<f64>, target: Option<Target>| Line {
        name: "post-1".to_owned(),
        what: "durable POST /persons, 1 connection".to_owned(),
        unit: "/s",
        figures: figures.clone(),
        limit: Some((limit.to_owned(), limits)),
        target,
    };
    vec![
        line("bare SQL, a transaction each", transactions, Some(Target::Share(0.75))),
        line("an actix round trip, then that transaction", in_turn, None),
    ]
}

/// A database that grows in place of the number of connections.
fn filled(setup: &Setup, directory: &tempfile::TempDir) -> std::path::PathBuf {
    let database = setup.empty(directory);
    if setup.scale > 1 {
        sql::fill(&database, 100_000, sql::Events::Pruned);
    }
    database
}

pub fn mixed(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let service = setup.start(&setup.empty(&directory));
    let (address, connections, time) = (service.address, 16 * setup.scale, setup.time());
    let (figures, limits) = setup.measured(
        || {
            let load =
                thread(move || async move { workers::mixed(address, connections, time, ANN_IN_ROME).await.rate() });
            load.join().unwrap()
        },
        || posts(setup, address, connections, ANN_IN_ROME),
    );
    vec![Line {
        name: "mixed".to_owned(),
        what: format!("POST, PATCH, DELETE 50:40:10, {connections} connections"),
        unit: "/s",
        figures,
        limit: Some(("POST alone, here".to_owned(), limits)),
        target: Some(Target::Share(0.8)),
    }]
}

/// Writes a second beside a backup: a rate that leaves both processors half idle without one.
const BESIDE_A_BACKUP: u32 = 2_000;

pub fn beside_a_backup(setup: &Setup) -> Vec<Line> {
    let directory = Setup::directory();
    let database = setup.empty(&directory);
    sql::fill(&database, 100_000 * setup.scale, sql::Events::Pruned);
    let service = setup.start(&database);
    let (figures, limits) = setup.measured(
        || {
            let backup = Backup::start(setup, &database);
            let latency = paced_p99(setup, service.address);
            backup.stop();
            latency
        },
        || paced_p99(setup, service.address),
    );
    vec![Line {
        name: "backup".to_owned(),
        what: format!("p99 of {BESIDE_A_BACKUP} POST/s, 64 connections, beside duality backup of 100 k persons"),
        unit: "ms",
        figures,
        limit: Some(("the same without a backup".to_owned(), limits)),
        target: Some(Target::Times(2.0)),
    }]
}

fn paced_p99(setup: &Setup, address: SocketAddr) -> f64 {
    // Long enough for some backups and for a thousand latencies.
    let time = setup.time().max(Duration::from_secs(2));
    let load = thread(move || async move {
        workers::paced(address, 64, BESIDE_A_BACKUP, time, requests::post(ANN), 201).await.latencies.percentile(99)
    });
    load.join().unwrap()
}

/// Makes one backup after the other.
struct Backup {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Backup {
    fn start(setup: &Setup, database: &Path) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (over, binary, database) = (Arc::clone(&is_over), setup.binary.clone(), database.to_owned());
        let copy = database.with_extension("backup");
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let mut command = Command::new(&binary);
                command.arg("backup").arg(&copy).args(["--force", "--database"]).arg(&database);
                assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
            }
        });
        Self { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
