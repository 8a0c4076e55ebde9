//! Projections in the transaction of the command: there with it, or not at all.

use duality::{Service, Settings};
use serde_json::{Value, json};

use crate::harness::{App, lines};
use crate::own_projections::{Jars, Marbles, Sights, cities, fail_at, fill, jars, told};

fn rows(app: &App) -> Value {
    app.get("/reports/jar-marbles").json()
}

/// What a command that leaves nothing behind leaves as it was.
fn everything(app: &App) -> (Value, String, i64, Value) {
    let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None);
    (journal.json(), app.get("/aggregates").text().to_owned(), journal.revision(), rows(app))
}

/// Whether the database has a table.
fn has_table(app: &App, table: &str) -> bool {
    !lines(app.database(), &format!("SELECT name AS line FROM sqlite_schema WHERE name = '{table}'")).is_empty()
}

#[test]
fn its_rows_are_there_when_the_command_is_answered() {
    let app = App::serving(|| jars().inline::<Marbles<11>>(), |_| {});
    for number in 1..=20 {
        fill(&app, &number.to_string(), 1);
        assert_eq!(rows(&app)[number - 1], json!([number, number.to_string(), 1, 1]));
    }
    let all = rows(&app);
    let told = told(&app, "marbles");
    assert_eq!((&told["mode"], &told["state"]), (&json!("inline"), &json!("live")));
    assert_eq!(app.command("/projections/marbles/rebuild").status, 202);
    assert_eq!(rows(&app), all);
    app.post("/projections/marbles/skip", r#"{"at":1}"#).problem(409, "not-there");
}

#[track_caller]
fn refuses_and_leaves_nothing(service: fn() -> Service, cause: usize, at: i64) {
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
    assert_eq!(everything(&app), after, "and is durable");
    fail_at(cause, 0);
    fill(&app, "b", 3);
    assert_eq!(rows(&app)[2], json!([3, "b", 3, 1]));
}

#[test]
fn when_it_fails_the_command_is_refused_and_leaves_nothing_behind() {
    refuses_and_leaves_nothing(|| jars().inline::<Marbles<12>>(), 12, 3);
}

#[test]
fn when_it_panics_the_command_is_refused_and_leaves_nothing_behind() {
    refuses_and_leaves_nothing(|| jars().inline::<Marbles<13>>(), 13, -3);
}

#[test]
fn the_other_commands_of_the_same_batch_are_done() {
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
    let (jars, rows) = (app.get("/jars").json(), rows(&app));
    let mut names: Vec<_> = rows.as_array().unwrap().iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
    assert!(rows.as_array().unwrap().iter().zip(1..).all(|(row, position)| row[0] == position), "{rows}");
    names.sort();
    let mut keys: Vec<_> = jars.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    assert_eq!(names, keys);
    assert_eq!(keys.len(), (0..160).filter(|number| (number / 20 + number % 20) % 3 != 0).count());
}

#[test]
fn when_its_version_is_another_it_is_built_anew_at_the_start() {
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
fn when_building_it_anew_fails_it_stays_as_it_was() {
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
fn of_one_that_is_not_registered_any_more_the_tables_go() {
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
    assert_eq!(rows(&app), json!([[1, "a", 1, 1], [2, "b", 2, 1]]), "it comes back with what it has missed");
}

#[test]
fn one_of_change_events_that_were_pruned_is_built_from_the_aggregates() {
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
    let settings = Settings { database: ":memory:".into(), ..Settings::default() };
    match service.open(settings) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

mod mistaken {
    use duality::{CsvFile, Event, Projection, ProjectionError, Report, Tables};
    use serde_json::Value;

    macro_rules! mistaken {
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

    mistaken!(OfNothing, "one", Tables, "", "lids", "lids");
    mistaken!(WithoutJournal, "one", Tables, "", "persons", "names");
    mistaken!(Odd, "../one", Tables, "", "jars", "one");
    mistaken!(Same, "same", Tables, "", "jars", "jar-marbles");
    mistaken!(LikeAFile, "other", Tables, "", "jars", "jars.csv");
    mistaken!(File, "file", CsvFile, &["jar"], "jars", "lines");
}

#[test]
fn registrations_that_cannot_work_are_refused_with_what_is_wrong() {
    use mistaken::{File, LikeAFile, Odd, OfNothing, Same, WithoutJournal};
    for (service, why) in [
        (jars().inline::<OfNothing>(), "projection one: lids is no collection registered before it"),
        (jars().background::<OfNothing>(), "projection one: lids is no collection registered before it"),
        (cities().inline::<WithoutJournal>(), "projection one: persons have no journal, but change events"),
        (jars().background::<Odd>(), r#"the name "../one" of a projection is taken, or is none"#),
        (
            jars().inline::<Marbles<20>>().background::<Marbles<20>>(),
            r#"the name "marbles" of a projection is taken, or is none"#,
        ),
        (jars().background::<Marbles<20>>().background::<Same>(), r#"there is a report "jar-marbles" already"#),
        (jars().background::<Jars>().background::<LikeAFile>(), r#"there is a report "jars.csv" already"#),
        (jars().background::<LikeAFile>().background::<Jars>(), r#"there is a report "jars.csv" already"#),
    ] {
        let refusal = refusal(service);
        assert!(refusal.ends_with(why), "{refusal}");
    }
    let app = App::serving(|| jars().background::<File>(), |_| {});
    assert_eq!(app.get("/projections").json()["projections"][0]["name"], "file");
}
