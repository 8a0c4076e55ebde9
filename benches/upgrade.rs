//! How long the first start of a new version takes: with a million documents to convert, and with a million events to look at.
//!
//!     cargo bench --bench upgrade                 a million of each
//!     cargo bench --bench upgrade -- 100000       another number
//!
//! Each start is a process of its own, so that its peak memory is that of the start. The database is on the disk of the
//! project, and is not copied before.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that fails has no results")]
#![expect(clippy::cast_precision_loss, reason = "no figure needs that many digits")]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Keys, Root, Service, Settings};
use serde::{Deserialize, Serialize};

/// The documents.
#[path = "../examples/buildings.rs"]
#[expect(dead_code, reason = "its `main` is for those who run it")]
mod buildings;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Meter {
    total: i64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Order {
    Open,
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Never {}

impl BusinessRule for Never {}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Event {
    Opened,
    WasRead { amount: i64, note: String },
    WasReset,
}

impl EventSourced for Meter {
    const NAME: &'static str = "meters";
    const KEYS: Keys = Keys::Text;
    type Command = Order;
    type Event = Event;
    type Error = Never;

    fn handle(root: &mut Root<'_, Self>, _: Order) -> Result<(), Never> {
        root.record(Event::Opened);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let before = state.map_or(0, |meter| meter.total);
        Some(Self { total: if let Event::WasRead { amount, .. } = event { before + amount } else { before } })
    }
}

/// The number of documents, or of events: `$N`.
const DOCUMENTS: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N)
    INSERT INTO aggregates (collection, rank, key, revision, version, body)
    SELECT 'buildings', length(i), i, i, 0, json_object('color', 'red',
        'name', 'house ' || i || substr(', a name of some length, as documents have them, and more of it', 1, 10 + i % 40)) FROM n;
    UPDATE metadata SET revision = $N, pruned = $N;
    UPDATE collections SET changed = $N, next_key = $N + 1 WHERE name = 'buildings'";

const EVENTS: &str = "
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $N)
    INSERT INTO journal (position, collection, key, version, kind, schema, body, time)
    SELECT i, 'meters', 'm' || ((i - 1) / 100), (i - 1) % 100 + 1, iif(i % 100 = 1, 'Opened', 'WasRead'), 1,
        iif(i % 100 = 1, '{}', '{\"amount\":1,\"note\":\"a note of some length, as events have them\"}'), 0 FROM n;
    UPDATE collections SET shape = NULL WHERE name = 'meters'";

/// The program in a version of its documents.
fn program(version: u32) -> Service {
    buildings::service(version).event_sourced::<Meter>()
}

fn start(service: Service, database: &Path) {
    let mut settings = Settings::default();
    settings.listen = "127.0.0.1:0".to_owned();
    settings.database = database.to_owned();
    settings.no_copy = true;
    actix::System::new().block_on(async {
        let begun = Instant::now();
        let running = service.start(settings).await.unwrap();
        let took = begun.elapsed().as_secs_f64();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: f64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        let size = |suffix: &str| {
            let file = format!("{}{suffix}", database.display());
            std::fs::metadata(file).map_or(0.0, |file| file.len() as f64 / 1024.0 / 1024.0)
        };
        println!(
            "{took:.2} s, peak memory {:.0} MiB, log {:.0} MiB, file {:.0} MiB",
            peak / 1024.0,
            size("-wal"),
            size("")
        );
        running.stop().await.unwrap();
    });
}

/// Starts a service in a process of its own.
fn start_apart(which: &str, database: &Path) {
    let status = Command::new(std::env::current_exe().unwrap()).arg(which).arg(database).status().unwrap();
    assert!(status.success(), "{which}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["former", database] => return start(program(1), Path::new(database)),
        ["newest", database] => return start(program(5), Path::new(database)),
        _ => {}
    }
    // `cargo test --benches` only checks that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let number = arguments.first().map_or("1000000", String::as_str);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let database = directory.path().join("upgrade.db");
    println!("an empty database:");
    start_apart("former", &database);
    for (what, rows, which) in [("events to look at", EVENTS, "former"), ("documents to convert", DOCUMENTS, "newest")]
    {
        let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
        connection.batch_execute(&format!("BEGIN; {}; COMMIT", rows.replace("$N", number))).unwrap();
        drop(connection);
        println!("{number} {what}:");
        start_apart(which, &database);
        println!("the same, when that is done:");
        start_apart(which, &database);
    }
}
