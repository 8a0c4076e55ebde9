//! The answers that are kept for an `Idempotency-Key` have a limit in bytes. They are pruned and erased in steps, and what an
//! aggregate does at its end or in a rule of its own is an answer like any other.

use std::fmt;

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, ByteSize, EventSourced, Root, Service};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::harness::{App, Client, Response, lines, output_of};
use crate::idempotency::{ANN, HOUR, Write, assert_repeats, kept, person, queue, state};

/// What an answer counts beside its text, in bytes.
const ROW: usize = 160;

/// What the kept answers take according to the metrics, after a comparison with what the database has.
#[track_caller]
fn bytes(app: &App) -> usize {
    let query = "SELECT CAST(coalesce(sum(octet_length(answer)), 0) AS TEXT) AS line FROM idempotency";
    let texts: usize = lines(app.database(), query)[0].parse().unwrap();
    let metric = Client::metric(app.address, "duality_idempotency_bytes");
    let expected = texts + ROW * kept(app);
    assert_eq!(format!("{metric}"), expected.to_string());
    expected
}

/// Changes nothing of the first person.
fn unchanged(key: &str) -> Write<'_> {
    Write { method: "PATCH", path: "/persons/1", key, body: "{}" }
}

/// A service that keeps no more than 64 KiB, and has a person of 20 KB.
fn nearly_full() -> App {
    let app = App::with(|settings| settings.idempotency_size = ByteSize::kib(64));
    app.post("/persons", &json!({"name": "x".repeat(20_000)}).to_string());
    app
}

#[track_caller]
fn assert_full(refused: &Response, hours: u64) {
    let problem = refused.problem(507, "answers-full");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("Idempotency-Key take 64.0 KiB (--idempotency-size)"), "{detail}");
    assert!(detail.contains("(--idempotency-retention)"), "{detail}");
    assert_eq!(problem["limit"], 65_536);
    let seconds: u64 = refused.header("Retry-After").unwrap().parse().unwrap();
    // The oldest answer was given some time ago.
    assert_eq!(seconds.div_ceil(3600), hours, "{seconds}");
}

#[test]
fn when_there_is_no_room_a_write_with_a_new_key_is_a_507_until_the_oldest_answer_is_forgotten() {
    let app = nearly_full();
    let first = unchanged("1").send(&app);
    for key in ["2", "3", "4"] {
        assert_eq!(unchanged(key).send(&app).status, 200, "the last one may exceed the limit");
    }
    let before = state(&app);
    assert_full(&unchanged("5").send(&app), 24);
    assert_full(&person("5", ANN).send(&app), 24);
    assert_full(&Write { method: "DELETE", path: "/persons/1", key: "5", body: "" }.send(&app), 24);
    app.turn_clock(22 * HOUR);
    app.prune();
    assert_full(&Write { method: "POST", path: "/carts", key: "5", body: "" }.send(&app), 2);
    assert_eq!((state(&app), kept(&app)), (before, 4), "nothing was done, and nothing forgotten");
    assert!(bytes(&app) > 65_536);
    // Those without a key, and repeats, have their answers.
    assert_eq!(app.post("/persons", ANN).header("Location"), Some("/persons/2"));
    assert_repeats(&first, &unchanged("1").send(&app));
    unchanged("1").send(&app);
    person("1", ANN).send(&app).problem(507, "answers-full");
    let sample = "duality_idempotency_conflicts_total{reason=\"no-room\"}";
    assert_eq!(format!("{}", Client::metric(app.address, sample)), "5");
    app.turn_clock(2 * HOUR);
    app.prune();
    assert_eq!((kept(&app), bytes(&app)), (0, 0));
    // What was refused is executed with the same key.
    let created = person("5", ANN).send(&app);
    assert_eq!((created.header("Location"), created.header("Idempotency-Replayed")), (Some("/persons/3"), None));
    assert_repeats(&created, &person("5", ANN).send(&app));
}

#[test]
fn of_writes_that_wait_together_the_first_ones_take_the_room() {
    let app = nearly_full();
    let holding = app.hold_writes();
    let mut clients = ["1", "2", "3", "4", "5", "6"].map(|key| queue(&app, &unchanged(key)));
    drop(holding);
    let statuses = clients.each_mut().map(|client| client.response("PATCH").status);
    assert_eq!(statuses, [200, 200, 200, 200, 507, 507]);
    assert_eq!((kept(&app), state(&app)), (4, (1, 1)));
}

#[test]
fn the_limit_of_kept_answers_is_a_setting() {
    let mut app = nearly_full();
    for key in ["1", "2", "3", "4"] {
        unchanged(key).send(&app);
    }
    assert_full(&unchanged("5").send(&app), 24);
    assert_eq!(format!("{}", Client::metric(app.address, "duality_max_idempotency_bytes")), "65536");
    app.change(|settings| settings.idempotency_size = ByteSize::kib(128));
    app.restart();
    assert_eq!(unchanged("5").send(&app).status, 200);
    assert_eq!(format!("{}", Client::metric(app.address, "duality_max_idempotency_bytes")), "131072");
}

