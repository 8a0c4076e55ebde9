//! The record on a `PostgreSQL` server. Without `PostgreSQL`, nothing is measured here.

mod bare;
mod distance;
mod postgres;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use distance::Distance;
use postgres::Postgres;

use super::events::{replayed, settle};
use super::load::{requests, thread, workers};
use super::process::{self, Process};
use super::report::{Line, Target};
use super::{Setup, writes};

const ANN: &str = r#"{"name":"Ann"}"#;

/// The connections of the load, and the writes of a bare statement.
const MANY: usize = 64;

/// Events that the first subscriber of a service gets.
const EVENTS: usize = 100_000;

/// The events of a page of the bare scan.
const PAGE: i64 = 1000;

/// What is measured with.
struct Machine<'a> {
    setup: &'a Setup,
    /// The release binary that can use a server.
    binary: PathBuf,
    postgres: Postgres,
    distance: Distance,
}

/// Where the server is.
#[derive(Clone, Copy)]
enum Place {
    Here,
    /// 1.5 ms away in each direction.
    Away,
}

/// A service with a database on the server.
struct Service {
    process: Process,
    _files: tempfile::TempDir,
}

pub fn all(setup: &Setup) -> Vec<Line> {
    let Some(postgres) = Postgres::start() else { return Vec::new() };
    let distance = Distance::to(postgres.socket());
    let machine = Machine { setup, binary: binary(setup), postgres, distance };
    let mut lines = Vec::new();
    for place in [Place::Here, Place::Away] {
        lines.push(machine.writes(place, MANY));
        lines.push(machine.writes(place, 1));
    }
    lines.push(machine.round_trips());
    lines.extend(machine.processor_time());
    lines.push(machine.catch_up());
    lines.push(machine.two_services());
    lines
}

/// The release binary with the feature, beside the one without.
fn binary(setup: &Setup) -> PathBuf {
    let built = process::release_binary_with(&["--features", "postgres-bundled"]);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("duality-postgres");
    std::fs::copy(built, &kept).unwrap();
    assert_eq!(process::release_binary(), setup.binary);
    kept
}

