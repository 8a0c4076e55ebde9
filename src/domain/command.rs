//! A command on its way to an aggregate, and what becomes of it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value};

use crate::domain::body::{Body, CorruptState};
use crate::domain::clock::Timestamp;
use crate::domain::json::ValidationError;
use crate::domain::key::{CollectionId, Key};
use crate::domain::precondition::Precondition;
use crate::domain::revision::{Revision, Version};

/// A change, addressed.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) collection: CollectionId,
    /// `None` for a new aggregate: the collection gives the key.
    pub(crate) key: Option<Key>,
    pub(crate) precondition: Precondition,
    pub(crate) change: Change,
}

/// How a client says that it wants an aggregate written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb<'a> {
    /// A new aggregate, whose key is given by the collection.
    Create,
    /// A new body for one that is there.
    Replace,
    /// A merge patch for one that is there.
    Patch,
    /// A command of this name, for an event-sourced one that is there.
    Command(&'a str),
}

/// What a command does to one aggregate, checked as far as possible without its state.
#[derive(Debug)]
pub(crate) enum Change {
    /// A new aggregate with this body.
    Create(Body),
    /// The whole body.
    Replace(Body),
    /// A merge patch, known to be an object.
    Patch(Value),
    /// The aggregate goes.
    Delete,
    /// A command of an event-sourced one; only the collection knows its type.
    Handle {
        command: Box<dyn Any + Send>,
        /// Whether it is for an aggregate that is not there yet.
        creates: bool,
    },
}

impl Change {
    /// Whether it is for an aggregate that is not there yet.
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Handle { creates: true, .. })
    }
}

/// Where and when a command is decided.
#[derive(Clone, Copy)]
pub(crate) struct CommandContext<'a> {
    pub(crate) key: &'a Key,
    pub(crate) version: Version,
    pub(crate) now: Timestamp,
    /// Makes identities for entities inside the aggregate.
    pub(crate) new_id: &'a dyn Fn() -> Key,
}

/// What a command comes to.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The aggregate after it; `None` when it is gone.
    pub(crate) after: Option<Body>,
    /// The domain events that made it so; none for a document.
    pub(crate) events: Vec<RecordedEvent>,
}

/// A domain event, as it is written into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordedEvent {
    /// The name of the event's variant.
    pub(crate) kind: String,
    /// JSON text.
    pub(crate) fields: String,
}

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// There is no aggregate with this key.
    NotFound,
    /// The outcome would not be an aggregate of this collection.
    Invalid(ValidationError),
    /// It would break a rule of the business.
    RuleBroken(Box<dyn ErasedDomainError>),
    /// The client expected another state; that of now last changed at this revision, or is not there.
    PreconditionFailed(Option<Revision>),
    /// The stored state cannot be read; the command stops rather than guess.
    Corrupt(CorruptState),
    /// The collection's own code panicked; the panic is in the log.
    Panicked,
}

impl From<CorruptState> for Rejection {
    fn from(corrupt: CorruptState) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// A business rule that was broken, its type erased.
pub(crate) trait ErasedDomainError: fmt::Debug + Send {
    /// What a client is told.
    fn describe(&self) -> ErrorDescription;

    /// The typed error, for those who know its type.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// What a client is told of a broken rule.
pub(crate) struct ErrorDescription {
    /// `item-already-added`
    pub(crate) slug: String,
    pub(crate) detail: String,
    pub(crate) status: u16,
    pub(crate) fields: Map<String, Value>,
}

/// Runs a collection's own code, which may panic: that is its command's failure, not its neighbours'.
pub(crate) fn catch_panic<T>(decide: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // Nothing that outlives the panic was changed: the code inside is given shared references only.
    catch_unwind(AssertUnwindSafe(decide)).unwrap_or(Err(Rejection::Panicked))
}
