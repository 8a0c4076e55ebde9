//! A database of an earlier version is used as if this version had written it. `tests/fixtures` has one, and how it was made.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use duality::schemars::{self, JsonSchema};
use duality::{Derived, Document, Key, Service, ValidationError, Verified, aggregates};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{App, eventually, output_of, with_inline};

const FEEDS: [(&str, &str); 5] = [
    ("/persons", "/person-events"),
    ("/locations", "/location-events"),
    ("/carts", "/cart-events"),
    ("/accounts", "/account-events"),
    ("/aggregates", "/events"),
];

/// A database as commit 63c5c1e left it, and what its clients had seen.
struct Fixture {
    directory: TempDir,
    seen: Value,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/63c5c1e").join(name);
        let directory = crate::harness::directory();
        unpack(&source, directory.path());
        let seen = std::fs::read(source.join("expected.json")).unwrap();
        Self { directory, seen: serde_json::from_slice(&seen).unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("x.db")
    }

    fn start(&self, service: fn() -> Service) -> App {
        App::serving(service, |settings| {
            settings.database = self.database();
            settings.poll_interval = Duration::from_millis(20);
        })
    }

    /// The states that its clients saw, from the first to the last.
    fn history(&self) -> &[Value] {
        self.seen["history"].as_array().unwrap()
    }
}

fn unpack(source: &Path, target: &Path) {
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let target = target.join(path.file_stem().unwrap());
        if path.is_dir() {
            let target = target.with_file_name(path.file_name().unwrap());
            std::fs::create_dir(&target).unwrap();
            unpack(&path, &target);
        } else if path.extension().is_some_and(|extension| extension == "gz") {
            let mut content = Vec::new();
            flate2::read::GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut content).unwrap();
            std::fs::write(target, content).unwrap();
        }
    }
}

