//! The collections of the shipped service. Add yours here: one file, its `mod` and its line.

mod location;
mod person;

pub use location::Location;
pub use person::Person;

use crate::Service;

/// The shipped service: every collection, in its order in the document.
#[must_use]
pub fn shipped() -> Service {
    Service::new().document::<Person>().derived::<Location>()
}
