//! Custom event-sourced aggregates: what a service provides for each registered one.

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Keys, Root, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, Response};

/// A container for up to ten marbles: a crate, which gets a number, or a jar, which has a name.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) struct Jar<const NUMBERED: bool> {
    pub(crate) marbles: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) enum Command {
    Open {
        marbles: u32,
    },
    Add {
        marbles: u32,
    },
    /// Adds marbles as many times as there are marbles already.
    AddEach {
        marbles: u32,
    },
    Look,
    /// Records no event.
    Pass,
    Smash,
    /// Panics.
    Lose,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub(crate) enum Event {
    JarOpened { marbles: u32 },
    MarblesAdded { marbles: u32, before: i64 },
    JarLookedAt,
    JarSmashed,
}

#[derive(Debug, PartialEq, Serialize, JsonSchema, thiserror::Error)]
pub(crate) enum Rule {
    #[error("there are {inside} marbles in it, and no more than ten fit")]
    JarFull { inside: u32 },
    #[error("it is open")]
    JarOpen,
}

impl BusinessRule for Rule {
    fn status(&self) -> u16 {
        if *self == Self::JarOpen { 403 } else { 409 }
    }
}

/// Records one more event if the marbles fit.
fn add<const N: bool>(root: &mut Root<'_, Jar<N>>, marbles: u32) -> Result<(), Rule> {
    let inside = root.state().map_or(0, |jar| jar.marbles);
    if inside + marbles > 10 {
        return Err(Rule::JarFull { inside });
    }
    root.record(Event::MarblesAdded { marbles, before: root.version() });
    Ok(())
}

impl<const NUMBERED: bool> EventSourced for Jar<NUMBERED> {
    const NAME: &'static str = if NUMBERED { "crates" } else { "jars" };
    const KEYS: Keys = if NUMBERED { Keys::Sequence } else { Keys::Text };

    type Command = Command;
    type Event = Event;
    type Error = Rule;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Rule> {
        match command {
            Command::Open { .. } if root.state().is_some() => return Err(Rule::JarOpen),
            Command::Open { marbles } if marbles > 10 => return Err(Rule::JarFull { inside: 0 }),
            Command::Open { marbles } => root.record(Event::JarOpened { marbles }),
            Command::Add { marbles } => add(root, marbles)?,
            Command::AddEach { marbles } => {
                for _ in 0..root.state().map_or(0, |jar| jar.marbles) {
                    add(root, marbles)?;
                }
            }
            Command::Look => root.record(Event::JarLookedAt),
            Command::Pass => {}
            Command::Smash => root.record(Event::JarSmashed),
            Command::Lose => {
                root.record(Event::JarSmashed);
                unreachable!("a bug in a rule");
            }
        }
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let inside = state.map_or(0, |jar| jar.marbles);
        match event {
            Event::JarOpened { marbles } | Event::MarblesAdded { marbles, .. } => {
                Some(Self { marbles: inside + marbles })
            }
            Event::JarLookedAt => Some(Self { marbles: inside }),
            Event::JarSmashed => None,
        }
    }
}

pub(crate) fn jars_and_crates() -> Service {
    Service::new().event_sourced::<Jar<false>>().event_sourced::<Jar<true>>()
}

fn app() -> App {
    App::serving(jars_and_crates, |_| {})
}

fn open(app: &App, path: &str, marbles: u32) -> Response {
    app.write("PUT", path, &json!({ "marbles": marbles }).to_string())
}

/// The kinds of an aggregate's events and their fields, in order; checks that the versions have no gap.
fn history(app: &App, path: &str) -> Vec<(String, Value)> {
    let journal = app.get(&format!("{path}/journal")).json();
    let events = journal["events"].as_array().unwrap();
    assert!(events.iter().zip(1..).all(|(event, version)| event["version"] == version), "{journal}");
    events.iter().map(|event| (event["kind"].as_str().unwrap().to_owned(), event["body"].clone())).collect()
}

/// Everything that a rejected command must leave unchanged.
fn everything(app: &App) -> (Value, String, i64) {
    let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None);
    (journal.json(), app.get("/aggregates").text().to_owned(), journal.revision())
}

