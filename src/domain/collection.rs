//! What an aggregate is to the pipeline: the traits that a developer implements, plain serde and nothing async.
//!
//! A type is registered once (see [`crate::Service`]); from that line come its routes, its feeds and its place in the
//! document. The pipeline itself knows only the erased [`Collection`]: no person, no city.

mod derived;
mod document;
mod event_sourced;
mod event_sourced_erased;
mod registry;

pub use derived::Derived;
pub use document::Document;
pub use event_sourced::{BusinessRule, EventSourced, Root};
pub(crate) use event_sourced_erased::{ErasedDomainError, Fold, Journaled, decode_event, handle, recorded};
pub use registry::InvalidRegistration;
pub(crate) use registry::{CollectionId, Registry};

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::clock::Timestamp;
use crate::domain::cursor::{Revision, Version};
use crate::domain::json::ValidationError;
use crate::domain::key::Key;
use crate::domain::merge_patch;
use crate::domain::precondition::Precondition;

/// `persons` → `person`: the singular name of a collection that does not say otherwise.
const fn singular(plural: &'static str) -> &'static str {
    match plural.as_bytes() {
        [rest @ .., b's'] => plural.split_at(rest.len()).0,
        _ => plural,
    }
}

/// One registered collection, its types erased.
pub(crate) trait Collection: Send + Sync {
    /// The plural: the collection's member in the document and its path.
    fn name(&self) -> &'static str;

    /// The singular, in the path of the feed.
    fn singular(&self) -> &'static str;

    /// What its keys are, and who gives them.
    fn keys(&self) -> Keys;

    /// Checks what a client sent, on the client's thread, as far as that goes without the current state.
    fn change(&self, verb: Verb<'_>, json: Value) -> Result<Change, ValidationError>;

    /// What becomes of the aggregate. Pure: refusing is answering, and leaves nothing behind.
    fn decide(&self, at: At<'_>, before: Option<&Body>, change: Change) -> Result<Decision, Rejection>;

    /// How it follows from another collection, if it does: then clients only read it.
    fn derivation(&self) -> Option<&dyn Derivation>;

    /// How it follows from its domain events, if it does: then clients send it commands.
    fn journaled(&self) -> Option<&dyn Journaled>;

    /// The number of the rule by which it follows from something else; 0 if it does not.
    fn rule(&self) -> i64 {
        let derived = self.derivation().map(Derivation::version);
        derived.or(self.journaled().map(Journaled::state_version)).unwrap_or(0)
    }
}

/// What the keys of a collection are, and who gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// 1, 2, 3 …, given by the service and never used twice.
    Sequence,
    /// Uuids: of version 7 if given by the service, of any if chosen by the client.
    Uuid,
    /// Texts that the client chooses.
    Text,
}

impl Keys {
    /// Checks a key that a client chose for a new aggregate.
    pub(crate) fn check(self, chosen: &Key) -> Result<(), ValidationError> {
        let why = match self {
            Self::Uuid if !chosen.is_uuid() => "is no uuid in lower case, such as 0193a5b0-7b2c-7def-8000-123456789abc",
            Self::Sequence => "cannot be chosen: keys are numbers that the service gives",
            Self::Uuid | Self::Text => return Ok(()),
        };
        Err(ValidationError::new("", format!("the key {chosen:?} {why}")))
    }
}

/// Where and when a command is decided.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
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
    pub(crate) events: Vec<Recorded>,
}

/// A domain event, as it is written into the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The name of the event's variant.
    pub(crate) kind: String,
    /// JSON text.
    pub(crate) fields: String,
}

/// How a derived collection follows from its source, its types erased.
pub(crate) trait Derivation: Send + Sync {
    /// The name of the collection it follows from.
    fn source(&self) -> &'static str;

    /// The number of the rule: another number, and all is derived anew at start.
    fn version(&self) -> i64;

