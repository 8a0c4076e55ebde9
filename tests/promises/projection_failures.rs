//! A background projection that fails stops at the event, reports the error, and delays nothing else.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use duality::{Event, Projection, ProjectionError, Service, Tables};
use serde_json::json;

use crate::harness::{App, eventually};
use crate::own_projections::{
    Handfuls, Jars, Marbles, Sights, cities, fail_at, fill, jars, status, wait_for_file, wait_for_report,
    wait_for_state, wait_until_built,
};

/// A service that retries failed projections after a short time.
fn serving(service: fn() -> Service) -> App {
    App::serving(service, |settings| settings.poll_interval = Duration::from_millis(20))
}

fn metric(app: &App, name: &str, projection: &str) -> String {
    let metrics = app.get("/metrics");
    let start = format!("duality_projection_{name}{{projection=\"{projection}\"}} ");
    metrics.text().lines().find_map(|line| line.strip_prefix(&start)).unwrap().to_owned()
}

#[track_caller]
fn assert_stops_and_recovers(service: fn() -> Service, cause: usize, at: i64, message: &str) {
    let mut app = serving(service);
    wait_until_built(&app, "marbles", 1);
    fail_at(cause, at);
    for (jar, marbles) in [("a", 1), ("b", 7), ("c", 2)] {
        fill(&app, jar, marbles);
    }
    let failing = wait_for_state(&app, "marbles", "failing");
    assert_eq!((&failing["error"]["at"], &failing["error"]["message"]), (&json!(2), &json!(message)), "{failing}");
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
    // Other projections continue.
    wait_for_file(&app, "jars.csv", "jar\r\na\r\nb\r\nc\r\n");
    eventually("it was retried", || status(&app, "marbles")["error"]["attempts"].as_i64() > Some(1));
    eventually("the lag counts both events", || status(&app, "marbles")["lag"]["events"] == 2);

    let health = app.get("/healthz");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("degraded")));
    assert_eq!(health.json()["projections"][0]["error"]["message"], message);
    assert_eq!((metric(&app, "failing", "marbles"), metric(&app, "failing", "jars.csv")), ("1".into(), "0".into()));
    assert_eq!(metric(&app, "lag_events", "marbles"), "2");

    app.restart();
    let failing = wait_for_state(&app, "marbles", "failing");
    assert_eq!(
        (&failing["error"]["at"], &failing["generation"]),
        (&json!(2), &json!(1)),
        "it is still at the same event after a restart"
    );
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
    fail_at(cause, 0);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "b", 7, 1], [3, "c", 2, 1]]));
    wait_until_built(&app, "marbles", 1);
    assert_eq!(app.get("/healthz").json()["status"], "ok");
    assert_eq!(metric(&app, "failing", "marbles"), "0");
}

#[test]
fn a_failing_projection_stops_reports_the_error_and_recovers() {
    assert_stops_and_recovers(|| jars().background::<Marbles<0>>().background::<Jars>(), 0, 7, "7 is too many");
}

#[test]
fn a_panicking_projection_stops_reports_the_error_and_recovers() {
    let service = || jars().background::<Marbles<1>>().background::<Jars>();
    assert_stops_and_recovers(service, 1, -7, "it panicked, see the log");
}

#[test]
fn events_that_are_applied_at_once_stop_at_the_one_that_cannot_be_applied() {
    for (cause, message) in [(7, "7 is too many"), (-7, "it panicked, see the log")] {
        let app = serving(|| jars().background::<Handfuls<38>>());
        fail_at(38, 0);
        for (jar, marbles) in [("a", 1), ("b", 7), ("c", 2)] {
            fill(&app, jar, marbles);
        }
        wait_until_built(&app, "handfuls", 1);
        // A rebuild has all of them in one page.
        eventually("all are applied", || status(&app, "handfuls")["at"] == 3);
        fail_at(38, cause);
        assert_eq!(app.command("/projections/handfuls/rebuild").status, 202);
        let failing = wait_for_state(&app, "handfuls", "failing");
        assert_eq!((&failing["error"]["at"], &failing["error"]["message"]), (&json!(2), &json!(message)), "{failing}");
        fail_at(38, 0);
        wait_until_built(&app, "handfuls", 2);
        // Nothing was left of what failed, and the rest was applied at once.
        assert_eq!(app.get("/reports/handfuls").json(), json!([[1, 1, 1], [2, 7, 2], [3, 2, 2]]));
    }
}

