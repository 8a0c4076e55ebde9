//! A newer version of the shipped program, in which locations are computed by another rule.

use duality::aggregates::{Account, CartItems, CityHistory, ClosedCarts, Person, ShoppingCart};
use duality::schemars::{self, JsonSchema};
use duality::{Derived, Key, Service};
use serde::{Deserialize, Serialize};

/// A city, with a key for each person.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct City {
    total: u64,
    keys: u64,
}

impl Derived for City {
    const NAME: &'static str = "locations";
    const VERSION: i64 = 2;

    type Source = Person;

    fn key(person: &Person) -> Option<Key> {
        person.city.clone()
    }

    fn add(&mut self, _: &Person) {
        self.total += 1;
        self.keys += 1;
    }

    fn remove(&mut self, _: &Person) {
        self.total -= 1;
        self.keys -= 1;
    }

    fn is_empty(&self) -> bool {
        self.total == 0
    }
}

pub(super) fn newer() -> Service {
    Service::new()
        .document::<Person>()
        .derived::<City>()
        .event_sourced::<ShoppingCart>()
        .event_sourced::<Account>()
        .background::<CartItems>()
        .background::<ClosedCarts>()
        .background::<CityHistory>()
}
