//! Inline projections are written in the transaction of the command: with it, or not at all.

use std::time::Duration;

use duality::{Service, Settings};
use serde_json::{Value, json};

use crate::harness::{App, lines, sql};
use crate::own_projections::{Jars, Marbles, Sights, cities, fail_at, fill, jars, status};

fn rows(app: &App) -> Value {
    app.get("/reports/jar-marbles").json()
}

/// Everything that a rejected command must leave unchanged.
fn everything(app: &App) -> (Value, String, i64, Value) {
    let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None);
    (journal.json()["events"].clone(), app.get("/aggregates").text().to_owned(), journal.revision(), rows(app))
}

/// Whether the database has a table.
fn has_table(app: &App, table: &str) -> bool {
    !lines(app.database(), &format!("SELECT name AS line FROM sqlite_schema WHERE name = '{table}'")).is_empty()
}

#[test]
fn rows_are_visible_when_the_command_is_answered() {
    let app = App::serving(|| jars().inline::<Marbles<11>>(), |_| {});
    for number in 1..=20 {
        fill(&app, &number.to_string(), 1);
        assert_eq!(rows(&app)[number - 1], json!([number, number.to_string(), 1, 1]));
    }
    let all = rows(&app);
    let status = status(&app, "marbles");
    assert_eq!((&status["mode"], &status["state"]), (&json!("inline"), &json!("live")));
    assert_eq!(app.command("/projections/marbles/rebuild").status, 202);
    assert_eq!(rows(&app), all);
    app.post("/projections/marbles/skip", r#"{"at":1}"#).problem(409, "not-there");
}

#[track_caller]
fn assert_rejected_without_effect(service: fn() -> Service, cause: usize, at: i64) {
    let mut app = App::serving(service, |_| {});
    fill(&app, "a", 2);
    fail_at(cause, at);
    let before = everything(&app);
    for _ in 0..3 {
        assert_eq!(app.write("PUT", "/jars/b", r#"{"marbles":3}"#).status, 500);
        assert_eq!(app.post("/jars/a/add-each", r#"{"marbles":3}"#).status, 500);
        assert_eq!(everything(&app), before);
    }
    fill(&app, "c", 1);
    assert_eq!(rows(&app), json!([[1, "a", 2, 1], [2, "c", 1, 1]]));
    assert_eq!(app.get("/jars").revision(), 2);
    let after = everything(&app);
    app.restart();
    assert_eq!(everything(&app), after, "the state is durable");
    fail_at(cause, 0);
    fill(&app, "b", 3);
    assert_eq!(rows(&app)[2], json!([3, "b", 3, 1]));
}

#[test]
fn a_failing_projection_rejects_the_command_and_leaves_nothing_behind() {
    assert_rejected_without_effect(|| jars().inline::<Marbles<12>>(), 12, 3);
}

#[test]
fn a_panicking_projection_rejects_the_command_and_leaves_nothing_behind() {
    assert_rejected_without_effect(|| jars().inline::<Marbles<13>>(), 13, -3);
}

#[test]
fn the_other_commands_of_the_batch_succeed() {
    let app = App::serving(|| jars().inline::<Marbles<14>>(), |_| {});
    fail_at(14, 3);
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let mut client = app.client();
            scope.spawn(move || {
                for number in 0..20 {
                    let marbles = if (writer + number) % 3 == 0 { 3 } else { 1 };
                    let body = json!({ "marbles": marbles }).to_string();
                    let path = format!("/jars/{writer}-{number}");
                    let json = [("Content-Type", "application/json")];
                    let answer = client.request("PUT", &path, &json, Some(body.as_bytes()));
                    assert_eq!(answer.status, if marbles == 3 { 500 } else { 201 });
                }
            });
        }
    });
    let jars = app.get("/jars").json();
    let rows = rows(&app);
    let mut names: Vec<_> = rows.as_array().unwrap().iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
    assert!(rows.as_array().unwrap().iter().zip(1..).all(|(row, position)| row[0] == position), "{rows}");
    names.sort();
    let mut keys: Vec<_> = jars.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(names, keys);
    assert_eq!(keys.len(), (0..160).filter(|number| (number / 20 + number % 20) % 3 != 0).count());
}

#[test]
fn a_new_version_is_rebuilt_at_start() {
    let mut app = App::serving(|| jars().inline::<Marbles<15, 1>>(), |_| {});
    fill(&app, "a", 1);
    fill(&app, "b", 2);
    app.stop();
    fail_at(16, 2);
    let failed = app.try_resume_serving(|| jars().inline::<Marbles<16, 2>>());
    assert!(failed.unwrap_err().contains("2 is too many"), "it does not start without its rows");
    fail_at(16, 0);
    app.resume_serving(|| jars().inline::<Marbles<16, 2>>());
    assert_eq!(rows(&app), json!([[1, "a", 1, 2], [2, "b", 2, 2]]));
    fill(&app, "c", 3);
    assert_eq!(rows(&app)[2], json!([3, "c", 3, 2]));
}

#[test]
fn a_failed_rebuild_changes_nothing() {
    let app = App::serving(|| jars().inline::<Marbles<17>>(), |_| {});
    fill(&app, "a", 1);
    fill(&app, "b", 2);
    let before = rows(&app);
    for cause in [2, -2] {
        fail_at(17, cause);
        assert_eq!(app.command("/projections/marbles/rebuild").status, 500);
        assert_eq!(rows(&app), before);
    }
    fill(&app, "c", 3);
    assert_eq!(rows(&app)[2], json!([3, "c", 3, 1]));
}

#[test]
fn the_tables_of_an_unregistered_projection_are_dropped() {
    let mut app = App::serving(|| jars().inline::<Marbles<18>>(), |_| {});
    fill(&app, "a", 1);
    app.stop();
    assert!(has_table(&app, "marbles"));
    app.resume_serving(jars);
    fill(&app, "b", 2);
    app.get("/reports/jar-marbles").problem(404, "no-such-path");
    app.stop();
    assert!(!has_table(&app, "marbles"));
    app.resume_serving(|| jars().inline::<Marbles<18>>());
    assert_eq!(rows(&app), json!([[1, "a", 1, 1], [2, "b", 2, 1]]), "it is rebuilt with the events that it missed");
}

#[test]
fn a_projection_of_pruned_change_events_is_built_from_the_aggregates() {
    let mut app = App::serving(cities, |_| {});
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.post("/persons", r#"{"name":"Bob","city":"Rome"}"#);
    app.stop();
    app.resume_serving(|| cities().inline::<Sights<19>>());
    assert_eq!(app.get("/reports/seen").json(), json!([["Rome", 1], ["Rome", 2]]), "nothing was pruned yet");
    app.patch("/persons/1", r#"{"city":"Oslo"}"#);
    let seen = app.get("/reports/seen").json();
    assert!(seen == json!([["Rome", 1], ["Rome", 2], ["Rome", 1], ["Oslo", 1]]), "{seen}");
    app.prune_everything();
    assert_eq!(app.command("/projections/sights/rebuild").status, 202);
    assert_eq!(app.get("/reports/seen").json(), json!([["Oslo", 1], ["Rome", 1]]));
    app.delete("/persons/1");
    assert_eq!(app.get("/reports/seen").json(), json!([["Oslo", 1], ["Rome", 1], ["Oslo", null]]));
}

fn refusal(service: Service) -> String {
    let mut settings = Settings::default();
    settings.database = ":memory:".into();
    match service.open(settings) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

mod invalid {
    use duality::{CsvFile, Event, Projection, ProjectionError, Report, Tables};
    use serde_json::Value;

    macro_rules! invalid {
        ($type:ident, $name:literal, $sink:ty, $setup:expr, $collection:literal, $report:literal) => {
            pub(super) struct $type;

            impl Projection for $type {
                const NAME: &'static str = $name;
                const COLLECTIONS: &'static [&'static str] = &[$collection];
                const SETUP: <Self::Sink as duality::Sink>::Setup = $setup;

                type Sink = $sink;

                fn apply(_: &mut Self::Sink, _: &Event<'_>) -> Result<(), ProjectionError> {
                    Ok(())
                }

                fn reports() -> Vec<Report> {
                    vec![Report { name: $report, parameters: &[], read: |_, _| Ok(Value::Null) }]
                }
            }
        };
    }

    invalid!(OfNothing, "one", Tables, "", "lids", "lids");
    invalid!(WithoutJournal, "one", Tables, "", "persons", "names");
    invalid!(Odd, "../one", Tables, "", "jars", "one");
    invalid!(Same, "same", Tables, "", "jars", "jar-marbles");
    invalid!(LikeAFile, "other", Tables, "", "jars", "jars.csv");
    invalid!(File, "file", CsvFile, &["jar"], "jars", "lines");
}

#[test]
fn invalid_registrations_are_rejected_with_the_reason() {
    use invalid::{File, LikeAFile, Odd, OfNothing, Same, WithoutJournal};
    for (service, why) in [
        (jars().inline::<OfNothing>(), "projection one: no collection lids is registered before it"),
        (jars().background::<OfNothing>(), "projection one: no collection lids is registered before it"),
        (cities().inline::<WithoutJournal>(), "projection one: persons have no journal, but change events"),
        (jars().background::<Odd>(), r#"the projection name "../one" is taken or invalid"#),
        (
            jars().inline::<Marbles<20>>().background::<Marbles<20>>(),
            r#"the projection name "marbles" is taken or invalid"#,
        ),
        (jars().background::<Marbles<20>>().background::<Same>(), r#"there is already a report "jar-marbles""#),
        (jars().background::<Jars>().background::<LikeAFile>(), r#"there is already a report "jars.csv""#),
        (jars().background::<LikeAFile>().background::<Jars>(), r#"there is already a report "jars.csv""#),
    ] {
        let refusal = refusal(service);
        assert!(refusal.ends_with(why), "{refusal}");
    }
    let app = App::serving(|| jars().background::<File>(), |_| {});
    assert_eq!(app.get("/projections").json()["projections"][0]["name"], "file");
}

#[test]
fn a_report_of_another_history_is_refused() {
    let mut app = App::serving(
        || jars().inline::<Marbles<17>>(),
        // Nothing else notices it.
        |settings| settings.poll_interval = Duration::from_secs(3600),
    );
    fill(&app, "a", 1);
    assert_eq!(rows(&app), json!([[1, "a", 1, 1]]));
    sql(app.database(), "UPDATE metadata SET epoch = 'otherone'; UPDATE marbles SET number = 7");
    app.get("/reports/jar-marbles").problem(503, "replaced");
    assert!(app.stop_failing().contains("was replaced"));
}

#[test]
fn a_report_from_damaged_tables_is_a_failed_read() {
    let mut app = App::serving(|| jars().inline::<Marbles<18>>(), |_| {});
    fill(&app, "a", 1);
    app.stop();
    let number = |query: &str| lines(app.database(), query)[0].parse::<usize>().unwrap();
    let root = number("SELECT rootpage || '' AS line FROM sqlite_schema WHERE name = 'marbles'");
    let size = number("SELECT page_size || '' AS line FROM pragma_page_size");
    let mut file = std::fs::read(app.database()).unwrap();
    file[(root - 1) * size..root * size].fill(0xa5);
    std::fs::write(app.database(), file).unwrap();
    app.resume();
    assert_eq!(app.get("/reports/jar-marbles").status, 500);
    let reasons = app.get("/healthz").json()["reasons"].clone();
    assert_eq!(reasons[0]["part"], "reader", "{reasons}");
    assert!(app.get("/metrics").text().contains("duality_failures_total{part=\"reader\"} 1\n"));
}
