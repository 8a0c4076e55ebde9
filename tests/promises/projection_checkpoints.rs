//! A checkpoint of a projection is good for the history of the database that it belongs to, and for no other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use duality::Service;
use serde_json::{Value, json};

use crate::harness::{App, eventually, files_of, lines};
use crate::own_projections::{
    Jars, Marbles, Sights, cities, fail_at, fill, jars, status, wait_for_file, wait_for_report, wait_for_state,
    wait_until_built,
};

fn serving(service: fn() -> Service) -> App {
    App::serving(service, |settings| settings.poll_interval = Duration::from_millis(20))
}

fn file(database: &Path, name: &str) -> PathBuf {
    PathBuf::from(format!("{}.projections/{name}", files_of(database).display()))
}

/// The database file of a service that was stopped.
fn copy(app: &App) -> Vec<u8> {
    std::fs::read(app.database()).unwrap()
}

/// Puts a copy in the place of the database of a service that was stopped.
fn put_back(app: &App, copy: &[u8]) {
    std::fs::write(app.database(), copy).unwrap();
}

/// The row of a checkpoint, without its time.
fn checkpoint(app: &App, tables: &str) -> String {
    let query = "SELECT log || ' ' || place || ' ' || reached AS line FROM checkpoint";
    lines(&file(app.database(), tables), query).remove(0)
}

#[test]
fn a_restart_keeps_generations_and_the_history() {
    let mut app = serving(|| cities().background::<Sights<24>>().background::<Sights2>());
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for city in ["Oslo", "Bonn", "Rome"] {
        eventually("both are up to date", || {
            let last = app.get("/persons").revision();
            status(&app, "sights")["lag"]["events"] == 0 && status(&app, "visits")["at"] == last
        });
        app.restart();
        app.patch("/persons/1", &json!({ "city": city }).to_string());
    }
    let seen =
        json!([["Rome", 1], ["Oslo", 1], ["Rome", null], ["Bonn", 1], ["Oslo", null], ["Bonn", null], ["Rome", 1]]);
    wait_for_report(&app, "seen", &seen);
    eventually("both are up to date", || status(&app, "visits")["at"] == 4);
    for name in ["sights", "visits"] {
        wait_until_built(&app, name, 1);
        assert_eq!(status(&app, name)["generation"], 1, "{name}");
    }
    let epoch = app.get("/persons").header("X-Epoch").unwrap().to_owned();
    app.stop();
    let row = checkpoint(&app, "visits.1.db");
    assert_eq!(row, format!("{epoch}/changes 4 4"), "it moved to the epoch in which it advanced");
    let history = file(app.database(), "history.db");
    assert_eq!(lines(&history, "SELECT revision || '' AS line FROM collections"), ["4"]);
    let epochs = lines(&history, "SELECT epoch AS line FROM epochs ORDER BY number");
    assert_eq!((epochs.len(), epochs.last()), (4, Some(&epoch)), "{epochs:?}");
}

/// The rows of a projection of change events without history.
struct Sights2;

impl duality::Projection for Sights2 {
    const NAME: &'static str = "visits";
    const FEED: duality::Feed = duality::Feed::Changes;
    const COLLECTIONS: &'static [&'static str] = &["locations"];
    const SETUP: &'static str = "CREATE TABLE visits (id INTEGER NOT NULL PRIMARY KEY)";

    type Sink = duality::Tables;

    fn apply(tables: &mut duality::Tables, _: &duality::Event<'_>) -> Result<(), duality::ProjectionError> {
        use diesel::connection::SimpleConnection as _;
        Ok(tables.batch_execute("INSERT INTO visits DEFAULT VALUES")?)
    }
}

#[test]
fn a_backup_that_is_put_back_keeps_what_was_before_it() {
    let mut app = serving(|| jars().background::<Marbles<25>>());
    fill(&app, "a", 1);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
    app.stop();
    let backup = copy(&app);
    app.resume();
    wait_until_built(&app, "marbles", 1);
    app.stop();
    put_back(&app, &backup);
    app.resume();
    fill(&app, "b", 2);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "b", 2, 1]]));
    assert_eq!(status(&app, "marbles")["generation"], 1, "nothing of it was abandoned");
}

/// The database of a service that was stopped, after a copy of it went on elsewhere, without projections.
fn went_on_elsewhere(app: &App, service: fn() -> Service, write: impl Fn(&App)) -> Vec<u8> {
    let mut other = serving(service);
    other.stop();
    put_back(&other, &copy(app));
    other.resume();
    write(&other);
    other.stop();
    copy(&other)
}