impl Machine<'_> {
    fn url(&self, place: Place, database: &str) -> String {
        match place {
            Place::Here => self.postgres.near(database),
            Place::Away => self.distance.url(database),
        }
    }

    fn start(&self, place: Place, database: &str) -> Service {
        let files = Setup::directory();
        let prefix = files.path().join("speed");
        let flags = ["--files", prefix.to_str().unwrap()];
        let process = Process::service(&self.binary, Path::new(&self.url(place, database)), &flags);
        Service { process, _files: files }
    }

    /// A database with the empty tables of the service.
    fn empty(&self) -> String {
        let database = self.postgres.create();
        drop(self.start(Place::Here, &database));
        database
    }

    fn line(&self, what: String, unit: &'static str, figures: Vec<f64>) -> Line {
        Line { name: "server".to_owned(), what, unit, figures, limit: None, target: None }
    }

    /// Writes of many connections or of one, compared with a client that writes as many at once by the least statement.
    fn writes(&self, place: Place, connections: usize) -> Line {
        let (database, bare) = (self.empty(), self.empty());
        let service = self.start(place, &database);
        let mut connection = bare::connect(&self.url(place, &bare));
        let seconds = self.setup.seconds;
        let mut run = 0;
        let (figures, limits) = self.setup.measured(
            || writes::posts(self.setup, service.process.address, connections, ANN),
            || {
                run += 1;
                bare::writes(&mut connection, connections, seconds, ANN, run)
            },
        );
        let least = match (place, connections) {
            (Place::Here, MANY) => 0.4,
            _ => 0.6,
        };
        Line {
            limit: Some((format!("bare statement, {connections} at once"), limits)),
            target: Some(Target::Share(least)),
            ..self.line(format!("durable POST /persons, {}, {}", counted(connections), name(place)), "/s", figures)
        }
    }

    /// How often the writer waits for the server in a write of one connection, with everything that it does beside writes.
    fn round_trips(&self) -> Line {
        let database = self.empty();
        let service = self.start(Place::Away, &database);
        let (address, time) = (service.process.address, self.setup.time());
        let figures = (0..self.setup.runs).map(|_| {
            let before = self.distance.round_trips();
            let load =
                thread(move || async move { workers::closed(address, 1, time, &[requests::post(ANN)], 201).await });
            let writes = load.join().unwrap().answers;
            (self.distance.round_trips() - before) as f64 / writes as f64
        });
        let line = self.line("round trips of a POST, 1 connection".to_owned(), "", figures.collect());
        Line { target: Some(Target::AtMost(2.0)), ..line }
    }

    /// The processor time of the service alone, compared with that of a service with a file, which does the work of the
    /// database as well.
    fn processor_time(&self) -> Vec<Line> {
        let directory = Setup::directory();
        let (database, file) = (self.empty(), self.setup.empty(&directory));
        let (here, with_file) = (self.start(Place::Here, &database), self.setup.start(&file));
        let kinds = [
            ("POST /persons", vec![requests::post(ANN)], 201),
            (
                "PATCH /persons/1",
                ["Bob", "Ann"].map(|name| requests::patch("1", &format!(r#"{{"name":"{name}"}}"#))).into(),
                200,
            ),
            ("GET /persons/1", vec![requests::get("/persons/1")], 200),
        ];
        let of_one = |process: &Process, requests: &[Vec<u8>], status: u16| {
            let (address, time, requests, before) =
                (process.address, self.setup.time(), requests.to_vec(), process.exact_cpu());
            let load =
                thread(move || async move { workers::closed(address, MANY, time, &requests, status).await.answers });
            let answers = load.join().unwrap();
            (process.exact_cpu() - before) * 1_000_000.0 / answers as f64
        };
        let kinds = kinds.iter().map(|(what, requests, status)| {
            let (figures, limits) = self
                .setup
                .measured(|| of_one(&here.process, requests, *status), || of_one(&with_file, requests, *status));
            Line {
                limit: Some(("with a file".to_owned(), limits)),
                target: what.starts_with("P").then_some(Target::Times(1.2)),
                ..self.line(format!("processor time of {what}, {MANY} connections"), "µs", figures)
            }
        });
        kinds.collect()
    }

    fn catch_up(&self) -> Line {
        let database = self.empty();
        let mut connection = bare::connect(&self.url(Place::Here, &database));
        bare::fill(&mut connection, EVENTS);
        let last = i64::try_from(EVENTS).unwrap();
        let (figures, limits) = self.setup.measured(
            || {
                let service = self.start(Place::Here, &database);
                settle(&service.process);
                replayed(service.process.address, last)
            },
            || bare::scan_outbox(&mut connection, PAGE),
        );
        Line {
            limit: Some((format!("bare scan by pages of {PAGE}"), limits)),
            target: Some(Target::Share(0.5)),
            ..self.line(format!("{EVENTS} events to the first subscriber of a new process"), "/s", figures)
        }
    }

    /// Two services that write to one database, each with half of the connections, compared with one of them.
    fn two_services(&self) -> Line {
        let database = self.empty();
        let services = [(); 2].map(|()| self.start(Place::Here, &database));
        let [first, second] = services.each_ref().map(|service| service.process.address);
        let posts = |address: SocketAddr, connections: usize| writes::posts(self.setup, address, connections, ANN);
        let (figures, limits) = self.setup.measured(
            || {
                std::thread::scope(|scope| {
                    let half = scope.spawn(|| posts(first, MANY / 2));
                    posts(second, MANY / 2) + half.join().unwrap()
                })
            },
            || posts(first, MANY),
        );
        Line {
            limit: Some((format!("one of them, {MANY} connections"), limits)),
            ..self.line(format!("durable POST /persons at two services, {} connections each", MANY / 2), "/s", figures)
        }
    }
}

fn counted(connections: usize) -> String {
    if connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") }
}

fn name(place: Place) -> &'static str {
    match place {
        Place::Here => "PostgreSQL here",
        Place::Away => "PostgreSQL 3 ms away",
    }
}
