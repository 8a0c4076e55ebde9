//! Scenarios for event-sourced aggregates: given some events, when a command is executed, then it results in other events
//! or violates a rule.
//!
//! A scenario runs as in the service (events and states pass through JSON), but in memory and synchronously. A failed
//! expectation panics at its line and shows the difference.
//!
//! ```
//! use duality::aggregates::{CartCommand::AddItem, CartEvent::CartOpened, ShoppingCart};
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
use crate::domain::metadata::Metadata;
use crate::domain::revision::Version;

/// The key of the aggregate in all scenarios.
pub const KEY: &str = "01930000-0000-7000-8000-000000000000";

/// The time of all commands in a scenario.
pub const NOW: Timestamp = Timestamp::from_milliseconds(1_795_336_200_000);

/// Parses a key.
///
/// # Panics
/// The text is not a valid key.
#[must_use]
#[track_caller]
pub fn key(text: &str) -> Key {
    Key::parse(text).unwrap_or_else(|invalid| panic!("the key {text:?} {invalid}"))
}

/// Begins a scenario with the events so far.
///
/// # Panics
/// The aggregate cannot be registered, or the events cannot be applied.
#[must_use]
#[track_caller]
pub fn given<T: EventSourced>(events: impl IntoIterator<Item = T::Event>) -> Scenario<T> {
    let mut registry = Registry::default();
    registry.event_sourced::<T>();
    registry.check().unwrap_or_else(|invalid| panic!("{invalid}"));
    let collection = registry.id(T::NAME).unwrap_or_else(|| panic!("{} is not registered", T::NAME));
    let history = events.into_iter().map(|event| encoded(recorded(&event))).collect();
    let mut scenario = Scenario {
        registry,
        collection,
        history,
        before: None,
        state: None,
        outcome: Ok(Vec::new()),
        metadata: Metadata::default(),
        ids: Cell::new(0),
    };
    scenario.ids.set(scenario.history.len());
    scenario.state = scenario.folded();
    scenario.before.clone_from(&scenario.state);
    scenario
}

/// The events so far, and the outcome of the last command.
pub struct Scenario<T: EventSourced> {
    registry: Registry,
    collection: CollectionId,
    /// All events, in the form in which the journal would store them.
    history: Vec<RecordedEvent>,
    /// The state before the last command.
    before: Option<Body>,
    /// The current state.
    state: Option<Body>,
    /// The events of the last command, or why it failed.
    outcome: Result<Vec<RecordedEvent>, Failure<T::Error>>,
    /// What the next commands have.
    metadata: Metadata,
    /// The last id that was generated for an entity.
    ids: Cell<usize>,
}

/// Why the last command failed.
enum Failure<E> {
    RuleViolated(E),
    NotFound,
}

impl<T: EventSourced> Scenario<T> {
    /// The metadata of the commands that follow. Without it, they have none.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Executes a command. The expectations that follow check whether it fails.
    ///
    /// Entities inside the aggregate get the ids 1, 2, 3 …, starting after the number of given events, so that the entities of
    /// the given events can have such ids, too.
    ///
    /// # Panics
    /// The command panics, or leaves a state that is not the fold of its events.
    #[must_use]
    #[track_caller]
    pub fn when(mut self, command: T::Command) -> Self {
        let change = handle::<T>(command).unwrap_or_else(|error| panic!("the command cannot be encoded: {error}"));
        let next_id = || {
            self.ids.set(self.ids.get() + 1);
            key(&self.ids.get().to_string())
        };
        let version = Version::from_raw(i64::try_from(self.history.len()).unwrap_or(i64::MAX));
        let context = CommandContext { key: &key(KEY), version, now: NOW, metadata: &self.metadata, new_id: &next_id };
        let decided =
            catch_panic(|| self.registry.get(self.collection).decide(context, self.state.as_ref(), &mut None, change));
        self.before.clone_from(&self.state);
        self.outcome = match decided {
            Ok(decision) => {
                self.history.extend(decision.events.iter().cloned());
                self.state = self.folded();
                assert_same(
                    "the state after the command, compared with the fold of all events",
                    &self.state,
                    &decision.after,
                );
                Ok(decision.events)
            }
            Err(Rejection::NotFound) => Err(Failure::NotFound),
            Err(Rejection::RuleBroken(rule)) => match rule.into_any().downcast() {
                Ok(rule) => Err(Failure::RuleViolated(*rule)),
                Err(_) => panic!("the command violated a rule of another aggregate"),
            },
            Err(other) => panic!("the command failed: {other:?}"),
        };
        self
    }

