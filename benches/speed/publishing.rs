//! Change events in NATS JetStream. Without `nats-server`, nothing is measured here.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, stream};

use super::load::events::{self, Arrival};
use super::load::{requests, thread, workers};
use super::process::{self, Process};
use super::report::{Line, Target};
use super::{Setup, sql};

/// Events that are published in one go.
const EVENTS: usize = 100_000;

/// Messages of the bare loop that are not acknowledged yet: more than the server takes up at once.
const IN_FLIGHT: usize = 4_000;

/// A JetStream server with a directory of its own, on the disk of the project.
struct Broker {
    address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Broker {
    fn start() -> Option<Self> {
        let directory = Setup::directory();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string(), "--jetstream", "--store_dir"]);
        command.arg(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            eprintln!("nats-server is not installed: publishing is not measured");
            return None;
        };
        while TcpStream::connect(address).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(Self { address, child, _directory: directory })
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn jetstream(address: SocketAddr) -> Context {
    jetstream::new(async_nats::connect(address.to_string()).await.unwrap())
}

/// The release binary with NATS, beside the one without.
fn binary(setup: &Setup) -> PathBuf {
    let built = process::release_binary_with(&["--features", "nats"]);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("duality-nats");
    std::fs::copy(built, &kept).unwrap();
    assert_eq!(process::release_binary(), setup.binary);
    kept
}

pub fn all(setup: &Setup) -> Vec<Line> {
    let Some(broker) = Broker::start() else { return Vec::new() };
    drop(broker);
    let binary = binary(setup);
    let mut lines = vec![throughput(setup, &binary)];
    lines.extend(lag(setup, &binary));
    lines.extend(cost(setup, &binary));
    lines
}

/// Waits until a stream has this many messages. Returns how many it got a second, from the first one after `before` on.
async fn rate(context: &Context, name: &str, before: u64, last: u64) -> f64 {
    let mut begun = None;
    loop {
        let state = context.get_stream(name).await.unwrap().cached_info().state.clone();
        let sequence = state.last_sequence;
        if let Some((begun, first)) = begun {
            if sequence >= last {
                let begun: Instant = begun;
                return (sequence - first) as f64 / begun.elapsed().as_secs_f64();
            }
        } else if sequence > before {
            begun = Some((Instant::now(), sequence));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The number of messages of a stream.
async fn messages(context: &Context, name: &str) -> u64 {
    loop {
        if let Ok(stream) = context.get_stream(name).await
            && stream.cached_info().state.last_sequence > 0
        {
            return stream.cached_info().state.last_sequence;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn published(setup: &Setup, binary: &Path) -> f64 {
    let (broker, directory) = (Broker::start().expect("it was there"), Setup::directory());
    let (database, url) = (setup.empty(&directory), broker.url());
    let count = EVENTS * setup.scale;
    // The service has created the stream before there is an event.
    let address = broker.address;
    let service = Process::service(binary, &database, &["--publish", &url]);
    let before = thread(move || async move { messages(&jetstream(address).await, "duality").await }).join().unwrap();
    drop(service);
    sql::fill(&database, count, sql::Events::Kept);
    let load =
        thread(move || async move { rate(&jetstream(address).await, "duality", before, before + count as u64).await });
    let _service = Process::service(binary, &database, &["--publish", &url]);
    load.join().unwrap()
}

/// A loop that publishes as many messages with the same bodies, and waits for their acknowledgements meanwhile.
fn published_bare(setup: &Setup) -> f64 {
    let broker = Broker::start().expect("it was there");
    let (address, count) = (broker.address, EVENTS * setup.scale);
    let load = thread(move || async move {
        let context = jetstream(address).await;
        let config =
            stream::Config { name: "bare".to_owned(), subjects: vec!["bare.*.*".to_owned()], ..Default::default() };
        context.create_stream(config).await.unwrap();
        let begun = Instant::now();
        let mut waiting = VecDeque::new();
        for number in 1..=count {
            let body = format!(r#"{{"name":"Ann {number}"}}"#);
            waiting.push_back(context.publish(format!("bare.persons.{number}"), body.into()).await.unwrap());
            if waiting.len() >= IN_FLIGHT {
                waiting.pop_front().expect("there are some").await.unwrap();
            }
        }
        for acknowledgement in waiting {
            acknowledgement.await.unwrap();
        }
        count as f64 / begun.elapsed().as_secs_f64()
    });
    load.join().unwrap()
}

fn throughput(setup: &Setup, binary: &Path) -> Line {
    let (figures, limits) = setup.measured(|| published(setup, binary), || published_bare(setup));
    Line {
        name: "publish".to_owned(),
        what: format!("change events into NATS JetStream, {EVENTS} that wait"),
        unit: "/s",
        figures,
        limit: Some(("bare loop of asynchronous publishing".to_owned(), limits)),
        target: Some(Target::Share(0.5)),
    }
}

/// The time from a write to its message at a subscriber.
fn lag(setup: &Setup, binary: &Path) -> [Line; 2] {
    const WRITES: u32 = 1000;
    let (broker, directory) = (Broker::start().expect("it was there"), Setup::directory());
    let service = Process::service(binary, &setup.empty(&directory), &["--publish", &broker.url()]);
    let (service, address, time) = (&service, broker.address, setup.time() * 2);
    let (mut half, mut most) = (Vec::new(), Vec::new());
    for _ in 0..setup.runs {
        let service = service.address;
        let load = thread(move || async move {
            let client = async_nats::connect(address.to_string()).await.unwrap();
            messages(&jetstream::new(client.clone()), "duality").await;
            let mut messages = client.subscribe("duality.persons.*").await.unwrap();
            client.flush().await.unwrap();
            let writing = thread(move || async move {
                workers::paced(service, 16, WRITES, time, requests::post(r#"{"name":"Ann"}"#), 201).await
            });
            let mut arrivals = Vec::new();
            loop {
                let next = std::future::poll_fn(|context| {
                    futures_core::Stream::poll_next(std::pin::Pin::new(&mut messages), context)
                });
                match tokio::time::timeout(Duration::from_millis(500), next).await {
                    Ok(Some(message)) => {
                        let headers = message.headers.expect("all messages have headers");
                        let id = headers.get("Duality-Id").expect("each has an id").as_str();
                        let to: i64 = id.split('.').nth(1).unwrap().parse().unwrap();
                        arrivals.push(Arrival { after: to - 1, to, at: Instant::now() });
                    }
                    _ if writing.is_finished() => break,
                    _ => {}
                }
            }
            let done = writing.join().unwrap();
            assert!(arrivals.len() >= done.written.len(), "messages are missing");
            events::delivery(&done.written, &arrivals)
        });
        let mut delivered = load.join().unwrap();
        half.push(delivered.percentile(50));
        most.push(delivered.percentile(99));
    }
    let line = |what: &str, figures: Vec<f64>| Line {
        name: "publish".to_owned(),
        what: format!("write → message at a subscriber, {WRITES} POST/s, {what}"),
        unit: "ms",
        figures,
        limit: None,
        target: None,
    };
    [line("half within", half), line("99 of 100 within", most)]
}

/// The processor time of a write in microseconds.
struct Cost {
    /// In all threads.
    all: f64,
    /// In all but those that publish.
    others: f64,
}

fn of_a_write(setup: &Setup, service: &Process) -> Cost {
    let spent = || Cost { all: service.exact_cpu(), others: service.exact_cpu_of(|name| !name.starts_with("pub:")) };
    let (address, time, before) = (service.address, setup.time(), spent());
    let load = thread(move || async move {
        workers::closed(address, 64, time, &[requests::post(r#"{"name":"Ann"}"#)], 201).await.answers
    });
    let answers = load.join().unwrap() as f64;
    let after = spent();
    let of_one = |before: f64, after: f64| (after - before) * 1_000_000.0 / answers;
    Cost { all: of_one(before.all, after.all), others: of_one(before.others, after.others) }
}

fn cost(setup: &Setup, binary: &Path) -> [Line; 2] {
    let (broker, with, without) = (Broker::start().expect("it was there"), Setup::directory(), Setup::directory());
    let publishing = Process::service(binary, &setup.empty(&with), &["--publish", &broker.url()]);
    let alone = Process::service(binary, &setup.empty(&without), &[]);
    let (mut figures, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..setup.runs {
        figures.push(of_a_write(setup, &publishing));
        limits.push(of_a_write(setup, &alone).all);
    }
    let line = |which: &str, figures: Vec<f64>| Line {
        name: "publish".to_owned(),
        what: format!("processor time of a POST that is published, 64 connections, {which}"),
        unit: "µs",
        figures,
        limit: Some(("the same without --publish".to_owned(), limits.clone())),
        target: None,
    };
    [
        line("all threads", figures.iter().map(|cost| cost.all).collect()),
        line("without those that publish", figures.iter().map(|cost| cost.others).collect()),
    ]
}
