//! Custom projections that fail when a test requests it.

use std::sync::atomic::{AtomicI64, Ordering};

use diesel::prelude::*;
use duality::aggregates::{Location, Person};
use duality::{CsvFile, Feed, Many, Parameters, Projection, ProjectionError, Report, ReportError, Service, Tables};
use serde_json::{Value, json};

use crate::harness::{App, eventually};
use crate::own_aggregates::{Event, Jar};

diesel::table! {
    marbles (position) {
        position -> BigInt,
        jar -> Text,
        number -> BigInt,
        rule -> BigInt,
    }
}

diesel::table! {
    handfuls (position) {
        position -> BigInt,
        number -> BigInt,
        together -> BigInt,
    }
}

diesel::table! {
    sights (id) {
        id -> BigInt,
        city -> Text,
        total -> Nullable<BigInt>,
    }
}

/// The value at which the projections of each test fail.
static CAUSES: [AtomicI64; 40] = [const { AtomicI64::new(0) }; 40];

/// Makes a projection fail at this number of marbles, or panic if the number is negative.
pub(crate) fn fail_at(cause: usize, marbles: i64) {
    CAUSES[cause].store(marbles, Ordering::SeqCst);
}

fn cause(cause: usize) -> i64 {
    CAUSES[cause].load(Ordering::SeqCst)
}

/// One row for each event of a jar. The versions under test have separate causes.
pub(crate) struct Marbles<const CAUSE: usize, const VERSION: i64 = 1>;

impl<const CAUSE: usize, const VERSION: i64> Projection for Marbles<CAUSE, VERSION> {
    const NAME: &'static str = "marbles";
    const VERSION: i64 = VERSION;
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "CREATE TABLE marbles (position BIGINT NOT NULL PRIMARY KEY, jar TEXT NOT NULL, \
        number BIGINT NOT NULL, rule BIGINT NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &duality::Event<'_>) -> Result<(), ProjectionError> {
        let number = match event.domain::<Jar<false>>()? {
            Some(Event::JarOpened { marbles } | Event::MarblesAdded { marbles, .. }) => i64::from(marbles),
            _ => return Ok(()),
        };
        // A row left behind by a failed attempt would make the next attempt fail.
        tables.transaction::<_, ProjectionError, _>(|tables| {
            diesel::insert_into(marbles::table)
                .values((
                    marbles::position.eq(event.at),
                    marbles::jar.eq(event.key.as_str()),
                    marbles::number.eq(number),
                    marbles::rule.eq(VERSION),
                ))
                .execute(tables)?;
            assert!(-number != cause(CAUSE), "a bug in a projection");
            Ok(())
        })?;
        if number == cause(CAUSE) { Err(ProjectionError::new(format!("{number} is too many"))) } else { Ok(()) }
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "jar-marbles", parameters: &[], read: rows }]
    }
}

fn rows(tables: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    let rows: Vec<(i64, String, i64, i64)> = marbles::table.order(marbles::position).load(tables)?;
    Ok(json!(rows))
}

/// One row for each event of a jar, with the number of events that were applied at once.
pub(crate) struct Handfuls<const CAUSE: usize>;

impl<const CAUSE: usize> Projection for Handfuls<CAUSE> {
    const NAME: &'static str = "handfuls";
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "CREATE TABLE handfuls (position BIGINT NOT NULL PRIMARY KEY, number BIGINT NOT NULL, \
        together BIGINT NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &duality::Event<'_>) -> Result<(), ProjectionError> {
        Self::apply_many(tables, std::slice::from_ref(event)).map(|_| ())
    }

    fn apply_many(tables: &mut Tables, events: &[duality::Event<'_>]) -> Result<Many, ProjectionError> {
        for event in events {
            let number = match event.domain::<Jar<false>>()? {
                Some(Event::JarOpened { marbles } | Event::MarblesAdded { marbles, .. }) => i64::from(marbles),
                _ => continue,
            };
            let together = i64::try_from(events.len())?;
            let row = (handfuls::position.eq(event.at), handfuls::number.eq(number), handfuls::together.eq(together));
            diesel::insert_into(handfuls::table).values(row).execute(tables)?;
            assert!(-number != cause(CAUSE), "a bug in a projection");
            if number == cause(CAUSE) {
                return Err(ProjectionError::new(format!("{number} is too many")));
            }
        }
        Ok(Many::Applied)
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "handfuls", parameters: &[], read: together }]
    }
}

