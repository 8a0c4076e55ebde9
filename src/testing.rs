//! Scenarios for event-sourced aggregates: given these events, when this command, then those events, or that broken rule.
//!
//! A scenario is played as the service plays it (events and states go through JSON), in memory and at once. What does not
//! come out as expected panics at the line of the expectation, with a diff.
//!
//! ```
//! use duality::collections::{CartCommand::AddItem, CartEvent::CartOpened, ShoppingCart};
//! use duality::testing::{NOW, given, key};
//! use serde_json::json;
//!
//! given::<ShoppingCart>([CartOpened])
//!     .when(AddItem { item: key("apple") })
//!     .then_patch(json!({"items":{"apple":{"added":NOW}}}));
//! ```

#![expect(clippy::panic, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::fmt::Debug;

use serde::Serialize;
use serde_json::Value;
use similar::{ChangeTag, TextDiff};

use crate::domain::body::{Body, CorruptState, patch};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{EventSourced, Registry, handle, recorded};
use crate::domain::command::{CommandContext, RecordedEvent, Rejection, catch_panic};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;

/// The key of the aggregate in every scenario.
pub const KEY: &str = "01930000-0000-7000-8000-000000000000";

/// The time of every command in a scenario.
pub const NOW: Timestamp = Timestamp::from_milliseconds(1_795_336_200_000);

/// A key that is known to be one.
///
/// # Panics
/// It is none.
#[must_use]
#[track_caller]
pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap_or_else(|invalid| panic!("the key {text:?} {invalid}"))
}

/// Begins a scenario with what has happened so far.
///
/// # Panics
/// The events cannot be folded.
#[must_use]
#[track_caller]
pub fn given<T: EventSourced>(events: impl IntoIterator<Item = T::Event>) -> Scenario<T> {
    let mut registry = Registry::default();
    registry.event_sourced::<T>();
    registry.check().unwrap_or_else(|invalid| panic!("{invalid}"));
    let collection = registry.id(T::NAME).unwrap_or_else(|| panic!("{} is not registered", T::NAME));
    let history = events.into_iter().map(|event| written(recorded(&event))).collect();
    let mut scenario = Scenario {
        registry,
        collection,
        history,
        before: None,
        state: None,
        outcome: Ok(Vec::new()),
        ids: Cell::new(0),
    };
    scenario.ids.set(scenario.history.len());
    scenario.state = scenario.folded();
    scenario.before.clone_from(&scenario.state);
    scenario
}

/// What has happened, and what the last command came to.
pub struct Scenario<T: EventSourced> {
    registry: Registry,
    collection: CollectionId,
    /// Every event, as the journal would have it.
    history: Vec<RecordedEvent>,
    /// The state before the last command, and now.
    before: Option<Body>,
    state: Option<Body>,
    outcome: Result<Vec<RecordedEvent>, Failure<T::Error>>,
    ids: Cell<usize>,
}

/// Why the last command did nothing.
enum Failure<E> {
    Broken(E),
    NotFound,
}

impl<T: EventSourced> Scenario<T> {
    /// Does a command. It fails or not; what is expected follows.
    ///
    /// Entities inside the aggregate get the ids 1, 2, 3 …, counted on from the number of events that were given, so that
    /// those of the given ones can be named so too.
    ///
    /// # Panics
    /// The command panics, or leaves a state that is not the fold of its events.
    #[must_use]
    #[track_caller]
    pub fn when(mut self, command: T::Command) -> Self {
        let change = handle::<T>(command).unwrap_or_else(|error| panic!("the command is no variant: {error}"));
        let next_id = || {
            self.ids.set(self.ids.get() + 1);
            key(&self.ids.get().to_string())
        };
        let version = Version::from_raw(i64::try_from(self.history.len()).unwrap_or(i64::MAX));
        let context = CommandContext { key: &key(KEY), version, now: NOW, new_id: &next_id };
        let decided = catch_panic(|| self.registry.get(self.collection).decide(context, self.state.as_ref(), change));
        self.before.clone_from(&self.state);
        self.outcome = match decided {
            Ok(decision) => {
                self.history.extend(decision.events.iter().cloned());
                self.state = self.folded();
                same("the state that the command leaves, beside the fold of all events", &self.state, &decision.after);
                Ok(decision.events)
            }
            Err(Rejection::NotFound) => Err(Failure::NotFound),
            Err(Rejection::RuleBroken(broken)) => match broken.into_any().downcast() {
                Ok(broken) => Err(Failure::Broken(*broken)),
                Err(_) => panic!("a rule of another aggregate was broken"),
            },
            Err(other) => panic!("the command failed: {other:?}"),
        };
        self
    }

