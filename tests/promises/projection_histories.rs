//! What background projections of change events are rebuilt from, and what remains in their files.

use std::path::{Path, PathBuf};
use std::time::Duration;

use diesel::prelude::*;
use duality::aggregates::{CityHistory, Location, Person};
use duality::{Event, Feed, Parameters, Projection, ProjectionError, Report, ReportError, Service, Tables};
use serde_json::{Value, json};

use crate::harness::{App, Client, Process, eventually, files_of, files_with, lines, output_of, sql};
use crate::own_projections::{Sights, cities, fail_at, status, wait_for_report, wait_for_state, wait_until_built};

diesel::table! {
    people (person) {
        person -> Text,
        name -> Text,
        revision -> BigInt,
    }
}

/// The names of all persons, each with the revision of its last change: this depends on the current state only.
struct People;

impl Projection for People {
    const NAME: &'static str = "people";
    const FEED: Feed = Feed::Changes;
    const COLLECTIONS: &'static [&'static str] = &["persons"];
    const SETUP: &'static str =
        "CREATE TABLE people (person TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, revision BIGINT NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let row = people::table.find(event.key.as_str());
        let patch = event.patch()?.unwrap_or_default();
        if patch.is_null() {
            diesel::delete(row).execute(tables)?;
            return Ok(());
        }
        let known: Option<String> = row.select(people::name).first(tables).optional()?;
        let name = patch["name"].as_str().map(str::to_owned).or(known).unwrap_or_default();
        let person = people::person.eq(event.key.as_str());
        let row = (person, people::name.eq(name), people::revision.eq(event.at));
        diesel::replace_into(people::table).values(row).execute(tables)?;
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: "people", parameters: &[], read: people }]
    }
}

fn people(tables: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    let rows: Vec<(String, String, i64)> = people::table.order(people::person).load(tables)?;
    Ok(json!(rows))
}

fn serving(service: fn() -> Service) -> App {
    App::serving(service, |settings| settings.poll_interval = Duration::from_millis(20))
}

fn with_people() -> Service {
    Service::new().document::<Person>().derived::<Location>().background::<People>()
}

fn side_file(database: &Path, name: &str) -> PathBuf {
    PathBuf::from(format!("{}.projections/{name}", files_of(database).display()))
}