    /// Expects exactly these events from the command.
    ///
    /// # Panics
    /// The command failed, or resulted in other events.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = T::Event>) -> Self {
        let expected: Vec<_> = events.into_iter().map(|event| encoded(recorded(&event))).collect();
        match &self.outcome {
            Ok(events) => assert_same("the events of the command", &lines(&expected), &lines(events)),
            Err(failure) => panic!("the command failed: {}", failure.message()),
        }
        self
    }

    /// Expects that the command failed because of this rule.
    ///
    /// # Panics
    /// The command succeeded, or failed for another reason.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "expectations are written in place, like the others")]
    pub fn then_fails(self, rule: T::Error) -> Self
    where
        T::Error: PartialEq + Debug,
    {
        match &self.outcome {
            Err(Failure::RuleViolated(violated)) if *violated == rule => {}
            Err(Failure::RuleViolated(violated)) => assert_same("the violated rule", &rule, violated),
            Err(Failure::NotFound) => panic!("the aggregate does not exist; expected {rule:?}"),
            Ok(events) => panic!("the command resulted in {:#?}; expected {rule:?}", lines(events)),
        }
        self
    }

    /// Expects that the command failed with this message.
    ///
    /// # Panics
    /// The command succeeded, or failed with another message.
    #[track_caller]
    pub fn then_says(self, message: &str) -> Self {
        match &self.outcome {
            Err(failure) => assert_same("the message", message, failure.message().as_str()),
            Ok(events) => panic!("the command resulted in {:#?}; expected a failure", lines(events)),
        }
        self
    }

    /// Expects that the command failed because the aggregate does not exist.
    ///
    /// # Panics
    /// The aggregate exists.
    #[track_caller]
    pub fn then_not_found(self) -> Self {
        match &self.outcome {
            Err(Failure::NotFound) => {}
            Err(Failure::RuleViolated(rule)) => panic!("the aggregate exists; the command failed: {rule}"),
            Ok(events) => panic!("the command resulted in {:#?}; expected a failure", lines(events)),
        }
        self
    }

    /// Expects this public state; `null` if the aggregate does not exist.
    ///
    /// # Panics
    /// The state is another one.
    #[track_caller]
    pub fn then_state(self, state: impl Serialize) -> Self {
        let expected = encoded(serde_json::to_value(state));
        assert_same("the state", &expected, &self.state.as_ref().map_or(Value::Null, |body| encoded(body.value())));
        self
    }

    /// Expects that the change event of the command is this merge patch; `{}` if it changed nothing.
    ///
    /// # Panics
    /// The command failed, or the patch is another one.
    #[track_caller]
    pub fn then_patch(self, expected: impl Serialize) -> Self {
        if let Err(failure) = &self.outcome {
            panic!("the command failed: {}", failure.message());
        }
        let found = encoded(patch(self.before.as_ref(), self.state.as_ref()));
        let found: Value =
            found.map_or_else(|| Value::Object(serde_json::Map::new()), |patch| encoded(serde_json::from_str(&patch)));
        assert_same("the change event", &encoded(serde_json::to_value(expected)), &found);
        self
    }

    /// The fold of all events.
    #[track_caller]
    fn folded(&self) -> Option<Body> {
        let journaled = self.registry.get(self.collection).journaled()?;
        let mut fold = journaled.fold();
        for RecordedEvent { kind, fields } in &self.history {
            let applied: Result<(), CorruptState> = fold.apply(kind, journaled.schema(), fields);
            applied.unwrap_or_else(|corrupt| panic!("{kind} {fields} cannot be applied: {corrupt}"));
        }
        encoded(fold.body())
    }
}

impl<E: std::error::Error> Failure<E> {
    fn message(&self) -> String {
        match self {
            Self::RuleViolated(rule) => rule.to_string(),
            Self::NotFound => "the aggregate does not exist".to_owned(),
        }
    }
}

/// Unwraps a result that can only be an error if the aggregate cannot be encoded as JSON.
#[track_caller]
fn encoded<V, E: std::fmt::Display>(outcome: Result<V, E>) -> V {
    outcome.unwrap_or_else(|error| panic!("the aggregate cannot be encoded as JSON: {error}"))
}

/// Events in a readable form, one line each.
fn lines(events: &[RecordedEvent]) -> Vec<String> {
    events.iter().map(|RecordedEvent { kind, fields }| format!("{kind} {fields}")).collect()
}

/// Panics with a line-by-line diff if the two differ.
#[track_caller]
fn assert_same<V: Debug + PartialEq + ?Sized>(what: &str, expected: &V, found: &V) {
    if expected == found {
        return;
    }
    let text = |value: &V| format!("{value:#?}").replace("\\\"", "\"");
    let expected = text(expected);
    let found = text(found);
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
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::aggregates::{CartCommand, CartError, CartEvent, ShoppingCart};

    fn message(scenario: impl FnOnce() -> Scenario<ShoppingCart>) -> String {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _ = scenario();
        }))
        .unwrap_err();
        panicked.downcast_ref::<String>().unwrap().clone()
    }

    fn opened() -> Scenario<ShoppingCart> {
        given([CartEvent::CartOpened])
    }

    #[test]
    fn a_failed_expectation_shows_the_difference() {
        let pear = CartEvent::ItemAdded { item: key("pear"), time: NOW };
        let text = message(|| opened().when(CartCommand::AddItem { item: key("apple") }).then([pear]));
        assert!(text.contains("\n- ") && text.contains("\n+ ") && text.contains("pear"), "{text}");
        let text = message(|| opened().when(CartCommand::Close).then_state(serde_json::json!({"status":"open"})));
        assert!(text.contains("+") && text.contains("closed"), "{text}");
    }

    #[test]
    fn an_unmet_expectation_panics() {
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
