//! An aggregate that was erased is nowhere any more: no file of the service has anything of it, and all consumers go on
//! exactly.

use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use duality::{Erased, Event, Feed, Projection, ProjectionError, Service, Tables, aggregates};
use serde_json::{Value, json};

use crate::harness::{
    App, Client, Process, Random, Response, Stream, cases, eventually, files_with, kills, lines, output_of, sql,
    with_inline,
};

/// What is in the items of a cart, and nowhere else.
pub(crate) const MARKER: &str = "Zanzibar-7319";

/// Every text that a projection gets.
pub(crate) fn note(tables: &mut Tables, event: &Event<'_>, text: &str) -> Result<(), ProjectionError> {
    sql_query("INSERT INTO notes (key, at, text) VALUES (?, ?, ?)")
        .bind::<Text, _>(event.key.as_str())
        .bind::<BigInt, _>(event.at)
        .bind::<Text, _>(text)
        .execute(tables)?;
    Ok(())
}

pub(crate) const NOTES: &str = "CREATE TABLE notes (key TEXT NOT NULL, at BIGINT NOT NULL, text TEXT NOT NULL)";

macro_rules! noting {
    ($type:ident, $name:literal, history: $history:literal, $($erase:item)?) => {
        struct $type;

        impl Projection for $type {
            const NAME: &'static str = $name;
            const FEED: Feed = Feed::Changes;
            const KEEPS_HISTORY: bool = $history;
            const COLLECTIONS: &'static [&'static str] = &["carts"];
            const SETUP: &'static str = NOTES;

            type Sink = Tables;

            fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
                note(tables, event, &event.patch()?.unwrap_or_default().to_string())
            }

            $($erase)?
        }
    };
}

noting!(ChangeNotes, "change_notes", history: false,);
noting!(HistoryNotes, "history_notes", history: true,);
noting!(RemovingNotes, "removing_notes", history: false,
    fn erase(tables: &mut Tables, event: &Event<'_>) -> Result<Erased, ProjectionError> {
        sql_query("DELETE FROM notes WHERE key = ?").bind::<Text, _>(event.key.as_str()).execute(tables)?;
        Ok(Erased::Removed)
    }
);

pub(crate) const BACKGROUND: [&str; 5] =
    ["carts.csv", "city_history", "change_notes", "history_notes", "removing_notes"];

/// The shipped collections, with background projections of every kind.
pub(crate) fn watched_in_background() -> Service {
    aggregates::shipped().background::<ChangeNotes>().background::<HistoryNotes>().background::<RemovingNotes>()
}

/// The shipped collections, with projections of every kind.
fn watched() -> Service {
    with_inline().background::<ChangeNotes>().background::<HistoryNotes>().background::<RemovingNotes>()
}

pub(crate) fn directory(app: &App) -> &Path {
    app.directory()
}

/// A cart that was opened, filled and closed, with the marker in all of its events.
pub(crate) fn marked_cart(app: &App) -> String {
    let cart = app.open_cart();
    for number in 0..5 {
        app.add_item(&cart, &format!("{MARKER} {number}"));
    }
    app.post(&format!("{cart}/remove-item"), &json!({"item": format!("{MARKER} 2")}).to_string());
    assert_eq!(add_once(app, &cart).status, 200);
    app.command(&format!("{cart}/close"));
    cart
}

/// A command that can be repeated. Its answer has the marker, as its metadata has.
pub(crate) fn add_once(app: &App, cart: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "once"), ("X-Correlation-Id", MARKER)];
    let body = json!({"item": format!("{MARKER} once")}).to_string();
    app.request("POST", &format!("{cart}/add-item"), &headers, Some(body.as_bytes()))
}

/// Carts of others, which stay.
pub(crate) fn other_carts(app: &App) {
    for number in 0..20 {
        let cart = app.open_cart();
        app.add_item(&cart, &format!("apple {number}"));
        app.add_item(&cart, &"pear ".repeat(number * 20 + 1));
    }
}

pub(crate) fn key(path: &str) -> &str {
    path.rsplit_once('/').unwrap().1
}

