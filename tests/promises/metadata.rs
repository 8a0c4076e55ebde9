//! Every event and every change event keeps who caused it, and why, beside it.

use std::time::Duration;

use diesel::prelude::*;
use duality::schemars::{self, JsonSchema};
use duality::{
    Event, EventSourced, Feed, InvalidMetadata, Keys, Metadata, Parameters, Projection, ProjectionError, Report,
    ReportError, Root, Service, Tables,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, NoRule, TokenFile, lines, output_of};
use crate::own_projections::{status, wait_for_report, wait_until_built};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A request with its cause: `cause` is a correlation, and a causation.
fn write(app: &App, method: &str, path: &str, json: &str, cause: [&str; 2]) -> i64 {
    let [correlation, causation] = cause;
    let headers =
        [("Content-Type", "application/json"), ("X-Correlation-Id", correlation), ("X-Causation-Id", causation)];
    let response = app.request(method, path, &headers, Some(json.as_bytes()));
    assert!((200..300).contains(&response.status), "{method} {path}: {}", response.text());
    response.revision()
}

/// The metadata of all events in a journal.
fn of_journal(app: &App, path: &str) -> Vec<Value> {
    let response = app.request("GET", path, &[("Accept", "application/json")], None);
    let events = response.json()["events"].as_array().unwrap().clone();
    events.into_iter().map(|mut event| event["metadata"].take()).collect()
}