    /// The aggregates that a change of one source touches: the one it leaves and the one it joins.
    fn touched(&self, before: Option<&Body>, after: Option<&Body>) -> Result<Vec<Key>, CorruptState>;

    /// One touched aggregate after the source's change; `None` when nothing is left of it.
    fn derive(
        &self,
        key: &Key,
        row: Option<&Body>,
        before: Option<&Body>,
        after: Option<&Body>,
    ) -> Result<Option<Body>, CorruptState>;
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

/// A change, addressed.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) collection: CollectionId,
    /// `None` for a new aggregate: the collection gives the key.
    pub(crate) key: Option<Key>,
    pub(crate) precondition: Precondition,
    pub(crate) change: Change,
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

/// A stored body that its type does not read any more.
#[derive(Debug)]
pub(crate) struct CorruptState(String);

impl CorruptState {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for CorruptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<CorruptState> for Rejection {
    fn from(corrupt: CorruptState) -> Self {
        Self::Corrupt(corrupt)
    }
}

/// The state of one aggregate as JSON text: what is stored, and what clients get, byte for byte.
///
/// Contains no null inside an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body(Arc<str>);

impl Body {
    /// A body as it was stored.
    pub(crate) fn from_db(text: String) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The JSON text of an aggregate, null members left out.
    fn encode<T: Serialize>(aggregate: &T) -> Result<Self, ValidationError> {
        let unreadable = |error: serde_json::Error| ValidationError::new("", error.to_string());
        let text = serde_json::to_string(aggregate).map_err(unreadable)?;
        if !text.contains("null") {
            return Ok(Self(text.into()));
        }
        let mut value: Value = serde_json::from_str(&text).map_err(unreadable)?;
        merge_patch::strip_nulls(&mut value)
            .map_err(|path| ValidationError::new(path, "is null, which no element of an array can be"))?;
        Ok(Self(value.to_string().into()))
    }

    /// The typed aggregate.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, CorruptState> {
        serde_json::from_str(&self.0)
            .map_err(|error| CorruptState(format!("a stored body is no {}: {error}", std::any::type_name::<T>())))
    }

    /// The aggregate as untyped JSON.
    pub(crate) fn value(&self) -> Result<Value, CorruptState> {
        self.decode()
    }
}

/// The merge patch from one state of an aggregate to another, as JSON text; `None` when they are the same.
pub(crate) fn patch(before: Option<&Body>, after: Option<&Body>) -> Result<Option<String>, CorruptState> {
    Ok(match (before, after) {
        (None, None) => None,
        (Some(_), None) => Some("null".to_owned()),
        (None, Some(after)) => Some(after.as_str().to_owned()),
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) => {
            merge_patch::diff(&before.value()?, &after.value()?).map(|patch| patch.to_string())
        }
    })
}

/// Runs a collection's own code, which may panic: that is its command's failure, not its neighbours'.
pub(crate) fn catch_panic<T>(decide: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // Nothing that outlives the panic was changed: the code inside is given shared references only.
    catch_unwind(AssertUnwindSafe(decide)).unwrap_or(Err(Rejection::Panicked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_singular_drops_the_s() {
        assert_eq!(singular("persons"), "person");
        assert_eq!(singular("sheep"), "sheep");
        assert_eq!(singular(""), "");
    }

    #[test]
    fn a_number_is_read_as_it_was_written() {
        // Otherwise a state would not be the fold of its events, and a patch of nothing a change.
        for number in (1..10_000_u32).map(|number| f64::from(number).sqrt() * 1e-30) {
            assert_eq!(Body::encode(&number).unwrap().decode::<f64>().unwrap().to_bits(), number.to_bits());
        }
    }

    #[test]
    fn a_null_member_is_not_stored() {
        let body = Body::encode(&serde_json::json!({"name":"null","city":null})).unwrap();
        assert_eq!(body.as_str(), r#"{"name":"null"}"#);
    }
}
