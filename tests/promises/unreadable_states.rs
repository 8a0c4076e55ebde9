//! States that could not be read back are rejected, and nothing of them is stored.

use std::collections::BTreeMap;

use duality::schemars::{self, JsonSchema};
use duality::{EventSourced, Keys, Root, Service, Verified};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::{App, NoRule};

#[derive(Serialize, Deserialize, JsonSchema)]
enum Grow {
    Open,
    Deepen { n: u32 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Grown {
    NodeOpened,
    NodeDeepened { n: u32 },
}

/// A tree of one branch, which every event makes deeper. It is large enough to stay decoded between commands.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Node {
    n: u32,
    pad: String,
    c: Vec<Node>,
}

impl EventSourced for Node {
    const NAME: &'static str = "nodes";
    const KEYS: Keys = Keys::Text;

    type Command = Grow;
    type Event = Grown;
    type Error = NoRule;

    fn handle(root: &mut Root<'_, Self>, command: Grow) -> Result<(), NoRule> {
        root.record(match command {
            Grow::Open => Grown::NodeOpened,
            Grow::Deepen { n } => Grown::NodeDeepened { n },
        });
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Grown) -> Option<Self> {
        let Grown::NodeDeepened { n } = *event else {
            return Some(Self { n: 0, pad: "x".repeat(5000), c: Vec::new() });
        };
        let mut root = state?;
        let mut deepest = &mut root;
        while !deepest.c.is_empty() {
            deepest = &mut deepest.c[0];
        }
        deepest.c.push(Self { n, pad: String::new(), c: Vec::new() });
        Some(root)
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Measure {
    Open,
    Divide { by: f64 },
    Name { name: String },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Measured {
    Opened,
    Divided { by: f64 },
    Named { name: String },
}

/// A number that can become one that JSON cannot express, and names that can be those of other members.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Gauge {
    a: f64,
    pad: String,
    #[serde(flatten)]
    names: BTreeMap<String, u32>,
}

impl EventSourced for Gauge {
    const NAME: &'static str = "gauges";
    const KEYS: Keys = Keys::Text;

    type Command = Measure;
    type Event = Measured;
    type Error = NoRule;

    fn handle(root: &mut Root<'_, Self>, command: Measure) -> Result<(), NoRule> {
        root.record(match command {
            Measure::Open => Measured::Opened,
            Measure::Divide { by } => Measured::Divided { by },
            Measure::Name { name } => Measured::Named { name },
        });
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Measured) -> Option<Self> {
        let mut gauge = state.unwrap_or_else(|| Self { a: 0.0, pad: "x".repeat(5000), names: BTreeMap::new() });
        match event {
            Measured::Opened => {}
            Measured::Divided { by } => gauge.a /= by,
            Measured::Named { name } => {
                gauge.names.insert(name.clone(), 1);
            }
        }
        Some(gauge)
    }
}

#[test]
fn a_state_with_a_number_that_is_none_or_with_a_name_twice_is_rejected() {
    let service = || Service::new().event_sourced::<Gauge>();
    let mut app = App::serving(service, |_| {});
    app.write("PUT", "/gauges/a", "{}");
    let before = everything(&app);
    let refused = [("divide", r#"{"by":0.0}"#), ("name", r#"{"name":"a"}"#)];
    for (command, body) in refused.into_iter().chain(refused) {
        assert_eq!(app.post(&format!("/gauges/a/{command}"), body).status, 500, "{command}");
        assert_eq!(everything(&app), before, "{command}");
    }
    let named = app.post("/gauges/a/name", r#"{"name":"b"}"#);
    assert_eq!((named.status, &named.json()["b"]), (200, &json!(1)), "it can be used on");
    assert_sound(&mut app, service());
}

/// Everything that is published and recorded.
fn everything(app: &App) -> (Value, String) {
    let journal = app.request("GET", "/journal", &[("Accept", "application/json")], None);
    (journal.json()["events"].clone(), app.get("/aggregates").text().to_owned())
}

fn assert_sound(app: &mut App, service: Service) {
    app.stop();
    let verified = service.verify(app.database()).unwrap();
    assert!(verified.iter().all(Verified::is_sound), "{verified:?}");
}

#[test]
fn a_state_becomes_deeper_until_it_could_not_be_read_and_nothing_is_lost() {
    let service = || Service::new().event_sourced::<Node>();
    let mut app = App::serving(service, |_| {});
    app.write("PUT", "/nodes/a", "{}");
    let mut feed = app.follow("/node-events", &[]);
    let deepen = |app: &App, n: u32| app.post("/nodes/a/deepen", &json!({ "n": n }).to_string());
    let accepted = (1..200).take_while(|n| deepen(&app, *n).status == 200).count();
    assert!((50..70).contains(&accepted), "{accepted}");
    let before = everything(&app);
    for n in 200..203 {
        assert_eq!(deepen(&app, n).status, 500, "again");
    }
    assert_eq!(everything(&app), before);
    assert_eq!(app.get("/nodes/a/journal").json()["events"].as_array().unwrap().len(), accepted + 1);
    let mut state = Value::Null;
    feed.follow(&mut state, app.get("/nodes").revision());
    assert_eq!(state, app.get("/nodes").json());
    app.write("PUT", "/nodes/a", "{}");
    assert_eq!(deepen(&app, 1).status, 200, "it can be used on");
    assert_sound(&mut app, service());
}
