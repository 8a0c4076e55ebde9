//! An aggregate has a limit, `--max-aggregate`. It holds back what makes one larger, and nothing else.

use duality::aggregates::{Account, AccountCommand};
use duality::schemars::{self, JsonSchema};
use duality::{ByteSize, CommandError, Derived, Document, EventSourced, Key, Keys, Root, Service, Verified};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::engine::is_postgres;
use crate::harness::{App, NoRule, Response, sql};

/// With a limit in bytes.
fn app(limit: u64) -> App {
    App::with(|settings| settings.max_aggregate = ByteSize(limit))
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

fn book(app: &App, account: &str) -> Response {
    app.post(&format!("{account}/book"), &json!({"amount": 1, "text": text(200)}).to_string())
}

#[track_caller]
fn assert_refused(response: &Response) -> Value {
    response.problem(422, "aggregate-too-large")
}

#[test]
fn a_command_that_would_make_an_aggregate_too_large_is_refused_and_says_what_to_do() {
    let app = app(1000);
    let account = app.command("/accounts").header("Location").unwrap().to_owned();
    let [_, _, small] = [(); 3].map(|()| book(&app, &account));
    let size = small.text().len();
    assert!(size < 1000 && size + 250 > 1000, "{size}");
    let refused = book(&app, &account);
    let problem = assert_refused(&refused);
    assert_eq!((&problem["title"], &problem["limit"]), (&json!("Aggregate too large"), &json!(1000)));
    let would_be = problem["size"].as_u64().unwrap();
    assert!((1001..1300).contains(&would_be), "{problem}");
    assert_eq!(
        problem["detail"],
        format!(
            "the state would have {would_be} bytes, more than the limit of 1000 (--max-aggregate); close the period first \
             (POST close-period): its bookings leave the state, and stay in the journal"
        )
    );
    assert_eq!(refused.revision(), small.revision(), "nothing was done");
    assert_eq!(app.get(&account).text(), small.text());
    assert_eq!(app.get(&format!("{account}/journal")).json()["events"].as_array().unwrap().len(), 4);
    // The advice is good.
    assert_eq!(app.command(&format!("{account}/close-period")).status, 200);
    assert_eq!(book(&app, &account).json()["balance"], 4);
}

#[test]
fn a_document_has_the_same_limit_for_every_way_to_write_it() {
    let mut app = app(100);
    let person = |length: usize| json!({ "name": text(length) }).to_string();
    let largest = 100 - person(0).len();
    assert_eq!(app.post("/persons", &person(largest)).status, 201, "exactly the limit");
    for refused in [
        app.post("/persons", &person(largest + 1)),
        app.write("PUT", "/persons/1", &person(largest + 1)),
        app.patch("/persons/1", &json!({ "name": text(largest), "city": "Rome" }).to_string()),
    ] {
        let problem = assert_refused(&refused);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.ends_with("remove what is no longer needed, or split it into several aggregates"), "{detail}");
    }
    assert_eq!(app.get("/persons").revision(), 1);

    // With data from before there was a limit, all is possible that makes nothing larger.
    app.stop();
    app.change(|settings| settings.max_aggregate = ByteSize(50));
    app.resume();
    assert_eq!(app.get("/persons/1").text(), person(largest));
    let other = format!("y{}", text(largest - 1));
    assert_eq!(app.patch("/persons/1", &json!({ "name": other }).to_string()).status, 200, "as large as before");
    assert_refused(&app.patch("/persons/1", r#"{"city":"Rome"}"#));
    assert_eq!(app.write("PUT", "/persons/1", &person(largest - 1)).status, 200, "smaller, and still too large");
    assert_refused(&app.write("PUT", "/persons/1", &person(largest)));
    assert_eq!(app.delete("/persons/1").status, 204);
}

/// A text.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Note {
    text: String,
}

impl Document for Note {
    const NAME: &'static str = "notes";
}

/// All texts on one shelf.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Shelf {
    texts: Vec<String>,
}

impl Derived for Shelf {
    const NAME: &'static str = "shelves";
    type Source = Note;

    fn key(_: &Note) -> Option<Key> {
        Key::parse("all").ok()
    }
    fn add(&mut self, note: &Note) {
        self.texts.push(note.text.clone());
    }
    fn remove(&mut self, note: &Note) {
        self.texts.retain(|text| *text != note.text);
    }
    fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }
}

#[test]
fn a_derived_aggregate_has_no_limit_because_nobody_could_make_it_smaller() {
    let app = App::serving(
        || Service::new().document::<Note>().derived::<Shelf>(),
        |settings| settings.max_aggregate = ByteSize(100),
    );
    for _ in 0..5 {
        assert_eq!(app.post("/notes", &json!({ "text": text(80) }).to_string()).status, 201);
    }
    assert!(app.get("/shelves/all").text().len() > 400);
}