fn page(app: &App, path: &str) -> Value {
    let response = app.request("GET", path, &[("Accept", "application/json")], None);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

/// Applies a feed to a state from a cursor to its end, and returns the first patch.
fn follow(app: &App, feed: &str, cursor: &str, state: &mut Value) -> Option<Value> {
    let (mut first, mut cursor) = (None, cursor.to_owned());
    loop {
        let page = page(app, &format!("{feed}?limit=20&lastEventId={cursor}"));
        let events = page["events"].as_array().unwrap();
        for event in events {
            first.get_or_insert(event["patch"].clone());
            json_patch::merge(state, &event["patch"]);
        }
        if events.is_empty() {
            return first;
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
}

#[test]
fn an_earlier_database_has_everything_that_it_had() {
    for (name, service) in [("shipped", aggregates::shipped as fn() -> Service), ("inline", with_inline)] {
        let fixture = Fixture::new(name);
        let mut app = fixture.start(service);
        for (path, last) in fixture.history().last().unwrap().as_object().unwrap() {
            assert_eq!(app.get(path).json(), last["state"], "{path}");
        }
        let epoch = fixture.seen["journal"]["cursor"].as_str().unwrap().split('.').next().unwrap().to_owned();
        assert_ne!(app.get("/persons").header("X-Epoch"), Some(epoch.as_str()), "a start begins an epoch");
        let journal = page(&app, "/journal?limit=1000");
        assert_eq!(journal["events"], fixture.seen["journal"]["events"]);
        // Numbers continue.
        let last = app.get("/persons").revision();
        let created = app.post("/persons", r#"{"name":"New"}"#);
        assert_eq!((created.revision(), created.header("Location")), (last + 1, Some("/persons/26")));
        app.stop();
        let verified = service().verify(&fixture.database()).unwrap();
        assert!(verified.iter().all(Verified::is_sound), "{verified:?}");
    }
    let fixture = Fixture::new("shipped");
    fixture.start(aggregates::shipped).stop();
    let (code, said) = output_of(&fixture.database(), &["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn feeds_continue_from_the_cursors_of_an_earlier_version() {
    let fixture = Fixture::new("shipped");
    let app = fixture.start(aggregates::shipped);
    app.post("/persons", r#"{"name":"New","city":"Rome"}"#);
    app.delete("/persons/3");
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    for seen in fixture.history() {
        for (path, feed) in FEEDS {
            let cursor = seen[path]["cursor"].as_str().unwrap();
            let mut state = seen[path]["state"].clone();
            let first = follow(&app, feed, cursor, &mut state);
            assert_eq!(state, app.get(path).json(), "{feed} from {cursor}");
            assert!(first.is_none_or(|patch| !patch.is_null()), "{feed} from {cursor} is not reset");
        }
    }
    // A revision that the earlier version never had, and an epoch that is not of this database.
    let last = &fixture.history().last().unwrap()["/persons"]["cursor"];
    let (epoch, revision) = last.as_str().unwrap().split_once('.').unwrap();
    for foreign in [format!("{epoch}.{}", revision.parse::<i64>().unwrap() + 1), format!("zzzzzzzzzz.{revision}")] {
        let mut state = json!({"999": {"name": "never there"}});
        assert_eq!(follow(&app, "/person-events", &foreign, &mut state), Some(Value::Null), "{foreign}");
        assert_eq!(state, app.get("/persons").json());
    }
}

#[test]
fn entity_tags_and_journal_ids_of_an_earlier_version_are_good() {
    let fixture = Fixture::new("shipped");
    let app = fixture.start(aggregates::shipped);
    let collections = fixture.history().last().unwrap().as_object().unwrap();
    let collections = collections.iter().map(|(path, seen)| (path, &seen["etag"]));
    let single = fixture.seen["tags"].as_object().unwrap();
    for (path, tag) in collections.chain(single) {
        let tag = tag.as_str().unwrap();
        assert_eq!(app.request("GET", path, &[("If-None-Match", tag)], None).status, 304, "{path} {tag}");
    }
    let tag = single["/persons/1"].as_str().unwrap();
    let headers = [("If-Match", tag), ("Content-Type", "application/json")];
    assert_eq!(app.request("PATCH", "/persons/1", &headers, Some(br#"{"name":"Changed"}"#)).status, 200);
    assert_eq!(app.request("PATCH", "/persons/1", &headers, Some(br#"{"name":"Again"}"#)).status, 412);
    let id = fixture.seen["journal"]["cursor"].as_str().unwrap();
    assert_eq!(page(&app, &format!("/journal?lastEventId={id}"))["events"], json!([]));
    app.open_cart();
    let events = page(&app, &format!("/journal?lastEventId={id}"))["events"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1);
}

#[test]
fn reports_of_an_earlier_version_are_right() {
    for (name, service) in [("shipped", aggregates::shipped as fn() -> Service), ("inline", with_inline)] {
        let fixture = Fixture::new(name);
        let mut app = fixture.start(service);
        for round in 0..2 {
            for (path, expected) in fixture.seen["reports"].as_object().unwrap() {
                if path == "/reports/city-history" {
                    continue;
                }
                eventually(&format!("{path} is right"), || app.get(path).text() == expected.as_str().unwrap());
            }
            for projection in ["cart_items", "carts.csv"] {
                let status = app.get(&format!("/projections/{projection}")).json();
                let generation = status.get("generation").and_then(Value::as_i64);
                assert!(generation.is_none_or(|generation| generation == 1), "{name} {round}: {status}");
            }
            assert_cities(&app);
            app.restart();
        }
        let cart = app.open_cart();
        app.add_item(&cart, "quince");
        app.command(&format!("{cart}/close"));
        eventually("the reports continue", || {
            let items = app.get("/reports/cart-items?item=quince").json();
            items["items"].as_array().is_some_and(|items| items.len() == 1)
                && app.get("/reports/carts.csv").text().lines().last().is_some_and(|line| line.contains("quince"))
        });
    }
}

/// A person whose city has another name.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Resident {
    name: String,
    town: Option<Key>,
    spouse: Option<u64>,
}

impl Document for Resident {
    const NAME: &'static str = "persons";
    const VERSION: i64 = 2;

    fn upgrade(_: i64, mut document: Value) -> Result<Value, ValidationError> {
        document["town"] = document["city"].take();
        Ok(document)
    }
}

/// The same totals as before.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Town {
    total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    married: Option<u64>,
}

impl Derived for Town {
    const NAME: &'static str = "locations";
    type Source = Resident;

    fn key(resident: &Resident) -> Option<Key> {
        resident.town.clone()
    }
    fn add(&mut self, resident: &Resident) {
        self.total += 1;
        if resident.spouse.is_some() {
            self.married = Some(self.married.unwrap_or(0) + 1);
        }
    }
    fn remove(&mut self, resident: &Resident) {
        self.total -= 1;
        if resident.spouse.is_some() {
            self.married = self.married.and_then(|married| married.checked_sub(1)).filter(|married| *married > 0);
        }
    }
    fn is_empty(&self) -> bool {
        self.total == 0
    }
}

fn of_residents() -> Service {
    let documents = Service::new().document::<Resident>().derived::<Town>();
    documents.event_sourced::<aggregates::ShoppingCart>().event_sourced::<aggregates::Account>()
}

#[test]
fn documents_of_an_earlier_database_are_converted_and_its_consumers_follow() {
    let fixture = Fixture::new("shipped");
    let mut app = fixture.start(of_residents);
    let last = &fixture.history().last().unwrap();
    let mut expected = last["/persons"]["state"].clone();
    for person in expected.as_object_mut().unwrap().values_mut().filter_map(Value::as_object_mut) {
        if let Some(city) = person.remove("city") {
            person.insert("town".to_owned(), city);
        }
    }
    assert!(expected.to_string().contains("town"));
    assert_eq!(app.get("/persons").json(), expected);
    assert_eq!(app.get("/locations").json(), last["/locations"]["state"]);
    for seen in fixture.history() {
        for (path, feed) in FEEDS {
            let mut state = seen[path]["state"].clone();
            follow(&app, feed, seen[path]["cursor"].as_str().unwrap(), &mut state);
            assert_eq!(state, app.get(path).json(), "{feed}");
        }
    }
    app.stop();
    let verified = of_residents().verify(&fixture.database()).unwrap();
    assert!(verified.iter().all(Verified::is_sound), "{verified:?}");
}

/// The file of former change events, which the earlier version kept for one projection, is not used any more: the report
/// starts with the events that the database has. Its last rows are the totals of now.
fn assert_cities(app: &App) {
    let locations = app.get("/locations").json();
    eventually("the history of cities ends with the totals of now", || {
        let report = app.get("/reports/city-history?limit=1000");
        if report.status != 200 {
            return false;
        }
        let mut totals = json!({});
        for row in report.json()["changes"].as_array().unwrap() {
            totals[row["city"].as_str().unwrap()] = row["total"].clone();
        }
        let expected =
            locations.as_object().unwrap().iter().map(|(city, state)| (city.clone(), state["total"].clone()));
        totals == Value::Object(expected.collect())
    });
}
