//! Event-sourced aggregates: commands in, past-tense events out, state as the fold of the events.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Keys, singular};
use crate::domain::clock::Timestamp;
use crate::domain::command::CommandContext;
use crate::domain::key::Key;

/// An aggregate whose truth is the sequence of its domain events
/// ([Event Sourcing](https://martinfowler.com/eaaDev/EventSourcing.html)).
///
/// A command is handled by the aggregate alone: it records events, or fails with the rule that would be broken, and then
/// nothing is left of it. The type itself is the public state, a fold of the events; its row is only a cache.
///
/// Names are taken from serde: a variant of [`Command`](Self::Command) is a path (`AddItem` is `POST
/// /carts/{key}/add-item`), one of [`Event`](Self::Event) the kind of an event in the journal, and one of
/// [`Error`](Self::Error) the type of a problem.
pub trait EventSourced: Serialize + DeserializeOwned + 'static {
    /// The collection's name: its member in the document, and its path. Lower-case letters, digits and hyphens.
    const NAME: &'static str;

    /// The name of one, in the path of the feed: `cart` gives `/cart-events`.
    const SINGULAR: &'static str = singular(Self::NAME);

    /// What the keys are, and who gives them.
    const KEYS: Keys = Keys::Uuid;

    /// The command that opens an aggregate: `POST /carts` and `PUT /carts/{key}`. Every other one needs an aggregate that
    /// is there.
    const CREATE_COMMAND: &'static str = "Open";

    /// The shape of the events: raise it when it changes, and teach [`upcast`](Self::upcast) the earlier ones.
    const EVENT_VERSION: i64 = 1;

    /// The rule of [`apply`](Self::apply): raise it when it changes, and at the next start all is folded anew.
    const STATE_VERSION: i64 = 1;

    /// What can be asked of an aggregate: an enum, as serde derives it without a tag.
    type Command: Serialize + DeserializeOwned + Send + 'static;

    /// What can have happened to one, in the past tense: an enum, as serde derives it without a tag.
    type Event: Serialize + DeserializeOwned + 'static;

    /// The rules that can be broken.
    type Error: BusinessRule;

    /// Decides what a command makes happen, and [records](Root::record) it. A pure function of the root.
    ///
    /// Without a state, the command is the one that [opens](Self::CREATE_COMMAND).
    ///
    /// # Errors
    /// The rule that would be broken. Nothing that was recorded before counts.
    fn handle(root: &mut Root<'_, Self>, command: Self::Command) -> Result<(), Self::Error>;

    /// The state after an event; `None` when the aggregate is gone. It happened: there is nothing to refuse.
    fn apply(state: Option<Self>, event: &Self::Event) -> Option<Self>;

    /// An event of an earlier [`EVENT_VERSION`](Self::EVENT_VERSION), its kind and its fields, in the shape of today.
    #[must_use]
    fn upcast(kind: String, schema: i64, fields: Value) -> (String, Value) {
        let _ = schema;
        (kind, fields)
    }
}

/// A rule of the business that a command would have broken.
///
/// An enum, as serde derives it without a tag: the name of the variant is the stable type of the problem
/// (`ItemAlreadyAdded` is `item-already-added`), its fields are members of it, and what it displays is the sentence for
/// people.
pub trait BusinessRule: std::error::Error + Serialize + Send + 'static {
    /// The HTTP status: `409`, unless it says otherwise; one from 400 to 499.
    fn status(&self) -> u16 {
        409
    }
}

/// An aggregate during one command: its identity, its state, and the events that the command makes.
pub struct Root<'a, T: EventSourced> {
    context: CommandContext<'a>,
    state: Option<T>,
    events: Vec<T::Event>,
}

impl<'a, T: EventSourced> Root<'a, T> {
    pub(super) fn new(context: CommandContext<'a>, state: Option<T>) -> Self {
        Self { context, state, events: Vec::new() }
    }

    /// The identity of the aggregate. It is no part of the state.
    #[must_use]
    pub fn key(&self) -> &'a Key {
        self.context.key
    }

    /// The number of events so far, those of this command among them.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.context.version.number() + i64::try_from(self.events.len()).unwrap_or(i64::MAX)
    }

    /// The state, with what this command has recorded; `None` when the aggregate is not there.
    #[must_use]
    pub fn state(&self) -> Option<&T> {
        self.state.as_ref()
    }

    /// The time of the command.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now
    }

    /// A new identity for an entity inside the aggregate.
    #[must_use]
    pub fn new_id(&self) -> Key {
        (self.context.new_id)()
    }

    /// Makes an event happen. It is applied at once, so that later decisions of the same command see it.
    pub fn record(&mut self, event: T::Event) {
        self.state = T::apply(self.state.take(), &event);
        self.events.push(event);
    }

    /// The state in the end, and what was recorded.
    pub(super) fn into_outcome(self) -> (Option<T>, Vec<T::Event>) {
        (self.state, self.events)
    }
}
