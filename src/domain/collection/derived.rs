//! Aggregates that are computed from another collection in the same transaction: a group-by with counters.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Collection, Derivation, Document, Journaled, Keys, SourceChange, singular_name};
use crate::domain::body::{Body, CorruptState};
use crate::domain::command::{Change, CommandContext, Decision, DecodedState, Rejection, Verb};
use crate::domain::json::ValidationError;
use crate::domain::key::Key;
use crate::domain::schema::{CollectionSchemas, Generators};

/// An aggregate that summarises a group of aggregates of another collection. Clients can only read it.
pub trait Derived: Serialize + DeserializeOwned + JsonSchema + Default + 'static {
    /// The collection's name: its member in the document, and its path. Lower-case letters, digits and hyphens.
    const NAME: &'static str;

    /// The name of one aggregate, in the path of the feed: `person` gives `/person-events`. Without one, the singular of
    /// `NAME` by the common rules of English: `company` for `companies`.
    const SINGULAR: Option<&'static str> = None;

    /// The version of the rule below. Raise it when the rule changes; the collection is then recomputed at the next start.
    const VERSION: i64 = 1;

    /// The collection that it is computed from.
    type Source: Document;

    /// The key of the group that an aggregate belongs to, if any.
    fn key(source: &Self::Source) -> Option<Key>;

    /// Adds an aggregate to the group.
    fn add(&mut self, source: &Self::Source);

    /// Removes an aggregate that was added before.
    fn remove(&mut self, source: &Self::Source);

    /// Whether the group is empty. An empty group is deleted.
    fn is_empty(&self) -> bool;
}

/// The erased form of a [`Derived`].
pub(super) struct DerivedAdapter<T>(PhantomData<fn() -> T>);

impl<T: Derived> DerivedAdapter<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Derived> Collection for DerivedAdapter<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn singular(&self) -> Cow<'static, str> {
        singular_name(T::SINGULAR, T::NAME)
    }

    fn keys(&self) -> Keys {
        Keys::Text
    }

    fn change(&self, _: Verb<'_>, _: Value) -> Result<Change, ValidationError> {
        Err(ValidationError::new("", format!("{} are derived from {} and cannot be written", T::NAME, T::Source::NAME)))
    }

    fn decide(
        &self,
        _: CommandContext<'_>,
        _: Option<&Body>,
        _: &mut Option<DecodedState>,
        _: Change,
    ) -> Result<Decision, Rejection> {
        Err(Rejection::NotFound)
    }

    fn check(&self, body: &Body) -> Result<(), CorruptState> {
        body.decode::<T>().map(|_| ())
    }

    fn schemas(&self, generators: &mut Generators) -> CollectionSchemas {
        CollectionSchemas {
            state: generators.state::<T>(),
            created: None,
            commands: Vec::new(),
            events: Vec::new(),
            rules: Vec::new(),
        }
    }

    fn derivation(&self) -> Option<&dyn Derivation> {
        Some(self)
    }

    fn journaled(&self) -> Option<&dyn Journaled> {
        None
    }
}

impl<T: Derived> Derivation for DerivedAdapter<T> {
    fn source(&self) -> &'static str {
        T::Source::NAME
    }

    fn version(&self) -> i64 {
        T::VERSION
    }

    fn follow(&self, before: Option<&Body>, after: Option<&Body>) -> Result<Box<dyn SourceChange>, CorruptState> {
        let member = |source: Option<&Body>| source.map(Member::<T>::read).transpose();
        Ok(Box::new(Moved { before: member(before)?, after: member(after)? }))
    }
}

/// A source, and the group that it belongs to.
struct Member<T: Derived> {
    source: T::Source,
    key: Option<Key>,
}

impl<T: Derived> Member<T> {
    fn read(body: &Body) -> Result<Self, CorruptState> {
        let source = body.decode()?;
        let key = T::key(&source);
        Ok(Self { source, key })
    }
}

/// A source before and after a change.
struct Moved<T: Derived> {
    before: Option<Member<T>>,
    after: Option<Member<T>>,
}

impl<T: Derived> SourceChange for Moved<T> {
    fn touched(&self) -> Vec<Key> {
        let mut keys = Vec::with_capacity(2);
        for member in [&self.before, &self.after].into_iter().flatten() {
            match &member.key {
                Some(key) if !keys.contains(key) => keys.push(key.clone()),
                _ => {}
            }
        }
        keys
    }

    fn derive(&self, key: &Key, row: Option<&Body>) -> Result<Option<Body>, CorruptState> {
        let of_group = |member: &&Member<T>| member.key.as_ref() == Some(key);
        let mut group: T = row.map_or_else(|| Ok(T::default()), Body::decode)?;
        if let Some(before) = self.before.as_ref().filter(of_group) {
            group.remove(&before.source);
        }
        if let Some(after) = self.after.as_ref().filter(of_group) {
            group.add(&after.source);
        }
        if group.is_empty() {
            return Ok(None);
        }
        Body::encode(&group).map(Some).map_err(|invalid| CorruptState::new(format!("{} {key}: {invalid}", T::NAME)))
    }
}