#[test]
fn skip_omits_the_event_at_which_a_projection_stopped() {
    let app = serving(|| jars().background::<Marbles<2>>());
    wait_until_built(&app, "marbles", 1);
    fail_at(2, 7);
    for (jar, marbles) in [("a", 1), ("b", 7), ("c", 2)] {
        fill(&app, jar, marbles);
    }
    wait_for_state(&app, "marbles", "failing");
    for at in [0, 1, 3] {
        let body = json!({ "at": at }).to_string();
        let problem = app.post("/projections/marbles/skip", &body).problem(409, "not-there");
        assert_eq!(problem["detail"], format!("marbles has stopped at 2, and not at {at}"));
    }
    assert_eq!(app.post("/projections/marbles/skip", "{}").problem(422, "invalid")["member"], "at");
    assert_eq!(app.post("/projections/marbles/skip", r#"{"at":2}"#).status, 202);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [3, "c", 2, 1]]));
    wait_until_built(&app, "marbles", 1);
    app.post("/projections/marbles/skip", r#"{"at":2}"#).problem(409, "not-there");
    fill(&app, "d", 7);
    assert_eq!(wait_for_state(&app, "marbles", "failing")["error"]["at"], 4, "only the skipped event was omitted");
    fail_at(2, 0);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [3, "c", 2, 1], [4, "d", 7, 1]]));
}

#[test]
fn skip_omits_only_one_of_several_events_of_a_revision() {
    assert_skip_omits_one_event(|| cities().background::<Sights<3>>(), 3);
    assert_skip_omits_one_event(|| cities().background::<Sights<22, false>>(), 22);
}

#[track_caller]
fn assert_skip_omits_one_event(service: fn() -> Service, cause: usize) {
    let app = serving(service);
    wait_until_built(&app, "sights", 1);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    wait_for_report(&app, "seen", &json!([["Rome", 1]]));
    // The first of the two events stops the projection before the second.
    fail_at(cause, 1);
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    assert_eq!(wait_for_state(&app, "sights", "failing")["error"]["at"], 2);
    assert_eq!(app.post("/projections/sights/skip", r#"{"at":2}"#).status, 202);
    wait_for_report(&app, "seen", &json!([["Rome", 1], ["Oslo", 1]]));
    wait_until_built(&app, "sights", 1);
    fail_at(cause, 2);
    app.patch("/persons/1", r#"{"city":"Bonn"}"#);
    assert_eq!(wait_for_state(&app, "sights", "failing")["error"]["at"], 3);
    assert_eq!(app.post("/projections/sights/skip", r#"{"at":3}"#).status, 202);
    wait_for_report(&app, "seen", &json!([["Rome", 1], ["Oslo", 1], ["Oslo", null]]));
    fail_at(cause, 0);
}

/// A gate at which a projection waits.
static GATE: Mutex<()> = Mutex::new(());

struct Waiting;

impl Projection for Waiting {
    const NAME: &'static str = "waiting";
    const COLLECTIONS: &'static [&'static str] = &["jars"];
    const SETUP: &'static str = "";

    type Sink = Tables;

    fn apply(_: &mut Tables, _: &Event<'_>) -> Result<(), ProjectionError> {
        drop(GATE.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

#[test]
fn a_slow_projection_delays_neither_writes_nor_other_projections() {
    let app = serving(|| jars().background::<Waiting>().background::<Marbles<4>>());
    wait_until_built(&app, "waiting", 1);
    let closed = GATE.lock().unwrap();
    let mut feed = app.follow("/jar-events", &[]);
    for number in 1..=20 {
        fill(&app, &number.to_string(), 1);
        assert_eq!(feed.next().revision(), number);
    }
    let rows: Vec<_> = (1..=20).map(|number| json!([number, number.to_string(), 1, 1])).collect();
    wait_for_report(&app, "jar-marbles", &json!(rows));
    drop(closed);
    wait_until_built(&app, "waiting", 1);
}

#[test]
fn projections_are_listed_inline_first_with_running_rebuilds() {
    let app = serving(|| jars().background::<Waiting>().inline::<Marbles<32>>());
    let listed = app.get("/projections").json();
    assert_eq!(
        (&listed["projections"][0]["name"], &listed["projections"][1]["name"]),
        (&json!("marbles"), &json!("waiting"))
    );
    wait_until_built(&app, "waiting", 1);
    fill(&app, "a", 1);
    eventually("it is up to date", || status(&app, "waiting")["at"] == 1);
    let closed = GATE.lock().unwrap();
    let begun = app.command("/projections/waiting/rebuild");
    assert_eq!(
        (begun.status, &begun.json()["state"], &begun.json()["mode"]),
        (202, &json!("building"), &json!("background"))
    );
    for (name, value) in [("building", "1"), ("failing", "0"), ("lag_events", "0"), ("lag_seconds", "0")] {
        assert_eq!(
            (metric(&app, name, "waiting").as_str(), metric(&app, name, "marbles").as_str()),
            (value, "0"),
            "{name}"
        );
    }
    drop(closed);
    wait_until_built(&app, "waiting", 2);
    assert_eq!(metric(&app, "building", "waiting"), "0");
}

#[test]
fn the_old_version_is_served_until_the_new_one_is_built() {
    let mut app = serving(|| jars().background::<Marbles<5, 1>>());
    fill(&app, "a", 1);
    fill(&app, "b", 2);
    let old = json!([[1, "a", 1, 1], [2, "b", 2, 1]]);
    wait_for_report(&app, "jar-marbles", &old);
    app.stop();
    fail_at(6, 2);
    app.resume_serving(|| jars().background::<Marbles<6, 2>>());
    let failing = wait_for_state(&app, "marbles", "failing");
    assert_eq!((&failing["version"], &failing["current_version"]), (&json!(2), &json!(1)), "{failing}");
    wait_for_report(&app, "jar-marbles", &old);
    fill(&app, "c", 3);
    app.restart();
    wait_for_state(&app, "marbles", "failing");
    wait_for_report(&app, "jar-marbles", &old);
    fail_at(6, 0);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 2], [2, "b", 2, 2], [3, "c", 3, 2]]));
    assert_eq!(wait_for_state(&app, "marbles", "live").get("current_version"), None);
}

#[test]
fn the_old_generation_is_served_and_kept_up_to_date_while_a_rebuild_fails() {
    let app = serving(|| jars().background::<Marbles<7>>());
    fill(&app, "a", 1);
    fill(&app, "b", 2);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "b", 2, 1]]));
    wait_until_built(&app, "marbles", 1);
    fail_at(7, 2);
    let begun = app.command("/projections/marbles/rebuild");
    assert_eq!((begun.status, &begun.json()["building"]["total"]), (202, &json!(2)), "{}", begun.text());
    let failing = wait_for_state(&app, "marbles", "failing");
    assert_eq!((&failing["building"]["done"], &failing["generation"]), (&json!(1), &json!(1)), "{failing}");
    fill(&app, "c", 3);
    let rows = json!([[1, "a", 1, 1], [2, "b", 2, 1], [3, "c", 3, 1]]);
    wait_for_report(&app, "jar-marbles", &rows);
    assert_eq!(wait_for_state(&app, "marbles", "failing")["generation"], 1);
    fail_at(7, 0);
    wait_until_built(&app, "marbles", 2);
    wait_for_report(&app, "jar-marbles", &rows);
}

