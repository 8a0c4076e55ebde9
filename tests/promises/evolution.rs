//! A program changes its documents over the years: each version starts on the database of the one before, and consumers that
//! have followed since the first one end exact.
//!
//! Each row of the table in docs/evolution.md has a test: those of documents are here, those of events in
//! `evolution_of_events.rs`. A derived collection that is new or has another rule is in `own_collections.rs`, events of another
//! shape are in `schemas.rs`, and a new version of a projection is in `projection_failures.rs`.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use duality::schemars::{self, JsonSchema};
use duality::{Document, Event, Feed, Key, Projection, ProjectionError, Service, Tables, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::buildings;
use crate::harness::engine::shared_server;
use crate::harness::{App, Authority, Client, DEADLINE, Stream, eventually, lasting_address, lines, output_of, sql};

/// A copy of all buildings, as a projection keeps it. It may keep the change events as well.
struct Copies<const KEEPS_HISTORY: bool>;

impl<const KEEPS_HISTORY: bool> Projection for Copies<KEEPS_HISTORY> {
    const NAME: &'static str = if KEEPS_HISTORY { "kept_copies" } else { "copies" };
    const KEEPS_HISTORY: bool = KEEPS_HISTORY;
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

/// A version of the program of the example, with projections.
fn program(version: u32) -> impl Fn() -> Service + Send + Sync + 'static {
    move || buildings::service(version).background::<Copies<false>>().background::<Copies<true>>()
}

fn bare_first() -> Service {
    buildings::service(1)
}

/// The state and the feed of each level, and another path of the same feed.
const LEVELS: [(&str, &str); 4] = [
    ("/aggregates", "/events"),
    ("/buildings", "/building-events"),
    ("/buildings", "/events/buildings"),
    ("/buildings/1", "/buildings/1/events"),
];

/// How a consumer follows.
#[derive(Debug, Clone, Copy)]
enum By {
    Stream,
    Pages,
}

/// A consumer with what it has and where it is.
pub(crate) struct Consumer {
    path: &'static str,
    feed: &'static str,
    by: By,
    pub(crate) state: Value,
    pub(crate) cursor: String,
}

impl Consumer {
    fn of(app: &App) -> Self {
        Self::by(By::Stream, app, LEVELS[1])
    }

    fn by(by: By, app: &App, (path, feed): (&'static str, &'static str)) -> Self {
        let (state, cursor) = app.load(path);
        Self { path, feed, by, state, cursor }
    }

    /// One for each level and each way to follow.
    fn all(app: &App) -> Vec<Self> {
        let ways = [By::Stream, By::Pages].into_iter();
        ways.flat_map(|by| LEVELS.map(|level| Self::by(by, app, level))).collect()
    }

    /// Follows until it has what the service has.
    #[track_caller]
    fn catch_up(&mut self, app: &App) {
        let (expected, _) = app.load(self.path);
        match self.by {
            By::Stream => {
                let mut stream = self.open(app);
                while self.state != expected {
                    assert!(self.take(&mut stream), "the stream continues");
                }
            }
            By::Pages => while self.turn_page(app) {},
        }
        assert_eq!(self.state, expected, "{} by {:?}", self.feed, self.by);
    }

    fn open(&self, app: &App) -> Stream {
        app.follow(self.feed, &[("Last-Event-ID", &self.cursor)])
    }

    /// Takes the next message of a stream. Returns whether there is one.
    fn take(&mut self, stream: &mut Stream) -> bool {
        let Some(message) = stream.message() else { return false };
        json_patch::merge(&mut self.state, &message.patch());
        self.cursor = message.id.unwrap_or(std::mem::take(&mut self.cursor));
        true
    }

    /// Takes the next page. Returns whether it had something.
    fn turn_page(&mut self, app: &App) -> bool {
        let path = format!("{}?limit=2&lastEventId={}", self.feed, self.cursor);
        let page = app.request("GET", &path, &[("Accept", "application/json")], None);
        assert_eq!(page.status, 200, "{path}: {}", page.text());
        let page = page.json();
        let events = page["events"].as_array().unwrap();
        events.iter().for_each(|event| json_patch::merge(&mut self.state, &event["patch"]));
        page["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
        !events.is_empty()
    }
}

pub(crate) fn revision_of(cursor: &str) -> i64 {
    cursor.split_once('.').unwrap().1.parse().unwrap()
}

/// The copies of both projections are the state of the service.
#[track_caller]
fn assert_projected(app: &App) {
    let state = app.get("/buildings").json();
    let mut expected: Vec<Value> = state.as_object().unwrap().iter().map(|(key, body)| json!([key, body])).collect();
    expected.sort_by_key(|row| row[0].as_str().unwrap().to_owned());
    for name in ["copies", "kept_copies"] {
        eventually(&format!("{name} has everything"), || {
            let status = app.get(&format!("/projections/{name}")).json();
            status["state"] == "live" && copies_of(app, name, &status["generation"]) == expected
        });
    }
}

/// What a generation of a projection has.
fn copies_of(app: &App, name: &str, generation: &Value) -> Vec<Value> {
    let file = format!("{}.projections/{name}.{generation}.db", app.files().display());
    let rows = lines(file.as_ref(), "SELECT json_array(key, json(line)) AS line FROM copies ORDER BY key");
    rows.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn create(app: &App, body: &Value) {
    assert_eq!(app.post("/buildings", &body.to_string()).status, 201);
}

#[test]
fn six_versions_of_a_program_follow_each_other_and_all_consumers_stay_exact() {
    let mut app = App::serving(program(1), |_| {});
    for number in 0..5 {
        create(&app, &json!({"name": format!("house {number}"), "color": "red"}));
    }
    let (mut of_old, mut patient, mut live) = (Consumer::all(&app), Consumer::all(&app), Consumer::of(&app));
    for version in 2..=5 {
        let mut stream = live.open(&app);
        app.patch("/buildings/2", &json!({"color": format!("color {version}"), "floors": version}).to_string());
        app.stop();
        // It has everything that was answered when it is cut.
        while live.take(&mut stream) {}
        app.resume_serving(program(version));
        live.catch_up(&app);
        patient.iter_mut().for_each(|consumer| consumer.catch_up(&app));
        assert_projected(&app);
        let patched = app.patch("/buildings/1", &json!({"floors": version}).to_string());
        assert_eq!(patched.status, 200, "{}", patched.text());
        patient.iter_mut().for_each(|consumer| consumer.catch_up(&app));
        let mut strict = Consumer { feed: "/building-events?strict=true", ..Consumer::of(&app) };
        app.patch("/buildings/1", r#"{"floors":1}"#);
        strict.catch_up(&app);
    }
    assert_eq!(app.get("/buildings/1").json(), json!({"title": "house 0", "city": "Berlin", "floors": 1}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":5}}"#);
    for consumer in &mut of_old {
        let strict = format!("{}?strict=true&lastEventId={}", consumer.feed, consumer.cursor);
        app.get(&strict).problem(410, "not-retained");
        consumer.catch_up(&app);
    }
    assert_projected(&app);
    create(&app, &json!({"title": "school", "city": "Bonn"}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":5},"Bonn":{"buildings":1}}"#);
    app.stop();
    drop_cities(&mut app);
    let everything = app.get("/aggregates").json();
    assert_eq!((&everything["cities"], everything["buildings"].as_object().unwrap().len()), (&Value::Null, 6));
    patient.iter_mut().chain(&mut of_old).for_each(|consumer| consumer.catch_up(&app));
    assert_projected(&app);
}

/// The sixth version has no cities: it starts once they are dropped by the command that it names.
fn drop_cities(app: &mut App) {
    let refused = app.try_resume_serving(program(6)).unwrap_err();
    let task = ["collection", "drop", "cities"];
    assert!(refused.contains(&task.join(" ")), "{refused}");
    let (code, output) = output_of(app.database(), &task);
    assert_eq!(code, 0, "{output}");
    app.resume_serving(program(6));
}

#[test]
fn a_history_that_is_kept_has_no_events_of_the_former_shape() {
    let mut app = App::serving(program(1), |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    app.patch("/buildings/1", r#"{"color":"blue"}"#);
    assert_projected(&app);
    let history = format!("{}.projections/history.db", app.files().display());
    let kept = || lines(history.as_ref(), "SELECT patch AS line FROM changes ORDER BY sequence");
    assert_eq!(kept(), [r#"{"name":"house","color":"red"}"#, r#"{"color":"blue"}"#]);
    app.stop();
    app.resume_serving(program(2));
    assert_projected(&app);
    assert_eq!(kept().len(), 2, "the version of the documents is the same");
    app.stop();
    app.resume_serving(program(5));
    assert_projected(&app);
    assert_eq!(kept(), [r#"{"title":"house","city":"Berlin"}"#]);
    app.patch("/buildings/1", r#"{"floors":2}"#);
    assert_projected(&app);
    app.restart();
    assert_projected(&app);
    assert_eq!(kept(), [r#"{"title":"house","city":"Berlin"}"#, r#"{"floors":2}"#]);
}

#[test]
fn a_member_that_may_be_absent_changes_nothing() {
    let mut app = App::serving(bare_first, |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    let before = app.get("/buildings");
    app.stop();
    app.resume_serving(|| buildings::service(2));
    let after = app.get("/buildings");
    assert_eq!((after.text(), after.revision()), (before.text(), before.revision()));
    assert_eq!(app.patch("/buildings/1", r#"{"floors":2}"#).status, 200);
}

/// A rule is stricter than the one before, which allowed everything.
mod named {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";

        fn validate(&self) -> Result<(), ValidationError> {
            if self.name.is_empty() { Err(ValidationError::new("name", "is empty")) } else { Ok(()) }
        }
    }
}

#[test]
fn a_new_rule_of_documents_applies_to_what_is_written_from_now_on() {
    let mut app = App::serving(bare_first, |_| {});
    create(&app, &json!({"name": ""}));
    app.stop();
    app.resume_serving(|| Service::new().document::<named::Building>());
    let stored = app.get("/buildings/1");
    assert_eq!((stored.text(), stored.revision()), (r#"{"name":""}"#, 1));
    app.patch("/buildings/1", r#"{"color":"red"}"#).problem(422, "invalid");
    app.post("/buildings", r#"{"name":""}"#).problem(422, "invalid");
    assert_eq!(app.patch("/buildings/1", r#"{"name":"barn"}"#).status, 200);
}

#[test]
fn a_program_may_skip_versions_in_between() {
    let mut app = App::serving(program(1), |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    let mut consumer = Consumer::of(&app);
    app.stop();
    app.resume_serving(program(5));
    assert_eq!(app.get("/buildings/1").json(), json!({"title": "house", "city": "Berlin"}));
    assert_eq!(app.get("/cities").text(), r#"{"Berlin":{"buildings":1}}"#);
    consumer.catch_up(&app);
    let revision = app.get("/buildings").revision();
    app.restart();
    assert_eq!(app.get("/buildings").revision(), revision, "an upgrade is done once");
}

#[test]
fn events_of_the_former_shape_are_not_told_again() {
    let mut app = App::serving(program(1), |_| {});
    create(&app, &json!({"name": "house", "color": "red"}));
    create(&app, &json!({"name": "barn", "color": "green"}));
    let (_, early) = (app.patch("/buildings/2", r#"{"color":null}"#), "1");
    let epoch = Consumer::of(&app).cursor.split_once('.').unwrap().0.to_owned();
    app.stop();
    app.resume_serving(program(3));
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

/// The conversion goes on when nobody holds this.
static GATE: Mutex<()> = Mutex::new(());

/// Is converted when it may be.
mod slow {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        color: Option<String>,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;

        fn upgrade(_: i64, document: Value) -> Result<Value, ValidationError> {
            drop(GATE.lock());
            Ok(document)
        }
    }
}

#[test]
fn whoever_asks_while_documents_are_converted_gets_a_503_and_nobody_is_refused() {
    let address = lasting_address();
    let mut app = App::serving(bare_first, |settings| settings.listen = address.to_string());
    create(&app, &json!({"name": "house"}));
    app.stop();
    let (gate, is_over) = (GATE.lock().unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| app.resume_serving(|| Service::new().document::<slow::Building>()));
        eventually("the address can be connected to", || TcpStream::connect(address).is_ok());
        let asking = scope.spawn(|| {
            let mut answers = BTreeSet::new();
            let begun = Instant::now();
            while !is_over.load(Ordering::SeqCst) && begun.elapsed() < DEADLINE {
                answers.insert(Client::connect(address).request("GET", "/buildings", &[], None).status);
            }
            answers
        });
        for (method, path) in [("GET", "/readyz"), ("GET", "/buildings"), ("POST", "/buildings"), ("GET", "/nowhere")] {
            let body = (method == "POST").then_some(&br#"{"name":"barn"}"#[..]);
            let answer = Client::connect(address).request(method, path, &[], body);
            answer.problem(503, "not-ready");
            assert_eq!(
                (answer.header("Retry-After"), &answer.json()["reasons"][0]["part"]),
                (Some("5"), &json!("start"))
            );
        }
        // An `EventSource` comes back after this, and would not after an error.
        let mut stream = Stream::open(address, "/building-events", &[("Accept", "text/event-stream")]);
        assert_eq!(stream.message(), None, "it is cut");
        assert!(stream.raw.starts_with(":\nretry: "), "{:?}", stream.raw);
        let alive = Client::connect(address).request("GET", "/healthz", &[], None);
        assert_eq!((alive.status, &alive.json()["status"]), (200, &json!("degraded")));
        drop(gate);
        starting.join().unwrap();
        let ready = Client::connect(address).request("GET", "/readyz", &[], None);
        assert_eq!(ready.status, 200, "{}", ready.text());
        is_over.store(true, Ordering::SeqCst);
        assert!(asking.join().unwrap().is_subset(&[200, 503].into()));
    });
    assert_eq!(app.get("/buildings").text(), r#"{"1":{"name":"house"}}"#, "nothing was written meanwhile");
}

#[test]
fn whoever_asks_with_tls_while_documents_are_converted_is_not_kept_waiting() {
    let (address, files) = (lasting_address(), crate::harness::directory());
    let (authority, operators) = (Authority::new(), lasting_address());
    let mut app = App::serving(bare_first, |settings| {
        authority.certify().write(files.path(), settings);
        settings.listen = address.to_string();
        settings.operate_on = Some(operators.to_string());
    });
    let mut client = Client::connect_tls(address, &authority);
    let headers = [("Content-Type", "application/json")];
    assert_eq!(client.request("POST", "/buildings", &headers, Some(br#"{"name":"house"}"#)).status, 201);
    drop(client);
    app.stop();
    let gate = GATE.lock().unwrap();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| app.resume_serving(|| Service::new().document::<slow::Building>()));
        eventually("the address can be connected to", || TcpStream::connect(address).is_ok());
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(socket.read(&mut [0; 16]).unwrap(), 0, "it is closed, since the certificate is not read yet");
        // On this machine, operators need no certificate.
        let ready = Client::connect(operators).request("GET", "/readyz", &[], None);
        ready.problem(503, "not-ready");
        drop(gate);
        starting.join().unwrap();
    });
    assert_eq!(Client::connect_tls(address, &authority).request("GET", "/buildings/1", &[], None).status, 200);
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

/// Has the version of the one before, and other members.
mod diverted {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    pub(super) struct Building {
        name: String,
        #[serde(default)]
        hue: String,
    }

    impl Document for Building {
        const NAME: &'static str = "buildings";
        const VERSION: i64 = 2;
    }
}

fn of_diverted() -> Service {
    Service::new().document::<diverted::Building>()
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
    let refused = app.try_resume_serving(|| buildings::service(4)).unwrap_err();
    assert!(refused.contains("are already of version 2, and others are not: start a program with that"), "{refused}");
    let refused = app.try_resume_serving(of_diverted).unwrap_err();
    let expected =
        "some documents of buildings are already of version 2, but the document 1 does not fit its type: color: ";
    assert!(refused.starts_with(expected) && refused.ends_with("nothing was changed"), "{refused}");
    assert_eq!(lines(app.database(), "SELECT place AS line FROM upgrades"), half);
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
    sql(app.database(), "INSERT INTO upgrades VALUES ('persons', 1, 2, 0, '', 0)");
    let (status, output) = check(&app);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("some documents of persons are already of version 2, and others are not"), "{output}");
    sql(app.database(), "DELETE FROM upgrades");
    // Only documents once had no version.
    sql(app.database(), "UPDATE collections SET version = 0 WHERE name = 'locations'");
    let (status, output) = check(&app);
    assert_eq!(status, 3, "{output}");
    assert!(output.contains("locations: to compute again, because"), "{output}");
    sql(app.database(), "UPDATE collections SET version = 0 WHERE name = 'persons'");
    sql(app.database(), "UPDATE collections SET version = 1 WHERE name = 'locations'");
    assert_eq!(check(&app), (0, "nothing to do\n".to_owned()));
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
