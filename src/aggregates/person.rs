//! Persons: the tutorial's document.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Document, Key, ValidationError};

/// A person with a name, optionally with a city and a spouse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Person {
    /// Must not be empty.
    #[schemars(length(min = 1), example = &"Ann")]
    pub name: String,
    /// The key of the location that counts this person.
    pub city: Option<Key>,
    /// The key of another person. Aggregates refer to each other by key only; the service does not check that it exists.
    pub spouse: Option<NonZeroU64>,
}

impl Document for Person {
    const NAME: &'static str = "persons";

    fn validate(&self) -> Result<(), ValidationError> {
        if self.name.is_empty() {
            return Err(ValidationError::new("name", "must not be empty; expected at least one character"));
        }
        Ok(())
    }
}
