//! Event-sourced aggregates with their types erased: commands by name, events and states as JSON text.

use std::any::Any;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Map, Value, json};

use super::evolution::digest;
use super::{BusinessRule, Collection, Derivation, EventSourced, Keys, Root, singular_name};
use crate::domain::body::{self, Body, CorruptState};
use crate::domain::command::{
    Change, CommandContext, Decision, DecodedState, ErasedDomainError, ErrorDescription, RecordedEvent, Rejection, Verb,
};
use crate::domain::json::{self, ValidationError, Variant, kebab_case, tagged};
use crate::domain::schema::{CollectionSchemas, Generators, NamedSchema, variants};

/// How the events of a collection become its state, with its types erased.
pub(crate) trait Journaled: Send + Sync {
    /// The commands for an existing aggregate: their names in paths, in the order of their declaration.
    fn commands(&self) -> &[String];

    /// The version of the fold. If it changes, all states are recomputed at start.
    fn state_version(&self) -> i64;

    /// The version of the shape in which events are written.
    fn schema(&self) -> i64;

    /// A digest of the events of the type. Two types with the same one read the same events.
    fn shape(&self) -> String;

    /// Fails if an event of the journal is not one of the type, also after `upcast`.
    fn check(&self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState>;

    /// A fold of no events yet.
    fn fold(&self) -> Box<dyn Fold>;
}

/// The fold of the events of one aggregate so far.
pub(crate) trait Fold {
    /// Applies the next event.
    fn apply(&mut self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState>;

    /// The state after the events so far.
    fn body(&self) -> Result<Option<Body>, CorruptState>;
}

impl<E: BusinessRule> ErasedDomainError for E {
    fn describe(&self) -> ErrorDescription {
        let (slug, fields) = match tagged(self) {
            Ok((name, Value::Object(fields))) => (kebab_case(&name), fields),
            Ok((name, _)) => (kebab_case(&name), Map::new()),
            Err(_) => ("rule-broken".to_owned(), Map::new()),
        };
        ErrorDescription { slug, detail: self.to_string(), status: self.status(), fields }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// An [`EventSourced`] as a [`Collection`].
pub(super) struct EventSourcedAdapter<T> {
    /// The names of the commands in paths, without the create command.
    names: Vec<String>,
    /// The variant of each of these commands, in the same order.
    variants: Vec<&'static str>,
    typed: PhantomData<fn() -> T>,
}

/// Path segments of the service itself, which a command cannot have.
const RESERVED: [&str; 2] = ["events", "journal"];

impl<T: EventSourced> EventSourcedAdapter<T> {
    /// # Errors
    /// The commands or the events are not enums whose variants serde can name, or a name is invalid.
    pub(super) fn new() -> Result<Self, String> {
        let no_enum = |what| {
            format!(
                "{}: the {what} type must be an enum in serde's default representation (externally tagged)",
                T::NAME
            )
        };
        let known = json::variant_names::<T::Command>().ok_or_else(|| no_enum("command"))?;
        let kinds = json::variant_names::<T::Event>().ok_or_else(|| no_enum("event"))?;
        let is_plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if let Some(odd) = known.iter().chain(kinds).find(|name| !is_plain(name)) {
            return Err(format!(
                "{}: invalid name {odd:?}; expected letters, digits, hyphens and underscores",
                T::NAME
            ));
        }
        if !known.contains(&T::CREATE_COMMAND) {
            return Err(format!(
                "{}: unknown create command {:?}; expected one of {}",
                T::NAME,
                T::CREATE_COMMAND,
                known.join(", ")
            ));
        }
        // The body of every request is an object.
        if let Some(positional) = known.iter().find(|name| !json::takes_object::<T::Command>(name)) {
            return Err(format!(
                "{}: the command {positional} has fields without names, so that no request could call it; \
                 declare it as {positional} {{ name: type }}",
                T::NAME
            ));
        }
        let variants: Vec<_> = known.iter().copied().filter(|name| *name != T::CREATE_COMMAND).collect();
        let names: Vec<_> = variants.iter().map(|name| kebab_case(name)).collect();
        for (index, name) in names.iter().enumerate() {
            if RESERVED.contains(&name.as_str()) {
                return Err(format!("{}: the command name {name:?} is reserved", T::NAME));
            }
            if names[..index].contains(name) {
                return Err(format!("{}: two commands have the name {name:?}", T::NAME));
            }
        }
        Ok(Self { names, variants, typed: PhantomData })
    }
}

/// The change for a typed command.
pub(crate) fn handle<T: EventSourced>(command: T::Command) -> Result<Change, serde_json::Error> {
    let creates = tagged(&command)?.0 == T::CREATE_COMMAND;
    Ok(Change::Handle { command: Box::new(command), creates })
}

impl<T: EventSourced> Collection for EventSourcedAdapter<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn singular(&self) -> Cow<'static, str> {
        singular_name(T::SINGULAR, T::NAME)
    }