#[test]
fn a_former_name_is_in_no_file_after_pruning() {
    let mut app = serving(with_people);
    let names = ["Formerly Known", "Deleted Person"];
    for name in names {
        assert_eq!(app.post("/persons", &json!({ "name": name }).to_string()).status, 201);
    }
    wait_for_report(&app, "people", &json!([["1", names[0], 1], ["2", names[1], 2]]));
    // The previous generation, which is kept for running reads, has the names too.
    assert_eq!(app.command("/projections/people/rebuild").status, 202);
    wait_until_built(&app, "people", 2);
    let directory = side_file(app.database(), "");
    assert!(files_with(&directory, names[0]).len() > 1, "the search finds a name");
    app.patch("/persons/1", r#"{"name":"Present"}"#);
    app.delete("/persons/2");
    let rows = json!([["1", "Present", 3]]);
    wait_for_report(&app, "people", &rows);
    app.prune_everything();
    for name in names {
        eventually("no projection has the name", || files_with(&directory, name).is_empty());
    }
    // A rebuild has nothing else to start from, and gives the same result.
    assert_eq!(app.command("/projections/people/rebuild").status, 202);
    wait_until_built(&app, "people", 3);
    assert_eq!(app.get("/reports/people").json(), rows);
    app.stop();
    // The main database reuses pages of deleted rows; `VACUUM` removes them.
    sql(app.database(), "VACUUM");
    for name in names {
        let found = files_with(app.files().parent().unwrap(), name);
        assert!(found.is_empty(), "{name} is in {found:?}");
    }
}

#[test]
fn a_projection_that_pruning_overtook_is_rebuilt_from_the_aggregates() {
    let mut app = serving(|| cities().background::<Sights<21, false>>());
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    let old = json!([["Rome", 1]]);
    wait_for_report(&app, "seen", &old);
    app.stop();
    app.resume_serving(cities);
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    app.prune_everything();
    app.post("/persons", r#"{"name":"Cid","city":"Rome"}"#);
    app.stop();
    fail_at(21, 2);
    app.resume_serving(|| cities().background::<Sights<21, false>>());
    let failing = wait_for_state(&app, "sights", "failing");
    assert_eq!(failing["generation"], 1, "{failing}");
    assert_eq!(failing["building"]["total"], 2, "{failing}");
    app.restart();
    let failing = wait_for_state(&app, "sights", "failing");
    assert_eq!(failing["building"]["generation"], 2, "the build continues after a restart: {failing}");
    assert_eq!(app.get("/reports/seen").json(), old, "the old generation is served meanwhile");
    fail_at(21, 0);
    wait_for_report(&app, "seen", &json!([["Oslo", 1], ["Rome", 2]]));
    wait_until_built(&app, "sights", 2);
    app.delete("/persons/1");
    wait_for_report(&app, "seen", &json!([["Oslo", 1], ["Rome", 2], ["Oslo", null]]));
}

#[test]
fn projections_share_one_history_which_is_removed_with_the_last_of_them() {
    let mut app = serving(|| cities().background::<Sights<23>>().background::<CityHistory>());
    let history = side_file(app.database(), "history.db");
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    let seen = json!([["Rome", 1], ["Oslo", 1], ["Rome", null]]);
    wait_for_report(&app, "seen", &seen);
    wait_until_built(&app, "city_history", 1);
    app.prune_everything();
    for name in ["sights", "city_history"] {
        assert_eq!(app.command(&format!("/projections/{name}/rebuild")).status, 202);
        wait_until_built(&app, name, 2);
    }
    assert_eq!(app.get("/reports/seen").json(), seen);
    assert_eq!(app.get("/reports/city-history").json()["changes"].as_array().unwrap().len(), 3);
    app.stop();
    assert_eq!(lines(&history, "SELECT CAST(count(*) AS TEXT) AS line FROM changes"), ["3"], "each event is kept once");
    app.resume_serving(|| cities().background::<Sights<23, false>>());
    wait_until_built(&app, "sights", 3);
    assert!(!history.exists());
    assert_eq!(app.get("/reports/seen").json(), json!([["Oslo", 1]]));
}

#[test]
fn copies_of_change_events_from_an_earlier_version_are_removed_at_start() {
    let mut app = serving(with_people);
    app.post("/persons", r#"{"name":"Ann"}"#);
    wait_for_report(&app, "people", &json!([["1", "Ann", 1]]));
    app.stop();
    let tables = side_file(app.database(), "people.1.db");
    let archive = side_file(app.database(), "people.changes.db");
    for suffix in ["", "-wal", "-shm"] {
        std::fs::write(format!("{}{suffix}", archive.display()), "a former name").unwrap();
    }
    // The generation was built from that copy.
    sql(&tables, "UPDATE checkpoint SET log = replace(log, '/changes', '/1'), place = 7");
    app.resume();
    eventually("it is rebuilt", || status(&app, "people")["generation"] == 2);
    wait_for_report(&app, "people", &json!([["1", "Ann", 1]]));
    assert!(files_with(&side_file(app.database(), ""), "a former name").is_empty());
}

#[test]
fn a_database_that_was_put_back_keeps_the_history_before_that_moment() {
    for restarts in [false, true] {
        let mut app = App::with(|settings| settings.poll_interval = Duration::from_millis(20));
        let moved = |app: &App, city: &str, totals: &Value| {
            app.patch("/persons/1", &json!({ "city": city }).to_string());
            eventually("the move is in the report", || city_totals(app) == *totals);
        };
        app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
        moved(&app, "Oslo", &json!([["Oslo", 1], ["Rome", 0], ["Rome", 1]]));
        // Only the history has the events before this.
        app.prune_everything();
        moved(&app, "Bern", &json!([["Bern", 1], ["Oslo", 0], ["Oslo", 1], ["Rome", 0], ["Rome", 1]]));
        let kept = city_totals(&app);
        let copy = app.database().with_file_name("copy.db");
        assert_eq!(output_of(app.database(), &["backup", copy.to_str().unwrap()]).0, 0);
        if restarts {
            // The copy does not know this epoch.
            app.restart();
        }
        app.patch("/persons/1", r#"{"city":"Lima"}"#);
        eventually("the last move is in the report", || city_totals(&app).to_string().contains("Lima"));
        app.stop();
        assert_eq!(output_of(app.database(), &["restore", copy.to_str().unwrap()]).0, 0);
        let (_, said) = output_of(app.database(), &["verify"]);
        assert!(said.contains("and some of locations of another history, which the next start removes: ok"), "{said}");
        app.resume();
        eventually("what came later is gone", || city_totals(&app) == kept);
        moved(
            &app,
            "Kiel",
            &json!([["Bern", 0], ["Bern", 1], ["Kiel", 1], ["Oslo", 0], ["Oslo", 1], ["Rome", 0], ["Rome", 1]]),
        );
        let after = city_totals(&app);
        let generation = status(&app, "city_history")["generation"].as_i64().unwrap();
        assert_eq!(app.command("/projections/city_history/rebuild").status, 202);
        wait_until_built(&app, "city_history", generation + 1);
        assert_eq!(city_totals(&app), after);
        let (code, said) = output_of(app.database(), &["verify"]);
        assert!(code == 0 && said.contains("history: 7 change events of 1 collections: ok"), "{said}");
    }
}

#[test]
fn a_history_that_loses_nothing_when_the_database_is_put_back_is_not_read_again() {
    let directory = crate::harness::directory();
    let (database, copy) = (directory.path().join("test.db"), directory.path().join("copy.db"));
    let post = |process: &Process, json: &str| {
        let headers = [("Content-Type", "application/json")];
        let created = Client::connect(process.address).request("POST", "/persons", &headers, Some(json.as_bytes()));
        assert_eq!(created.status, 201);
    };
    let generation = |process: &Process| {
        let status = Client::connect(process.address).request("GET", "/projections/city_history", &[], None).json();
        (status["state"] == "live" && status["lag"]["events"] == 0).then(|| status["generation"].clone())
    };
    let stop = |mut process: Process| {
        process.signal("TERM");
        assert!(process.wait().success());
    };
    let kept = || {
        let history = side_file(&database, "history.db");
        let events = "(SELECT count(*) FROM changes)";
        let kept = format!("SELECT {events} || '/' || revision || '/' || incarnation AS line FROM collections");
        lines(&history, &kept)[0].clone()
    };
    let process = Process::start(&database, &[]);
    post(&process, r#"{"name":"Ann","city":"Rome"}"#);
    eventually("the history has it", || generation(&process) == Some(json!(1)) && kept().starts_with("1/1/"));
    let incarnation = kept().rsplit_once('/').unwrap().1.to_owned();
    assert_eq!(output_of(&database, &["backup", copy.to_str().unwrap()]).0, 0);
    // It is kept up to here, where it has nothing new.
    post(&process, r#"{"name":"Bob"}"#);
    eventually("the history has seen that", || kept().starts_with("1/2/"));
    stop(process);
    assert_eq!(output_of(&database, &["restore", copy.to_str().unwrap()]).0, 0);
    let process = Process::start(&database, &[]);
    post(&process, r#"{"name":"Cid","city":"Oslo"}"#);
    let goes_on = (Some(json!(1)), format!("2/2/{incarnation}"));
    eventually("it goes on", || (generation(&process), kept()) == goes_on);
    assert!(!process.log().contains("loses"), "{}", process.log());
}

/// Each total that a city had, sorted; null if the report is being built.
fn city_totals(app: &App) -> Value {
    let report = app.get("/reports/city-history");
    if report.status != 200 {
        return Value::Null;
    }
    let report = report.json();
    let changes = report["changes"].as_array().unwrap().iter();
    let mut totals: Vec<_> = changes.map(|change| json!([change["city"], change["total"]])).collect();
    totals.sort_by_key(Value::to_string);
    totals.into()
}

#[test]
fn verify_reports_a_history_that_contradicts_itself_or_the_database() {
    let mut app = App::with(|settings| settings.poll_interval = Duration::from_millis(20));
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    wait_until_built(&app, "city_history", 1);
    eventually("it is in the report", || city_totals(&app) == json!([["Rome", 1]]));
    app.stop();
    let history = side_file(app.database(), "history.db");
    let sound = std::fs::read(&history).unwrap();
    for (damage, finding) in [
        ("UPDATE counter SET last = 0", "the last number is 0, but there is an event with 1"),
        (
            "UPDATE collections SET revision = 0",
            "locations: it has everything up to revision 0, but there is an event of 1",
        ),
        ("UPDATE changes SET collection = 'boxes'", "there are events of boxes, which is no collection"),
        ("UPDATE changes SET patch = '{'", "locations/Rome: its change at revision 1 is not JSON"),
        ("DROP TABLE counter", "no such table: counter"),
    ] {
        sql(&history, damage);
        let (code, said) = output_of(app.database(), &["verify"]);
        assert!(code == 1 && said.contains(&format!("history: {finding}")), "{damage}: {said}");
        std::fs::write(&history, &sound).unwrap();
    }
    let mut torn = sound.clone();
    let pages = torn.len() / 4096;
    torn[(pages - 1) * 4096..].fill(0xa5);
    std::fs::write(&history, torn).unwrap();
    let (code, said) = output_of(app.database(), &["verify"]);
    assert!(code == 1 && said.contains("history: "), "{said}");
    std::fs::write(&history, sound).unwrap();
    assert_eq!(output_of(app.database(), &["verify"]).0, 0);
}