/// A pile of texts. A later version of its fold keeps each text twice.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Pile<const COPIES: i64> {
    texts: Vec<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum PileCommand {
    Open,
    Add { text: String },
    Replace { text: String },
    Look,
    Burn,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum PileEvent {
    PileOpened,
    TextAdded { text: String },
    TextReplaced { text: String },
    PileLookedAt,
    PileBurnt,
}

impl<const COPIES: i64> EventSourced for Pile<COPIES> {
    const NAME: &'static str = "piles";
    const KEYS: Keys = Keys::Text;
    const STATE_VERSION: i64 = COPIES;

    type Command = PileCommand;
    type Event = PileEvent;
    type Error = NoRule;

    fn handle(root: &mut Root<'_, Self>, command: PileCommand) -> Result<(), NoRule> {
        root.record(match command {
            PileCommand::Open => PileEvent::PileOpened,
            PileCommand::Add { text } => PileEvent::TextAdded { text },
            PileCommand::Replace { text } => PileEvent::TextReplaced { text },
            PileCommand::Look => PileEvent::PileLookedAt,
            PileCommand::Burn => PileEvent::PileBurnt,
        });
        Ok(())
    }

    fn apply(state: Option<Self>, event: &PileEvent) -> Option<Self> {
        let mut pile = state.unwrap_or_default();
        match event {
            PileEvent::PileOpened | PileEvent::PileLookedAt => {}
            PileEvent::TextAdded { text } => (0..COPIES).for_each(|_| pile.texts.push(text.clone())),
            PileEvent::TextReplaced { text } => pile.texts = vec![text.clone()],
            PileEvent::PileBurnt => return None,
        }
        Some(pile)
    }
}

#[test]
fn a_refold_an_upgrade_and_a_lost_row_may_exceed_the_limit_and_only_growth_is_refused_then() {
    let mut app =
        App::serving(|| Service::new().event_sourced::<Pile<1>>(), |settings| settings.max_aggregate = ByteSize(100));
    let command = |app: &App, name: &str, length: usize| {
        app.post(&format!("/piles/a/{name}"), &json!({ "text": text(length) }).to_string())
    };
    app.write("PUT", "/piles/a", "{}");
    assert_eq!(command(&app, "add", 60).status, 200);
    assert_refused(&command(&app, "add", 60));
    app.stop();
    app.resume_serving(|| Service::new().event_sourced::<Pile<2>>());
    let large = json!({ "texts": [text(60), text(60)] }).to_string();
    assert_eq!(app.get("/piles/a").text(), large, "it was folded again");
    assert_eq!(app.command("/piles/a/look").text(), large, "a command that leaves it as it is");
    app.stop();
    sql(app.database(), "DELETE FROM aggregates");
    app.resume();
    assert_refused(&command(&app, "add", 1));
    assert_eq!(app.command("/piles/a/look").text(), large, "the row was lost, and is restored");
    assert_refused(&command(&app, "add", 1));
    assert_eq!(command(&app, "replace", 100).status, 200, "smaller, and still too large");
    assert_eq!(app.command("/piles/a/burn").status, 204);
    assert_eq!(app.get("/piles/a").status, 404);
    app.stop();
    let verified = Service::new().event_sourced::<Pile<2>>().verify(app.database()).unwrap();
    assert!(verified.iter().all(Verified::is_sound), "{verified:?}");
}

/// What the metrics show of the memory for the states of aggregates, in bytes.
fn kept(app: &App) -> usize {
    let metrics = app.get("/metrics");
    let lines = metrics.text().lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(r#"duality_memory_bytes{what="aggregates"} "#));
    values.next().unwrap().parse().unwrap()
}

#[test]
fn a_large_state_is_kept_for_the_next_command_within_a_budget() {
    for budget in [0, 1 << 20] {
        let mut app = App::with(|settings| settings.aggregate_memory = Some(ByteSize(budget)));
        let account = app.command("/accounts").header("Location").unwrap().to_owned();
        let long = json!({"amount": 5, "text": text(6000)}).to_string();
        let book = |app: &App| app.post(&format!("{account}/book"), &long);
        let withdraw = |app: &App| app.post(&format!("{account}/book"), r#"{"amount":-99,"text":"x"}"#);
        // The rows that are known of a server count as well, up to half of the budget.
        let rows = if is_postgres() { usize::try_from(budget).unwrap() / 2 } else { 0 };
        let keeps = |app: &App, decoded: usize, what: &str| {
            let kept = kept(app);
            assert!((decoded..=decoded + rows).contains(&kept), "{what}: {kept}, and {decoded} of decoded states");
        };
        keeps(&app, 0, "small");
        for (balance, bookings) in [(5, 1), (10, 2)] {
            let booked = book(&app);
            assert_eq!(booked.json()["balance"], balance);
            assert_eq!(booked.json()["bookings"].as_object().unwrap().len(), bookings);
            assert_eq!(app.get(&account).text(), booked.text());
            let expected = if budget == 0 { 0 } else { 10 * booked.text().len() };
            keeps(&app, expected, "the text and its decoded form count as ten times the text");
            withdraw(&app).problem(409, "insufficient-funds");
            keeps(&app, expected, "after a rejected command as well");
        }
        app.restart();
        keeps(&app, 0, "after a restart");
        assert_eq!(book(&app).json()["balance"], 15);
        assert_eq!(app.command(&format!("{account}/close-period")).json()["balance"], 15);
        keeps(&app, 0, "small again");
        let mut state = Value::Null;
        app.follow(&format!("{account}/events"), &[]).follow(&mut state, app.get(&account).revision());
        assert_eq!(state, app.get(&account).json());
        app.stop();
        let verified = duality::aggregates::shipped().verify(app.database()).unwrap();
        assert!(verified.iter().all(Verified::is_sound), "{verified:?}");
    }
}

#[test]
fn a_typed_command_gets_the_size_and_the_limit() {
    let app = app(200);
    app.hook(|running| {
        Box::pin(async move {
            let account = running.open::<Account>(AccountCommand::Open).await.unwrap().key;
            let book = AccountCommand::Book { amount: 1, text: text(300) };
            let refused = running.execute::<Account>(&account, book).await.unwrap_err();
            let CommandError::TooLarge { size, limit } = refused else { panic!("{refused}") };
            assert!(size > 300 && limit == 200, "{size} {limit}");
        })
    });
}