#[test]
fn the_bytes_of_kept_answers_are_counted_exactly() {
    let mut app = App::start();
    assert_eq!(bytes(&app), 0);
    person("1", ANN).send(&app);
    let one = bytes(&app);
    person("1", ANN).send(&app);
    person("1", "{\"name\":\"B\u{e4}r\"}").send(&app).problem(422, "idempotency-key-reused");
    assert_eq!(bytes(&app), one, "neither repeats nor conflicts are kept");
    person("2", "{\"name\":\"B\u{e4}r\"}").send(&app);
    Write { method: "DELETE", path: "/persons/7", key: "1", body: "" }.send(&app).problem(404, "not-found");
    Write { method: "DELETE", path: "/persons/2", key: "1", body: "" }.send(&app);
    let all = bytes(&app);
    assert!(all > one);
    assert_eq!(app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#).status, 200);
    assert_eq!(bytes(&app), all - (one - ROW), "its row stays");
    app.restart();
    assert_eq!(bytes(&app), all - (one - ROW));
    app.turn_clock(25 * HOUR);
    person("3", ANN).send(&app);
    app.prune();
    assert_eq!(bytes(&app), one, "the last one is as long as the first one");
    app.stop();
    let (code, said) = output_of(app.database(), &["verify"]);
    assert!(code == 0 && said.contains("answers: 1 of commands with an idempotency key: ok"), "{said}");
}

#[test]
fn many_megabytes_of_answers_are_erased_and_pruned() {
    let app = App::start();
    let name = "x".repeat(900_000);
    app.post("/persons", &json!({ "name": name }).to_string());
    app.post("/persons", ANN);
    let keys: Vec<_> = (0..12).map(|number| number.to_string()).collect();
    for key in &keys {
        unchanged(key).send(&app);
        Write { path: "/persons/2", ..unchanged(key) }.send(&app);
    }
    assert!(bytes(&app) > 12 * 900_000);
    assert_eq!(app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#).status, 200);
    let left = "SELECT aggregate AS line FROM idempotency WHERE answer IS NOT NULL ORDER BY position";
    assert_eq!(lines(app.database(), left), ["2"; 12], "in all steps, and no other ones");
    assert!(bytes(&app) < 12 * 2 * 1000);
    for key in &keys {
        Write { method: "PATCH", path: "/persons/1", key, body: "{}" }.send(&app).problem(409, "erased");
    }
    app.turn_clock(25 * HOUR);
    app.prune();
    assert_eq!((kept(&app), bytes(&app)), (0, 0));
}

#[test]
fn a_refused_post_belongs_to_no_aggregate_and_goes_after_the_retention_period() {
    let mut app = App::with(|settings| settings.max_aggregate = ByteSize(100));
    let long = json!({"name": "x".repeat(200)}).to_string();
    let refused = person("1", &long).send(&app);
    refused.problem(422, "aggregate-too-large");
    app.post("/persons", ANN);
    assert_eq!(app.post("/-/erase", r#"{"collection":"persons","key":"1"}"#).status, 200);
    assert_repeats(&refused, &person("1", &long).send(&app));
    app.change(|settings| settings.max_aggregate = ByteSize(1000));
    app.restart();
    app.turn_clock(25 * HOUR);
    app.prune();
    assert_eq!((person("1", &long).send(&app).status, kept(&app)), (201, 1));
}

/// A spark, which may be over at once.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Spark {}

#[derive(Serialize, Deserialize, JsonSchema)]
enum SparkCommand {
    Open { ends: Ending },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Ending {
    Never,
    AtOnce,
    /// It does not even begin.
    Before,
    /// A rule forbids it, and panics when it is asked which.
    InABug,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum SparkEvent {
    Lit,
    WentOut,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Bug {}

impl fmt::Display for Bug {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("on purpose")
    }
}

impl std::error::Error for Bug {}

impl BusinessRule for Bug {}

impl EventSourced for Spark {
    const NAME: &'static str = "sparks";

    type Command = SparkCommand;
    type Event = SparkEvent;
    type Error = Bug;

    fn handle(root: &mut Root<'_, Self>, SparkCommand::Open { ends }: SparkCommand) -> Result<(), Bug> {
        match ends {
            Ending::Never => root.record(SparkEvent::Lit),
            Ending::AtOnce => {
                root.record(SparkEvent::Lit);
                root.record(SparkEvent::WentOut);
            }
            Ending::Before => {}
            Ending::InABug => return Err(Bug {}),
        }
        Ok(())
    }

    fn apply(_: Option<Self>, event: &SparkEvent) -> Option<Self> {
        matches!(event, SparkEvent::Lit).then_some(Self {})
    }
}

fn sparks() -> App {
    App::serving(|| Service::new().event_sourced::<Spark>(), |_| {})
}

/// Lights a spark.
fn spark<'a>(key: &'a str, body: &'a str) -> Write<'a> {
    Write { method: "POST", path: "/sparks", key, body }
}

#[test]
fn what_is_created_and_gone_in_one_command_has_the_same_answer_again() {
    let app = sparks();
    for (body, status, events) in
        [(r#"{"ends":"never"}"#, 201, 1), (r#"{"ends":"at_once"}"#, 204, 3), (r#"{"ends":"before"}"#, 204, 3)]
    {
        let first = spark(body, body).send(&app);
        assert_eq!((first.status, first.header("Location").is_some()), (status, status == 201), "{body}");
        assert_repeats(&first, &spark(body, body).send(&app));
        let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None).json();
        assert_eq!(journal["events"].as_array().unwrap().len(), events, "{body}");
    }
    assert_eq!((app.get("/sparks").json().as_object().unwrap().len(), kept(&app)), (1, 3));
}

#[test]
fn a_rule_that_panics_when_it_is_described_fails_its_command_alone() {
    let app = sparks();
    let holding = app.hold_writes();
    let bug = spark("1", r#"{"ends":"in_a_bug"}"#);
    let [mut failed, mut other] = [&bug, &spark("2", r#"{"ends":"never"}"#)].map(|write| queue(&app, write));
    drop(holding);
    failed.response("POST").problem(500, "internal");
    assert_eq!(other.response("POST").status, 201);
    // Nothing was decided, so that nothing is kept.
    bug.send(&app).problem(500, "internal");
    assert_eq!(kept(&app), 1);
}