fn added(marbles: u32, before: i64) -> (String, Value) {
    ("MarblesAdded".to_owned(), json!({"marbles": marbles, "before": before}))
}

#[test]
fn a_sequence_assigns_keys_and_a_rejected_command_uses_no_number() {
    let app = app();
    let opened = app.post("/crates", r#"{"marbles":1}"#);
    assert_eq!((opened.status, opened.header("Location"), opened.text()), (201, Some("/crates/1"), r#"{"marbles":1}"#));
    let refused = app.post("/crates", r#"{"marbles":11}"#);
    assert_eq!((refused.status, refused.json()["type"].clone()), (409, json!("jar-full")));
    assert_eq!(refused.revision(), 1);
    assert_eq!(app.post("/crates", r#"{"marbles":"x"}"#).status, 422);
    assert_eq!(app.post("/crates", r#"{"marbles":2}"#).header("Location"), Some("/crates/2"));
    assert_eq!(app.post("/crates/2/add", r#"{"marbles":3}"#).text(), r#"{"marbles":5}"#);
    let chosen = open(&app, "/crates/7", 1);
    assert_eq!((chosen.status, chosen.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    assert_eq!(app.follow("/crate-events", &[]).next().data, r#"{"1":{"marbles":1}}"#);
}

#[test]
fn clients_can_choose_text_keys() {
    let app = app();
    assert_eq!((open(&app, "/jars/a%2Fb", 1).status, app.get("/jars").text()), (201, r#"{"a/b":{"marbles":1}}"#));
    assert_eq!(app.post("/jars/a%2Fb/add", r#"{"marbles":2}"#).text(), r#"{"marbles":3}"#);
    assert_eq!(app.get("/jars/a%2Fb?version=1").text(), r#"{"marbles":1}"#);
    let path = "/jars/a%20%3F%2F%25b";
    assert_eq!((open(&app, path, 1).status, app.post(&format!("{path}/look"), "{}").status), (201, 200));
    let next = app.get(&format!("{path}/journal?limit=1")).json()["next"].clone();
    assert_eq!(next, format!("{path}/journal?after=1&limit=1"), "the path is encoded");
    assert_eq!(app.get(next.as_str().unwrap()).json()["events"][0]["kind"], "JarLookedAt");
    let gone = app.get(&format!("{path}/events?strict=true&lastEventId=other0epoch.1")).problem(410, "not-retained");
    assert_eq!(gone["bootstrap"], path);
    let nameless = app.post("/jars", r#"{"marbles":1}"#);
    assert_eq!((nameless.status, nameless.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    let again = open(&app, "/jars/a%2Fb", 1);
    assert_eq!((again.status, again.json()["type"].clone()), (403, json!("jar-open")), "the rule sets the status");
    let unknown = app.post("/jars/other/add", r#"{"marbles":1}"#);
    assert_eq!((unknown.status, unknown.json()["type"].clone()), (404, json!("not-found")));
    assert_eq!(app.request("PATCH", "/jars/a%2Fb", &[], Some(b"{}")).header("Allow"), Some("GET, HEAD, PUT, OPTIONS"));
}

#[test]
fn an_event_that_changes_no_state_is_recorded_but_not_published() {
    let app = app();
    open(&app, "/jars/a", 1);
    let (before, mut feed) = (app.get("/jars/a"), app.follow("/jar-events", &[]));
    let looked = app.post("/jars/a/look", "{}");
    assert_eq!((looked.status, looked.revision(), looked.text()), (200, 1, r#"{"marbles":1}"#));
    assert_eq!(looked.header("ETag"), before.header("ETag"));
    assert_eq!(app.get("/jars/a").header("ETag"), before.header("ETag"));
    let tag = before.header("ETag").unwrap();
    assert_eq!(app.request("GET", "/jars/a", &[("If-None-Match", tag)], None).status, 304);
    assert_eq!(app.get("/jars/a?version=2").text(), r#"{"marbles":1}"#);
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).revision(), 2);
    assert_eq!((feed.next().revision(), feed.next().revision()), (1, 2));
    let expected =
        [("JarOpened".to_owned(), json!({"marbles": 1})), ("JarLookedAt".to_owned(), json!({})), added(1, 2)];
    assert_eq!(history(&app, "/jars/a"), expected, "versions have no gap");
    assert_eq!(everything(&app).0["events"][2]["position"], 3);
}

#[test]
fn a_command_without_events_succeeds_and_changes_nothing() {
    let app = app();
    open(&app, "/jars/a", 1);
    let before = everything(&app);
    let passed = app.post("/jars/a/pass", "{}");
    assert_eq!((passed.status, passed.text(), passed.revision()), (200, r#"{"marbles":1}"#, 1));
    assert_eq!(everything(&app), before);
}

#[test]
fn the_events_of_one_command_share_a_revision_and_each_sees_the_previous_ones() {
    let app = app();
    open(&app, "/jars/a", 2);
    let doubled = app.post("/jars/a/add-each", r#"{"marbles":3}"#);
    assert_eq!((doubled.text(), doubled.revision()), (r#"{"marbles":8}"#, 2));
    assert_eq!(history(&app, "/jars/a")[1..], [added(3, 1), added(3, 2)]);
    assert_eq!(app.get("/jars/a?version=2").text(), r#"{"marbles":5}"#);
    let mut feed = app.follow("/jar-events", &[]);
    assert_eq!(
        (feed.next().data, feed.next().data),
        (r#"{"a":{"marbles":2}}"#.into(), r#"{"a":{"marbles":8}}"#.into())
    );
}

#[test]
fn a_command_that_fails_after_recording_an_event_leaves_nothing_behind() {
    let app = app();
    open(&app, "/jars/a", 2);
    let before = everything(&app);
    let refused = app.post("/jars/a/add-each", r#"{"marbles":5}"#);
    assert_eq!((refused.status, refused.json()["inside"].clone()), (409, json!(7)), "the first event still fitted");
    assert_eq!(app.post("/jars/a/lose", "{}").status, 500);
    assert_eq!(everything(&app), before);
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).text(), r#"{"marbles":3}"#);
    assert_eq!(history(&app, "/jars/a")[1..], [added(1, 1)]);
}

#[test]
fn an_aggregate_ended_by_an_event_can_be_opened_again() {
    let app = app();
    open(&app, "/jars/a", 1);
    open(&app, "/jars/b", 1);
    let mut feed = app.follow("/jar-events", &[]);
    let mut state = json!({});
    let smashed = app.post("/jars/a/smash", "{}");
    assert_eq!((smashed.status, smashed.text(), smashed.revision()), (204, "", 3));
    feed.follow(&mut state, 3);
    assert_eq!(state, json!({"b": {"marbles": 1}}));
    assert_eq!(app.get("/jars/a").status, 404);
    assert_eq!(app.get("/jars/a?version=1").text(), r#"{"marbles":1}"#);
    assert_eq!(app.get("/jars/a?version=2").status, 404);
    let gone = app.post("/jars/a/add", r#"{"marbles":1}"#);
    assert_eq!((gone.status, gone.revision()), (404, 3));

    let opened = open(&app, "/jars/a", 5);
    assert_eq!((opened.status, opened.text(), opened.revision()), (201, r#"{"marbles":5}"#, 4));
    feed.follow(&mut state, 4);
    assert_eq!(state, app.get("/jars").json());
    assert_eq!(history(&app, "/jars/a").len(), 3);
}

#[test]
fn versions_continue_after_the_tombstone_was_pruned() {
    let mut app = app();
    open(&app, "/jars/a", 1);
    app.post("/jars/a/smash", "{}");
    let day = 24 * 60 * 60 * 1000;
    app.turn_clock(100 * day);
    app.prune();
    let refused = open(&app, "/jars/a", 11);
    assert_eq!((refused.status, refused.json()["type"].clone()), (409, json!("jar-full")));
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).status, 404);
    assert_eq!((open(&app, "/jars/a", 3).text(), app.get("/jars").revision()), (r#"{"marbles":3}"#, 3));
    assert_eq!(app.post("/jars/a/add", r#"{"marbles":1}"#).text(), r#"{"marbles":4}"#);
    assert_eq!(history(&app, "/jars/a")[3], added(1, 3));
    assert_eq!(app.get("/jars/a?version=3").text(), r#"{"marbles":3}"#);
    app.restart();
    assert_eq!(app.get("/jars").text(), r#"{"a":{"marbles":4}}"#);
}
