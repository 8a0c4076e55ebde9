//! Event-sourced aggregates: commands in, past-tense events out, state as the fold of the events.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Keys;
use crate::domain::clock::Timestamp;
use crate::domain::command::CommandContext;
use crate::domain::key::Key;
use crate::domain::metadata::Metadata;

/// An aggregate whose source of truth is the sequence of its domain events
/// ([Event Sourcing](https://martinfowler.com/eaaDev/EventSourcing.html)).
///
/// The aggregate handles a command by itself: it records events, or fails with the rule that the command would violate; then
/// nothing is stored. The type itself is the public state, a fold of the events. The stored state is only a cache. A command
/// gets it as serde reads it, or as the command before it left it in memory: it must have nothing that serde skips,
/// and nothing that changes through a shared reference. `Sync` keeps out cells; locks and atomic numbers do not belong there.
///
/// Names come from serde: a variant of [`Command`](Self::Command) is a path (`AddItem` is `POST
/// /carts/{key}/add-item`), a variant of [`Event`](Self::Event) the kind of an event in the journal, and a variant of
/// [`Error`](Self::Error) the type of a problem document. Their schemas, for `/openapi.json`, come from derives of
/// [`JsonSchema`], which reads serde's attributes.
pub trait EventSourced: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The collection's name: its member in the document, and its path. Lower-case letters, digits and hyphens.
    const NAME: &'static str;

    /// The name of one aggregate, in the path of the feed: `person` gives `/person-events`. Without one, the singular of
    /// `NAME` by the common rules of English: `company` for `companies`.
    const SINGULAR: Option<&'static str> = None;

    /// The kind of keys, and who chooses them.
    const KEYS: Keys = Keys::Uuid;

    /// The command that creates an aggregate: `POST /carts` and `PUT /carts/{key}`. All other commands require an existing
    /// aggregate.
    const CREATE_COMMAND: &'static str = "Open";

    /// The version of the shape of the events. Raise it when the shape changes, and convert earlier events in
    /// [`upcast`](Self::upcast).
    const EVENT_VERSION: i64 = 1;

    /// The version of the rule in [`apply`](Self::apply). Raise it when the rule changes; all states are then recomputed from
    /// their events at the next start.
    const STATE_VERSION: i64 = 1;

    /// What a client can do when the state would be larger than `--max-aggregate`: the end of a sentence in the problem
    /// document that it gets.
    const REMEDY: &'static str = "remove what is no longer needed, or split it into several aggregates";

    /// The commands: an enum in serde's default representation (externally tagged).
    type Command: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// The events, named in the past tense: an enum in serde's default representation (externally tagged).
    type Event: Serialize + DeserializeOwned + JsonSchema + 'static;

    /// The business rules that a command can violate.
    type Error: BusinessRule;

    /// Handles a command by [recording](Root::record) events. A pure function of the root.
    ///
    /// If there is no state, the command is the [create command](Self::CREATE_COMMAND).
    ///
    /// # Errors
    /// The rule that the command would violate. Events that it has recorded are discarded.
    fn handle(root: &mut Root<'_, Self>, command: Self::Command) -> Result<(), Self::Error>;

    /// The state after an event; `None` if the aggregate no longer exists. An event has happened and cannot be rejected.
    fn apply(state: Option<Self>, event: &Self::Event) -> Option<Self>;

    /// Converts the kind and the fields of an event of an earlier [`EVENT_VERSION`](Self::EVENT_VERSION) to the current shape.
    #[must_use]
    fn upcast(kind: String, schema: i64, fields: Value) -> (String, Value) {
        let _ = schema;
        (kind, fields)
    }
}

/// A business rule that a command would violate.
///
/// An enum in serde's default representation (externally tagged): the name of the variant is the stable `type` of the problem
/// document (`ItemAlreadyAdded` is `item-already-added`), its fields are members of the document, and its message is the
/// `detail`.
pub trait BusinessRule: std::error::Error + Serialize + JsonSchema + Send + 'static {
    /// The HTTP status, from 400 to 499; `409` by default.
    fn status(&self) -> u16 {
        409
    }
}

/// An aggregate during one command: its identity, its state, and the events that the command records.
pub struct Root<'a, T: EventSourced> {
    context: CommandContext<'a>,
    state: Option<T>,
    events: Vec<T::Event>,
}

impl<'a, T: EventSourced> Root<'a, T> {
    pub(super) fn new(context: CommandContext<'a>, state: Option<T>) -> Self {
        Self { context, state, events: Vec::new() }
    }

    /// The identity of the aggregate. It is not part of the state.
    #[must_use]
    pub fn key(&self) -> &'a Key {
        self.context.key
    }

    /// The number of events so far, including those of this command.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.context.version.number() + i64::try_from(self.events.len()).unwrap_or(i64::MAX)
    }

    /// The state, including the events of this command; `None` if the aggregate does not exist.
    #[must_use]
    pub fn state(&self) -> Option<&T> {
        self.state.as_ref()
    }

    /// The time of the command.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.context.now
    }

    /// Who caused the command, and why. The journal keeps it beside the events, so that they need not have it.
    #[must_use]
    pub fn metadata(&self) -> &'a Metadata {
        self.context.metadata
    }

    /// Generates an identity for an entity inside the aggregate.
    #[must_use]
    pub fn new_id(&self) -> Key {
        (self.context.new_id)()
    }

    /// Records an event and applies it at once, so that later decisions of the same command see it.
    pub fn record(&mut self, event: T::Event) {
        self.state = T::apply(self.state.take(), &event);
        self.events.push(event);
    }

    /// The final state, and the recorded events.
    pub(super) fn into_outcome(self) -> (Option<T>, Vec<T::Event>) {
        (self.state, self.events)
    }
}
