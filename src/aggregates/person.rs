//! Persons: the document of the tutorial.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::{Document, Key, ValidationError};

/// Somebody with a name, perhaps living in a city, perhaps married to another person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// Not empty.
    pub name: String,
    /// The key of the location that counts this person.
    pub city: Option<Key>,
    /// The key of another person. Aggregates refer to each other by identity only: whether it exists is not checked.
    pub spouse: Option<NonZeroU64>,
}

impl Document for Person {
    const NAME: &'static str = "persons";

    fn validate(&self) -> Result<(), ValidationError> {
        if self.name.is_empty() {
            return Err(ValidationError::new("name", "is empty; expected at least one character"));
        }
        Ok(())
    }
}