    /// The command made these events happen, and no others.
    ///
    /// # Panics
    /// It did not.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = T::Event>) -> Self {
        let expected: Vec<_> = events.into_iter().map(|event| written(recorded(&event))).collect();
        match &self.outcome {
            Ok(events) => same("the events of the command", &told(&expected), &told(events)),
            Err(failure) => panic!("the command failed: {}", failure.said()),
        }
        self
    }

    /// The command made nothing happen, since it would have broken this rule.
    ///
    /// # Panics
    /// It made something happen, or would have broken another rule.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "as the other expectations, written in place")]
    pub fn then_fails(self, rule: T::Error) -> Self
    where
        T::Error: PartialEq + Debug,
    {
        match &self.outcome {
            Err(Failure::Broken(broken)) if *broken == rule => {}
            Err(Failure::Broken(broken)) => same("the broken rule", &rule, broken),
            Err(Failure::NotFound) => panic!("there is no aggregate; expected {rule:?}"),
            Ok(events) => panic!("the command did not fail but made {:#?} happen; expected {rule:?}", told(events)),
        }
        self
    }

    /// The broken rule is said in these words.
    ///
    /// # Panics
    /// It is not, or none was broken.
    #[track_caller]
    pub fn then_says(self, sentence: &str) -> Self {
        match &self.outcome {
            Err(failure) => same("the sentence", sentence, failure.said().as_str()),
            Ok(events) => panic!("the command did not fail but made {:#?} happen", told(events)),
        }
        self
    }

    /// The command made nothing happen, since there is no aggregate.
    ///
    /// # Panics
    /// There is one.
    #[track_caller]
    pub fn then_not_found(self) -> Self {
        match &self.outcome {
            Err(Failure::NotFound) => {}
            Err(Failure::Broken(broken)) => panic!("the aggregate is there; it said: {broken}"),
            Ok(events) => panic!("the command did not fail but made {:#?} happen", told(events)),
        }
        self
    }

    /// The public state is this now; `null` when the aggregate is gone.
    ///
    /// # Panics
    /// It is not.
    #[track_caller]
    pub fn then_state(self, state: impl Serialize) -> Self {
        let expected = written(serde_json::to_value(state));
        same("the state", &expected, &self.state.as_ref().map_or(Value::Null, |body| written(body.value())));
        self
    }

    /// The change event of the command is this merge patch; `{}` when it changed nothing.
    ///
    /// # Panics
    /// It is not, or the command failed.
    #[track_caller]
    pub fn then_patch(self, expected: impl Serialize) -> Self {
        if let Err(failure) = &self.outcome {
            panic!("the command failed: {}", failure.said());
        }
        let made = written(patch(self.before.as_ref(), self.state.as_ref()));
        let made: Value =
            made.map_or_else(|| Value::Object(serde_json::Map::new()), |patch| written(serde_json::from_str(&patch)));
        same("the change event", &written(serde_json::to_value(expected)), &made);
        self
    }

    /// The state as all the events say.
    #[track_caller]
    fn folded(&self) -> Option<Body> {
        let journaled = self.registry.get(self.collection).journaled()?;
        let mut fold = journaled.fold();
        for RecordedEvent { kind, fields } in &self.history {
            let applied: Result<(), CorruptState> = fold.apply(kind, journaled.schema(), fields);
            applied.unwrap_or_else(|corrupt| panic!("{kind} {fields} cannot be applied: {corrupt}"));
        }
        written(fold.body())
    }
}

impl<E: std::error::Error> Failure<E> {
    fn said(&self) -> String {
        match self {
            Self::Broken(broken) => broken.to_string(),
            Self::NotFound => "there is no such aggregate".to_owned(),
        }
    }
}

/// What can only fail if the aggregate cannot be written as JSON.
#[track_caller]
fn written<V, E: std::fmt::Display>(outcome: Result<V, E>) -> V {
    outcome.unwrap_or_else(|error| panic!("not to be written as JSON: {error}"))
}

/// Events as people read them.
fn told(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(|RecordedEvent { kind, fields }| format!("{kind} {fields}")).collect()
}

/// Panics with what differs, line by line.
#[track_caller]
fn same<V: Debug + PartialEq + ?Sized>(what: &str, expected: &V, found: &V) {
    if expected == found {
        return;
    }
    let text = |value: &V| format!("{value:#?}").replace("\\\"", "\"");
    let (expected, found) = (text(expected), text(found));
    let mut diff = String::new();
    for line in TextDiff::from_lines(&expected, &found).iter_all_changes() {
        let sign = match line.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        diff.push_str(&format!("{sign} {}\n", line.value().trim_end_matches('\n')));
    }
    panic!("{what} (- expected, + found):\n{diff}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::{CartCommand, CartError, CartEvent, ShoppingCart};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn message(scenario: impl FnOnce() -> Scenario<ShoppingCart>) -> String {
        let panicked = catch_unwind(AssertUnwindSafe(|| drop(scenario()))).unwrap_err();
        panicked.downcast_ref::<String>().unwrap().clone()
    }

    fn opened() -> Scenario<ShoppingCart> {
        given([CartEvent::CartOpened])
    }

    #[test]
    fn what_differs_is_shown() {
        let pear = CartEvent::ItemAdded { item: key("pear"), time: NOW };
        let text = message(|| opened().when(CartCommand::AddItem { item: key("apple") }).then([pear]));
        assert!(text.contains("\n- ") && text.contains("\n+ ") && text.contains("pear"), "{text}");
        let text = message(|| opened().when(CartCommand::Close).then_state(serde_json::json!({"status":"open"})));
        assert!(text.contains("+") && text.contains("closed"), "{text}");
    }

    #[test]
    fn an_expectation_that_does_not_hold_fails() {
        let close = || opened().when(CartCommand::Close);
        let open = || opened().when(CartCommand::Open);
        let rule = || CartError::CartAlreadyOpen { cart: key(KEY) };
        for scenario in [
            message(|| close().then([])),
            message(|| close().then_fails(rule())),
            message(|| close().then_not_found()),
            message(|| close().then_says("no")),
            message(|| close().then_patch(serde_json::json!({}))),
            message(|| open().then_patch(serde_json::json!({}))),
            message(|| open().then([CartEvent::CartOpened])),
            message(|| open().then_fails(CartError::CartAlreadyClosed { cart: key(KEY) })),
            message(|| open().then_says("no")),
            message(|| open().then_not_found()),
            message(|| given([]).when(CartCommand::Close).then_fails(rule())),
        ] {
            assert!(!scenario.is_empty());
        }
    }
}
