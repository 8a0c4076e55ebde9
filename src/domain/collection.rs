//! The traits that a developer implements for an aggregate (synchronous, and based on serde), and their erased form.
//!
//! A type is registered once (see [`crate::Service`]). Its routes, its feeds and its place in the document follow from that
//! line. The rest of the service works with the erased [`Collection`] only.

mod derived;
mod document;
mod event_sourced;
mod event_sourced_erased;
mod evolution;
mod registry;
mod singular;

#[cfg(feature = "postgres")]
use std::any::Any;
use std::borrow::Cow;

pub use derived::Derived;
pub use document::Document;
pub use event_sourced::{BusinessRule, EventSourced, Root};
pub(crate) use event_sourced_erased::{Fold, Journaled, decode_event, handle, recorded};
pub(crate) use evolution::Evolution;
pub use registry::InvalidRegistration;
pub(crate) use registry::Registry;
use serde_json::Value;
use singular::singular;

use crate::domain::body::{Body, CorruptState};
use crate::domain::command::{Change, CommandContext, Decision, DecodedState, Rejection, Verb};
use crate::domain::json::ValidationError;
use crate::domain::key::Key;
use crate::domain::schema::{CollectionSchemas, Generators};

/// A registered collection, with its types erased.
pub(crate) trait Collection: Send + Sync {
    /// The plural name: the collection's member in the document, and its path.
    fn name(&self) -> &'static str;

    /// The singular name, in the path of the feed.
    fn singular(&self) -> Cow<'static, str>;

    /// The kind of its keys.
    fn keys(&self) -> Keys;

    /// Validates a request as far as that is possible without the current state. Runs on the thread of the client.
    fn change(&self, verb: Verb<'_>, json: Value) -> Result<Change, ValidationError>;

    /// The same in one pass over the text, if there is nothing in it that needs a closer look: `None` says nothing about it.
    fn read(&self, _verb: Verb<'_>, _text: &[u8]) -> Option<Change> {
        None
    }

    /// Executes a change on the current state. A pure function: a rejection leaves no trace.
    ///
    /// `decoded` is the current state as its type, if it is known, so that an event-sourced collection need not decode it.
    /// Afterwards it is that of the resulting state, or, after a rejection, of the current one. It may be `None` always.
    fn decide(
        &self,
        context: CommandContext<'_>,
        before: Option<&Body>,
        decoded: &mut Option<DecodedState>,
        change: Change,
    ) -> Result<Decision, Rejection>;

    /// For a derived collection, which clients can only read: how it is computed.
    fn derivation(&self) -> Option<&dyn Derivation>;

    /// For documents: how those of earlier versions become those of this one.
    fn evolution(&self) -> Option<&dyn Evolution> {
        None
    }

    /// For an event-sourced collection, which accepts commands: how its state follows from its events.
    fn journaled(&self) -> Option<&dyn Journaled>;

    /// A copy of one of its typed commands. `None` if it has none, or if this one is not read as what it was written from.
    #[cfg(feature = "postgres")]
    fn copy(&self, _command: &(dyn Any + Send)) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// What a client can do when an aggregate would become too large.
    fn remedy(&self) -> &'static str {
        "remove what is no longer needed, or split it into several aggregates"
    }

    /// Fails if a stored state is not one of this type.
    fn check(&self, body: &Body) -> Result<(), CorruptState>;

    /// The schemas of its states and of what changes them.
    fn schemas(&self, generators: &mut Generators) -> CollectionSchemas;

    /// The version of the rule that computes the collection from other data; for documents, that of their type.
    fn rule(&self) -> i64 {
        let derived = self.derivation().map(Derivation::version);
        let journaled = || self.journaled().map(Journaled::state_version);
        derived.or_else(journaled).or_else(|| self.evolution().map(Evolution::version)).unwrap_or(0)
    }
}

/// The singular name of a collection: the one that its type names, or else the singular of an English plural.
fn singular_name(named: Option<&'static str>, plural: &'static str) -> Cow<'static, str> {
    named.map_or_else(|| singular(plural), Cow::Borrowed)
}

/// The kind of keys that a collection has, and whether the service or the client chooses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// 1, 2, 3 …, assigned by the service and never reused.
    Sequence,
    /// Uuids: of version 7 if the service generates them, of any version if the client chooses them.
    Uuid,
    /// Texts, chosen by the client.
    Text,
}

impl Keys {
    /// Validates a key that a client chose for a new aggregate.
    pub(crate) fn check(self, chosen: &Key) -> Result<(), ValidationError> {
        let why = match self {
            Self::Uuid if !chosen.is_uuid() => {
                "is invalid; expected a lower-case uuid such as 0193a5b0-7b2c-7def-8000-123456789abc"
            }
            Self::Sequence => "cannot be chosen; the service assigns numbers as keys",
            Self::Uuid | Self::Text => return Ok(()),
        };
        Err(ValidationError::new("", format!("the key {chosen:?} {why}")))
    }
}

/// How a derived collection is computed from its source, with its types erased.
pub(crate) trait Derivation: Send + Sync {
    /// The name of the source collection.
    fn source(&self) -> &'static str;

    /// The version of the rule. If it changes, the collection is recomputed at start.
    fn version(&self) -> i64;

    /// A change of a source, which is read once for all aggregates that it affects.
    fn follow(&self, before: Option<&Body>, after: Option<&Body>) -> Result<Box<dyn SourceChange>, CorruptState>;
}

/// A change of a source, with its type erased.
pub(crate) trait SourceChange {
    /// The keys of the aggregates that it affects: the one that the source leaves, and the one that it joins.
    fn touched(&self) -> Vec<Key>;

    /// An affected aggregate after the change; `None` if it no longer exists.
    fn derive(&self, key: &Key, row: Option<&Body>) -> Result<Option<Body>, CorruptState>;
}
