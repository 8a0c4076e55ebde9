//! Clients that take all they can get, from 49 addresses, beside honest ones from another address.
//!
//! What counts as memory stays within `--memory`, no honest request is refused, all honest copies end exact, and afterwards
//! everything is free again. The resident memory and the speed are printed and not checked: the machine decides them.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Process, Random, Stream, eventually, hostile_time};

/// The memory of the service, in MiB.
const MEMORY: usize = 256;

/// The threads of hostile clients.
const STRANGERS: usize = 4;

/// How often each of them connects: 200 times a second in all, which is 5,000 connections in 25 seconds.
const INTERVAL: Duration = Duration::from_millis(20);

/// The most connections that each of them keeps open.
const OPEN: usize = 1250;

/// How many connections there are in all.
fn connections() -> usize {
    5000.min(200 * usize::try_from(hostile_time().as_secs()).unwrap())
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A connection of a hostile client. It reads nothing.
struct Stranger(socket2::Socket);

impl Stranger {
    /// Sends as much as the service takes at once, from one of 49 addresses. Without a connection, it has failed already.
    fn connect(address: SocketAddr, random: &mut Random) -> Option<Self> {
        let host = 2 + u8::try_from(random.below(49)).unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).ok()?;
        socket.connect_timeout(&address.into(), Duration::from_secs(1)).ok()?;
        socket.set_nonblocking(true).unwrap();
        let mut stranger = Self(socket);
        let _ = stranger.0.write(random.one_of::<Vec<u8>>(&REQUESTS));
        Some(stranger)
    }
}

/// What hostile clients send. It is written once, since that would take more time than the service has for it.
static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}");
    let get = |path: &str, accept: &str| head(&format!("GET {path}"), &format!("Accept: {accept}\r\n\r\n"));
    let patch = |length: usize| {
        head("PATCH /persons/1", &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"))
    };
    let requests = [
        // Half a head, and half a body.
        head("GET /persons", &format!("X-Filler: {}", "x".repeat(64 * 1024))),
        patch(1024 * 1024) + &format!("{{\"name\":\"{}", "x".repeat(512 * 1024)),
        // Answers and streams that nobody reads.
        get("/persons", "application/json"),
        get("/person-events", "text/event-stream"),
        // It changes nothing, so that honest copies can be compared.
        patch(2) + "{}",
        // A long poll that nobody waits for.
        get("/person-events?wait=30", "application/json"),
        // As many keys as a target takes, of a state and of a feed, and more than that.
        get(&format!("/persons?{}", keys(TARGET)), "application/json"),
        get(&format!("/person-events?{}", keys(TARGET)), "text/event-stream"),
        get(&format!("/persons?{}", keys(1024 * 1024)), "application/json"),
        // Requests behind a stream that does not end.
        get("/person-events", "text/event-stream") + &get("/persons/1", "application/json").repeat(4000),
    ];
    requests.map(String::into_bytes).into()
});

/// The longest target that the framework takes, in bytes, without the path.
const TARGET: usize = 65_000;

/// The query that selects as many keys as this many bytes can name.
fn keys(length: usize) -> String {
    let mut query = "key=1".to_owned();
    let mut key = 2;
    while query.len() < length {
        query.push_str(&format!("&key={key}"));
        key += 1;
    }
    query
}

/// Connects at a fixed rate, at least until there were as many connections as there shall be. Returns how many there were, and
/// the last ones, which are still open.
///
/// If honest clients get less than one write done between two connections, it waits for that. Otherwise, on a machine that is
/// busy with other things, more would come than the service can answer, and everybody would wait longer and longer.
fn molest(address: SocketAddr, seed: u64, answered: &AtomicUsize) -> (usize, VecDeque<Stranger>) {
    let mut random = Random::new(seed);
    let (mut open, mut count) = (VecDeque::new(), 0);
    let begin = Instant::now();
    let mut next = begin;
    while begin.elapsed() < hostile_time() || count < connections() / STRANGERS {
        let before = answered.load(Ordering::Relaxed);
        if let Some(stranger) = Stranger::connect(address, &mut random) {
            open.push_back(stranger);
            count += 1;
        }
        if open.len() > OPEN {
            open.pop_front();
        }
        next += INTERVAL;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        eventually("an honest write is answered", || answered.load(Ordering::Relaxed) > before);
    }
    (count, open)
}

