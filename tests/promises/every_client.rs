//! What is published is the same in every client: texts that no client cuts, and numbers that no client rounds.

use duality::aggregates::shipped;
use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, CommandError, Derived, Document, EventSourced, Key, Root, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, Response, Stream, lines, sql};

/// The largest integer that JavaScript has exactly.
const MAX: i64 = 9_007_199_254_740_991;

/// Some clients end a line at each of these.
const SEPARATORS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

const NAME: &str = "a\u{2028}b\u{2029}c\u{85}d";

/// The same for a key, which cannot have a control character.
const KEY: &str = "a\u{2028}b\u{2029}c";

const NDJSON: [(&str, &str); 1] = [("Accept", "application/x-ndjson")];

/// A service with a person and a cart whose texts have all separators.
fn separators() -> (App, String) {
    let app = App::start();
    assert_eq!(app.post("/persons", &format!(r#"{{"name":"{NAME}","city":"{KEY}"}}"#)).status, 201);
    let cart = app.open_cart();
    assert_eq!(app.add_item(&cart, KEY).status, 200);
    (app, cart)
}

#[track_caller]
fn assert_no_separator(text: &str, what: &str) {
    assert!(text.contains(r"a\u2028b\u2029c"), "{what}: {text}");
    assert!(!text.contains(SEPARATORS), "{what}: {text}");
}

#[test]
fn line_separators_are_escaped_on_every_stream() {
    let (app, cart) = separators();
    for path in [
        "/persons/1/events",
        "/person-events",
        "/person-events?compact=true",
        "/location-events",
        "/events?collection=persons",
        &format!("{cart}/events?compact=true"),
        "/journal?collection=carts",
    ] {
        let mut stream = app.follow(path, &[]);
        stream.read_until(|text| text.contains("u2029c"));
        assert_no_separator(&stream.raw, path);
    }
}

#[test]
fn line_separators_are_escaped_in_live_events() {
    let app = App::start();
    let mut streams: Vec<Stream> =
        ["/person-events", "/events", "/persons/1/events"].map(|path| app.follow(path, &[])).into();
    streams.iter_mut().for_each(|stream| assert!(stream.message().is_some()));
    app.post("/persons", &format!(r#"{{"name":"{NAME}"}}"#));
    for stream in &mut streams {
        let patch = stream.next().patch().to_string();
        assert!(patch.contains(NAME), "the text is another: {patch}");
        assert_no_separator(&stream.raw, "live");
    }
}

#[test]
fn line_separators_are_escaped_in_ndjson() {
    let (app, _) = separators();
    for path in ["/persons", "/person-events", "/events?compact=true", "/location-events", "/journal"] {
        let body = app.request("GET", path, &NDJSON, None);
        assert_no_separator(body.text(), path);
        for line in body.text().lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{path}: {line}");
        }
    }
}

#[test]
fn line_separators_that_are_stored_unescaped_are_escaped_when_they_are_sent() {
    let (mut app, _) = separators();
    app.stop();
    let stored = lines(app.database(), "SELECT body AS line FROM aggregates WHERE collection = 'persons'");
    assert!(stored[0].contains(NAME), "{stored:?}");
    app.resume();
    assert_no_separator(app.request("GET", "/persons", &NDJSON, None).text(), "/persons");
}

#[test]
fn the_id_of_a_message_follows_its_data() {
    let (app, cart) = separators();
    for path in ["/person-events", "/person-events?compact=true", &format!("{cart}/events"), "/journal"] {
        let mut stream = app.follow(path, &[]);
        stream.read_until(|text| text.contains("\nid: ") && text.ends_with("\n\n"));
        let mut before = "";
        for line in stream.raw.lines() {
            assert!(!line.starts_with("id: ") || before.starts_with("data: "), "{path}: {}", stream.raw);
            before = line;
        }
    }
}

#[track_caller]
fn assert_out_of_range(response: &Response, member: &str) {
    let problem = response.problem(422, "invalid");
    assert_eq!(problem["member"], member, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("expected a number from -9007199254740991 to "), "{problem}");
}

#[test]
fn a_number_that_javascript_would_change_is_rejected() {
    let app = App::start();
    assert_eq!(app.post("/persons", &json!({"name": "Ann", "spouse": MAX}).to_string()).status, 201);
    for number in ["9007199254740992", "9007199254740993", "18446744073709551615", "18446744073709551616", "1e300"] {
        let body = format!(r#"{{"name":"Bob","spouse":{number}}}"#);
        assert_out_of_range(&app.post("/persons", &body), "spouse");
        assert_out_of_range(&app.write("PUT", "/persons/1", &body), "spouse");
        assert_out_of_range(&app.patch("/persons/1", &body), "spouse");
    }
    let account = app.command("/accounts").header("Location").unwrap().to_owned();
    assert_out_of_range(&app.post(&format!("{account}/book"), r#"{"amount":9007199254740992,"text":""}"#), "amount");
    assert_eq!(app.get("/aggregates").revision(), 2, "a rejected write changes nothing");
}

/// Its members are free: any JSON.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Reading {
    place: Key,
    value: i64,
    more: Option<Value>,
}

impl Document for Reading {
    const NAME: &'static str = "readings";
}

/// The sum of the readings of a place.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Place {
    sum: i64,
    readings: u32,
}

impl Derived for Place {
    const NAME: &'static str = "places";
    type Source = Reading;

    fn key(reading: &Reading) -> Option<Key> {
        Some(reading.place.clone())
    }
    fn add(&mut self, reading: &Reading) {
        (self.sum, self.readings) = (self.sum + reading.value, self.readings + 1);
    }
    fn remove(&mut self, reading: &Reading) {
        (self.sum, self.readings) = (self.sum - reading.value, self.readings - 1);
    }
    fn is_empty(&self) -> bool {
        self.readings == 0
    }
}

/// A product, which leaves the range sooner than its factors.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Product {
    value: i64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum ProductCommand {
    Begin,
    Multiply {
        by: i64,
    },
    /// Records an event that does not change the state.
    Note {
        number: u64,
    },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum ProductEvent {
    Begun,
    Multiplied { by: i64 },
    Noted { twice: u64 },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
#[error("it exists already")]
struct Exists;

impl BusinessRule for Exists {}

impl EventSourced for Product {
    const NAME: &'static str = "products";
    const CREATE_COMMAND: &'static str = "Begin";
    type Command = ProductCommand;
    type Event = ProductEvent;
    type Error = Exists;

    fn handle(root: &mut Root<'_, Self>, command: ProductCommand) -> Result<(), Exists> {
        let event = match command {
            ProductCommand::Begin if root.state().is_some() => return Err(Exists),
            ProductCommand::Begin => ProductEvent::Begun,
            ProductCommand::Multiply { by } => ProductEvent::Multiplied { by },
            ProductCommand::Note { number } => ProductEvent::Noted { twice: number * 2 },
        };
        root.record(event);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &ProductEvent) -> Option<Self> {
        let value = state.map_or(1, |product| product.value);
        let by = if let ProductEvent::Multiplied { by } = event { *by } else { 1 };
        Some(Self { value: value * by })
    }
}

fn numbers() -> Service {
    Service::new().document::<Reading>().derived::<Place>().event_sourced::<Product>()
}

#[test]
fn a_result_that_javascript_would_change_rejects_its_command() {
    let app = App::serving(numbers, |_| {});
    let reading = |value: i64| json!({"place": "Rome", "value": value}).to_string();
    assert_eq!(app.post("/readings", &reading(MAX)).status, 201);
    assert_out_of_range(&app.post("/readings", &reading(1)), "Rome.sum");
    let nested = r#"{"place":"Oslo","value":1,"more":{"list":[1,{"size":-9007199254740992}]}}"#;
    assert_out_of_range(&app.post("/readings", nested), "more.list.1.size");

    let product = app.command("/products").header("Location").unwrap().to_owned();
    let by = |factor: i64| app.post(&format!("{product}/multiply"), &json!({"by": factor}).to_string());
    assert_eq!(by(1 << 30).status, 200);
    assert_out_of_range(&by(1 << 30), "value");
    assert_out_of_range(&app.post(&format!("{product}/note"), &json!({"number": MAX}).to_string()), "Noted.twice");
    assert_eq!(app.get(&format!("{product}/journal")).json()["events"].as_array().unwrap().len(), 2);
    assert_eq!(app.get("/aggregates").revision(), 3, "a rejected command changes nothing");
    assert_eq!(by(2).status, 200);
}

#[test]
fn a_typed_command_with_a_number_that_javascript_would_change_is_rejected() {
    let directory = crate::harness::directory();
    let mut settings = duality::Settings::default();
    settings.database = directory.path().join("typed.db");
    actix::System::new().block_on(async {
        let running = numbers().open(settings).unwrap();
        let product = running.open::<Product>(ProductCommand::Begin).await.unwrap().key;
        let rejected = running.execute::<Product>(&product, ProductCommand::Multiply { by: MAX + 1 }).await;
        assert!(matches!(&rejected, Err(CommandError::Invalid(why)) if why.member == "value"), "{:?}", rejected.err());
        running.stop().await.unwrap();
    });
}

#[test]
fn a_number_that_was_stored_before_is_readable_and_keeps_nothing_else_from_changing() {
    let mut app = App::serving(shipped, |_| {});
    app.post("/persons", r#"{"name":"Ann","spouse":7}"#);
    app.stop();
    let large = r#"{"name":"Ann","spouse":18446744073709551615}"#;
    sql(
        app.database(),
        &format!("UPDATE aggregates SET body = '{large}'; UPDATE outbox SET patch = '{{\"1\":{large}}}'"),
    );
    app.resume();
    assert_eq!(app.get("/persons/1").text(), large);
    let changed = app.patch("/persons/1", r#"{"name":"Anna"}"#);
    assert_eq!((changed.status, changed.json()["spouse"].as_u64()), (200, Some(u64::MAX)));
    assert_eq!(app.patch("/persons/1", r#"{"spouse":8}"#).status, 200);
}
