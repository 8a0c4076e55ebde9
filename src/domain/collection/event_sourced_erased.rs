//! The erased form of an event-sourced aggregate: commands by name, events and state as JSON text.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value};

use super::{BusinessRule, Collection, Derivation, EventSourced, Keys, Root};
use crate::domain::body::{Body, CorruptState};
use crate::domain::command::{
    Change, CommandContext, Decision, ErasedDomainError, ErrorDescription, RecordedEvent, Rejection, Verb,
};
use crate::domain::json::{self, ValidationError, Variant, kebab, tagged};

/// How the events of a collection become its state, its types erased.
pub(crate) trait Journaled: Send + Sync {
    /// What can be asked of an aggregate that is there: the names in paths, in the order of their declaration.
    fn commands(&self) -> &[String];

    /// The number of the rule that folds: another number, and all is folded anew at start.
    fn state_version(&self) -> i64;

    /// The shape of the events that are written now.
    fn schema(&self) -> i64;

    /// A fold of no events.
    fn fold(&self) -> Box<dyn Fold>;
}

/// A fold of the events of one aggregate, so far.
pub(crate) trait Fold {
    /// Adds the next event.
    fn apply(&mut self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState>;

    /// The state after the events so far.
    fn body(&self) -> Result<Option<Body>, CorruptState>;
}

impl<E: BusinessRule> ErasedDomainError for E {
    fn describe(&self) -> ErrorDescription {
        let (detail, status) = (self.to_string(), self.status());
        match tagged(self) {
            Ok((name, Value::Object(fields))) => ErrorDescription { slug: kebab(&name), detail, status, fields },
            Ok((name, _)) => ErrorDescription { slug: kebab(&name), detail, status, fields: Map::new() },
            Err(_) => ErrorDescription { slug: "rule-broken".to_owned(), detail, status, fields: Map::new() },
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// The erased form of an [`EventSourced`].
pub(super) struct EventSourcedAdapter<T> {
    /// The commands by name in a path, and the variant that each is; all but the one that opens.
    names: Vec<String>,
    variants: Vec<&'static str>,
    typed: PhantomData<fn() -> T>,
}

/// Segments that stand where a command does.
const TAKEN: [&str; 2] = ["events", "journal"];

impl<T: EventSourced> EventSourcedAdapter<T> {
    /// # Errors
    /// The vocabularies are no enums that serde can name, or a name does not fit.
    pub(super) fn new() -> Result<Self, String> {
        let no_enum = |what| format!("the {what}s of {} are no enum as serde derives it, without a tag", T::NAME);
        let known = json::variant_names::<T::Command>().ok_or_else(|| no_enum("command"))?;
        let kinds = json::variant_names::<T::Event>().ok_or_else(|| no_enum("event"))?;
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if let Some(odd) = known.iter().chain(kinds).find(|name| !is_plain(name)) {
            return Err(format!("{}: {odd:?} is not made of letters, digits, hyphens and underscores", T::NAME));
        }
        if !known.contains(&T::CREATE_COMMAND) {
            return Err(format!(
                "{}: {:?} opens, but is none of the commands {}",
                T::NAME,
                T::CREATE_COMMAND,
                known.join(", ")
            ));
        }
        let variants: Vec<_> = known.iter().copied().filter(|name| *name != T::CREATE_COMMAND).collect();
        let names: Vec<_> = variants.iter().map(|name| kebab(name)).collect();
        for (index, name) in names.iter().enumerate() {
            if TAKEN.contains(&name.as_str()) || names[..index].contains(name) {
                return Err(format!("the command {name:?} of {} is taken", T::NAME));
            }
        }
        Ok(Self { names, variants, typed: PhantomData })
    }
}

/// A typed command on its way to its aggregate.
pub(crate) fn handle<T: EventSourced>(command: T::Command) -> Result<Change, serde_json::Error> {
    let creates = tagged(&command)?.0 == T::CREATE_COMMAND;
    Ok(Change::Handle { command: Box::new(command), creates })
}

impl<T: EventSourced> Collection for EventSourcedAdapter<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn singular(&self) -> &'static str {
        T::SINGULAR
    }

    fn keys(&self) -> Keys {
        T::KEYS
    }

    fn change(&self, verb: Verb<'_>, json: Value) -> Result<Change, ValidationError> {
        let unknown = |name: &str| ValidationError::new("", format!("{name:?} is no command of {}", T::NAME));
        let variant = match verb {
            Verb::Create | Verb::Replace => T::CREATE_COMMAND,
            Verb::Patch => return Err(unknown("patch")),
            Verb::Command(name) => {
                let place = self.names.iter().position(|known| known == name).ok_or_else(|| unknown(name))?;
                self.variants[place]
            }
        };
        // A struct would be read from an array, too.
        json::expect_object(&json)?;
        json::check_names(&kebab(variant), json::member_names_of::<T::Command>(variant), &json)?;
        let command: T::Command = json::decode_variant(variant, json)?;
        Ok(Change::Handle { command: Box::new(command), creates: variant == T::CREATE_COMMAND })
    }

    fn decide(
        &self,
        context: CommandContext<'_>,
        before: Option<&Body>,
        change: Change,
    ) -> Result<Decision, Rejection> {
        let Change::Handle { command, creates } = change else { return Err(Rejection::NotFound) };
        let (true, Ok(command)) = (before.is_some() || creates, command.downcast::<T::Command>()) else {
            return Err(Rejection::NotFound);
        };
        let mut root = Root::<T>::new(context, before.map(Body::decode).transpose()?);
        T::handle(&mut root, *command).map_err(|broken| Rejection::RuleBroken(Box::new(broken)))?;
        let (state, events) = root.into_outcome();
        if events.is_empty() {
            return Ok(Decision { after: before.cloned(), events: Vec::new() });
        }
        let events = events
            .iter()
            .map(recorded)
            .collect::<Result<_, _>>()
            .map_err(|error| CorruptState::new(format!("an event of {} cannot be written: {error}", T::NAME)))?;
        Ok(Decision { after: encode(state.as_ref())?, events })
    }

    fn derivation(&self) -> Option<&dyn Derivation> {
        None
    }

    fn journaled(&self) -> Option<&dyn Journaled> {
        Some(self)
    }
}

/// An event as it is written into the journal.
pub(crate) fn recorded(event: &impl serde::Serialize) -> Result<RecordedEvent, serde_json::Error> {
    let (kind, fields) = tagged(event)?;
    Ok(RecordedEvent { kind, fields: fields.to_string() })
}

fn encode<T: EventSourced>(state: Option<&T>) -> Result<Option<Body>, CorruptState> {
    let body = state.map(Body::encode).transpose();
    body.map_err(|invalid| CorruptState::new(format!("a state of {}: {invalid}", T::NAME)))
}

impl<T: EventSourced> Journaled for EventSourcedAdapter<T> {
    fn commands(&self) -> &[String] {
        &self.names
    }