/// An honest writer: changes one aggregate as fast as it can. Returns the last revision, and how long each request took.
fn write(address: SocketAddr, is_over: &AtomicBool, answered: &AtomicUsize) -> (i64, Vec<Duration>) {
    let mut client = Client::connect(address);
    let created = client.request("POST", "/persons", &[JSON], Some(br#"{"name":"Ann"}"#));
    assert_eq!(created.status, 201, "{}", created.text());
    let (path, mut revision) = (created.header("Location").unwrap().to_owned(), created.revision());
    let mut times = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let body = json!({"spouse": 1 + times.len() % 100}).to_string();
        let changed = client.request("PATCH", &path, &[JSON], Some(body.as_bytes()));
        assert_eq!(changed.status, 200, "{}", changed.text());
        times.push(began.elapsed());
        answered.fetch_add(1, Ordering::Relaxed);
        revision = revision.max(changed.revision());
    }
    (revision, times)
}

/// All honest writers as long as something else happens: the last revision, and the rate of their requests. They count those
/// that are answered.
fn write_during(address: SocketAddr, answered: &AtomicUsize, other: impl FnOnce()) -> (i64, String) {
    let (is_over, begin) = (AtomicBool::new(false), Instant::now());
    let results: Vec<_> = std::thread::scope(|scope| {
        let _end = EndOnDrop(&is_over);
        let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| write(address, &is_over, answered))).collect();
        other();
        is_over.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let time = begin.elapsed();
    let mut times: Vec<_> = results.iter().flat_map(|(_, times)| times).collect();
    times.sort();
    let rate = times.len() as f64 / time.as_secs_f64();
    let slow = times[times.len() * 99 / 100];
    (results.iter().map(|(revision, _)| *revision).max().unwrap(), format!("{rate:.0} writes/s, p99 {slow:.1?}"))
}

/// The bytes of memory that count, in all and without what is kept on purpose.
fn accounted(client: &mut Client) -> (usize, usize) {
    let metrics = client.request("GET", "/metrics", &[], None);
    assert_eq!(metrics.status, 200);
    let samples = metrics.text().lines().filter_map(|line| line.strip_prefix("duality_memory_bytes{what=\""));
    let samples: Vec<(&str, usize)> = samples
        .map(|sample| sample.split_once("\"} ").unwrap())
        .map(|(what, bytes)| (what, bytes.parse().unwrap()))
        .collect();
    let kept = ["shared-bodies", "shared-events", "aggregates", "page-caches"];
    let sum = |samples: &mut dyn Iterator<Item = &(&str, usize)>| samples.map(|(_, bytes)| bytes).sum();
    (sum(&mut samples.iter()), sum(&mut samples.iter().filter(|(what, _)| !kept.contains(what))))
}

/// Looks at the memory again and again, and returns the most that counted and the most that was resident, in MiB.
fn watch(process: &Process, is_over: &AtomicBool) -> (usize, i64) {
    let mut client = Client::connect(process.address);
    let (mut most, mut resident) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        let (all, _) = accounted(&mut client);
        assert!(all <= MEMORY << 20, "{all} bytes count");
        (most, resident) = (most.max(all), resident.max(process.memory()));
        std::thread::sleep(Duration::from_millis(100));
    }
    (most >> 20, resident >> 20)
}

