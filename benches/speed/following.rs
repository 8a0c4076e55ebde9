//! What streams that follow something cost a writer, in processor time of the service: it depends less on the machine
//! than a rate does, and the clients do not count.

use std::net::SocketAddr;
use std::time::Duration;

use super::Setup;
use super::load::connection::Connection;
use super::load::subscribers::Subscribers;
use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};

/// Connections that write.
const WRITERS: usize = 8;

/// Persons that are written.
const PERSONS: usize = 100;

/// A key that no person gets.
const NOBODY: usize = 1_000_000;

/// A service with some persons, and streams that it serves until this is dropped.
struct Followed {
    service: Process,
    _streams: Option<tokio::sync::oneshot::Sender<()>>,
    _directory: tempfile::TempDir,
}

impl Followed {
    /// With a stream of each of these paths.
    fn by(setup: &Setup, paths: Vec<String>) -> Self {
        let directory = Setup::directory();
        let service = setup.start(&setup.empty(&directory));
        let address = service.address;
        let (opened, open) = std::sync::mpsc::channel();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        thread(move || async move {
            let mut connection = Connection::open(address).await;
            for _ in 0..PERSONS {
                connection.exchange(&requests::post(r#"{"name":"Ann"}"#)).await;
            }
            let mut streams = Vec::new();
            for path in paths {
                let after = if path.starts_with("/journal") { -1 } else { i64::try_from(PERSONS).unwrap() };
                streams.push(Subscribers::open(address, &path, 1, after).await);
            }
            opened.send(()).unwrap();
            drop(finished.await);
        });
        open.recv().unwrap();
        Self { service, _streams: Some(done), _directory: directory }
    }

    /// The processor time of a write, in microseconds.
    fn of_a_write(&self, setup: &Setup) -> f64 {
        let (address, time, cpu) = (self.service.address, setup.time(), self.service.cpu());
        let load = thread(move || async move {
            let write = |person: usize| requests::patch(&person.to_string(), &format!(r#"{{"name":"Ann {person}"}}"#));
            let again = |person: usize| requests::patch(&person.to_string(), r#"{"name":"Bob"}"#);
            let all: Vec<_> = (1..=PERSONS).map(write).chain((1..=PERSONS).map(again)).collect();
            workers::closed(address, WRITERS, time, &all, 200).await.answers
        });
        let writes = load.join().unwrap();
        (self.service.cpu() - cpu) / writes as f64 * 1_000_000.0
    }

    /// The part of a core that it takes in percent, at 40 commands a second.
    fn at_forty_commands(&self, setup: &Setup) -> f64 {
        let (address, time, cpu) = (self.service.address, setup.time() * 4, self.service.cpu());
        let load = thread(move || paced(address, time));
        let seconds = load.join().unwrap();
        (self.service.cpu() - cpu) / seconds * 100.0
    }
}

async fn paced(address: SocketAddr, time: Duration) -> f64 {
    let open = b"POST /accounts HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    workers::paced(address, 1, 40, time, open, 201).await.seconds
}

/// A thousand streams of keys that never change.
pub fn filtered(setup: &Setup) -> Vec<Line> {
    let streams = 1000 * setup.scale;
    [1, 100, 1000].into_iter().map(|keys| of_keys(setup, streams, keys)).collect()
}

fn of_keys(setup: &Setup, streams: usize, keys: usize) -> Line {
    let path = |stream: usize| {
        let first = NOBODY + stream * keys;
        let keys: Vec<_> = (first..first + keys).map(|key| format!("key={key}")).collect();
        format!("/person-events?{}", keys.join("&"))
    };
    let (alone, followed) = (Followed::by(setup, vec![]), Followed::by(setup, (0..streams).map(path).collect()));
    let (figures, limits) = setup.measured(|| followed.of_a_write(setup), || alone.of_a_write(setup));
    Line {
        name: "filtered".to_owned(),
        what: format!("processor time of a write beside {streams} streams of {keys} keys that never change"),
        unit: "µs",
        figures,
        limit: Some(("without streams".to_owned(), limits)),
        target: Some(Target::Times(1.1)),
    }
}

/// A thousand streams of the journal.
pub fn journal(setup: &Setup) -> Vec<Line> {
    let streams = 1000 * setup.scale;
    let (alone, followed) = (Followed::by(setup, vec![]), Followed::by(setup, vec!["/journal".to_owned(); streams]));
    let (figures, limits) = setup.measured(|| followed.at_forty_commands(setup), || alone.at_forty_commands(setup));
    vec![Line {
        name: "journal".to_owned(),
        what: format!("percent of a core at 40 commands a second, {streams} streams of the journal"),
        unit: "%",
        figures,
        limit: Some(("without streams".to_owned(), limits)),
        target: None,
    }]
}
