//! How fast a projection is rebuilt from the journal, compared with a bare loop that reads and inserts the same rows,
//! which is the limit; and how long writes take with and without a rebuild.
//!
//!     cargo bench --bench projections
//!
//! Prints two tables. A rebuild is the time from `POST /projections/counted/rebuild` until the new generation is in
//! use: the median of five runs, and their range. Writes are commands through the typed handle, one after another.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that fails has no results")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use diesel::connection::{DefaultLoadingMode, SimpleConnection as _};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use duality::schemars::{self, JsonSchema};
use duality::{
    BusinessRule, EventSourced, Key, Keys, Projection, ProjectionError, Root, Running, Service, Settings, Tables,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The number of aggregates, and of events in each.
const SHAPE: (usize, usize) = (1000, 200);
const EVENTS: u32 = 200_000;
/// The number of events that the service applies in one transaction.
const AT_ONCE: i64 = 2000;
const RUNS: usize = 5;
/// The number of writes without a rebuild.
const WRITES: usize = 3000;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Tally {
    total: i64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Count { things: i64, what: String },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Counted {
    ThingsCounted { things: i64, what: String },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Never {}

impl BusinessRule for Never {}

impl EventSourced for Tally {
    const NAME: &'static str = "tallies";
    const KEYS: Keys = Keys::Text;
    const CREATE_COMMAND: &'static str = "Count";
    type Command = Command;
    type Event = Counted;
    type Error = Never;

    fn handle(root: &mut Root<'_, Self>, Command::Count { things, what }: Command) -> Result<(), Never> {
        root.record(Counted::ThingsCounted { things, what });
        Ok(())
    }

    fn apply(state: Option<Self>, Counted::ThingsCounted { things, .. }: &Counted) -> Option<Self> {
        Some(Self { total: state.map_or(0, |tally| tally.total) + things })
    }
}

diesel::table! {
    /// A row for each event.
    counted (at) {
        /// The position of the event.
        at -> BigInt,
        /// The key of the aggregate.
        tally -> Text,
        /// The number of things.
        things -> BigInt,
        /// The kind of things.
        what -> Text,
    }
}

const TABLE: &str =
    "CREATE TABLE counted (at INTEGER PRIMARY KEY, tally TEXT NOT NULL, things BIGINT NOT NULL, what TEXT NOT NULL)";

struct All;

impl Projection for All {
    const NAME: &'static str = "counted";
    const COLLECTIONS: &'static [&'static str] = &["tallies"];
    const SETUP: &'static str = TABLE;
    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &duality::Event<'_>) -> Result<(), ProjectionError> {
        let Some(Counted::ThingsCounted { things, what }) = event.domain::<Tally>()? else { return Ok(()) };
        insert(tables, event.at, event.key.as_str(), things, &what)?;
        Ok(())
    }
}

fn insert(tables: &mut Tables, at: i64, tally: &str, things: i64, what: &str) -> QueryResult<usize> {
    diesel::insert_into(counted::table)
        .values((counted::at.eq(at), counted::tally.eq(tally), counted::things.eq(things), counted::what.eq(what)))
        .execute(tables)
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    position: i64,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    body: String,
}

#[derive(Deserialize)]
struct Fields {
    things: i64,
    what: String,
}

/// Only reads, decodes and inserts the rows, with one prepared statement and in as many transactions.
fn bare(journal: &Path, into: &Path) -> Duration {
    let mut from = SqliteConnection::establish(journal.to_str().unwrap()).unwrap();
    let mut to = SqliteConnection::establish(into.to_str().unwrap()).unwrap();
    to.batch_execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL").unwrap();
    let start = Instant::now();
    to.batch_execute(TABLE).unwrap();
    let mut after = 0;
    while after < i64::from(EVENTS) {
        let rows =
            diesel::sql_query("SELECT position, key, body FROM journal WHERE position > ? ORDER BY position LIMIT ?")
                .bind::<BigInt, _>(after)
                .bind::<BigInt, _>(AT_ONCE);
        let rows: Vec<Row> =
            rows.load_iter::<Row, DefaultLoadingMode>(&mut from).unwrap().collect::<QueryResult<_>>().unwrap();
        after = rows.last().unwrap().position;
        let inserted = to.transaction(|to| {
            rows.iter().try_for_each(|row| {
                let Fields { things, what } = serde_json::from_str(&row.body).unwrap();
                insert(to, row.position, &row.key, things, &what).map(drop)
            })
        });
        inserted.unwrap();
    }
    start.elapsed()
}

/// Sends one request to the service.
fn request(service: SocketAddr, method: &str, path: &str) -> Value {
    let mut connection = TcpStream::connect(service).unwrap();
    write!(connection, "{method} {path} HTTP/1.0\r\nHost: {service}\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Waits until a later generation is live, and returns its number.
fn built(service: SocketAddr, after: i64) -> i64 {
    loop {
        let status = request(service, "GET", "/projections/counted");
        assert_ne!(status["state"], "failing", "{status}");
        match status["generation"].as_i64() {
            Some(generation) if generation > after && status["state"] == "live" => return generation,
            _ => sleep(Duration::from_millis(5)),
        }
    }
}

fn rebuild(service: SocketAddr) -> Duration {
    let before = request(service, "GET", "/projections/counted")["generation"].as_i64().unwrap();
    let start = Instant::now();
    request(service, "POST", "/projections/counted/rebuild");
    built(service, before);
    start.elapsed()
}

fn settings(database: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.database = database.to_owned();
    settings.listen = "127.0.0.1:0".to_owned();
    settings
}

async fn count(running: &Running, key: &Key, number: usize) {
    let things = i64::try_from(number).unwrap();
    let what = format!("things of the kind {number}");
    running.execute::<Tally>(key, Command::Count { things, what }).await.unwrap();
}

async fn fill(running: Rc<Running>) {
    let mut tasks = Vec::new();
    for number in 0..SHAPE.0 {
        let running = Rc::clone(&running);
        tasks.push(actix_web::rt::spawn(async move {
            let key = Key::parse(&format!("tally-{number}")).unwrap();
            for number in 0..SHAPE.1 {
                count(&running, &key, number).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Writes one after another while `more` returns true, and returns how long each write took, sorted.
async fn write(running: &Running, mut more: impl FnMut(usize) -> bool) -> Vec<Duration> {
    let key = Key::parse("tally-0").unwrap();
    let mut times = Vec::new();
    while more(times.len()) {
        let start = Instant::now();
        count(running, &key, times.len()).await;
        times.push(start.elapsed());
    }
    times.sort();
    times
}

fn print_rebuild(name: &str, times: &mut [Duration]) -> f64 {
    times.sort();
    let rate = |time: &Duration| f64::from(EVENTS) / time.as_secs_f64();
    let median = times[RUNS / 2];
    println!(
        "| {name:<40} | {:>6.2} s | {:>8.0}/s | {:>8.0} – {:>8.0} |",
        median.as_secs_f64(),
        rate(&median),
        rate(&times[RUNS - 1]),
        rate(&times[0])
    );
    rate(&median)
}

fn print_writes(name: &str, times: &[Duration]) {
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    println!("| {name:<40} | {:>6} | {:>6.2} ms | {:>6.2} ms | {:>6.2} ms |", times.len(), at(50), at(99), at(100));
}

fn main() {
    // `cargo test --benches` only checks that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("projections.db");
    actix_web::rt::System::new().block_on(async {
        let service = Service::new().event_sourced::<Tally>().background::<All>();
        let running = Rc::new(service.start(settings(&database)).await.unwrap());
        fill(Rc::clone(&running)).await;
        let address = running.addresses()[0];
        actix_web::web::block(move || built(address, 0)).await.unwrap();

        let rebuilds = move || (0..RUNS).map(|_| rebuild(address)).collect::<Vec<_>>();
        let mut alone = actix_web::web::block(rebuilds).await.unwrap();
        let mut limit: Vec<_> =
            (0..RUNS).map(|run| bare(&database, &directory.path().join(format!("bare.{run}.db")))).collect();
        let without = write(&running, |written| written < WRITES).await;
        let building = std::thread::spawn(rebuilds);
        let during = write(&running, |_| !building.is_finished()).await;
        let mut concurrent = building.join().unwrap();

        println!("| {:<40} | {:>8} | {:>10} | {:>19} |", "200,000 events, from disk", "median", "rate", "range");
        println!("|{}|{}|{}|{}|", "-".repeat(42), "-".repeat(10), "-".repeat(12), "-".repeat(21));
        let limit = print_rebuild("a bare loop over the same rows", &mut limit);
        let rate = print_rebuild("rebuild", &mut alone);
        print_rebuild("rebuild, during writes", &mut concurrent);
        println!("\nrebuild / bare loop: {:.2}\n", rate / limit);
        println!(
            "| {:<40} | {:>6} | {:>9} | {:>9} | {:>9} |",
            "writes, one after another", "", "p50", "p99", "longest"
        );
        println!("|{}|{}|{}|{}|{}|", "-".repeat(42), "-".repeat(8), "-".repeat(11), "-".repeat(11), "-".repeat(11));
        print_writes("without a rebuild", &without);
        print_writes("during rebuilds", &during);
        Rc::into_inner(running).unwrap().stop().await.unwrap();
    });
}