/// An honest consumer: keeps a copy until it has a later revision than `end`.
fn follow(mut stream: Stream, end: &AtomicI64, caught_up: &AtomicUsize) -> Value {
    let mut copy = json!({});
    let mut is_new = true;
    loop {
        let event = stream.message().expect("an honest stream is not cut");
        json_patch::merge(&mut copy, &event.patch());
        if event.reached().is_some_and(|reached| reached >= 8) && std::mem::take(&mut is_new) {
            caught_up.fetch_add(1, Ordering::Relaxed);
        }
        if event.reached().is_some_and(|reached| reached > end.load(Ordering::Relaxed)) {
            return copy;
        }
    }
}

/// How many descriptors of one of the database's files may be added: connections that read open them with their first use,
/// and keep them.
const READERS: usize = 16;

/// Whether no descriptor has stayed that was not there before.
fn is_at_most(now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>, database: &str) -> bool {
    now.iter().all(|(kind, count)| {
        let added = if kind.starts_with(database) { READERS } else { 0 };
        *count <= before.get(kind).unwrap_or(&0) + added
    })
}

/// Ends what runs beside a test, also if that fails.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

#[test]
fn hostile_clients_take_no_more_than_their_part() {
    raise_file_limit();
    let directory = crate::harness::directory();
    let memory = format!("{MEMORY}MiB");
    let path = directory.path().join("test.db");
    let database = path.to_str().unwrap();
    let process = Process::start(&path, &["--memory", &memory, "--heartbeat", "1s"]);
    let address = process.address;
    let mut client = Client::connect(address);
    for _ in 0..8 {
        let large = json!({"name": "x".repeat(50_000)}).to_string();
        assert_eq!(client.request("POST", "/persons", &[JSON], Some(large.as_bytes())).status, 201);
    }
    let before = process.descriptors();
    let (over, end, caught_up) = (AtomicBool::new(false), AtomicI64::new(i64::MAX), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let mut streams: Vec<_> = (0..100).map(|_| Stream::open(address, "/person-events", &[])).collect();
        let _end = EndOnDrop(&over);
        // They read all the time, as clients do, until the writers are done.
        let readers: Vec<_> =
            streams.drain(..).map(|stream| scope.spawn(|| follow(stream, &end, &caught_up))).collect();
        while caught_up.load(Ordering::Relaxed) < 100 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let answered = AtomicUsize::new(0);
        let (_, alone) = write_during(address, &answered, || std::thread::sleep(hostile_time() / 4));
        let watcher = scope.spawn(|| watch(&process, &over));
        let mut strangers = Vec::new();
        let (last, beside) = write_during(address, &answered, || {
            std::thread::scope(|scope| {
                let answered = &answered;
                let all = (0..STRANGERS as u64).map(|seed| scope.spawn(move || molest(address, seed, answered)));
                let all: Vec<_> = all.collect();
                strangers.extend(all.into_iter().map(|stranger| stranger.join().unwrap()));
            });
        });
        // The first connection may have been quiet for longer than `--keep-alive`.
        client = Client::connect(address);
        // One more, so that each reader gets an event after it knows the end.
        end.store(last, Ordering::Relaxed);
        let final_write = client.request("POST", "/persons", &[JSON], Some(br#"{"name":"Zoe"}"#));
        assert_eq!(final_write.status, 201);
        let expected = client.request("GET", "/persons", &[], None);
        assert_eq!(expected.status, 200);
        let expected = expected.json();
        for reader in readers {
            assert!(reader.join().unwrap() == expected, "a copy is not exact");
        }
        over.store(true, Ordering::Relaxed);
        let count: usize = strangers.iter().map(|(count, _)| count).sum();
        assert!(count >= connections() - STRANGERS, "{count}");
        let (most, resident) = watcher.join().unwrap();
        eprintln!(
            "alone: {alone}; beside {count} hostile connections: {beside}; {most} of {MEMORY} MiB counted, {resident} MiB resident"
        );
    });
    eventually("nothing of it counts any more", || accounted(&mut client).1 == 0);
    eventually("all descriptors are closed that were opened", || is_at_most(&process.descriptors(), &before, database));
}
