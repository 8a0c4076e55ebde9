//! The collections of the shipped service. Add yours here: one file, its `mod` and its line.

mod account;
mod location;
mod person;
mod shopping_cart;

pub use account::{Account, AccountCommand, AccountError, AccountEvent};
pub use location::Location;
pub use person::Person;
pub use shopping_cart::{CartCommand, CartError, CartEvent, ShoppingCart};

use crate::Service;

/// The shipped service: every collection, in its order in the document.
#[must_use]
pub fn shipped() -> Service {
    Service::new().document::<Person>().derived::<Location>().event_sourced::<ShoppingCart>().event_sourced::<Account>()
}
