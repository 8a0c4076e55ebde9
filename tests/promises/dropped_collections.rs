//! A collection that a program does not register any more is dropped by a command: consumers at every level end exact, nothing
//! of it is left, and a later program may begin it again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use duality::schemars::{self, JsonSchema};
use duality::{Document, Service, aggregates};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::evolution::revision_of;
use crate::harness::engine::{psql, shared_server};
use crate::harness::{App, Process, Random, eventually, example, kills, lines, output_of, sql};
use crate::own_aggregates::Jar;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Building {
    name: String,
}

impl Document for Building {
    const NAME: &'static str = "buildings";
}

/// The shipped program with two collections more.
fn with_buildings() -> Service {
    aggregates::shipped().document::<Building>().event_sourced::<Jar<false>>()
}

fn with_jars() -> Service {
    aggregates::shipped().event_sourced::<Jar<false>>()
}

/// What the shipped program prints, which registers neither buildings nor jars.
fn run(app: &App, task: &[&str]) -> (i32, String) {
    output_of(app.database(), task)
}

#[track_caller]
fn drop_collection(app: &App, task: &[&str]) {
    let (code, output) = run(app, &[&["collection", "drop"], task].concat());
    assert_eq!(code, 0, "{output}");
    assert!(output.contains(&format!("{} is dropped, as revision ", task[0])), "{output}");
}

/// Drops both collections that the shipped program does not have.
fn drop_both(app: &App) {
    drop_collection(app, &["buildings"]);
    drop_collection(app, &["jars"]);
}

fn build(app: &App, name: &str) {
    assert_eq!(app.post("/buildings", &json!({ "name": name }).to_string()).status, 201);
}

/// A consumer of a feed that is away while the program changes.
struct Away {
    path: &'static str,
    feed: &'static str,
    state: Value,
    cursor: String,
}

impl Away {
    fn from(app: &App, path: &'static str, feed: &'static str) -> Self {
        let (state, cursor) = app.load(path);
        Self { path, feed, state, cursor }
    }

    /// The three ways to get what it has missed, each from where it is: as a stream, as a stream of states, in pages.
    #[track_caller]
    fn assert_exact_by_all_ways(&self, app: &App) {
        let (expected, cursor) = app.load(self.path);
        for feed in [self.feed.to_owned(), format!("{}?compact=true", self.feed)] {
            let mut state = self.state.clone();
            let mut stream = app.follow(&feed, &[("Last-Event-ID", &self.cursor)]);
            stream.follow(&mut state, revision_of(&cursor));
            assert_eq!(state, expected, "{feed} {}", stream.raw);
        }
        let (mut state, mut at) = (self.state.clone(), self.cursor.clone());
        while at != cursor {
            let path = format!("{}?limit=2&lastEventId={at}", self.feed);
            let page = app.request("GET", &path, &[("Accept", "application/json")], None).json();
            page["events"].as_array().unwrap().iter().for_each(|event| json_patch::merge(&mut state, &event["patch"]));
            let next = page["cursor"].as_str().unwrap().to_owned();
            assert_ne!(next, at, "{page}");
            at = next;
        }
        assert_eq!(state, expected);
    }
}