/// The metadata of all change events, as the database has it.
fn of_outbox(app: &App) -> Vec<Value> {
    let lines =
        lines(app.database(), "SELECT coalesce(metadata, 'null') AS line FROM outbox ORDER BY revision, collection");
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_event_and_a_change_event_have_the_correlation_and_the_causation_of_their_request() {
    let app = App::start();
    write(&app, "POST", "/persons", r#"{"name":"Ann","city":"Rome"}"#, ["order-7", "message-3"]);
    write(&app, "PATCH", "/persons/1", r#"{"city":null}"#, ["order-8", "message-4"]);
    let cart = "/carts/0193a5b0-7b2c-7def-8000-123456789abc";
    write(&app, "PUT", cart, "{}", ["order-9", "message-5"]);
    write(&app, "POST", &format!("{cart}/add-item"), r#"{"item":"apple"}"#, ["order-10", "\"quoted\\"]);
    let of = |correlation, causation| json!({"correlation": correlation, "causation": causation});
    let carts = vec![of("order-9", "message-5"), of("order-10", "\"quoted\\")];
    assert_eq!(of_journal(&app, "/journal"), carts);
    assert_eq!(of_journal(&app, &format!("{cart}/journal")), carts);
    let mut stream = app.follow("/journal", &[]);
    assert_eq!([0, 1].map(|_| stream.next().patch()["metadata"].take()).to_vec(), carts);
    // A location changes with its person, which has the metadata.
    let (first, second) = (of("order-7", "message-3"), of("order-8", "message-4"));
    let mut expected = vec![json!(null), first, json!(null), second];
    expected.extend(carts);
    assert_eq!(of_outbox(&app), expected);
}

#[test]
fn the_actor_is_the_name_of_the_token() {
    let tokens = TokenFile::new();
    let token = tokens.add("till-3", "write,read");
    let app = tokens.serve(|_| {});
    let bearer = token.bearer();
    let sent = [("Authorization", bearer.as_str()), ("X-Correlation-Id", "order-7"), ("Accept", "application/json")];
    assert_eq!(app.request("POST", "/carts", &sent, None).status, 201);
    let journal = app.request("GET", "/journal", &sent, None).json();
    assert_eq!(journal["events"][0]["metadata"], json!({"actor": "till-3", "correlation": "order-7"}));
    let (code, _, log) = tokens.run(&["new", "duality", "--scope", "write"]);
    assert!(code == 1 && log.contains("the name of the service itself"), "{log}");
}

#[test]
fn a_trace_parent_counts_where_there_is_no_id_of_ours_and_a_malformed_one_does_not() {
    let app = App::start();
    let trace = format!("00-{TRACE}-{PARENT}-01");
    for headers in [
        &[("traceparent", trace.as_str())][..],
        &[("traceparent", &trace), ("X-Correlation-Id", "order-7")],
        &[("traceparent", &trace), ("X-Causation-Id", "message-3")],
        &[("traceparent", "00-nonsense-01"), ("X-Correlation-Id", "order-8"), ("X-Causation-Id", "")],
    ] {
        assert_eq!(app.request("POST", "/carts", headers, None).status, 201, "{headers:?}");
    }
    let expected = [
        json!({"correlation": TRACE, "causation": PARENT}),
        json!({"correlation": "order-7", "causation": PARENT}),
        json!({"correlation": TRACE, "causation": "message-3"}),
        json!({"correlation": "order-8"}),
    ];
    assert_eq!(of_journal(&app, "/journal"), expected);
}

#[test]
fn without_an_id_every_request_has_a_correlation_of_its_own() {
    let app = App::start();
    let cart = app.open_cart();
    app.add_item(&cart, "apple");
    app.post("/persons", r#"{"name":"Ann"}"#);
    let mut correlations: Vec<_> = of_outbox(&app).iter().map(|metadata| metadata["correlation"].to_string()).collect();
    assert!(correlations.iter().all(|id| id.len() == 38 && id.matches('-').count() == 4), "{correlations:?}");
    correlations.sort_unstable();
    correlations.dedup();
    assert_eq!(correlations.len(), 3);
}

#[test]
fn an_id_has_at_most_128_visible_characters_and_a_write_with_another_one_is_refused_with_its_name() {
    let app = App::start();
    let [longest, too_long] = [128, 129].map(|length| "~".repeat(length));
    write(&app, "POST", "/carts", "{}", [&longest, &longest]);
    assert_eq!(of_journal(&app, "/journal"), [json!({"correlation": longest, "causation": longest})]);
    for name in ["X-Correlation-Id", "X-Causation-Id"] {
        for sent in
            [&[(name, too_long.as_str())][..], &[(name, "two words")], &[(name, "é")], &[(name, "a"), (name, "a")]]
        {
            let problem = app.request("POST", "/carts", sent, None).problem(400, "malformed-request");
            let detail = problem["detail"].as_str().unwrap();
            assert_eq!(detail, format!("{name}: expected 1 to 128 visible ASCII characters"), "{sent:?}");
        }
        // It means nothing to a read.
        assert_eq!(app.request("GET", "/carts", &[(name, "two words")], None).status, 200);
    }
    assert_eq!(app.get("/carts").revision(), 1, "nothing was done");
}

/// A letter that knows who has sent it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Letter {
    sender: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Post {
    Open,
    /// Two events at once.
    Forward,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Posted {
    LetterSent { sender: Option<String> },
    LetterForwarded,
}

impl EventSourced for Letter {
    const NAME: &'static str = "letters";
    const KEYS: Keys = Keys::Text;

    type Command = Post;
    type Event = Posted;
    type Error = NoRule;

    fn handle(root: &mut Root<'_, Self>, command: Post) -> Result<(), NoRule> {
        let sender = root.metadata().actor().map(str::to_owned);
        match command {
            Post::Open => root.record(Posted::LetterSent { sender }),
            Post::Forward => [(); 2].into_iter().for_each(|()| root.record(Posted::LetterForwarded)),
        }
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Posted) -> Option<Self> {
        match event {
            Posted::LetterSent { sender } => Some(Self { sender: sender.clone() }),
            Posted::LetterForwarded => state,
        }
    }
}

diesel::table! {
    causes (id) {
        id -> BigInt,
        at -> BigInt,
        actor -> Nullable<Text>,
        correlation -> Nullable<Text>,
        causation -> Nullable<Text>,
    }
}

/// The metadata of every event that it gets.
struct Causes<const KIND: usize>;

const OF_JOURNAL: usize = 0;
const INLINE: usize = 1;
const OF_CHANGES: usize = 2;
const OF_HISTORY: usize = 3;

const NAMES: [&str; 4] = ["causes_of_journal", "causes_inline", "causes_of_changes", "causes_of_history"];

impl<const KIND: usize> Projection for Causes<KIND> {
    const NAME: &'static str = NAMES[KIND];
    const FEED: Feed = if KIND == OF_JOURNAL { Feed::Journal } else { Feed::Changes };
    const KEEPS_HISTORY: bool = KIND == OF_HISTORY;
    const COLLECTIONS: &'static [&'static str] = &["letters"];
    const SETUP: &'static str = "CREATE TABLE causes (id INTEGER NOT NULL PRIMARY KEY, at BIGINT NOT NULL, \
        actor TEXT, correlation TEXT, causation TEXT)";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let metadata = event.metadata()?.unwrap_or_default();
        diesel::insert_into(causes::table)
            .values((
                causes::at.eq(event.at),
                causes::actor.eq(metadata.actor()),
                causes::correlation.eq(metadata.correlation()),
                causes::causation.eq(metadata.causation()),
            ))
            .execute(tables)?;
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![Report { name: NAMES[KIND], parameters: &[], read: rows }]
    }
}

fn rows(tables: &mut Tables, _: &Parameters) -> Result<Value, ReportError> {
    type Row = (i64, Option<String>, Option<String>, Option<String>);
    let columns = (causes::at, causes::actor, causes::correlation, causes::causation);
    let rows: Vec<Row> = causes::table.order(causes::id).select(columns).load(tables)?;
    Ok(json!(rows))
}

fn letters() -> Service {
    Service::new()
        .event_sourced::<Letter>()
        .inline::<Causes<INLINE>>()
        .background::<Causes<OF_JOURNAL>>()
        .background::<Causes<OF_CHANGES>>()
        .background::<Causes<OF_HISTORY>>()
}

/// A service with a letter that was sent by a typed command and forwarded over HTTP.
fn posted() -> App {
    let app = App::serving(letters, |settings| settings.poll_interval = Duration::from_millis(20));
    // One that starts later gets the aggregate as it is then, without metadata.
    wait_until_built(&app, NAMES[OF_CHANGES], 1);
    app.hook(|running| {
        Box::pin(async {
            let metadata = Metadata::default().with_actor("post-office").unwrap().with_correlation("round-1").unwrap();
            let running = running.with_metadata(metadata);
            let letter = running.execute::<Letter>(&"a".parse().unwrap(), Post::Open).await.unwrap();
            assert_eq!(letter.state.unwrap().sender.as_deref(), Some("post-office"));
        })
    });
    write(&app, "POST", "/letters/a/forward", "{}", ["round-2", "stamp-7"]);
    app
}

/// What the projections of the journal and of the change events have.
fn expected() -> [Value; 2] {
    let (sent, forwarded) = (json!(["post-office", "round-1", null]), json!([null, "round-2", "stamp-7"]));
    let row = |at: i64, cause: &Value| json!([at, cause[0], cause[1], cause[2]]);
    [json!([row(1, &sent), row(2, &forwarded), row(3, &forwarded)]), json!([row(1, &sent)])]
}

#[track_caller]
fn assert_projected(app: &App) {
    let [of_journal, of_changes] = expected();
    for (kind, name) in NAMES.into_iter().enumerate() {
        wait_for_report(app, name, if kind == OF_JOURNAL { &of_journal } else { &of_changes });
    }
}

#[test]
fn aggregates_and_projections_get_the_metadata_also_after_a_restart_a_rebuild_and_a_restored_backup() {
    let mut app = posted();
    assert_eq!(app.get("/letters/a").json(), json!({"sender": "post-office"}));
    assert_projected(&app);
    app.restart();
    assert_projected(&app);
    let journal = of_journal(&app, "/journal");
    assert_eq!(journal[0], json!({"actor": "post-office", "correlation": "round-1"}));
    assert_eq!(journal[1], json!({"correlation": "round-2", "causation": "stamp-7"}));
    assert_eq!(journal[1], journal[2], "all events of a command have the same");
    // The copy of a backup has no projections, so they are built again.
    let copy = app.database().with_file_name("copy.db");
    let (code, said) = output_of(app.database(), &["backup", copy.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    app.change(|settings| settings.database = copy);
    app.restart();
    assert_eq!(of_journal(&app, "/journal"), journal);
    wait_for_report(&app, NAMES[OF_JOURNAL], &expected()[0]);
    wait_for_report(&app, NAMES[OF_HISTORY], &expected()[1]);
    // A rebuild of change events starts with the aggregates, which have no metadata.
    wait_for_report(&app, NAMES[OF_CHANGES], &json!([[1, null, null, null]]));
    app.stop();
    assert!(letters().verify(app.database()).unwrap().iter().all(duality::Verified::is_sound));
}

#[test]
fn a_rebuild_after_pruning_has_the_metadata_where_the_events_are_kept() {
    let app = posted();
    assert_projected(&app);
    app.prune_everything();
    for kind in [OF_JOURNAL, OF_HISTORY] {
        let generation = status(&app, NAMES[kind])["generation"].as_i64().unwrap();
        assert_eq!(app.command(&format!("/projections/{}/rebuild", NAMES[kind])).status, 202);
        wait_until_built(&app, NAMES[kind], generation + 1);
    }
    wait_for_report(&app, NAMES[OF_JOURNAL], &expected()[0]);
    wait_for_report(&app, NAMES[OF_HISTORY], &expected()[1]);
}

#[test]
fn a_typed_command_without_metadata_has_a_correlation_of_its_own() {
    let app = App::serving(letters, |_| {});
    app.hook(|running| {
        Box::pin(async {
            for key in ["a", "b"] {
                running.execute::<Letter>(&key.parse().unwrap(), Post::Open).await.unwrap();
            }
        })
    });
    let [first, second] = &of_journal(&app, "/journal")[..] else { panic!("two events") };
    assert!(first["correlation"].is_string() && first != second, "{first} {second}");
    assert_eq!(first.as_object().unwrap().len(), 1, "{first}");
    let invalid = Metadata::new().with_causation("two words").unwrap_err();
    assert_eq!(InvalidMetadata::to_string(&invalid), "causation: expected 1 to 128 visible ASCII characters");
}

#[test]
fn what_the_service_writes_by_itself_has_the_service_as_its_actor() {
    let mut app = App::serving(letters, |_| {});
    app.stop();
    app.resume_serving(|| letters().document::<duality::aggregates::Person>());
    assert_eq!(of_outbox(&app), [json!({"actor": "duality"})], "the new collection");
}