    fn state_version(&self) -> i64 {
        T::STATE_VERSION
    }

    fn schema(&self) -> i64 {
        T::EVENT_VERSION
    }

    fn fold(&self) -> Box<dyn Fold> {
        Box::new(Folding::<T>(None))
    }
}

/// The state so far.
struct Folding<T>(Option<T>);

impl<T: EventSourced> Fold for Folding<T> {
    fn apply(&mut self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState> {
        let event = decode_event::<T>(kind, schema, fields)?;
        let state = self.0.take();
        // Nothing of the state is left if this panics.
        self.0 = catch_unwind(AssertUnwindSafe(|| T::apply(state, &event)))
            .map_err(|_| CorruptState::new("applying it panicked".to_owned()))?;
        Ok(())
    }

    fn body(&self) -> Result<Option<Body>, CorruptState> {
        encode(self.0.as_ref())
    }
}

/// An event of the journal, in the shape of today.
pub(crate) fn decode_event<T: EventSourced>(kind: &str, schema: i64, fields: &str) -> Result<T::Event, CorruptState> {
    let undecodable = |error: serde_json::Error| CorruptState::new(error.to_string());
    if schema == T::EVENT_VERSION {
        let mut fields = serde_json::Deserializer::from_str(fields);
        return serde::Deserialize::deserialize(Variant { name: kind, fields: &mut fields }).map_err(undecodable);
    }
    if schema > T::EVENT_VERSION {
        return Err(CorruptState::new(format!(
            "its schema {schema} is of a newer program; this one knows {} and earlier",
            T::EVENT_VERSION
        )));
    }
    let fields = serde_json::from_str(fields).map_err(undecodable)?;
    let (kind, fields) = catch_unwind(AssertUnwindSafe(|| T::upcast(kind.to_owned(), schema, fields)))
        .map_err(|_| CorruptState::new("upcasting it panicked".to_owned()))?;
    serde::Deserialize::deserialize(Variant { name: &kind, fields }).map_err(undecodable)
}
