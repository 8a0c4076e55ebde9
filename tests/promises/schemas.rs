//! Events outlive the program that wrote them: their shape may change, and so may the function that folds them.

use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, EventSourced, Keys, Root, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, lines, sql};

/// A ticket of the current program if the event and state versions are 2. In version 1 a ticket had no priority, and
/// was assigned rather than taken.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Ticket<const EVENT_VERSION: i64, const STATE_VERSION: i64> {
    title: String,
    priority: Option<String>,
    taken_by: Option<String>,
    done: bool,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Command {
    Open { title: String, priority: String },
    Take { by: String },
    Finish,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Event {
    TicketOpened { title: String, priority: String },
    TicketTaken { by: String },
    WorkDone,
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum Rule {
    #[error("the ticket is taken by {by}")]
    Taken { by: String },
}

impl BusinessRule for Rule {}

impl<const SCHEMA: i64, const FOLD: i64> EventSourced for Ticket<SCHEMA, FOLD> {
    const NAME: &'static str = "tickets";
    const KEYS: Keys = Keys::Text;
    const EVENT_VERSION: i64 = SCHEMA;
    const STATE_VERSION: i64 = FOLD;

    type Command = Command;
    type Event = Event;
    type Error = Rule;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Rule> {
        let event = match (root.state(), command) {
            (_, Command::Open { title, priority }) => Event::TicketOpened { title, priority },
            (Some(Self { taken_by: Some(by), .. }), Command::Take { .. }) => {
                return Err(Rule::Taken { by: by.clone() });
            }
            (_, Command::Take { by }) => Event::TicketTaken { by },
            (_, Command::Finish) => Event::WorkDone,
        };
        root.record(event);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        match (state, event) {
            (None, Event::TicketOpened { title, priority }) => {
                Some(Self { title: title.clone(), priority: Some(priority.clone()), taken_by: None, done: false })
            }
            (Some(ticket), Event::TicketTaken { by }) => Some(Self { taken_by: Some(by.clone()), ..ticket }),
            (Some(ticket), Event::WorkDone) => Some(Self { done: true, ..ticket }),
            (state, _) => state,
        }
    }

    fn upcast(kind: String, schema: i64, mut fields: Value) -> (String, Value) {
        assert_eq!(schema, 1, "only old events are upcast");
        match kind.as_str() {
            "TicketOpened" => fields["priority"] = json!("normal"),
            "TicketAssigned" => return ("TicketTaken".to_owned(), json!({ "by": fields["to"] })),
            _ => {}
        }
        (kind, fields)
    }
}

/// Creates the tables without registering any collection.
fn nothing() -> Service {
    Service::new()
}

fn tickets() -> Service {
    Service::new().event_sourced::<Ticket<2, 2>>()
}

/// Has the current event version but the old state version, so that nothing is refolded at start.
fn tickets_that_are_not_folded() -> Service {
    Service::new().event_sourced::<Ticket<2, 1>>()
}

const FIXTURE: &str = include_str!("../fixtures/tickets_of_schema_1.sql");

const JOURNAL: &str = "SELECT position || '|' || collection || '|' || key || '|' || version || '|' || kind || '|' \
     || schema || '|' || body || '|' || time AS line FROM journal ORDER BY position";

/// A database left by an earlier program, with further changes by SQL; the service is not started yet.
fn left_behind(more: &str) -> App {
    let mut app = App::serving(nothing, |_| {});
    app.stop();
    sql(app.database(), FIXTURE);
    sql(app.database(), more);
    app
}

#[test]
fn old_events_are_upcast_when_folded_and_stay_as_they_were_written() {
    let mut app = left_behind("");
    let before = lines(app.database(), JOURNAL);
    app.resume_serving(tickets);
    let leak = json!({"title": "A leak", "priority": "normal", "taken_by": "Bob", "done": false});
    let lamp = json!({"title": "A lamp", "priority": "normal", "done": true});
    let fresh = app.get("/tickets");
    assert_eq!((fresh.json(), fresh.revision()), (json!({"lamp": lamp, "leak": leak}), 6));
    let at_two = json!({"title": "A leak", "priority": "normal", "taken_by": "Ann", "done": false});
    assert_eq!(app.get("/tickets/leak?version=2").json(), at_two);

    // A consumer that was up to date with the earlier program receives the difference.
    let mut state = json!({
        "lamp": {"title": "A lamp", "done": true},
        "leak": {"title": "A leak", "assigned": "Bob", "done": false},
    });
    let mut feed = app.follow("/ticket-events", &[("X-Revision", "6")]);
    feed.follow(&mut state, 6);
    assert_eq!(state, fresh.json());

    assert_eq!(app.post("/tickets/leak/take", r#"{"by":"Cid"}"#).json()["by"], "Bob");
    assert_eq!(app.post("/tickets/lamp/take", r#"{"by":"Cid"}"#).revision(), 7);
    assert_eq!(app.write("PUT", "/tickets/drain", r#"{"title":"A drain","priority":"high"}"#).status, 201);
    feed.follow(&mut state, 8);
    assert_eq!(state, app.get("/tickets").json());

    let restarted = app.get("/tickets").text().to_owned();
    app.restart();
    assert_eq!(
        (app.get("/tickets").text(), app.get("/tickets").revision()),
        (restarted.as_str(), 8),
        "the refold happened only once"
    );
    app.stop();
    let after = lines(app.database(), JOURNAL);
    assert_eq!(after[..before.len()], before);
    let new: Vec<_> = after[before.len()..].iter().map(|line| line.rsplit_once('|').unwrap().0).collect();
    assert_eq!(
        new,
        [
            r#"6|tickets|lamp|3|TicketTaken|2|{"by":"Cid"}"#,
            r#"7|tickets|drain|1|TicketOpened|2|{"title":"A drain","priority":"high"}"#
        ]
    );
}

#[test]
fn an_unreadable_event_prevents_a_refold_and_the_start() {
    for (mistake, why) in [
        ("UPDATE journal SET kind = 'TicketMelted' WHERE position = 3", "`TicketMelted`"),
        ("UPDATE journal SET schema = 3 WHERE position = 3", "newer program"),
        ("UPDATE journal SET body = '{\"to\":7}' WHERE position = 3", "string"),
        ("UPDATE journal SET body = '{' WHERE position = 3", "EOF"),
        ("UPDATE journal SET schema = 2, body = '{}' WHERE position = 3", "`TicketAssigned`"),
        (
            "DELETE FROM journal WHERE position = 1; UPDATE journal SET kind = 'TicketOpened' WHERE position = 3",
            "missing",
        ),
    ] {
        let mut app = left_behind(mistake);
        let refused = app.try_resume_serving(tickets).unwrap_err();
        assert!(refused.contains("position 3 of the journal (tickets/leak, version 2)"), "{refused}");
        assert!(refused.contains(why), "{why}: {refused}");
        assert_eq!(
            lines(app.database(), "SELECT CAST(revision AS TEXT) AS line FROM metadata"),
            ["5"],
            "the revision is unchanged"
        );
        sql(app.database(), "DELETE FROM journal; UPDATE metadata SET revision = 0");
        app.resume_serving(tickets);
    }
}

#[test]
fn time_travel_over_an_unreadable_event_fails_without_leaking_internals() {
    for mistake in [
        "UPDATE journal SET kind = 'TicketMelted' WHERE position = 3",
        "UPDATE journal SET schema = 3 WHERE position = 3",
    ] {
        let mut app = left_behind("");
        app.resume_serving(tickets_that_are_not_folded);
        app.stop();
        // A start looks at the events only after their type has changed.
        sql(app.database(), mistake);
        app.resume();
        for version in [2, 3] {
            let refused = app.get(&format!("/tickets/leak?version={version}"));
            assert_eq!((refused.status, &refused.json()["type"]), (500, &json!("internal")));
            for internal in ["Ticket", "schema", "position", "journal"] {
                assert!(!refused.text().contains(internal), "{internal} in {}", refused.text());
            }
        }
        assert_eq!(app.get("/tickets/leak?version=1").json()["priority"], "normal");
        assert_eq!(app.get("/tickets/lamp?version=2").json()["done"], true);
        // The journal is still readable, and commands use the stored row, which needs no fold.
        assert_eq!(app.get("/tickets/leak/journal").json()["events"][1]["position"], 3);
        assert_eq!(app.post("/tickets/leak/finish", "{}").json()["done"], true);
    }
}

#[test]
fn refolded_aggregates_are_published_in_revisions_of_a_thousand() {
    let mut app = left_behind(
        "DELETE FROM journal; DELETE FROM aggregates; DELETE FROM outbox;
        UPDATE metadata SET revision = 1203, pruned = 1203;
        CREATE TEMP TABLE numbers AS
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1203) SELECT i FROM n;
        INSERT INTO journal (position, collection, key, version, kind, schema, body, time)
            SELECT i, 'tickets', 't' || i, 1, 'TicketOpened', 1, '{\"title\":\"a\"}', 0 FROM numbers;
        INSERT INTO aggregates (collection, rank, key, revision, version, body)
            SELECT 'tickets', 1000, 't' || i, i, 1, '{\"title\":\"a\",\"done\":false}' FROM numbers;",
    );
    app.resume_serving(tickets);
    let mut feed = app.follow("/ticket-events", &[("X-Revision", "1204")]);
    let (mut state, mut counts) = (json!({}), Vec::new());
    let before = json!({"title": "a", "done": false});
    for number in 1..=1203 {
        state[format!("t{number}")] = before.clone();
    }
    for revision in 1204..=1205 {
        let mut count = 0;
        loop {
            let message = feed.message().unwrap();
            json_patch::merge(&mut state, &message.patch());
            count += message.patch().as_object().unwrap().len();
            if message.reached() == Some(revision) {
                break;
            }
        }
        counts.push(count);
    }
    assert_eq!(counts, [1000, 203]);
    let fresh = app.get("/tickets");
    assert_eq!((fresh.revision(), fresh.json()), (1205, state));
    assert_eq!(app.get("/tickets/t1203").json(), json!({"title": "a", "priority": "normal", "done": false}));
}
