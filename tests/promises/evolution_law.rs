//! Whatever members documents get and lose: the state is what the events add up to.

use std::sync::Mutex;

use duality::schemars::{self, JsonSchema};
use duality::{Document, Service, ValidationError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::evolution::revision_of;
use crate::harness::{App, Random, cases};

/// A change of all documents from one version to the next.
#[derive(Debug, Clone)]
enum Conversion {
    Set(&'static str, Value),
    Remove(&'static str),
    Rename(&'static str, &'static str),
}

impl Conversion {
    fn random(random: &mut Random) -> Self {
        let name = *random.one_of(&NAMES);
        match random.below(3) {
            0 => Self::Set(name, random_value(random)),
            1 => Self::Remove(name),
            _ => Self::Rename(name, NAMES[usize::try_from(random.below(5)).unwrap()]),
        }
    }

    fn apply(&self, document: &mut Map<String, Value>) {
        match self {
            Self::Set(name, value) => drop(document.insert((*name).to_owned(), value.clone())),
            Self::Remove(name) => drop(document.remove(*name)),
            Self::Rename(from, to) => {
                if let Some(value) = document.remove(*from) {
                    document.insert((*to).to_owned(), value);
                }
            }
        }
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "a/b", "ä"];

fn random_value(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!(random.below(1000)),
        1 => json!("text"),
        2 => json!([1, {"x": 1}]),
        3 => json!({"x": random.below(3), "y": {"z": "deep"}}),
        _ => json!({}),
    }
}

/// What leads from each version to the next.
static CONVERSIONS: Mutex<Vec<Vec<Conversion>>> = Mutex::new(Vec::new());

/// Any members, in one of several versions.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Thing<const VERSION: i64> {
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl<const VERSION: i64> Document for Thing<VERSION> {
    const NAME: &'static str = "things";
    const VERSION: i64 = VERSION;

    fn upgrade(from: i64, mut document: Value) -> Result<Value, ValidationError> {
        let conversions = CONVERSIONS.lock().unwrap();
        let members = document.as_object_mut().unwrap();
        let steps = usize::try_from(from - 1).unwrap()..usize::try_from(VERSION - 1).unwrap();
        conversions[steps].iter().flatten().for_each(|conversion| conversion.apply(members));
        Ok(document)
    }
}

fn things<const VERSION: i64>() -> Service {
    Service::new().document::<Thing<VERSION>>()
}

const PROGRAMS: [fn() -> Service; 4] = [things::<1>, things::<2>, things::<3>, things::<4>];

/// A copy of what a path shows, from the messages of its feed.
struct Copy {
    path: &'static str,
    feed: &'static str,
    state: Value,
    cursor: String,
}

impl Copy {
    fn of(app: &App, path: &'static str, feed: &'static str) -> Self {
        let (state, cursor) = app.load(path);
        Self { path, feed, state, cursor }
    }

    fn assert_follows(&mut self, app: &App) {
        let (state, cursor) = app.load(self.path);
        let until = revision_of(&cursor);
        if until > revision_of(&self.cursor) {
            app.follow(self.feed, &[("Last-Event-ID", &self.cursor)]).follow(&mut self.state, until);
        }
        assert_eq!(self.state, state, "{}", self.path);
        self.cursor = cursor;
    }
}

#[test]
fn whatever_an_upgrade_does_the_events_that_a_consumer_gets_add_up_to_the_state() {
    for seed in 0..u64::from(cases(150)) {
        let mut random = Random::new(seed);
        let mut steps = || (0..random.below(4)).map(|_| Conversion::random(&mut random)).collect::<Vec<_>>();
        let conversions = vec![steps(), steps(), steps()];
        let (said, mut app) = (format!("seed {seed}: {conversions:?}"), App::serving(PROGRAMS[0], |_| {}));
        *CONVERSIONS.lock().unwrap() = conversions;
        write_things(&app, &mut random);
        let mut eager = [Copy::of(&app, "/things", "/thing-events"), Copy::of(&app, "/aggregates", "/events")];
        let mut lazy = [Copy::of(&app, "/things", "/thing-events"), Copy::of(&app, "/aggregates", "/events")];
        let mut version = 0;
        while version < 3 {
            version += 1 + usize::try_from(random.below(2)).unwrap();
            app.stop();
            app.resume_serving(PROGRAMS[version.min(3)]);
            eager.iter_mut().for_each(|copy| copy.assert_follows(&app));
            write_things(&app, &mut random);
            if random.below(2) == 0 {
                app.prune_everything();
            }
            eager.iter_mut().for_each(|copy| copy.assert_follows(&app));
        }
        lazy.iter_mut().for_each(|copy| copy.assert_follows(&app));
        println!("{said}: exact");
    }
}

/// Creates, changes and deletes some things.
fn write_things(app: &App, random: &mut Random) {
    for _ in 0..3 + random.below(8) {
        let body =
            json!({ *random.one_of(&NAMES): random_value(random), *random.one_of(&NAMES): random_value(random) });
        let path = format!("/things/{}", 1 + random.below(6));
        match random.below(4) {
            0 | 1 => drop(app.post("/things", &body.to_string())),
            2 => drop(app.patch(&path, &body.to_string())),
            _ => drop(app.delete(&path)),
        }
    }
}
