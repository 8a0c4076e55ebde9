//! A program changes its documents over the years: each version starts on the database of the one before, and consumers that
//! have followed since the first one end exact.

use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Event, Feed, Key, Projection, ProjectionError, Service, Tables, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::engine::shared_server;
use crate::harness::{App, eventually, lines, output_of, sql};

mod first {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        pub(super) name: String,
        pub(super) color: Option<String>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// A member that may be absent is new.
mod with_floors {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
        floors: Option<u32>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// A member that is required is new.
mod with_city {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
        floors: Option<u32>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn upgrade(from: i64, mut document: Value) -> Result<Value, ValidationError> {
            if from < 2 {
                document["city"] = json!("Berlin");
            }
            Ok(document)
        }
    }
}

/// A member is gone.
mod without_color {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        floors: Option<u32>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 3;

        fn upgrade(from: i64, mut document: Value) -> Result<Value, ValidationError> {
            if from < 2 {
                document["city"] = json!("Berlin");
            }
            Ok(document)
        }
    }
}

/// A member has another name, and a group follows from the documents.
mod with_title {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        title: String,
        floors: Option<u32>,
        pub(super) city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 4;

        fn upgrade(from: i64, mut document: Value) -> Result<Value, ValidationError> {
            if from < 2 {
                document["city"] = json!("Berlin");
            }
            document["title"] = document["name"].take();
            Ok(document)
        }
    }

    /// The buildings of a city.
    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    pub(super) struct City {
        buildings: u32,
    }

    impl Derived for City {
        const NAME: &'static str = "cities";
        type Source = Building;

        fn key(building: &Building) -> Option<Key> {
            Some(building.city.clone())
        }
        fn add(&mut self, _: &Building) {
            self.buildings += 1;
        }
        fn remove(&mut self, _: &Building) {
            self.buildings -= 1;
        }
        fn is_empty(&self) -> bool {
            self.buildings == 0
        }
    }
}

/// A copy of all buildings, as a projection keeps it.
struct Copies;

impl Projection for Copies {
    const NAME: &'static str = "copies";
    const FEED: Feed = Feed::Changes;
    const COLLECTIONS: &'static [&'static str] = &["buildings"];
    const SETUP: &'static str = "CREATE TABLE copies (key TEXT NOT NULL PRIMARY KEY, line TEXT NOT NULL)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let known = sql_query("SELECT line FROM copies WHERE key = ?").bind::<Text, _>(event.key.as_str());
        let known: Option<Known> = known.get_result(tables).optional()?;
        let mut state = known.map_or(Value::Null, |known| serde_json::from_str(&known.line).unwrap());
        json_patch::merge(&mut state, &event.patch()?.unwrap_or(Value::Null));
        sql_query("INSERT OR REPLACE INTO copies (key, line) VALUES (?, ?)")
            .bind::<Text, _>(event.key.as_str())
            .bind::<Text, _>(state.to_string())
            .execute(tables)?;
        Ok(())
    }
}

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Text)]
    line: String,
}

fn of_first() -> Service {
    Service::new().document::<first::Building>().background::<Copies>()
}

fn of_floors() -> Service {
    Service::new().document::<with_floors::Building>().background::<Copies>()
}

fn of_city() -> Service {
    Service::new().document::<with_city::Building>().background::<Copies>()
}

fn of_no_color() -> Service {
    Service::new().document::<without_color::Building>().background::<Copies>()
}

fn of_title() -> Service {
    Service::new().document::<with_title::Building>().derived::<with_title::City>().background::<Copies>()
}

const VERSIONS: [fn() -> Service; 5] = [of_first, of_floors, of_city, of_no_color, of_title];

/// A consumer that is away while the program changes, with what it has and where it is.
pub(crate) struct Consumer {
    pub(crate) state: Value,
    pub(crate) cursor: String,
}

impl Consumer {
    fn of(app: &App) -> Self {
        let (state, cursor) = app.load("/buildings");
        Self { state, cursor }
    }

    /// Follows until it has what the service has, and compares.
    fn catch_up(&mut self, app: &App) {
        let (state, cursor) = app.load("/buildings");
        let until = revision_of(&cursor);
        if until > revision_of(&self.cursor) {
            app.follow("/building-events", &[("Last-Event-ID", &self.cursor)]).follow(&mut self.state, until);
        }
        assert_eq!(self.state, state);
        self.cursor = cursor;
    }
}

pub(crate) fn revision_of(cursor: &str) -> i64 {
    cursor.split_once('.').unwrap().1.parse().unwrap()
}

/// The copy of the projection is the state of the service.
fn assert_projected(app: &App) {
    let (state, cursor) = app.load("/buildings");
    let revision = revision_of(&cursor);
    eventually("the projection has everything", || {
        let status = app.get("/projections/copies").json();
        status["state"] == "live" && status["at"].as_i64().is_some_and(|at| at >= revision)
    });
    let folder = format!("{}.projections", app.files().display());
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let newest = files.filter(|file| file.extension().is_some_and(|ending| ending == "db")).max().unwrap();
    let copies: Vec<Value> = lines(&newest, "SELECT json_array(key, json(line)) AS line FROM copies ORDER BY key")
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut expected: Vec<Value> = state.as_object().unwrap().iter().map(|(key, body)| json!([key, body])).collect();
    expected.sort_by_key(|row| row[0].as_str().unwrap().to_owned());
    assert_eq!(copies, expected);
}

