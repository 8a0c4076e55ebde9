//! What the operations of one collection have in common.

use serde_json::Value;

use super::components::{Components, DescribedCollection};
use super::operation::{About, Operation};
use super::parameters;
use super::problems::Problems;
use crate::domain::collection::Collection;
use crate::http::problem::Kind;

/// Writes the operations of one collection.
pub(super) struct Writer<'a> {
    pub(super) collection: &'a dyn Collection,
    pub(super) described: &'a DescribedCollection,
    /// The name of one aggregate, as in the name of its schema.
    pub(super) name: String,
    pub(super) components: &'a mut Components,
}

impl Writer<'_> {
    pub(super) fn operation(&self, id: &str, summary: &str, description: &str) -> Operation {
        Operation::new(&About { id, tag: self.collection.name(), summary, description })
    }

    pub(super) fn problems(&mut self, operation: Operation, kinds: &[&[Kind]]) -> Value {
        let problems = Problems::of(&kinds.concat(), self.components);
        operation.problems(problems, self.components).into_json()
    }

    pub(super) fn key(&self) -> Value {
        parameters::key(self.collection.keys())
    }
}
