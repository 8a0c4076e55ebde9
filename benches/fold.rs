//! How fast states are folded from domain events on disk: rehydration of one aggregate, a refold of all at start, and
//! `verify`. The limit is a bare scan of the same rows.
//!
//!     cargo bench --bench fold
//!
//! Prints a table with events per second: the median of five runs, and their range.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark that fails has no results")]

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Key, Keys, Root, Running, Service, Settings};
use serde::{Deserialize, Serialize};

/// The number of aggregates, and of events in each.
const SHAPE: (usize, usize) = (1000, 100);
/// The number of events of the aggregate that is rehydrated.
const LONG: usize = 20_000;
const RUNS: usize = 5;

/// A tally of things; `RULE` is the version of the fold.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Tally<const RULE: i64> {
    total: i64,
    last: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Open,
    Count { things: i64, what: String },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Event {
    TallyOpened,
    ThingsCounted { things: i64, what: String },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Never {}

impl BusinessRule for Never {}

impl<const RULE: i64> EventSourced for Tally<RULE> {
    const NAME: &'static str = "tallies";
    const KEYS: Keys = Keys::Text;
    const STATE_VERSION: i64 = RULE;
    type Command = Command;
    type Event = Event;
    type Error = Never;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Never> {
        root.record(match command {
            Command::Open => Event::TallyOpened,
            Command::Count { things, what } => Event::ThingsCounted { things, what },
        });
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let mut tally = state.unwrap_or(Self { total: 0, last: String::new() });
        if let Event::ThingsCounted { things, what } = event {
            tally.total += things * RULE;
            tally.last.clone_from(what);
        }
        Some(tally)
    }
}

fn settings(database: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.database = database.to_owned();
    settings
}

/// Writes all events: many short aggregates, and one long one.
async fn fill(running: Rc<Running>) {
    let keys: Vec<_> = (0..SHAPE.0).map(|number| (format!("tally-{number}"), SHAPE.1)).collect();
    let mut tasks = Vec::new();
    for (key, events) in keys.into_iter().chain([("long".to_owned(), LONG)]) {
        let running = Rc::clone(&running);
        tasks.push(actix_web::rt::spawn(async move {
            let key = Key::parse(&key).unwrap();
            running.execute::<Tally<1>>(&key, Command::Open).await.unwrap();
            for things in 1..i64::try_from(events).unwrap() {
                let what = format!("things of the kind {things}");
                running.execute::<Tally<1>>(&key, Command::Count { things, what }).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// The events per second of `RUNS` runs, sorted.
fn measured(events: usize, mut run: impl FnMut(usize)) -> Vec<f64> {
    let mut figures: Vec<f64> = (0..RUNS)
        .map(|number| {
            let start = Instant::now();
            run(number);
            f64::from(u32::try_from(events).unwrap()) / start.elapsed().as_secs_f64()
        })
        .collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn print_row(name: &str, figures: &[f64], limit: f64) {
    let (least, median, most) = (figures[0], figures[RUNS / 2], figures[RUNS - 1]);
    println!(
        "| {name:<44} | {median:>9.0}/s | {least:>9.0} – {most:>9.0} | {limit:>9.0}/s | {:>5.2} |",
        median / limit
    );
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Text)]
    body: String,
}

/// Reads the rows in fold order, and does nothing with them.
fn scan(database: &Path, which: &str) -> usize {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    let rows = diesel::sql_query(format!(
        "SELECT key, version, kind, body FROM journal WHERE collection = 'tallies' {which} ORDER BY key, version"
    ));
    let rows = rows.load_iter::<Row, DefaultLoadingMode>(&mut connection).unwrap();
    rows.map(|row| row.unwrap())
        .filter(|row| row.version > 0 && !row.key.is_empty() && !row.kind.is_empty() && !row.body.is_empty())
        .count()
}

fn main() {
    // `cargo test --benches` only checks that this compiles.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("fold.db");
    let all = SHAPE.0 * SHAPE.1 + LONG;
    let key = Key::parse("long").unwrap();
    let mut rehydration = Vec::new();
    actix_web::rt::System::new().block_on(async {
        let running = Service::new().event_sourced::<Tally<1>>().open(settings(&database)).unwrap();
        let running = Rc::new(running);
        fill(Rc::clone(&running)).await;
        let running = Rc::into_inner(running).unwrap();
        for _ in 0..RUNS {
            let start = Instant::now();
            let (_, version) = running.rehydrate::<Tally<1>>(&key).await.unwrap();
            assert_eq!(usize::try_from(version).unwrap(), LONG);
            rehydration.push(f64::from(u32::try_from(LONG).unwrap()) / start.elapsed().as_secs_f64());
        }
        rehydration.sort_by(f64::total_cmp);
        running.stop().await.unwrap();
    });

    println!(
        "| {:<44} | {:>11} | {:>21} | {:>11} | ratio |",
        "events folded, from disk", "median", "range", "bare scan"
    );
    println!("|{}|{}|{}|{}|{}|", "-".repeat(46), "-".repeat(13), "-".repeat(23), "-".repeat(13), "-".repeat(7));
    let long = measured(LONG, |_| assert_eq!(scan(&database, "AND key = 'long'"), LONG))[RUNS / 2];
    print_row(&format!("rehydration of one aggregate of {LONG}"), &rehydration, long);
    let limit = measured(all, |_| assert_eq!(scan(&database, ""), all))[RUNS / 2];
    let verified = measured(all, |_| {
        let found = Service::new().event_sourced::<Tally<1>>().verify(&database).unwrap();
        let folded = found.iter().find(|verified| verified.subject == Tally::<1>::NAME).unwrap();
        assert!(folded.is_sound() && folded.looked_at.ends_with(&format!("{all} events")), "{folded}");
    });
    print_row(&format!("verify, {} aggregates of {all} in all", SHAPE.0 + 1), &verified, limit);
    let refolded = measured(all, |run| {
        // Starts alternate between the two rules, so that every row is rewritten, with a change event.
        let service = if run % 2 == 0 {
            Service::new().event_sourced::<Tally<2>>()
        } else {
            Service::new().event_sourced::<Tally<1>>()
        };
        actix_web::rt::System::new().block_on(async {
            service.open(settings(&database)).unwrap().stop().await.unwrap();
        });
    });
    print_row("refold of all at start, rows rewritten", &refolded, limit);
}
