//! One line for each closed cart: a projection into a file.

use serde::{Deserialize, Serialize};

use super::{CartEvent, ShoppingCart};
use crate::{CsvFile, Event, Projection, ProjectionError, Timestamp};

/// The closed carts: `GET /reports/carts.csv`.
pub struct ClosedCarts;

/// The note about a cart until it is closed.
#[derive(Default, Serialize, Deserialize)]
struct Cart {
    opened: Option<Timestamp>,
    items: Vec<String>,
}

impl Projection for ClosedCarts {
    const NAME: &'static str = "carts.csv";
    const COLLECTIONS: &'static [&'static str] = &["carts"];
    const SETUP: &'static [&'static str] = &["cart", "opened", "closed", "items", "minutes_open"];

    type Sink = CsvFile;

    fn apply(file: &mut CsvFile, event: &Event<'_>) -> Result<(), ProjectionError> {
        let mut cart: Cart = file.recall(event.key)?.unwrap_or_default();
        match event.domain::<ShoppingCart>()? {
            Some(CartEvent::CartOpened) => cart.opened = Some(event.time),
            Some(CartEvent::ItemAdded { item, .. }) => cart.items.push(item.as_str().to_owned()),
            Some(CartEvent::ItemRemoved { item, .. }) => cart.items.retain(|known| known != item.as_str()),
            Some(CartEvent::CartClosed) => {
                let opened = cart.opened.unwrap_or(event.time);
                let minutes = (event.time.milliseconds() - opened.milliseconds()).max(0) / 60_000;
                file.line([
                    event.key.to_string(),
                    opened.to_string(),
                    event.time.to_string(),
                    cart.items.join("; "),
                    minutes.to_string(),
                ])?;
                return file.forget(event.key);
            }
            None => return Ok(()),
        }
        file.remember(event.key, &cart)
    }
}