#[test]
fn a_report_is_unavailable_until_the_first_build_completes() {
    let mut app = serving(jars);
    fill(&app, "a", 1);
    app.stop();
    fail_at(8, 1);
    app.resume_serving(|| jars().background::<Marbles<8>>());
    wait_for_state(&app, "marbles", "failing");
    let early = app.get("/reports/jar-marbles");
    early.problem(503, "busy");
    assert_eq!(early.header("Retry-After"), Some("1"));
    fail_at(8, 0);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
}

#[test]
fn a_projection_added_after_pruning_starts_from_the_aggregates() {
    let mut app = serving(cities);
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Cid","city":"Oslo"}"#);
    app.post("/persons", r#"{"name":"Dee","city":"Bonn"}"#);
    app.delete("/persons/4");
    app.prune_everything();
    app.stop();
    app.resume_serving(|| cities().background::<Sights<9>>());
    wait_for_report(&app, "seen", &json!([["Oslo", 1], ["Rome", 2]]));
    app.delete("/persons/3");
    let rows = json!([["Oslo", 1], ["Rome", 2], ["Oslo", null]]);
    wait_for_report(&app, "seen", &rows);
    app.prune_everything();
    assert_eq!(app.command("/projections/sights/rebuild").status, 202);
    wait_until_built(&app, "sights", 2);
    wait_for_report(&app, "seen", &rows);
}

#[test]
fn projections_of_an_abandoned_history_are_rebuilt() {
    let mut app = serving(|| jars().background::<Marbles<10>>().background::<Jars>());
    fill(&app, "a", 1);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1]]));
    wait_until_built(&app, "jars.csv", 1);
    app.stop();
    let backup = std::fs::read(app.database()).unwrap();
    app.resume();
    fill(&app, "b", 1);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "b", 1, 1]]));
    wait_for_file(&app, "jars.csv", "jar\r\na\r\nb\r\n");
    app.stop();
    std::fs::write(app.database(), backup).unwrap();
    app.resume();
    fill(&app, "c", 1);
    fill(&app, "d", 1);
    wait_until_built(&app, "marbles", 2);
    wait_until_built(&app, "jars.csv", 2);
    wait_for_report(&app, "jar-marbles", &json!([[1, "a", 1, 1], [2, "c", 1, 1], [3, "d", 1, 1]]));
    wait_for_file(&app, "jars.csv", "jar\r\na\r\nc\r\nd\r\n");
}

#[test]
fn a_line_whose_checkpoint_failed_appears_once() {
    let app = serving(|| jars().background::<Jars>());
    fill(&app, "a", 1);
    wait_until_built(&app, "jars.csv", 1);
    let tables = format!("{}.projections/jars.csv.1.db", app.files().display());
    let mut lock = SqliteConnection::establish(&tables).unwrap();
    lock.batch_execute("PRAGMA busy_timeout = 60000; BEGIN IMMEDIATE").unwrap();
    fill(&app, "b", 1);
    wait_for_state(&app, "jars.csv", "failing");
    fill(&app, "c", 1);
    lock.batch_execute("ROLLBACK").unwrap();
    wait_until_built(&app, "jars.csv", 1);
    wait_for_file(&app, "jars.csv", "jar\r\na\r\nb\r\nc\r\n");
}