fn together(tables: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    let rows: Vec<(i64, i64, i64)> = handfuls::table.order(handfuls::position).load(tables)?;
    Ok(json!(rows))
}

/// One line for each jar.
pub(crate) struct Jars;

impl Projection for Jars {
    const NAME: &'static str = "jars.csv";
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static [&'static str] = &["jar"];

    type Sink = CsvFile;

    fn apply(file: &mut CsvFile, event: &duality::Event<'_>) -> Result<(), ProjectionError> {
        file.line([event.key.as_str()])
    }
}

/// One row for each change of a city: fails at a deleted city (1) or at any other (2). A rebuild shows all past changes if
/// history is kept.
pub(crate) struct Sights<const CAUSE: usize, const KEEPS_HISTORY: bool = true>;

impl<const CAUSE: usize, const KEEPS_HISTORY: bool> Projection for Sights<CAUSE, KEEPS_HISTORY> {
    const NAME: &'static str = "sights";
    const FEED: Feed = Feed::Changes;
    const KEEPS_HISTORY: bool = KEEPS_HISTORY;
    const COLLECTIONS: &'static [&'static str] = &["locations"];
    const SETUP: &'static str =
        "CREATE TABLE sights (id INTEGER NOT NULL PRIMARY KEY, city TEXT NOT NULL, total BIGINT)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &duality::Event<'_>) -> Result<(), ProjectionError> {
        let total = event.patch()?.and_then(|patch| patch["total"].as_i64());
        if cause(CAUSE) == if total.is_none() { 1 } else { 2 } {
            return Err(ProjectionError::new("it is closed"));
        }
        diesel::insert_into(sights::table)
            .values((sights::city.eq(event.key.as_str()), sights::total.eq(total)))
            .execute(tables)?;
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "seen", parameters: &[], read: seen }]
    }
}

fn seen(tables: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    let rows: Vec<(String, Option<i64>)> =
        sights::table.select((sights::city, sights::total)).order(sights::id).load(tables)?;
    Ok(json!(rows))
}

/// Jars without projections.
pub(crate) fn jars() -> Service {
    Service::new().event_sourced::<Jar<false>>()
}

/// Persons and the cities that they live in, without projections.
pub(crate) fn cities() -> Service {
    Service::new().document::<Person>().derived::<Location>()
}

/// Opens a jar with this many marbles.
#[track_caller]
pub(crate) fn fill(app: &App, jar: &str, marbles: i64) {
    let opened = app.write("PUT", &format!("/jars/{jar}"), &json!({ "marbles": marbles }).to_string());
    assert_eq!(opened.status, 201, "{}", opened.text());
}

pub(crate) fn status(app: &App, projection: &str) -> Value {
    app.get(&format!("/projections/{projection}")).json()
}

/// Waits until a report has this content.
#[track_caller]
pub(crate) fn wait_for_report(app: &App, report: &str, expected: &Value) {
    let mut last = None;
    let is_there = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the report", || {
            let answer = app.get(&format!("/reports/{report}"));
            last = Some(answer.text().to_owned());
            answer.status == 200 && answer.json() == *expected
        });
    }));
    assert!(is_there.is_ok(), "{report} is {last:?}, not {expected}");
}

/// Waits until the file of a projection has this content.
#[track_caller]
pub(crate) fn wait_for_file(app: &App, file: &str, expected: &str) {
    eventually(&format!("{file} is {expected:?}"), || app.get(&format!("/reports/{file}")).text() == expected);
}

/// Waits until a projection is in a state.
#[track_caller]
pub(crate) fn wait_for_state(app: &App, projection: &str, state: &str) -> Value {
    let mut last = Value::Null;
    eventually(&format!("{projection} is {state}"), || {
        last = status(app, projection);
        last["state"] == state && (last["generation"].is_i64() || state == "failing")
    });
    last
}

/// Waits until a projection is live, without a known lag, at this generation or a later one. It may not know yet of
/// events that were just written.
#[track_caller]
pub(crate) fn wait_until_built(app: &App, projection: &str, generation: i64) {
    eventually(&format!("{projection} has generation {generation}"), || {
        let status = status(app, projection);
        status["state"] == "live" && status["generation"].as_i64() >= Some(generation) && status["lag"]["events"] == 0
    });
}
