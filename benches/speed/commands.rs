//! Commands on an aggregate that becomes larger and larger, and other writes beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::load::connection::Connection;
use super::load::{requests, thread, workers};
use super::process::Process;
use super::report::{Line, Target};
use super::{Setup, sql};

const ACCOUNT: &str = "00000000-0000-4000-8000-000000000001";

/// Commands whose processor time is measured together: few, so that the account stays as large as it is.
const MEASURED: u32 = 10;

/// A service with an account that has this many bookings, and with warm caches.
fn service(setup: &Setup, directory: &tempfile::TempDir, bookings: usize) -> Process {
    let database = setup.empty(directory);
    sql::fill_account(&database, ACCOUNT, bookings);
    let service = setup.start(&database);
    book(service.address, 3);
    service
}

fn book(address: SocketAddr, times: u32) {
    let load = thread(move || async move {
        let mut connection = Connection::open(address).await;
        for _ in 0..times {
            assert_eq!(connection.exchange(&requests::book(ACCOUNT)).await.status, 200);
        }
    });
    load.join().unwrap();
}

/// The processor time of a booking in milliseconds, in all threads of the service.
fn cost(setup: &Setup, bookings: usize) -> f64 {
    let directory = Setup::directory();
    let service = service(setup, &directory, bookings);
    let before = service.exact_cpu();
    book(service.address, MEASURED);
    (service.exact_cpu() - before) * 1000.0 / f64::from(MEASURED)
}

pub fn by_size(setup: &Setup) -> Vec<Line> {
    let small: Vec<f64> = (0..setup.runs).map(|_| cost(setup, 10)).collect();
    let line = |bookings: usize, figures: Vec<f64>| Line {
        name: "command".to_owned(),
        what: format!("processor time of a booking on an account with {bookings} bookings"),
        unit: "ms",
        figures,
        limit: Some(("with 10 bookings".to_owned(), small.clone())),
        target: (bookings <= 100).then_some(Target::Times(2.0)),
    };
    let larger =
        [100, 1_000, 10_000].map(|bookings| line(bookings, (0..setup.runs).map(|_| cost(setup, bookings)).collect()));
    std::iter::once(line(10, small.clone())).chain(larger).collect()
}

/// Other writes a second beside bookings.
const BESIDE_BOOKINGS: u32 = 500;

pub fn beside_others(setup: &Setup) -> Vec<Line> {
    let beside = |bookings: usize| {
        let directory = Setup::directory();
        let service = service(setup, &directory, bookings);
        let booker = Booker::start(service.address);
        let latency = paced_p99(setup, service.address);
        booker.stop();
        latency
    };
    let runs = |bookings: usize| -> Vec<f64> { (0..setup.runs).map(|_| beside(bookings)).collect() };
    let small = runs(10);
    let line = |bookings: usize, target: Option<Target>| Line {
        name: "beside".to_owned(),
        what: format!(
            "p99 of {BESIDE_BOOKINGS} POST/s beside one client that books on an account with {bookings} bookings"
        ),
        unit: "ms",
        figures: runs(bookings),
        limit: Some(("with 10 bookings".to_owned(), small.clone())),
        target,
    };
    vec![line(100, Some(Target::Times(2.0))), line(1_000, None), line(10_000, None)]
}

fn paced_p99(setup: &Setup, address: SocketAddr) -> f64 {
    let time = setup.time().max(Duration::from_secs(1));
    let post = requests::post(r#"{"name":"Ann"}"#);
    let load = thread(move || async move {
        workers::paced(address, 16, BESIDE_BOOKINGS, time, post, 201).await.latencies.percentile(99)
    });
    load.join().unwrap()
}

/// A client that books 50 times a second at most.
struct Booker {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Booker {
    fn start(address: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread(move || async move {
            let mut connection = Connection::open(address).await;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(connection.exchange(&requests::book(ACCOUNT)).await.status, 200);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { is_over, thread }
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}