#[track_caller]
pub(crate) fn erase(app: &App, path: &str) -> Value {
    let body = json!({"collection": "carts", "key": key(path)}).to_string();
    let response = app.post("/-/erase", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

pub(crate) fn wait_until_live(app: &App, names: &[&str]) {
    for name in names {
        eventually(&format!("{name} is up to date"), || {
            let status = app.get(&format!("/projections/{name}")).json();
            status["state"] == "live" && status["lag"]["events"] == 0 && status.get("building").is_none()
        });
    }
}

#[track_caller]
pub(crate) fn assert_verified(app: &App, service: fn() -> Service) {
    let verified = service().verify(app.database()).unwrap();
    assert!(verified.iter().all(duality::Verified::is_sound), "{verified:?}");
}

#[test]
fn no_file_of_a_running_service_has_anything_of_an_erased_cart() {
    let mut app = App::serving(watched, |_| {});
    other_carts(&app);
    let cart = marked_cart(&app);
    other_carts(&app);
    wait_until_live(&app, &BACKGROUND);
    let items = |app: &App| app.get("/reports/cart-items?limit=1000").json()["items"].as_array().unwrap().clone();
    let mut expected = items(&app);
    expected.retain(|row| row["cart"] != key(&cart));
    eventually("it is in the history and the projections", || files_with(directory(&app), MARKER).len() >= 5);
    let erased = erase(&app, &cart);
    assert_eq!(
        (&erased["collection"], &erased["key"], &erased["known"], &erased["pending"]),
        (&json!("carts"), &json!(key(&cart)), &json!(true), &json!([]))
    );
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    add_once(&app, &cart).problem(409, "erased");
    let others = app.get("/carts").json();
    assert_eq!(others.as_object().unwrap().len(), 40);
    // Reports have the other carts as before.
    assert_eq!(items(&app), expected);
    let closed = app.get("/reports/carts.csv");
    assert_eq!(closed.text().lines().count(), 1, "{}", closed.text());
    assert_verified(&app, watched);
    for name in BACKGROUND {
        assert_eq!(app.command(&format!("/projections/{name}/rebuild")).status, 202);
    }
    assert_eq!(app.command("/projections/cart_items/rebuild").status, 202);
    wait_until_live(&app, &BACKGROUND);
    assert_eq!(items(&app), expected);
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    app.stop();
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    assert_verified(&app, watched);
    app.resume();
    assert_eq!(app.get("/carts").json(), others);
}

#[test]
fn no_file_at_rest_has_anything_of_an_erased_cart() {
    let mut app = App::start();
    other_carts(&app);
    let cart = marked_cart(&app);
    eventually("it is in the projections", || files_with(directory(&app), MARKER).len() >= 3);
    app.stop();
    let (code, said) = output_of(app.database(), &["erase", "carts", key(&cart)]);
    assert!(code == 0 && said.contains(&format!("carts/{} is erased", key(&cart))), "{said}");
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    let (code, said) = output_of(app.database(), &["verify"]);
    assert!(code == 0 && said.contains("erased: 1 aggregates with 10 events: ok"), "{said}");
    // Again, nothing happens.
    assert_eq!(output_of(app.database(), &["erase", "carts", key(&cart)]).0, 0);
    for (arguments, problem) in [
        (["erase", "cart", "x"], "there is no collection \"cart\""),
        (["erase", "persons", "9"], "/persons/9 does not exist"),
        (["erase", "locations", "Rome"], "are computed from another collection"),
    ] {
        let (code, said) = output_of(app.database(), &arguments);
        assert!(code == 1 && said.contains(problem), "{said}");
    }
    app.resume();
    assert_eq!(app.get("/carts").json().as_object().unwrap().len(), 20);
}

#[test]
fn the_command_line_asks_the_running_service() {
    let app = App::start();
    let cart = marked_cart(&app);
    wait_until_live(&app, &["cart_items", "carts.csv"]);
    let (code, said) = output_of(app.database(), &["erase", "carts", key(&cart)]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    app.get(&cart).problem(404, "not-found");
    let (code, said) = output_of(app.database(), &["erase", "persons", "9"]);
    assert!(code == 1 && said.contains("/persons/9 does not exist"), "{said}");
}

#[test]
fn what_an_earlier_version_has_left_in_the_file_goes_with_the_first_erasure() {
    let mut app = App::start();
    other_carts(&app);
    let cart = app.open_cart();
    app.stop();
    // Deleted without being overwritten, as before.
    sql(
        app.database(),
        &format!(
            "PRAGMA secure_delete = OFF; UPDATE metadata SET overwritten = 0; CREATE TABLE before (text TEXT);
             INSERT INTO before SELECT '{MARKER}' || hex(zeroblob(500)) FROM journal; DROP TABLE before"
        ),
    );
    assert_eq!(files_with(directory(&app), MARKER), [app.database()]);
    app.resume();
    let follower = app.follow("/events", &[]);
    erase(&app, &cart);
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    assert_eq!(lines(app.database(), "SELECT overwritten || '' AS line FROM metadata"), ["1"]);
    // The service has noticed nothing.
    other_carts(&app);
    assert_eq!(app.get("/healthz").json()["reasons"], json!([]));
    drop(follower);
    app.restart();
    assert_eq!(app.get("/carts").json().as_object().unwrap().len(), 40);
    assert_verified(&app, aggregates::shipped);
}

#[test]
fn an_erased_key_is_never_used_again() {
    let mut app = App::start();
    let cart = format!("/carts/{}", "0193a5b0-7b2c-4def-8000-123456789abc");
    assert_eq!(app.write("PUT", &cart, "{}").status, 201);
    app.add_item(&cart, MARKER);
    erase(&app, &cart);
    for round in 0..3 {
        app.write("PUT", &cart, "{}").problem(409, "erased");
        app.add_item(&cart, "apple").problem(409, "erased");
        app.command(&format!("{cart}/close")).problem(409, "erased");
        assert_eq!(app.get(&cart).problem(404, "not-found")["erased"], true);
        assert_eq!(app.get(&format!("{cart}?version=2")).problem(404, "not-found")["erased"], true);
        assert_eq!(erase(&app, &cart)["key"], key(&cart), "again");
        if round == 0 {
            app.restart();
        } else {
            // The tombstone goes, too.
            app.turn_clock(1000 * 24 * 60 * 60 * 1000);
            app.prune();
        }
    }
    assert_eq!(lines(app.database(), "SELECT key AS line FROM aggregates"), Vec::<String>::new());
    assert_verified(&app, aggregates::shipped);
}

#[test]
fn the_journal_shows_that_events_were_erased() {
    let app = App::start();
    let cart = marked_cart(&app);
    let other = app.open_cart();
    let before = app.request("GET", "/journal", &[("Accept", "application/json")], None).json();
    let mut follower = app.follow("/journal", &[]);
    follower.read_until(|text| text.contains(key(&other)));
    erase(&app, &cart);
    let after = app.request("GET", "/journal", &[("Accept", "application/json")], None).json();
    let (before, after) = (before["events"].as_array().unwrap(), after["events"].as_array().unwrap());
    assert_eq!(after.len(), before.len() + 1);
    for (before, after) in before.iter().zip(after) {
        let mut expected = before.clone();
        if before["key"] == key(&cart) {
            expected["body"] = json!({});
            expected.as_object_mut().unwrap().remove("metadata");
            expected["erased"] = json!(true);
        }
        assert_eq!(*after, expected);
    }
    let last = after.last().unwrap();
    assert_eq!((&last["kind"], &last["version"], &last["erased"]), (&json!("Erased"), &json!(10), &json!(true)));
    follower.read_until(|text| text.contains("event: Erased"));
    let again = app.request("GET", &format!("{cart}/journal"), &[], None).json();
    assert_eq!(again["events"].as_array().unwrap().len(), 10);
    // A stream from the beginning does not get what others have got before.
    let mut late = app.follow("/journal", &[]);
    late.read_until(|text| text.contains("event: Erased"));
    assert!(!late.raw.contains(MARKER));
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    for (body, status, slug, member) in [
        ("{", 400, "malformed-json", None),
        (r#"{"collection":"carts"}"#, 422, "invalid", Some("key")),
        (r#"{"collection":"carts","key":""}"#, 422, "invalid", Some("key")),
        (r#"{"collection":"cart","key":"x"}"#, 422, "invalid", Some("collection")),
        (r#"{"collection":"locations","key":"Rome"}"#, 422, "invalid", Some("collection")),
        (r#"{"collection":"carts","key":"x","all":true}"#, 422, "invalid", Some("all")),
        (r#"{"collection":"persons","key":"2"}"#, 404, "not-found", None),
        (r#"{"collection":"persons","key":"9007199254740993000000"}"#, 404, "not-found", None),
        (r#"{"collection":"persons","key":"x"}"#, 404, "not-found", None),
    ] {
        let problem = app.post("/-/erase", body).problem(status, slug);
        assert_eq!(problem.get("member").and_then(Value::as_str), member, "{body}");
    }
    assert_eq!(app.get("/-/erase").status, 405);
}

#[test]
fn a_document_is_erased_with_what_follows_from_it() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann","city":"Rome"}"#);
    let sent = [("Content-Type", "application/json"), ("X-Correlation-Id", MARKER)];
    let person = json!({"name": MARKER, "city": "Rome"}).to_string();
    assert_eq!(app.request("POST", "/persons", &sent, Some(person.as_bytes())).status, 201);
    app.patch("/persons/2", &json!({"name": format!("{MARKER}!"), "city": "Oslo"}).to_string());
    let (mut state, cursor) = app.load("/aggregates");
    let mut follower = app.follow("/events", &[("Last-Event-ID", &cursor)]);
    let erased = app.post("/-/erase", r#"{"collection":"persons","key":"2"}"#);
    assert_eq!(erased.status, 200, "{}", erased.text());
    assert_eq!(files_with(directory(&app), MARKER), Vec::<PathBuf>::new());
    assert_eq!(app.get("/locations").json(), json!({"Rome": {"total": 1}}));
    app.get("/persons/2").problem(404, "not-found");
    app.write("PUT", "/persons/2", r#"{"name":"Bob"}"#).problem(409, "erased");
    follower.follow(&mut state, erased.json()["revision"].as_i64().unwrap());
    assert_eq!(state, app.get("/aggregates").json());
    assert_eq!(app.post("/persons", r#"{"name":"Eve"}"#).header("Location"), Some("/persons/3"));
    assert_verified(&app, aggregates::shipped);
}

/// States and their feeds, at all three levels.
fn levels(cart: &str) -> [(String, String); 3] {
    let level = |state: &str, feed: &str| (state.to_owned(), feed.to_owned());
    [level("/aggregates", "/events"), level("/carts", "/cart-events"), level(cart, &format!("{cart}/events"))]
}

/// The state at a path; null if there is none.
fn state(app: &App, path: &str) -> (Value, String) {
    let response = app.get(path);
    let value = if response.status == 404 { Value::Null } else { response.json() };
    (value, response.cursor())
}

#[test]
fn consumers_of_all_levels_converge_whatever_they_had() {
    let app = App::with(|settings| settings.heartbeat = std::time::Duration::from_millis(20));
    other_carts(&app);
    let cart = app.open_cart();
    let mut seen = Vec::new();
    for number in 0..6 {
        seen.extend(levels(&cart).map(|(path, feed)| (state(&app, &path), path, feed)));
        app.add_item(&cart, &format!("{MARKER} {number}"));
        app.open_cart();
    }
    // What they have read is in memory as well.
    for (path, feed) in levels(&cart) {
        let (expected, cursor) = state(&app, &path);
        let mut reading = app.follow(&feed, &[]);
        let mut value = Value::Null;
        reading.follow(&mut value, cursor.split_once('.').unwrap().1.parse().unwrap());
        assert_eq!(value, expected);
    }
    let mut live: Vec<_> = levels(&cart)
        .map(|(path, feed)| {
            let (value, cursor) = state(&app, &path);
            (value, app.follow(&format!("{feed}?strict=true"), &[("Last-Event-ID", &cursor)]), path)
        })
        .into();
    let revision = erase(&app, &cart)["revision"].as_i64().unwrap();
    app.open_cart();
    for (value, stream, path) in &mut live {
        stream.follow(value, revision.max(app.get("/carts").revision()));
        assert_eq!(*value, state(&app, path).0, "{path}");
    }
    for strict in ["false", "true"] {
        for ((before, cursor), path, feed) in &seen {
            let mut value = before.clone();
            let mut stream = app.follow(&format!("{feed}?strict={strict}"), &[("Last-Event-ID", cursor)]);
            stream.follow(&mut value, app.get("/carts").revision());
            assert_eq!(value, state(&app, path).0, "{feed} from {cursor}");
            assert!(!stream.raw.contains(MARKER), "{}", stream.raw);
        }
    }
}

#[test]
fn before_its_erasure_an_erased_aggregate_is_absent_and_from_then_on_all_is_exact() {
    let app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, MARKER);
    let other = app.open_cart();
    let earlier = app.get("/carts");
    app.add_item(&cart, "pear");
    app.add_item(&other, "apple");
    let (mut without, before) = (earlier.json(), earlier.revision());
    without.as_object_mut().unwrap().remove(key(&cart));
    let erased = erase(&app, &cart)["revision"].as_i64().unwrap();
    let exact = app.get("/carts").json();
    app.open_cart();
    for strict in ["false", "true"] {
        let mut stream = app.follow(&format!("/cart-events?strict={strict}"), &[]);
        let mut value = Value::Null;
        stream.follow(&mut value, before);
        assert_eq!(value, without, "the others are as they were");
        stream.follow(&mut value, erased);
        assert_eq!(value, exact);
    }
}

#[test]
fn the_event_of_an_erasure_is_null_also_where_nothing_was() {
    let app = App::start();
    app.post("/persons", r#"{"name":"Ann"}"#);
    app.delete("/persons/1");
    let cursor = app.get("/persons").cursor();
    let mut followers =
        ["/events", "/person-events", "/persons/1/events"].map(|feed| app.follow(feed, &[("Last-Event-ID", &cursor)]));
    assert_eq!(app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#).status, 200);
    for (stream, event) in followers.iter_mut().zip([r#"{"persons":{"1":null}}"#, r#"{"1":null}"#, "null"]) {
        stream.read_until(|text| text.contains(&format!("data: {event}\nid: ")));
    }
}

/// A consumer of everything: what it has, and its cursor.
#[derive(Clone)]
struct Copy {
    state: Value,
    cursor: String,
}

impl Copy {
    fn load(app: &App) -> Self {
        let (state, cursor) = app.load("/aggregates");
        Self { state, cursor }
    }

    /// Reads pages up to the end.
    fn catch_up(&mut self, app: &App, random: &mut Random) {
        loop {
            let limit = 1 + random.below(7);
            let path = format!("/events?limit={limit}&lastEventId={}", self.cursor);
            let page = app.request("GET", &path, &[("Accept", "application/json")], None).json();
            let events = page["events"].as_array().unwrap();
            events.iter().for_each(|event| json_patch::merge(&mut self.state, &event["patch"]));
            page["cursor"].as_str().unwrap().clone_into(&mut self.cursor);
            if events.is_empty() {
                return;
            }
        }
    }
}

#[test]
fn whatever_is_erased_when_all_copies_become_the_same() {
    let app = App::serving(watched, |_| {});
    let mut random = Random::new(2026);
    let (mut carts, mut copies) = (Vec::new(), vec![Copy::load(&app)]);
    for number in 0..cases(2000) {
        match random.below(12) {
            0 | 1 => carts.push(app.open_cart()),
            2 if !carts.is_empty() => {
                let index = usize::try_from(random.below(carts.len() as u64)).unwrap();
                erase(&app, &carts.swap_remove(index));
            }
            3 => copies.push(Copy::load(&app)),
            4 | 5 => {
                let index = usize::try_from(random.below(copies.len() as u64)).unwrap();
                copies[index].catch_up(&app, &mut random);
            }
            6 => {
                app.post("/persons", &json!({"name": format!("n{number}"), "city": "Rome"}).to_string());
            }
            7 if random.below(10) == 0 => app.prune_everything(),
            _ if !carts.is_empty() => {
                let cart = random.one_of(&carts).clone();
                app.add_item(&cart, &format!("{MARKER} {number}"));
            }
            _ => {}
        }
    }
    carts.iter().for_each(|cart| drop(erase(&app, cart)));
    let expected = app.get("/aggregates").json();
    for copy in &mut copies {
        copy.catch_up(&app, &mut random);
        assert_eq!(copy.state, expected);
    }
    wait_until_live(&app, &BACKGROUND);
    eventually("nothing is left", || files_with(directory(&app), MARKER).is_empty());
    assert_verified(&app, watched);
}

/// The number of events of a cart that takes many steps to erase.
const MANY: usize = 20_000;

/// Gives a cart many events, as commands would have done.
fn fill(database: &Path, cart: &str) {
    let key = key(cart);
    sql(
        database,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
             INSERT INTO journal (position, collection, key, version, kind, schema, body, time)
             SELECT (SELECT MAX(position) FROM journal) + i, 'carts', '{key}', 1 + i,
                CASE i % 2 WHEN 1 THEN 'ItemAdded' ELSE 'ItemRemoved' END, 1,
                '{{\"item\":\"{MARKER}\",\"time\":\"2026-11-29T00:00:00Z\"}}', 0 FROM n;
             UPDATE aggregates SET version = 1 + {MANY} WHERE key = '{key}'"
        ),
    );
}

#[test]
fn what_a_killed_process_has_begun_to_erase_the_next_one_finishes() {
    let directory = crate::harness::directory();
    let database = directory.path().join("killed.db");
    let mut process = Process::start(&database, &[]);
    let opened = Client::connect(process.address).request("POST", "/carts", &[], None);
    let cart = opened.header("Location").unwrap().to_owned();
    process.signal("TERM");
    process.wait();
    fill(&database, &cart);
    let body = json!({"collection": "carts", "key": key(&cart)}).to_string();
    let in_stages = "SELECT stage || reached AS line FROM erased";
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..kills() {
        let process = Process::start(&database, &["--poll-interval", "20ms"]);
        let mut client = Client::connect(process.address);
        client.send("POST", "/-/erase", &[("Content-Type", "application/json")], Some(body.as_bytes()));
        let before = seen.len();
        eventually("it goes on", || {
            seen.extend(lines(&database, in_stages));
            seen.len() > before || seen.contains("done0")
        });
        process.kill();
        let (code, said) = output_of(&database, &["verify"]);
        assert_eq!(code, 0, "round {round}: {said}");
    }
    assert!(seen.len() > 1, "{seen:?}");
    let mut process = Process::start(&database, &["--poll-interval", "20ms"]);
    let address = process.address;
    // Without being asked again.
    eventually("it is finished", || lines(&database, in_stages) == ["done0"]);
    eventually("no file has anything of it", || files_with(directory.path(), MARKER).is_empty());
    let mut client = Client::connect(address);
    let get = |client: &mut Client, path: &str| client.request("GET", path, &[], None);
    get(&mut client, &cart).problem(404, "not-found");
    let events = get(&mut client, "/carts");
    let mut stream = Stream::open(
        address,
        "/journal",
        &[("Last-Event-ID", &format!("{}.{}", events.header("X-Epoch").unwrap(), MANY))],
    );
    stream.read_until(|text| text.contains("event: Erased"));
    stream.close();
    process.signal("TERM");
    process.wait();
    let (code, said) = output_of(&database, &["verify"]);
    let expected = format!("erased: 1 aggregates with {} events: ok", MANY + 2);
    assert!(code == 0 && said.contains(&expected), "{said}");
}

#[test]
fn a_reader_that_needs_the_past_delays_an_erasure_and_no_command() {
    let app = App::start();
    let cart = marked_cart(&app);
    let reading = crate::harness::Snapshot::take(app.database());
    std::thread::scope(|scope| {
        let erasing = scope.spawn(|| erase(&app, &cart));
        eventually("everything else is done", || lines(app.database(), "SELECT stage AS line FROM erased") == ["file"]);
        assert_eq!(app.command("/carts").status, 201);
        assert!(!erasing.is_finished());
        drop(reading);
        erasing.join().unwrap();
    });
    eventually("no file has anything of it", || files_with(directory(&app), MARKER).is_empty());
}