fn create(app: &App, body: &Value) {
    assert_eq!(app.post("/buildings", &body.to_string()).status, 201);
}

#[test]
fn five_versions_of_a_program_follow_each_other_and_all_consumers_stay_exact() {
    let mut app = App::serving(of_first, |_| {});
    for number in 0..5 {
        create(&app, &json!({"name": format!("house {number}"), "color": "red"}));
    }
    let mut of_old = Consumer::of(&app);
    let mut patient = Consumer::of(&app);
    for version in &VERSIONS[1..] {
        app.stop();
        app.resume_serving(*version);
        patient.catch_up(&app);
        assert_projected(&app);
        let patched = app.patch("/buildings/1", r#"{"floors":3}"#);
        assert_eq!(patched.status, 200, "{}", patched.text());
        patient.catch_up(&app);
    }
    assert_eq!(app.get("/buildings/1").json(), json!({"title": "house 0", "city": "Berlin", "floors": 3}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":5}}"#);
    of_old.catch_up(&app);
    assert_projected(&app);
    create(&app, &json!({"title": "school", "city": "Bonn"}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":5},"Bonn":{"buildings":1}}"#);
}

#[test]
fn a_program_may_skip_versions_in_between() {
    let mut app = App::serving(of_first, |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    let mut consumer = Consumer::of(&app);
    app.stop();
    app.resume_serving(of_title);
    assert_eq!(app.get("/buildings/1").json(), json!({"title": "house", "city": "Berlin"}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":1}}"#);
    consumer.catch_up(&app);
    let revision = app.get("/buildings").revision();
    app.restart();
    assert_eq!(app.get("/buildings").revision(), revision, "an upgrade is done once");
}

#[test]
fn events_of_the_former_shape_are_not_told_again() {
    let mut app = App::serving(of_first, |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    create(&app, &json!({"name": "barn", "color": "green"}));
    let (_, early) = (app.patch("/buildings/2", r#"{"color":null}"#), "1");
    let epoch = Consumer::of(&app).cursor.split_once('.').unwrap().0.to_owned();
    app.stop();
    app.resume_serving(of_city);
    let page = app.get(&format!("/building-events?strict=true&lastEventId={epoch}.{early}"));
    page.problem(410, "not-retained");
    let mut state = json!({});
    let until = app.get("/buildings").revision();
    let mut feed = app.follow("/building-events", &[]);
    feed.follow(&mut state, until);
    assert_eq!(state, app.get("/buildings").json());
}

/// A member became required, and nobody has raised the version.
mod forgotten {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
        city: Key,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// A member is not there any more, and nobody has raised the version.
mod forgotten_removal {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
    }
}

/// Cannot convert a building without a color.
mod picky {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: String,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn validate(&self) -> Result<(), ValidationError> {
            assert!(self.color != "plaid", "a bug in a rule");
            if self.color == "pink" { Err(ValidationError::new("color", "must not be pink")) } else { Ok(()) }
        }
    }
}

fn of_forgotten() -> Service {
    Service::new().document::<forgotten::Building>()
}

fn of_forgotten_removal() -> Service {
    Service::new().document::<forgotten_removal::Building>()
}

fn of_picky() -> Service {
    Service::new().document::<picky::Building>()
}

fn bare_first() -> Service {
    Service::new().document::<first::Building>()
}

#[test]
fn a_wrong_step_stops_the_start_in_one_line_and_changes_nothing() {
    let mut app = App::serving(bare_first, |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    create(&app, &json!({"name": "barn"}));
    let before = app.get("/aggregates").text().to_owned();
    app.stop();
    for (program, expected) in [
        (
            of_forgotten as fn() -> Service,
            "the document 1 of buildings does not fit its type: city: is missing; either",
        ),
        (of_forgotten_removal, "the document 1 of buildings does not fit its type: color: unknown member"),
        (
            of_picky,
            "the document 2 of buildings cannot be converted from version 1 to version 2: color: is missing; let",
        ),
    ] {
        let refused = app.try_resume_serving(program).unwrap_err();
        assert!(refused.contains(expected) && !refused.contains('\n'), "{refused}");
        assert!(refused.ends_with("nothing was changed"), "{refused}");
        app.resume_serving(bare_first);
        assert_eq!((app.get("/aggregates").text(), app.get("/aggregates").revision()), (&*before, 2));
        app.stop();
    }
    app.resume_serving(bare_first);
    assert_eq!(app.patch("/buildings/2", r#"{"color":"pink"}"#).status, 200);
    app.stop();
    let refused = app.try_resume_serving(of_picky).unwrap_err();
    assert!(refused.contains("color: must not be pink"), "{refused}");
    app.resume_serving(bare_first);
    assert_eq!(app.patch("/buildings/2", r#"{"color":"blue"}"#).status, 200);
    app.stop();
    app.resume_serving(of_picky);
    app.stop();
    let refused = app.try_resume_serving(bare_first).unwrap_err();
    assert!(refused.contains("are of version 2, and this program knows version 1: start a program with"), "{refused}");
    app.resume_serving(of_picky);
}

/// How often `upgrade` was called, and at which call it ends as if the program had been killed.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static END_AT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Ends in the middle of the upgrade.
mod interrupted {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: String,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn upgrade(_: i64, mut document: Value) -> Result<Value, ValidationError> {
            let call = CALLS.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(call != END_AT.load(Ordering::SeqCst), "the end of the program");
            assert!(document["color"].is_null(), "each document is converted once: {document}");
            document["color"] = json!("red");
            Ok(document)
        }
    }
}

fn of_interrupted() -> Service {
    Service::new().document::<interrupted::Building>()
}

#[test]
fn an_upgrade_that_was_interrupted_goes_on_where_it_was() {
    let mut app = App::serving(bare_first, |_| {});
    for number in 0..2500 {
        create(&app, &json!({"name": format!("house {number}")}));
    }
    let mut consumer = Consumer::of(&app);
    app.stop();
    // All are looked at before the first is changed; then, a thousand are changed at a time.
    END_AT.store(2500 + 1700, Ordering::SeqCst);
    let ended = app.try_resume_serving(of_interrupted).unwrap_err();
    assert!(ended.contains("panicked"), "{ended}");
    let half = lines(app.database(), "SELECT place AS line FROM upgrades");
    assert_eq!(half, ["1000"]);
    let refused = app.try_resume_serving(bare_first).unwrap_err();
    assert!(refused.contains("are of version 2, and this program knows version 1"), "{refused}");
    CALLS.store(0, Ordering::SeqCst);
    app.resume_serving(of_interrupted);
    assert_eq!(CALLS.load(Ordering::SeqCst), 1500);
    assert_eq!(lines(app.database(), "SELECT place AS line FROM upgrades"), Vec::<String>::new());
    consumer.catch_up(&app);
    assert!(app.get("/buildings").json().as_object().unwrap().values().all(|building| building["color"] == "red"));
}

#[test]
fn what_a_start_would_refuse_is_known_before() {
    let mut app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.stop();
    let check = |app: &App| output_of(app.database(), &["migrate", "--check"]);
    assert_eq!(check(&app), (0, "nothing to do\n".to_owned()));
    sql(app.database(), r#"UPDATE aggregates SET body = '{"name":"Ann","age":7}' WHERE collection = 'persons'"#);
    assert_eq!(check(&app).0, 0, "a program with the same members has looked at it");
    sql(app.database(), "UPDATE collections SET shape = 'of another program' WHERE name = 'persons'");
    let (status, output) = check(&app);
    assert_eq!(status, 1, "{output}");
    assert!(
        output.contains("the document 1 of persons does not fit its type: age: unknown member; either"),
        "{output}"
    );
    sql(app.database(), r#"UPDATE aggregates SET body = '{"name":"Ann"}' WHERE collection = 'persons'"#);
    sql(app.database(), "UPDATE collections SET version = 3 WHERE name = 'persons'");
    let (status, output) = check(&app);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("the documents of persons are of version 3, and this program knows version 1"), "{output}");
    sql(app.database(), "UPDATE collections SET version = 1 WHERE name = 'persons'");
    app.resume();
    assert_eq!(app.get("/persons").text(), r#"{"1":{"name":"Ann"}}"#);
}

/// Counts how often it has been converted.
mod counting {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
        times: u32,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn upgrade(_: i64, mut document: Value) -> Result<Value, ValidationError> {
            document["times"] = json!(document["times"].as_u64().unwrap_or(0) + 1);
            Ok(document)
        }
    }
}

fn of_counting() -> Service {
    Service::new().document::<counting::Building>()
}

#[test]
fn services_that_start_at_once_convert_each_document_once_beside_an_older_one() {
    let Some(server) = shared_server() else { return };
    let url = &server.new_database();
    let start = |program: fn() -> Service| App::serving(program, |settings| settings.database = url.into());
    let older = start(bare_first);
    for number in 0..2100 {
        create(&older, &json!({"name": format!("house {number}")}));
    }
    let mut consumer = Consumer::of(&older);
    let newer: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3).map(|_| scope.spawn(|| start(of_counting))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for service in &newer {
        let buildings = service.get("/buildings").json();
        let times = buildings.as_object().unwrap().values().map(|building| building["times"].as_i64());
        assert_eq!(times.filter(|times| *times == Some(1)).count(), 2100);
    }
    older.patch("/buildings/1", r#"{"color":"red"}"#).problem(503, "outdated");
    assert_eq!(older.get("/buildings").json(), newer[0].get("/buildings").json());
    consumer.catch_up(&newer[1]);
}