    fn keys(&self) -> Keys {
        T::KEYS
    }

    fn change(&self, verb: Verb<'_>, json: Value) -> Result<Change, ValidationError> {
        let unknown = |name: &str| ValidationError::new("", format!("unknown command {name:?} of {}", T::NAME));
        let variant = match verb {
            Verb::Create | Verb::Replace => T::CREATE_COMMAND,
            Verb::Patch => return Err(unknown("patch")),
            Verb::Command(name) => {
                let index = self.names.iter().position(|known| known == name).ok_or_else(|| unknown(name))?;
                self.variants[index]
            }
        };
        // serde would accept an array for a struct, too.
        json::expect_object(&json)?;
        json::check_names(json::member_names_of::<T::Command>(variant), &json)?;
        let command: T::Command = json::decode_variant(variant, json)?;
        Ok(Change::Handle { command: Box::new(command), creates: variant == T::CREATE_COMMAND })
    }

    fn decide(
        &self,
        context: CommandContext<'_>,
        before: Option<&Body>,
        decoded: &mut Option<DecodedState>,
        change: Change,
    ) -> Result<Decision, Rejection> {
        let Change::Handle { command, creates } = change else { return Err(Rejection::NotFound) };
        let (true, Ok(command)) = (before.is_some() || creates, command.downcast::<T::Command>()) else {
            return Err(Rejection::NotFound);
        };
        // If the code of the aggregate panics, the decoded state is gone: nothing half changed remains.
        let known = decoded.take().and_then(|state| state.downcast().ok());
        let state = known.map_or_else(|| before.map(Body::decode).transpose(), |state: Box<T>| Ok(Some(*state)))?;
        let mut root = Root::<T>::new(context, state);
        let handled = T::handle(&mut root, *command);
        let (state, events) = root.into_outcome();
        if events.is_empty() {
            *decoded = erase(state);
            handled.map_err(|broken| Rejection::RuleBroken(Box::new(broken)))?;
            return Ok(Decision { after: before.cloned(), events: Vec::new() });
        }
        handled.map_err(|broken| Rejection::RuleBroken(Box::new(broken)))?;
        let events = events
            .iter()
            .map(recorded)
            .collect::<Result<_, _>>()
            .map_err(|error| CorruptState::new(format!("an event of {} cannot be encoded: {error}", T::NAME)))?;
        let encoded = state.as_ref().map(encode).transpose()?;
        let (after, reread) = encoded.map(|Encoded { body, reread }| (body, reread)).unzip();
        *decoded = erase(reread.flatten().or(state));
        // An event need not change the state. Then it stays the same text in memory.
        let after = if after.as_ref() == before { before.cloned() } else { after };
        Ok(Decision { after, events })
    }

    #[cfg(feature = "postgres")]
    fn copy(&self, command: &(dyn Any + Send)) -> Option<Box<dyn Any + Send>> {
        let json = serde_json::to_value(command.downcast_ref::<T::Command>()?).ok()?;
        Some(Box::new(serde_json::from_value::<T::Command>(json).ok()?))
    }

    fn remedy(&self) -> &'static str {
        T::REMEDY
    }

    fn check(&self, body: &Body) -> Result<(), CorruptState> {
        body.decode::<T>().map(|_| ())
    }

