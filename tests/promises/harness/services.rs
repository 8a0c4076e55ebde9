//! What several tests register with a service.

use duality::aggregates::{Account, CartItems, CityHistory, ClosedCarts, Location, Person, ShoppingCart};
use duality::schemars::{self, JsonSchema};
use duality::{BusinessRule, Service};
use serde::Serialize;

/// The shipped service, but with one of its projections inline.
pub(crate) fn with_inline() -> Service {
    Service::new()
        .document::<Person>()
        .derived::<Location>()
        .event_sourced::<ShoppingCart>()
        .event_sourced::<Account>()
        .inline::<CartItems>()
        .background::<ClosedCarts>()
        .background::<CityHistory>()
}

/// The business rules of an aggregate that has none.
#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
pub(crate) enum NoRule {}

impl BusinessRule for NoRule {}
