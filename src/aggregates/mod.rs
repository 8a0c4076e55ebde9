//! The collections of the shipped service. To add one, add its file, its `mod` line, and its line in [`shipped`].

mod account;
mod city_history;
mod location;
mod person;
mod shopping_cart;

pub use account::{Account, AccountCommand, AccountError, AccountEvent};
pub use city_history::CityHistory;
pub use location::Location;
pub use person::Person;
pub use shopping_cart::{CartCommand, CartError, CartEvent, CartItems, ClosedCarts, ShoppingCart};

use crate::Service;

/// The shipped service: all collections in their order in the document, and all projections.
#[must_use]
pub fn shipped() -> Service {
    Service::new()
        .document::<Person>()
        .derived::<Location>()
        .event_sourced::<ShoppingCart>()
        .event_sourced::<Account>()
        .background::<CartItems>()
        .background::<ClosedCarts>()
        .background::<CityHistory>()
}
