//! The registered collections, in the order of their registration, which is their order in the document.

use std::collections::HashMap;
use std::fmt;

use super::derived::DerivedAdapter;
use super::document::DocumentAdapter;
use super::event_sourced_erased::EventSourcedAdapter;
use super::{Collection, Derived, Document, EventSourced};
use crate::domain::key::CollectionId;

/// All collections of the service. They do not change once it runs.
#[derive(Default)]
pub(crate) struct Registry {
    collections: Vec<Box<dyn Collection>>,
    by_name: HashMap<&'static str, CollectionId>,
    /// For each collection, the collections that are derived from it.
    derived: Vec<Vec<CollectionId>>,
    /// The first mistake, so that a registration can stay one line; [`Registry::check`] returns it.
    mistake: Option<InvalidRegistration>,
}

/// A mistake in the registrations of a program: a duplicate name, for example.
#[derive(Debug, Clone)]
pub struct InvalidRegistration(String);

impl InvalidRegistration {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for InvalidRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidRegistration {}

/// Names of paths of the service itself, which a collection cannot have.
const RESERVED: [&str; 14] = [
    // Everything new that is no collection is under it.
    "-",
    "aggregates",
    "events",
    "journal",
    "projections",
    "reports",
    "healthz",
    "readyz",
    "metrics",
    "openapi",
    "docs",
    "follow",
    "index",
    "page",
];

impl Registry {
    pub(crate) fn document<T: Document>(&mut self) {
        self.add(Box::new(DocumentAdapter::<T>::new()));
    }

    pub(crate) fn derived<T: Derived>(&mut self) {
        self.add(Box::new(DerivedAdapter::<T>::new()));
    }

    pub(crate) fn event_sourced<T: EventSourced>(&mut self) {
        match EventSourcedAdapter::<T>::new() {
            Ok(adapter) => self.add(Box::new(adapter)),
            Err(mistake) => self.note(mistake),
        }
    }

    fn note(&mut self, mistake: String) {
        self.mistake.get_or_insert(InvalidRegistration(mistake));
    }

    fn add(&mut self, collection: Box<dyn Collection>) {
        let id = CollectionId::at(self.collections.len());
        if let Err(mistake) = self.link(id, collection.as_ref()) {
            return self.note(mistake);
        }
        self.by_name.insert(collection.name(), id);
        self.derived.push(Vec::new());
        self.collections.push(collection);
    }

    fn link(&mut self, id: CollectionId, collection: &dyn Collection) -> Result<(), String> {
        let name = collection.name();
        let singular = collection.singular();
        for part in [name, &*singular] {
            if part.is_empty() || !part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
                return Err(format!("invalid name {part:?}; expected lower-case letters, digits and hyphens"));
            }
        }
        if RESERVED.contains(&name) {
            return Err(format!("the name {name:?} is reserved"));
        }
        if self.by_name.contains_key(name) {
            return Err(format!("two collections have the name {name:?}"));
        }
        if self.collections.iter().any(|other| other.singular() == singular) {
            return Err(format!("two collections have the singular name {singular:?}"));
        }
        if let Some(derivation) = collection.derivation() {
            let source = derivation.source();
            let Some(source) = self.id(source) else {
                return Err(format!("{name} are derived from {source}, which must be registered before"));
            };
            self.derived[source.index()].push(id);
        }
        Ok(())
    }

    /// # Errors
    /// The first mistake in the registrations.
    pub(crate) fn check(&self) -> Result<(), InvalidRegistration> {
        self.mistake.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn id(&self, name: &str) -> Option<CollectionId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, id: CollectionId) -> &dyn Collection {
        self.collections[id.index()].as_ref()
    }

    pub(crate) fn derived_from(&self, id: CollectionId) -> &[CollectionId] {
        &self.derived[id.index()]
    }

    /// The ids of all collections, in their order in the document.
    pub(crate) fn ids(&self) -> impl Iterator<Item = CollectionId> + use<> {
        (0..self.collections.len()).map(CollectionId::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::{Location, Person};

    #[test]
    fn a_name_can_be_registered_once() {
        let mut registry = Registry::default();
        registry.document::<Person>();
        assert!(registry.check().is_ok());
        registry.document::<Person>();
        assert_eq!(registry.check().unwrap_err().to_string(), "two collections have the name \"persons\"");
    }

    #[test]
    fn a_derived_collection_must_be_registered_after_its_source() {
        let mut registry = Registry::default();
        registry.derived::<Location>();
        assert!(registry.check().unwrap_err().to_string().contains("derived from persons"));
    }
}
