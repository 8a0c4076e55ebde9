//! Locations: the number of persons in each city, derived from the persons.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Person;
use crate::{Derived, Key};

/// A city with at least one person; its key is its name.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Location {
    /// The number of persons who live here.
    pub total: u64,
    /// The number of them who have a spouse; absent if 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub married: u64,
}

impl Derived for Location {
    const NAME: &'static str = "locations";

    type Source = Person;

    fn key(person: &Person) -> Option<Key> {
        person.city.clone()
    }

    fn add(&mut self, person: &Person) {
        self.total += 1;
        self.married += u64::from(person.spouse.is_some());
    }

    fn remove(&mut self, person: &Person) {
        self.total -= 1;
        self.married -= u64::from(person.spouse.is_some());
    }

    fn is_empty(&self) -> bool {
        self.total == 0
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