/// A copy goes on elsewhere, and is put back beside the projections of the original: at the same position, before and
/// after it.
#[test]
fn a_copy_that_went_on_elsewhere_is_another_history() {
    for (original, elsewhere) in [(1, 1), (2, 1), (1, 3)] {
        let mut app = serving(|| jars().background::<Marbles<26>>().background::<Jars>());
        fill(&app, "kept", 1);
        wait_for_report(&app, "jar-marbles", &json!([[1, "kept", 1, 1]]));
        app.stop();
        let other = went_on_elsewhere(&app, jars, |other| {
            for number in 0..elsewhere {
                fill(other, &format!("new-{number}"), 1);
            }
        });
        app.resume();
        for number in 0..original {
            fill(&app, &format!("abandoned-{number}"), 1);
        }
        eventually("it has them", || status(&app, "marbles")["at"] == 1 + original);
        wait_until_built(&app, "jars.csv", 1);
        app.stop();
        put_back(&app, &other);
        // Until it is built again, nothing is served.
        fail_at(26, 1);
        app.resume();
        let failing = wait_for_state(&app, "marbles", "failing");
        assert_eq!(failing.get("generation"), None, "{failing}");
        app.get("/reports/jar-marbles").problem(503, "busy");
        fail_at(26, 0);
        let mut rows = vec![json!([1, "kept", 1, 1])];
        rows.extend((0..elsewhere).map(|number| json!([2 + number, format!("new-{number}"), 1, 1])));
        wait_for_report(&app, "jar-marbles", &Value::from(rows));
        let lines: String = (0..elsewhere).map(|number| format!("new-{number}\r\n")).collect();
        wait_for_file(&app, "jars.csv", &format!("jar\r\nkept\r\n{lines}"));
    }
}

#[test]
fn a_history_of_an_abandoned_history_starts_over() {
    let mut app = serving(|| cities().background::<Sights<27>>());
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    wait_for_report(&app, "seen", &json!([["Rome", 1]]));
    app.stop();
    // It has more revisions than the history that was abandoned.
    let other = went_on_elsewhere(&app, cities, |other| {
        for city in ["Bonn", "Kiel", "Bern"] {
            other.patch("/persons/1", &json!({ "city": city }).to_string());
        }
    });
    app.resume();
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    wait_for_report(&app, "seen", &json!([["Rome", 1], ["Oslo", 1], ["Rome", null]]));
    app.stop();
    put_back(&app, &other);
    app.resume();
    let seen =
        json!([["Rome", 1], ["Bonn", 1], ["Rome", null], ["Bonn", null], ["Kiel", 1], ["Bern", 1], ["Kiel", null]]);
    wait_for_report(&app, "seen", &seen);
    assert_eq!(app.command("/projections/sights/rebuild").status, 202);
    wait_until_built(&app, "sights", 3);
    assert_eq!(app.get("/reports/seen").json(), seen, "the history has nothing of the other one either");
}

#[test]
fn a_skipped_event_stays_skipped_after_a_restart_but_not_in_another_history() {
    let mut app = serving(|| jars().background::<Marbles<28>>());
    fill(&app, "a", 1);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
    app.stop();
    let backup = copy(&app);
    app.resume();
    fail_at(28, 7);
    fill(&app, "b", 7);
    wait_for_state(&app, "marbles", "failing");
    assert_eq!(app.post("/projections/marbles/skip", r#"{"at":2}"#).status, 202);
    fill(&app, "c", 3);
    let rows = json!([[1, "a", 1, 1], [3, "c", 3, 1]]);
    wait_for_report(&app, "jar-marbles", &rows);
    fail_at(28, 0);
    app.restart();
    wait_until_built(&app, "marbles", 1);
    assert_eq!(app.command("/projections/marbles/rebuild").status, 202);
    wait_until_built(&app, "marbles", 2);
    assert_eq!(app.get("/reports/jar-marbles").json(), rows, "the event is skipped in a rebuild after a restart");
    app.stop();
    put_back(&app, &backup);
    app.resume();
    fill(&app, "d", 4);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "d", 4, 1]]));
}

#[test]
fn a_build_from_a_snapshot_of_an_abandoned_history_starts_over() {
    let mut app = serving(cities);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.stop();
    let other = went_on_elsewhere(&app, cities, |other| {
        for city in ["Bonn", "Kiel"] {
            other.post("/persons", &json!({"name": "Cid", "city": city}).to_string());
        }
    });
    app.resume_serving(|| cities().background::<Sights<29, false>>());
    app.post("/persons", r#"{"name":"Bob","city":"Oslo"}"#);
    wait_until_built(&app, "sights", 1);
    fail_at(29, 2);
    assert_eq!(app.command("/projections/sights/rebuild").status, 202);
    wait_for_state(&app, "sights", "failing");
    app.restart();
    let failing = wait_for_state(&app, "sights", "failing");
    assert_eq!(failing["building"]["generation"], 2, "a restart continues the build: {failing}");
    app.stop();
    put_back(&app, &other);
    fail_at(29, 0);
    app.resume();
    wait_for_report(&app, "seen", &json!([["Bonn", 1], ["Kiel", 1], ["Rome", 1]]));
}
