//! A command on its way to an aggregate, and what becomes of it.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::domain::body::{Body, CorruptState};
use crate::domain::clock::Timestamp;
use crate::domain::idempotency::{AnswersFull, Fingerprint, KeptRejection, ProblemDocument, RequestId};
use crate::domain::json::ValidationError;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::domain::revision::{Revision, Version};

/// A change, and the aggregate that it is for.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) collection: CollectionId,
    /// `None` for a new aggregate whose key the collection assigns.
    pub(crate) key: Option<Key>,
    pub(crate) precondition: Precondition,
    /// For a client that may send it again.
    pub(crate) idempotency: Option<Box<Idempotency>>,
    pub(crate) change: Change,
    /// Who caused it, and why.
    pub(crate) metadata: Metadata,
}

#[cfg(feature = "postgres")]
impl Command {
    /// The same command again, for a decision that may be thrown away. Only the collection can copy a typed one. `None` if it
    /// cannot.
    pub(crate) fn copy(&self, typed: impl FnOnce(&(dyn Any + Send)) -> Option<Box<dyn Any + Send>>) -> Option<Self> {
        let Self { collection, key, precondition, idempotency, change, metadata } = self;
        let (collection, key, precondition) = (*collection, key.clone(), precondition.clone());
        let change = match change {
            Change::Create(body) => Change::Create(body.clone()),
            Change::Replace(body) => Change::Replace(body.clone()),
            Change::Put(body) => Change::Put(body.clone()),
            Change::Patch(patch) => Change::Patch(patch.clone()),
            Change::Delete => Change::Delete,
            Change::Erase => Change::Erase,
            Change::Handle { command, creates } => {
                Change::Handle { command: typed(command.as_ref())?, creates: *creates }
            }
        };
        let (idempotency, metadata) = (idempotency.clone(), metadata.clone());
        Some(Self { collection, key, precondition, idempotency, change, metadata })
    }
}

/// What makes a command one that is executed once, however often it is sent.
#[derive(Clone)]
pub(crate) struct Idempotency {
    pub(crate) request: RequestId,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) describe: Describe,
}

/// Writes the problem document of a rejection, as the client is going to see it. Returns the rejection if it decides
/// nothing about the command, so that a repeat is executed. A command may be decided, and described, more than once.
pub(crate) type Describe = Arc<dyn Fn(Rejection) -> Result<ProblemDocument, Rejection> + Send + Sync>;

impl fmt::Debug for Idempotency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency")
            .field("request", &self.request)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// How a client asks for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb<'a> {
    /// Creates an aggregate whose key the collection assigns.
    Create,
    /// Replaces the body of an existing aggregate, or creates one at a key that the client chose.
    Replace,
    /// Applies a merge patch to an existing aggregate.
    Patch,
    /// Executes the command of this name on an existing event-sourced aggregate.
    Command(&'a str),
}

/// What a command does to one aggregate. Validated as far as that is possible without the current state.
#[derive(Debug)]
pub(crate) enum Change {
    /// Creates an aggregate with this body.
    Create(Body),
    /// Replaces the whole body of an aggregate that exists.
    Replace(Body),
    /// Replaces the whole body, or creates an aggregate with it at the key that the client chose.
    Put(Body),
    /// Applies a merge patch, which is an object.
    Patch(Value),
    /// Deletes the aggregate.
    Delete,
    /// Erases the aggregate with its past, also one that is deleted already.
    Erase,
    /// Executes a command of an event-sourced aggregate; only the collection knows its type.
    Handle {
        command: Box<dyn Any + Send>,
        /// Whether it creates the aggregate.
        creates: bool,
    },
}

impl Change {
    /// Whether it creates an aggregate that does not exist.
    pub(crate) fn creates(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Put(_) | Self::Handle { creates: true, .. })
    }
}

/// The circumstances of a command: which aggregate, at which version, when, and who caused it.
#[derive(Clone, Copy)]
pub(crate) struct CommandContext<'a> {
    pub(crate) key: &'a Key,
    pub(crate) version: Version,
    pub(crate) now: Timestamp,
    pub(crate) metadata: &'a Metadata,
    /// Generates identities for entities inside the aggregate.
    pub(crate) new_id: &'a dyn Fn() -> Key,
}

/// The state of an event-sourced aggregate as its type, which only its collection knows.
pub(crate) type DecodedState = Box<dyn Any + Send>;

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The aggregate after the command; `None` if it no longer exists.
    pub(crate) after: Option<Body>,
    /// The domain events that the command recorded; none for a document.
    pub(crate) events: Vec<RecordedEvent>,
}

/// A domain event in the form in which the journal stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordedEvent {
    /// The name of the event's variant.
    pub(crate) kind: String,
    /// The fields of the event, as JSON text.
    pub(crate) fields: String,
}

/// Why a command was rejected. A rejected command changes nothing.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// No aggregate has this key.
    NotFound,
    /// The resulting state would be invalid.
    Invalid(ValidationError),
    /// The resulting state would be larger than an aggregate may be.
    TooLarge(Oversize),
    /// It would violate a business rule.
    RuleBroken(Box<dyn ErasedDomainError>),
    /// The aggregate was erased, so that its key is never used again.
    Erased,
    /// The collection is computed from another one.
    Derived,
    /// The client expected another state. The revision of the last change, or `None` if the aggregate does not exist.
    PreconditionFailed(Option<Revision>),
    /// One of the above, for a command with an idempotency key: its problem is stored, now or since it was first sent.
    Kept(Box<KeptRejection>),
    /// The idempotency key belongs to a request with another body.
    KeyReused,
    /// The command has an idempotency key, and there is no room for its answer.
    AnswersFull(AnswersFull),
    /// The command was executed before, but its aggregate was erased since, and with it the answer.
    AnswerErased,
    /// The stored state cannot be decoded.
    Corrupt(CorruptState),
    /// The collection's code panicked; the log has the panic.
    Panicked,
}

/// A state that is larger than an aggregate may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oversize {
    /// In bytes of JSON text.
    pub(crate) size: usize,
    /// In bytes of JSON text.
    pub(crate) limit: usize,
    /// What a client can do about it.
    pub(crate) remedy: &'static str,
}

impl From<CorruptState> for Rejection {
    fn from(corrupt: CorruptState) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// A violated business rule, with its type erased.
pub(crate) trait ErasedDomainError: fmt::Debug + Send {
    /// The parts of the problem document that a client receives.
    fn describe(&self) -> ErrorDescription;

    /// The typed error, for callers that know its type.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// What a client sees of a violated business rule.
pub(crate) struct ErrorDescription {
    /// The type of the problem: `item-already-added`.
    pub(crate) slug: String,
    /// The message of the error.
    pub(crate) detail: String,
    /// The HTTP status that the rule asks for; not checked.
    pub(crate) status: u16,
    /// The fields of the error.
    pub(crate) fields: Map<String, Value>,
}

/// Runs the code of a collection. If it panics, only its command fails, not the other commands of the batch.
pub(crate) fn catch_panic<T>(code: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // The code has shared references, and a decoded state that it takes out first. So it cannot leave anything half changed.
    catch_unwind(AssertUnwindSafe(code)).unwrap_or(Err(Rejection::Panicked))
}
