//! The processor time of a request, and its context switches, from /proc: the steadiest figures, since waiting does not
//! count. With `--against PATH`, the same requests to another build of the service are measured alternately, as the limit.

use std::path::Path;

use super::Setup;
use super::load::connection::Connection;
use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};

/// A few connections, so that a batch of the writer has a few commands.
const FEW: usize = 8;

/// Enough that the writer never waits for a command.
const MANY: usize = 64;

/// How much dearer than the other build a request may be.
const TOLERANCE: f64 = 1.05;

/// What is sent, again and again.
struct Kind {
    what: &'static str,
    connections: usize,
    measure: Measure,
    requests: Vec<Vec<u8>>,
    status: u16,
}

/// What is counted for a request, in all threads of the service.
#[derive(Clone, Copy)]
enum Measure {
    /// In microseconds.
    ProcessorTime,
    ContextSwitches,
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

    fn of_a_request(&self, setup: &Setup, kind: &Kind) -> f64 {
        let (address, time, requests) = (self.service.address, setup.time(), kind.requests.clone());
        let (connections, status) = (kind.connections, kind.status);
        let before = self.count(kind.measure);
        let load =
            thread(move || async move { workers::closed(address, connections, time, &requests, status).await.answers });
        let answers = load.join().unwrap();
        (self.count(kind.measure) - before) / answers as f64
    }

    fn count(&self, measure: Measure) -> f64 {
        match measure {
            Measure::ProcessorTime => self.service.exact_cpu() * 1_000_000.0,
            Measure::ContextSwitches => self.service.switches(),
        }
    }
}

pub fn of_requests(setup: &Setup) -> Vec<Line> {
    let time =
        |what, requests, status| Kind { what, connections: FEW, measure: Measure::ProcessorTime, requests, status };
    let post = || vec![requests::post(r#"{"name":"Ann"}"#)];
    let patch = ["Bob", "Ann"].map(|name| requests::patch("1", &format!(r#"{{"name":"{name}"}}"#)));
    let with_city = vec![requests::post(r#"{"name":"Ann","city":"Rome"}"#)];
    let kinds = [
        time("POST /persons", post(), 201),
        Kind { connections: MANY, ..time("POST /persons with a city", with_city, 201) },
        time("PATCH /persons/1", patch.into(), 200),
        time("GET /persons/1", vec![requests::get("/persons/1")], 200),
        time("GET /persons?key=1", vec![requests::get("/persons?key=1")], 200),
        Kind { connections: 1, measure: Measure::ContextSwitches, ..time("POST /persons", post(), 201) },
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
    let (measured, unit) = match kind.measure {
        Measure::ProcessorTime => ("processor time", "µs"),
        Measure::ContextSwitches => ("context switches", ""),
    };
    let (what, connections) = (kind.what, kind.connections);
    let plural = if connections == 1 { "" } else { "s" };
    Line {
        name: "cost".to_owned(),
        what: format!("{measured} of {what}, {connections} connection{plural}"),
        unit,
        figures,
        limit: (!limits.is_empty()).then(|| ("the other build".to_owned(), limits)),
        target: setup.against.is_some().then_some(Target::Times(TOLERANCE)),
    }
}