    fn schemas(&self, generators: &mut Generators) -> CollectionSchemas {
        let bodies = variants(&generators.body::<T::Command>());
        // A type with a schema of its own making takes any object.
        let body_of = |variant: &str| {
            let found = bodies.iter().find(|body| body.name == variant);
            found.map_or_else(|| json!({"type": "object"}), |body| body.schema.clone())
        };
        let commands = self.names.iter().zip(&self.variants);
        let rules = variants(&generators.record::<T::Error>()).into_iter();
        CollectionSchemas {
            state: generators.state::<T>(),
            created: Some(body_of(T::CREATE_COMMAND)),
            commands: commands
                .map(|(name, variant)| NamedSchema { name: name.clone(), schema: body_of(variant) })
                .collect(),
            events: variants(&generators.record::<T::Event>()),
            rules: rules.map(|NamedSchema { name, schema }| NamedSchema { name: kebab_case(&name), schema }).collect(),
        }
    }

    fn derivation(&self) -> Option<&dyn Derivation> {
        None
    }

    fn journaled(&self) -> Option<&dyn Journaled> {
        Some(self)
    }
}

/// An event in the form in which the journal stores it.
pub(crate) fn recorded(event: &impl serde::Serialize) -> Result<RecordedEvent, serde_json::Error> {
    let (kind, fields) = tagged(event)?;
    Ok(RecordedEvent { kind, fields: json::write(&fields)?.text })
}

fn erase<T: EventSourced>(state: Option<T>) -> Option<DecodedState> {
    state.map(|state| Box::new(state) as DecodedState)
}

/// The text of a state.
struct Encoded<T> {
    body: Body,
    /// What the text is read as, if that may differ from the state. It is the state then, as for a command that reads it.
    reread: Option<T>,
}

/// # Errors
/// The state cannot be encoded, or its text not be read again: a number that JSON cannot express becomes null, which is left
/// out, and a type that takes any names can write one of them twice.
fn encode<T: EventSourced>(state: &T) -> Result<Encoded<T>, CorruptState> {
    let body::Encoded { body, lacks_nulls } = body::Encoded::of(state)
        .map_err(|invalid| CorruptState::new(format!("a state of {} cannot be encoded: {invalid}", T::NAME)))?;
    let may_differ = lacks_nulls || json::member_names::<T>().is_none();
    let reread = may_differ.then(|| body.decode()).transpose()?;
    Ok(Encoded { body, reread })
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

    fn shape(&self) -> String {
        // The word is for whoever sees it in the database.
        let events = format!("{} {}", T::EVENT_VERSION, schemars::schema_for!(T::Event).to_value());
        format!("events {}", digest(&events))
    }

    fn check(&self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState> {
        decode_event::<T>(kind, schema, fields).map(|_| ())
    }

    fn fold(&self) -> Box<dyn Fold> {
        Box::new(Folding::<T>(None))
    }
}

/// The typed state so far.
struct Folding<T>(Option<T>);

impl<T: EventSourced> Fold for Folding<T> {
    fn apply(&mut self, kind: &str, schema: i64, fields: &str) -> Result<(), CorruptState> {
        let event = decode_event::<T>(kind, schema, fields)?;
        let state = self.0.take();
        // If this panics, the state is gone: nothing half changed remains.
        self.0 = catch_unwind(AssertUnwindSafe(|| T::apply(state, &event)))
            .map_err(|_| CorruptState::new("applying it panicked".to_owned()))?;
        Ok(())
    }

    fn body(&self) -> Result<Option<Body>, CorruptState> {
        Ok(self.0.as_ref().map(encode).transpose()?.map(|encoded| encoded.body))
    }
}

/// Decodes an event of the journal, converted to the current shape.
pub(crate) fn decode_event<T: EventSourced>(kind: &str, schema: i64, fields: &str) -> Result<T::Event, CorruptState> {
    let undecodable = |error: serde_json::Error| CorruptState::new(error.to_string());
    if schema == T::EVENT_VERSION {
        let mut fields = serde_json::Deserializer::from_str(fields);
        return serde::Deserialize::deserialize(Variant { name: kind, fields: &mut fields }).map_err(undecodable);
    }
    if schema > T::EVENT_VERSION {
        return Err(CorruptState::new(format!(
            "its schema {schema} was written by a newer program; this program supports schemas up to {}",
            T::EVENT_VERSION
        )));
    }
    let fields = serde_json::from_str(fields).map_err(undecodable)?;
    let (kind, fields) = catch_unwind(AssertUnwindSafe(|| T::upcast(kind.to_owned(), schema, fields)))
        .map_err(|_| CorruptState::new("upcasting it panicked".to_owned()))?;
    serde::Deserialize::deserialize(Variant { name: &kind, fields }).map_err(undecodable)
}
