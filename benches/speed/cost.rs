//! The processor time of a request, from /proc: the steadiest figure, since waiting does not count. With
//! `--against PATH`, the same requests to another build of the service are measured alternately, as the limit.

use std::path::Path;

use super::Setup;
use super::load::connection::Connection;
use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};

/// A few connections, so that a batch of the writer has a few commands.
const CONNECTIONS: usize = 8;

/// How much dearer than the other build a request may be.
const TOLERANCE: f64 = 1.05;

/// What is sent, again and again.
struct Kind {
    what: &'static str,
    requests: Vec<Vec<u8>>,
    status: u16,
}

/// A build of the service with a database that has one person.
struct Build {
    service: Process,
    _directory: tempfile::TempDir,
}

impl Build {
    fn start(binary: &Path) -> Self {
        let directory = Setup::directory();
        let service = Process::service(binary, &directory.path().join("cost.db"), &[]);
        let address = service.address;
        let create = requests::post(r#"{"name":"Ann","city":"Rome"}"#);
        let load = thread(move || async move { Connection::open(address).await.exchange(&create).await.status });
        assert_eq!(load.join().unwrap(), 201);
        Self { service, _directory: directory }
    }

    /// The processor time of a request in microseconds, in all threads of the service.
    fn of_a_request(&self, setup: &Setup, kind: &Kind) -> f64 {
        let (address, time, requests, status) =
            (self.service.address, setup.time(), kind.requests.clone(), kind.status);
        let before = self.service.exact_cpu();
        let load =
            thread(move || async move { workers::closed(address, CONNECTIONS, time, &requests, status).await.answers });
        let answers = load.join().unwrap();
        (self.service.exact_cpu() - before) * 1_000_000.0 / answers as f64
    }
}

pub fn of_requests(setup: &Setup) -> Vec<Line> {
    let kinds = [
        Kind { what: "POST /persons", requests: vec![requests::post(r#"{"name":"Ann"}"#)], status: 201 },
        Kind {
            what: "PATCH /persons/1",
            requests: ["Bob", "Ann"].map(|name| requests::patch("1", &format!(r#"{{"name":"{name}"}}"#))).into(),
            status: 200,
        },
        Kind { what: "GET /persons/1", requests: vec![requests::get("/persons/1")], status: 200 },
        Kind { what: "GET /persons?key=1", requests: vec![requests::get("/persons?key=1")], status: 200 },
    ];
    kinds.iter().map(|kind| line(setup, kind)).collect()
}

fn line(setup: &Setup, kind: &Kind) -> Line {
    let build = Build::start(&setup.binary);
    let other = setup.against.as_deref().map(Build::start);
    let (figures, limits): (Vec<f64>, Vec<Option<f64>>) = (0..setup.runs)
        .map(|_| (build.of_a_request(setup, kind), other.as_ref().map(|other| other.of_a_request(setup, kind))))
        .unzip();
    let limits: Vec<f64> = limits.into_iter().flatten().collect();
    Line {
        name: "cost".to_owned(),
        what: format!("processor time of {}, {CONNECTIONS} connections", kind.what),
        unit: "µs",
        figures,
        limit: (!limits.is_empty()).then(|| ("the other build".to_owned(), limits)),
        target: setup.against.is_some().then_some(Target::Times(TOLERANCE)),
    }
}
