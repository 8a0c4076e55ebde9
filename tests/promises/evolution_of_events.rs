//! A program changes its events over the years. What was written stays as it was, and each version reads it.

use std::marker::PhantomData;

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Keys, Root, Service};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, lines, output_of, sql};

/// What one version of the program does.
trait Program: Sized + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    const EVENT_VERSION: i64 = 1;
    const STATE_VERSION: i64 = 1;
    /// The most that is read at once.
    const LIMIT: i64 = i64::MAX;

    fn opened() -> Self;
    fn read(amount: i64) -> Self;
    /// The total after this event.
    fn total(&self, before: i64) -> i64;

    fn upcast(kind: String, fields: Value) -> (String, Value) {
        (kind, fields)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Meter<P> {
    total: i64,
    #[serde(skip)]
    program: PhantomData<P>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Open,
    Read { amount: i64 },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Rule {
    #[error("{amount} is too much")]
    TooMuch { amount: i64 },
}

impl BusinessRule for Rule {}

impl<P: Program> EventSourced for Meter<P> {
    const NAME: &'static str = "meters";
    const KEYS: Keys = Keys::Text;
    const EVENT_VERSION: i64 = P::EVENT_VERSION;
    const STATE_VERSION: i64 = P::STATE_VERSION;

    type Command = Command;
    type Event = P;
    type Error = Rule;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Rule> {
        match command {
            Command::Open if root.state().is_none() => root.record(P::opened()),
            Command::Open => {}
            Command::Read { amount } if amount > P::LIMIT => return Err(Rule::TooMuch { amount }),
            Command::Read { amount } => root.record(P::read(amount)),
        }
        Ok(())
    }

    fn apply(state: Option<Self>, event: &P) -> Option<Self> {
        Some(Self { total: event.total(state.map_or(0, |meter| meter.total)), program: PhantomData })
    }

    fn upcast(kind: String, _: i64, fields: Value) -> (String, Value) {
        P::upcast(kind, fields)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum First {
    Opened,
    WasRead { amount: i64 },
}

impl Program for First {
    fn opened() -> Self {
        Self::Opened
    }
    fn read(amount: i64) -> Self {
        Self::WasRead { amount }
    }
    fn total(&self, before: i64) -> i64 {
        if let Self::WasRead { amount } = self { before + amount } else { before }
    }
}

/// A version that has the same events, and differs in something else.
macro_rules! like_first {
    ($name:ident, $doc:literal, { $($difference:item)* }) => {
        #[doc = $doc]
        #[derive(Serialize, Deserialize, JsonSchema)]
        enum $name {
            Opened,
            WasRead { amount: i64 },
        }

        impl Program for $name {
            $($difference)*

            fn opened() -> Self {
                Self::Opened
            }
            fn read(amount: i64) -> Self {
                Self::WasRead { amount }
            }
            fn total(&self, before: i64) -> i64 {
                let step = if Self::STATE_VERSION == 1 { 1 } else { 1000 };
                if let Self::WasRead { amount } = self { before + amount * step } else { before }
            }
        }
    };
}

like_first!(Careful, "Its rule is stricter.", {
    const LIMIT: i64 = 100;
});
like_first!(Finer, "Its unit is a thousandth of that before.", {
    const STATE_VERSION: i64 = 2;
});

/// An event has one more field, which may be absent.
#[derive(Serialize, Deserialize, JsonSchema)]
enum WithReader {
    Opened,
    WasRead { amount: i64, by: Option<String> },
}

impl Program for WithReader {
    fn opened() -> Self {
        Self::Opened
    }
    fn read(amount: i64) -> Self {
        Self::WasRead { amount, by: Some("Ann".to_owned()) }
    }
    fn total(&self, before: i64) -> i64 {
        if let Self::WasRead { amount, .. } = self { before + amount } else { before }
    }
}

/// A kind of events has another name, which nobody has said to it; or somebody has.
#[derive(Serialize, Deserialize, JsonSchema)]
enum Renamed<const EVENT_VERSION: i64> {
    Opened,
    Counted { amount: i64 },
}

impl<const EVENT_VERSION: i64> Program for Renamed<EVENT_VERSION> {
    const EVENT_VERSION: i64 = EVENT_VERSION;

    fn opened() -> Self {
        Self::Opened
    }
    fn read(amount: i64) -> Self {
        Self::Counted { amount }
    }
    fn total(&self, before: i64) -> i64 {
        if let Self::Counted { amount } = self { before + amount } else { before }
    }
    fn upcast(kind: String, fields: Value) -> (String, Value) {
        (if kind == "WasRead" { "Counted".to_owned() } else { kind }, fields)
    }
}

fn meters<P: Program>() -> Service {
    Service::new().event_sourced::<Meter<P>>()
}

/// The first version has left two meters, and is stopped.
fn left_by_first() -> App {
    let mut app = App::serving(meters::<First>, |_| {});
    for meter in ["a", "b"] {
        assert_eq!(app.request("PUT", &format!("/meters/{meter}"), &[], None).status, 201);
        app.post(&format!("/meters/{meter}/read"), r#"{"amount":500}"#);
    }
    app.stop();
    app
}

/// What a consumer of the journal has of its first four events.
fn journal(app: &App) -> Value {
    let page = app.request("GET", "/journal?limit=4", &[("Accept", "application/json")], None);
    page.json()["events"].clone()
}

#[track_caller]
fn assert_verified<P: Program>(app: &mut App) {
    app.stop();
    let verified = meters::<P>().verify(app.database()).unwrap();
    assert!(verified.iter().all(duality::Verified::is_sound), "{verified:?}");
}

#[test]
fn an_event_may_have_one_more_field_that_may_be_absent() {
    let mut app = left_by_first();
    app.resume_serving(meters::<WithReader>);
    let (before, revision) = (journal(&app), app.get("/meters").revision());
    assert_eq!((app.get("/meters/a").text(), revision), (r#"{"total":500}"#, 4), "nothing was written");
    assert_eq!(app.post("/meters/a/read", r#"{"amount":1}"#).text(), r#"{"total":501}"#);
    assert_eq!(journal(&app), before);
    assert_eq!(app.get("/meters/a?version=2").text(), r#"{"total":500}"#);
    assert_verified::<WithReader>(&mut app);
}

#[test]
fn a_new_rule_of_commands_does_not_judge_what_has_happened() {
    let mut app = left_by_first();
    app.resume_serving(meters::<Careful>);
    let before = app.get("/meters");
    assert_eq!((before.text(), before.revision()), (r#"{"a":{"total":500},"b":{"total":500}}"#, 4));
    app.post("/meters/a/read", r#"{"amount":101}"#).problem(409, "too-much");
    assert_eq!(app.post("/meters/a/read", r#"{"amount":100}"#).text(), r#"{"total":600}"#);
    assert_eq!(app.get("/meters/a?version=2").text(), r#"{"total":500}"#);
    assert_verified::<Careful>(&mut app);
}

#[test]
fn a_new_fold_is_done_again_for_all_and_consumers_follow() {
    let mut app = left_by_first();
    app.resume();
    let (mut state, cursor) = app.load("/meters");
    let before = journal(&app);
    app.stop();
    app.resume_serving(meters::<Finer>);
    let after = app.get("/meters");
    assert_eq!(after.text(), r#"{"a":{"total":500000},"b":{"total":500000}}"#);
    app.follow("/meter-events", &[("Last-Event-ID", &cursor)]).follow(&mut state, after.revision());
    assert_eq!((state, journal(&app)), (after.json(), before));
    assert_verified::<Finer>(&mut app);
}

#[test]
fn an_event_kind_that_is_gone_stops_the_start_with_its_position() {
    let mut app = left_by_first();
    for _ in 0..2 {
        let refused = app.try_resume_serving(meters::<Renamed<1>>).unwrap_err();
        let expected = "position 2 of the journal (meters/a, version 2) has an event \"WasRead\" of schema 1 that this \
                        program cannot read: unknown variant `WasRead`";
        assert!(refused.starts_with(expected) && !refused.contains('\n'), "{refused}");
        let way_out = "set EVENT_VERSION to 2 and let `upcast` make it an event that there is; nothing was changed";
        assert!(refused.ends_with(way_out), "{refused}");
    }
    app.resume_serving(meters::<First>);
    let before = journal(&app);
    assert_eq!(app.get("/meters").revision(), 4);
    app.stop();
    app.resume_serving(meters::<Renamed<2>>);
    assert_eq!(app.post("/meters/a/read", r#"{"amount":1}"#).text(), r#"{"total":501}"#);
    assert_eq!(journal(&app), before, "events stay as they were written");
    let new = app.get("/meters/a/journal?after=2").json()["events"][0].clone();
    assert_eq!((&new["kind"], &new["schema"]), (&json!("Counted"), &json!(2)));
    assert_verified::<Renamed<2>>(&mut app);
    let refused = app.try_resume_serving(meters::<First>).unwrap_err();
    assert!(refused.contains("its schema 2 was written by a newer program"), "{refused}");
    app.resume_serving(meters::<Renamed<2>>);
}

#[test]
fn an_event_kind_that_is_gone_is_known_before_the_start() {
    let mut app = App::start();
    app.open_cart();
    app.stop();
    let check = |app: &App| output_of(app.database(), &["migrate", "--check"]);
    sql(app.database(), "UPDATE journal SET kind = 'CartMelted'");
    assert_eq!(check(&app).0, 0, "a program with the same events has looked at them");
    sql(app.database(), "UPDATE collections SET shape = 'events of another program' WHERE name = 'carts'");
    let (status, output) = check(&app);
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("position 1 of the journal (carts/"), "{output}");
    assert!(output.contains("has an event \"CartMelted\" of schema 1"), "{output}");
    sql(app.database(), "UPDATE journal SET kind = 'CartOpened'");
    app.resume();
    let shapes = lines(app.database(), "SELECT shape AS line FROM collections WHERE name = 'carts'");
    assert!(shapes[0].starts_with("events ") && shapes[0] != "events of another program", "{shapes:?}");
}