#[test]
fn consumers_at_all_levels_are_exact_after_a_collection_was_dropped() {
    // Frequent bookmarks make every feed reach every revision.
    let mut app = App::serving(with_buildings, |settings| settings.heartbeat = Duration::from_millis(20));
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    build(&app, "house");
    let early = [Away::from(&app, "/aggregates", "/events"), Away::from(&app, "/persons", "/person-events")];
    build(&app, "barn");
    app.post("/persons", r#"{"name":"Bob"}"#);
    app.delete("/buildings/1");
    app.delete("/persons/1");
    let late = [Away::from(&app, "/aggregates", "/events"), Away::from(&app, "/persons/2", "/persons/2/events")];
    let before = app.get("/aggregates");
    let tag = before.header("ETag").unwrap().to_owned();
    app.stop();
    drop_both(&app);
    app.resume_serving(aggregates::shipped);
    // The one that had everything gets the events themselves, also if it wants each of them.
    let headers = [("Last-Event-ID", &*late[0].cursor)];
    let mut stream = app.follow("/events?strict=true", &headers[..]);
    let event = stream.next();
    assert_eq!(event.data, r#"{"buildings":null}"#);
    assert_eq!(event.revision(), revision_of(&late[0].cursor) + 1);
    assert_eq!(stream.next().data, r#"{"jars":null}"#);
    app.get(&format!("/events?strict=true&lastEventId={}", early[0].cursor)).problem(410, "not-retained");
    let whole = app.request("GET", "/aggregates", &[("If-None-Match", &*tag)], None);
    assert_eq!(whole.status, 200, "the document has lost a member");
    assert_eq!(whole.json()["buildings"], Value::Null);
    app.get("/buildings").problem(404, "no-such-path");
    for round in 0..2 {
        early.iter().chain(&late).for_each(|consumer| consumer.assert_exact_by_all_ways(&app));
        let mut state = json!({});
        app.follow("/events", &[]).follow(&mut state, app.get("/aggregates").revision());
        assert_eq!(state, app.get("/aggregates").json());
        assert_eq!(app.post("/persons", r#"{"name":"Cid"}"#).status, 201, "{round}");
        app.restart();
    }
    app.stop();
    let (code, output) = run(&app, &["verify"]);
    assert_eq!(code, 0, "{output}");
    app.resume();
}

/// Neither the tables nor the names of rows have anything of a collection.
#[track_caller]
fn assert_nothing_left(database: &Path, collection: &str, text: &str) {
    for query in [
        format!("SELECT key AS line FROM aggregates WHERE collection = '{collection}'"),
        format!("SELECT patch AS line FROM outbox WHERE collection = '{collection}' AND patch <> 'null'"),
        format!("SELECT answer AS line FROM idempotency WHERE answer LIKE '%{text}%'"),
        format!("SELECT body AS line FROM journal WHERE body LIKE '%{text}%'"),
        format!("SELECT name AS line FROM collections WHERE name = '{collection}'"),
    ] {
        assert_eq!(lines(database, &query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn rows_events_and_stored_answers_of_a_dropped_collection_are_gone() {
    let mut app = App::serving(with_buildings, |_| {});
    let once = [("Idempotency-Key", "1"), ("Content-Type", "application/json")];
    let made = app.request("POST", "/buildings", &once, Some(br#"{"name":"secret"}"#));
    assert_eq!(made.status, 201);
    let other = app.request("POST", "/persons", &once, Some(br#"{"name":"Ann"}"#));
    app.stop();
    drop_both(&app);
    assert_nothing_left(app.database(), "buildings", "secret");
    app.resume_serving(aggregates::shipped);
    let again = app.request("POST", "/persons", &once, Some(br#"{"name":"Ann"}"#));
    assert_eq!((again.text(), again.header("Location")), (other.text(), other.header("Location")));
}

#[test]
fn the_line_that_refuses_a_start_names_the_command_that_helps() {
    let mut app = App::serving(with_buildings, |_| {});
    build(&app, "house");
    let consumer = Away::from(&app, "/aggregates", "/events");
    app.stop();
    for name in ["buildings", "jars"] {
        let refused = run(&app, &[]);
        let told =
            format!("the database has the collection \"{name}\", which this program does not register: register it");
        assert!(refused.0 == 1 && refused.1.contains(&told), "{refused:?}");
        let (code, output) = run(&app, &["migrate", "--check"]);
        assert!(code == 1 && output.contains(&told), "{output}");
        let (_, command) = refused.1.trim_end().rsplit_once("aggregates: ").unwrap();
        let command = command.trim_end_matches(", with the settings of this start");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("DUALITY_DATABASE", app.database());
        let done = shell.output().unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(run(&app, &["migrate", "--check"]), (0, "nothing to do\n".to_owned()));
    app.resume_serving(aggregates::shipped);
    consumer.assert_exact_by_all_ways(&app);
}

#[test]
fn a_drop_that_is_a_mistake_is_refused_and_changes_nothing() {
    let mut app = App::serving(with_buildings, |_| {});
    build(&app, "house");
    let before = app.get("/aggregates").text().to_owned();
    app.stop();
    let epochs = "SELECT epoch AS line FROM epochs ORDER BY number";
    let all = lines(app.database(), epochs);
    let (code, output) = run(&app, &["collection", "drop", "persons"]);
    assert!(code == 1 && output.contains("this program registers persons"), "{output}");
    let (code, output) = run(&app, &["collection", "drop", "bildings"]);
    let told =
        "there is no collection \"bildings\"; expected one of accounts, buildings, carts, jars, locations, persons";
    assert!(code == 1 && output.contains(told), "{output}");
    assert_eq!(lines(app.database(), epochs), all, "no epoch has begun");
    app.resume();
    assert_eq!(app.get("/aggregates").text(), before);
}

#[test]
fn a_collection_is_not_dropped_while_a_service_uses_the_file() {
    let app = App::serving(with_buildings, |_| {});
    build(&app, "house");
    let (code, output) = run(&app, &["collection", "drop", "buildings"]);
    assert!(code == 1 && output.contains("the program that uses it registers buildings: stop it"), "{output}");
    assert_eq!(app.get("/buildings").text(), r#"{"1":{"name":"house"}}"#);
}

#[test]
fn collections_are_listed_beside_a_service() {
    let app = App::serving(with_buildings, |_| {});
    build(&app, "house");
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    app.write("PUT", "/jars/blue", r#"{"marbles":1}"#);
    let (code, output) = run(&app, &["collection", "list"]);
    let expected = "\
accounts             event-sourced  version 1    0 aggregates, registered
buildings            documents      version 1    1 aggregates, not registered
carts                event-sourced  version 1    0 aggregates, registered
jars                 event-sourced  version 1    1 aggregates, not registered
locations            derived        version 1    1 aggregates, registered
persons              documents      version 1    1 aggregates, registered
";
    assert_eq!((code, &*output), (0, expected));
}

#[test]
fn a_collection_that_is_registered_again_begins_empty_and_its_consumers_are_exact() {
    let mut app = App::serving(with_buildings, |_| {});
    ["house", "barn", "shed"].iter().for_each(|name| build(&app, name));
    let away = [
        Away::from(&app, "/aggregates", "/events"),
        Away::from(&app, "/buildings", "/building-events"),
        Away::from(&app, "/buildings/2", "/buildings/2/events"),
        Away::from(&app, "/persons", "/person-events"),
    ];
    app.stop();
    drop_collection(&app, &["buildings"]);
    app.resume_serving(with_jars);
    app.post("/persons", r#"{"name":"Ann"}"#);
    let between = Away::from(&app, "/aggregates", "/events");
    let revision = app.get("/aggregates").revision();
    app.stop();
    app.resume_serving(with_buildings);
    assert_eq!(app.get("/buildings").text(), "{}");
    let made = app.post("/buildings", r#"{"name":"school"}"#);
    assert_eq!(made.header("Location"), Some("/buildings/4"), "no key is given twice");
    assert!(made.revision() > revision);
    app.get("/buildings/2").problem(404, "not-found");
    // Once it is there, the consumer of a single one has a state to compare with.
    for consumer in away.iter().filter(|consumer| consumer.path != "/buildings/2") {
        consumer.assert_exact_by_all_ways(&app);
    }
    between.assert_exact_by_all_ways(&app);
    let mut one = away[2].state.clone();
    let until = app.get("/buildings").revision();
    app.follow("/buildings/2/events", &[("Last-Event-ID", &*away[2].cursor)]).follow(&mut one, until);
    assert_eq!(one, Value::Null);
    app.stop();
    drop_collection(&app, &["buildings"]);
    app.resume_serving(with_jars);
    for consumer in [&away[0], &away[3], &between] {
        consumer.assert_exact_by_all_ways(&app);
    }
    app.stop();
    let (code, output) = run(&app, &["verify"]);
    assert_eq!(code, 0, "{output}");
    app.resume();
}

#[test]
fn a_journal_that_is_kept_gives_the_aggregates_back() {
    let mut app = App::serving(with_buildings, |_| {});
    app.write("PUT", "/jars/blue", r#"{"marbles":1}"#);
    app.post("/jars/blue/add", r#"{"marbles":2}"#);
    let away = [Away::from(&app, "/aggregates", "/events"), Away::from(&app, "/jars", "/jar-events")];
    app.stop();
    drop_collection(&app, &["buildings"]);
    drop_collection(&app, &["jars", "--keep-journal"]);
    app.resume_serving(aggregates::shipped);
    assert_eq!(app.get("/aggregates").json()["jars"], Value::Null);
    let cart = app.open_cart();
    assert_eq!(app.get(&format!("{cart}/journal")).json()["events"][0]["position"], 3, "positions go on");
    app.stop();
    let (code, output) = run(&app, &["verify"]);
    assert_eq!(code, 0, "{output}");
    app.resume_serving(with_jars);
    assert_eq!(app.get("/jars").text(), r#"{"blue":{"marbles":3}}"#);
    assert_eq!(app.post("/jars/blue/add", r#"{"marbles":1}"#).json(), json!({"marbles": 4}));
    away.iter().for_each(|consumer| consumer.assert_exact_by_all_ways(&app));
}

#[test]
fn the_events_of_a_dropped_collection_have_no_content_and_its_keys_are_not_used_again() {
    let mut app = App::serving(with_buildings, |_| {});
    app.write("PUT", "/jars/blue", r#"{"marbles":7}"#);
    let cart = app.open_cart();
    app.stop();
    drop_both(&app);
    let bodies = "SELECT body AS line FROM journal ORDER BY position";
    assert_eq!(lines(app.database(), bodies), ["{}", "{}"], "that of the cart never had any");
    app.resume_serving(aggregates::shipped);
    app.add_item(&cart, "apple");
    let page = app.request("GET", "/journal?limit=9", &[("Accept", "application/json")], None).json();
    assert_eq!(page["events"].as_array().unwrap().len(), 2, "{page}");
    app.stop();
    let (code, output) = run(&app, &["verify"]);
    assert_eq!(code, 0, "{output}");
    app.resume_serving(with_jars);
    assert_eq!(app.get("/jars").text(), "{}");
    app.write("PUT", "/jars/blue", r#"{"marbles":1}"#).problem(409, "erased");
    assert_eq!(app.write("PUT", "/jars/green", r#"{"marbles":1}"#).status, 201);
    app.stop();
    drop_collection(&app, &["jars"]);
    app.resume_serving(aggregates::shipped);
}

/// Gives the database many buildings, as a service would have written them before its change events were pruned.
fn fill(database: &Path, buildings: i64) {
    sql(
        database,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {buildings})
             INSERT INTO aggregates (collection, rank, key, revision, version, body)
             SELECT 'buildings', length(CAST(i AS TEXT)), CAST(i AS TEXT), i, 0, '{{\"name\":\"house\"}}' FROM n;
             UPDATE metadata SET revision = {buildings}, pruned = {buildings};
             UPDATE collections SET changed = {buildings}, next_key = {buildings} + 1 WHERE name = 'buildings'"
        ),
    );
}

#[test]
fn a_drop_that_is_killed_goes_on_with_the_next_start_or_the_next_command() {
    const BUILDINGS: i64 = 30_000;
    let mut random = Random::new(u64::from(std::process::id()));
    for _ in 0..kills().min(3) {
        let mut app = App::serving(|| aggregates::shipped().document::<Building>(), |_| {});
        app.stop();
        fill(app.database(), BUILDINGS);
        app.resume();
        let consumer = Away::from(&app, "/aggregates", "/events");
        app.stop();
        let task = ["collection", "drop", "buildings"];
        let database = app.database().to_owned();
        let left = i64::try_from(random.below(25_000)).unwrap();
        let rows = "SELECT count(*) || '' AS line FROM aggregates WHERE collection = 'buildings'";
        let is_in_the_middle = || lines(&database, rows)[0].parse::<i64>().unwrap() <= BUILDINGS - left.max(1);
        Process::kill_task(&database, &task, is_in_the_middle);
        if lines(&database, "SELECT stage AS line FROM dropped WHERE stage <> 'done'").is_empty() {
            // It was faster.
        } else if random.below(2) == 0 {
            let half = app.try_resume_serving(|| aggregates::shipped().document::<Building>()).unwrap_err();
            assert!(half.contains("only a part of \"buildings\" is dropped"), "{half}");
            assert_eq!(run(&app, &["migrate", "--check"]).0, 3);
            assert!(run(&app, &["collection", "list"]).1.contains("buildings            dropped at revision 30001;"));
        } else {
            drop_collection(&app, &["buildings"]);
        }
        app.resume_serving(aggregates::shipped);
        assert_nothing_left(&database, "buildings", "house");
        assert_eq!(lines(&database, "SELECT stage AS line FROM dropped"), ["done"]);
        consumer.assert_exact_by_all_ways(&app);
    }
}

#[test]
fn services_that_still_register_a_dropped_collection_do_not_bring_it_back() {
    let Some(server) = shared_server() else { return };
    let url = server.new_database();
    let start =
        |program: fn() -> Service, url: String| App::serving(program, move |settings| settings.database = url.into());
    let older = start(with_buildings, url.clone());
    build(&older, "house");
    older.post("/persons", r#"{"name":"Ann"}"#);
    let away = [Away::from(&older, "/aggregates", "/events"), Away::from(&older, "/persons", "/person-events")];
    let mut follower = older.follow("/events", &[("Last-Event-ID", &*away[0].cursor)]);
    for name in ["buildings", "jars"] {
        let (code, output) = output_of(Path::new(&url), &["collection", "drop", name]);
        assert_eq!(code, 0, "{output}");
    }
    let newer = start(aggregates::shipped, url.clone());
    for _ in 0..3 {
        older.post("/buildings", r#"{"name":"shed"}"#).problem(503, "outdated");
        older.post("/persons", r#"{"name":"Bob"}"#).problem(503, "outdated");
        for path in ["/buildings", "/buildings/1", "/persons", "/aggregates"] {
            assert_eq!(older.get(path).status, 503, "{path}: nothing half done is served");
        }
    }
    let record = || psql(&url, "SELECT token, revision, (SELECT count(*) FROM outbox) FROM metadata");
    let before = record();
    older.prune_everything();
    assert_eq!(record(), before, "it does not prune either");
    eventually("others get the requests", || older.get("/readyz").text().contains("has dropped the collection"));
    assert_eq!(newer.post("/persons", r#"{"name":"Bob"}"#).status, 201);
    assert_nothing_left(Path::new(&url), "buildings", "house");
    away.iter().for_each(|consumer| consumer.assert_exact_by_all_ways(&newer));
    // The stream of the older one shows nothing that is not so, and ends sooner or later.
    let mut state = away[0].state.clone();
    while let Some(event) = follower.message() {
        json_patch::merge(&mut state, &event.patch());
        assert_eq!(event.reached().map(|_| &state), Some(&away[0].state), "{}", event.data);
    }
    assert_eq!(newer.get("/readyz").status, 200);
}

#[test]
fn a_service_that_goes_on_elsewhere_does_not_register_a_dropped_collection_again() {
    let (Some(server), Some(program)) = (shared_server(), example("buildings")) else { return };
    let url = server.new_database();
    let database = Path::new(&url);
    let directory = crate::harness::directory();
    let files = directory.path().join("node");
    let environment = [("BUILDINGS", "1"), ("DUALITY_FILES", files.to_str().unwrap())];
    let mut older = Process::start_other(&program, &environment, database);
    for task in [&["collection", "drop", "buildings"][..], &["epoch", "new"]] {
        let (code, output) = output_of(database, task);
        assert_eq!(code, 0, "{output}");
    }
    assert!(!older.wait().success());
    let log = older.log();
    assert!(log.contains("another version of this program has dropped the collection \"buildings\""), "{log}");
    assert_eq!(lines(database, "SELECT name AS line FROM collections"), Vec::<String>::new());
}
