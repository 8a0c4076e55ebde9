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
pub(crate) use event_sourced_erased::{Fold, Journaled, decode_event, handle, recorded};
pub use registry::InvalidRegistration;
pub(crate) use registry::Registry;

use serde_json::Value;

use crate::domain::body::{Body, CorruptState};
use crate::domain::command::{Change, CommandContext, Decision, Rejection, Verb};
use crate::domain::json::ValidationError;
use crate::domain::key::Key;

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
    fn decide(&self, context: CommandContext<'_>, before: Option<&Body>, change: Change)
    -> Result<Decision, Rejection>;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_singular_drops_the_s() {
        assert_eq!(singular("persons"), "person");
        assert_eq!(singular("sheep"), "sheep");
        assert_eq!(singular(""), "");
    }
}
