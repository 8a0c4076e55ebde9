//! Shopping carts: the tutorial's event-sourced aggregate.

mod cart_items;
mod closed_carts;

use std::collections::BTreeMap;

pub use cart_items::CartItems;
pub use closed_carts::ClosedCarts;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::{CartCommand as Command, CartError as Error, CartEvent as Event};
use crate::{BusinessRule, EventSourced, Key, Root, Timestamp};

/// A cart: clients open it, add and remove items, and finally close it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShoppingCart {
    status: Status,
    items: BTreeMap<Key, Item>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Status {
    Open,
    Closed,
}

/// An item in the cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Item {
    added: Timestamp,
}

/// The commands of a cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum CartCommand {
    Open,
    AddItem {
        #[schemars(example = &"apple")]
        item: Key,
    },
    RemoveItem {
        #[schemars(example = &"apple")]
        item: Key,
    },
    Close,
}

/// The events of a cart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(missing_docs, reason = "the names are self-explanatory")]
pub enum CartEvent {
    CartOpened,
    ItemAdded { item: Key, time: Timestamp },
    ItemRemoved { item: Key, time: Timestamp },
    CartClosed,
}

/// The business rules of a cart.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema, Error)]
#[expect(missing_docs, reason = "the messages are self-explanatory")]
pub enum CartError {
    #[error("{item} has already been added to cart {cart}!")]
    ItemAlreadyAdded { item: Key, cart: Key },
    #[error("{item} is not in cart {cart}!")]
    ItemNotInCart { item: Key, cart: Key },
    #[error("cart {cart} has already been closed!")]
    CartAlreadyClosed { cart: Key },
    #[error("cart {cart} has already been opened!")]
    CartAlreadyOpen { cart: Key },
}

impl BusinessRule for CartError {}

/// The commands that depend on the items. Each one results in one event or violates a rule.
impl ShoppingCart {
    fn add_item(&self, root: &Root<'_, Self>, item: Key) -> Result<Event, Error> {
        if self.items.contains_key(&item) {
            return Err(Error::ItemAlreadyAdded { item, cart: root.key().clone() });
        }
        Ok(Event::ItemAdded { item, time: root.now() })
    }

    fn remove_item(&self, root: &Root<'_, Self>, item: Key) -> Result<Event, Error> {
        if !self.items.contains_key(&item) {
            return Err(Error::ItemNotInCart { item, cart: root.key().clone() });
        }
        Ok(Event::ItemRemoved { item, time: root.now() })
    }
}

impl EventSourced for ShoppingCart {
    const NAME: &'static str = "carts";

    type Command = Command;
    type Event = Event;
    type Error = Error;

    fn handle(root: &mut Root<'_, Self>, command: Command) -> Result<(), Error> {
        let cart = || root.key().clone();
        let event = match (root.state(), command) {
            (None, _) => Event::CartOpened,
            (Some(_), Command::Open) => return Err(Error::CartAlreadyOpen { cart: cart() }),
            (Some(Self { status: Status::Closed, .. }), _) => return Err(Error::CartAlreadyClosed { cart: cart() }),
            (Some(open), Command::AddItem { item }) => open.add_item(root, item)?,
            (Some(open), Command::RemoveItem { item }) => open.remove_item(root, item)?,
            (Some(_), Command::Close) => Event::CartClosed,
        };
        root.record(event);
        Ok(())
    }

    fn apply(state: Option<Self>, event: &Event) -> Option<Self> {
        let mut cart = state.unwrap_or(Self { status: Status::Open, items: BTreeMap::new() });
        match event {
            Event::CartOpened => {}
            Event::ItemAdded { item, time } => {
                cart.items.insert(item.clone(), Item { added: *time });
            }
            Event::ItemRemoved { item, .. } => {
                cart.items.remove(item);
            }
            Event::CartClosed => cart.status = Status::Closed,
        }
        Some(cart)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::CartCommand::{AddItem, Close, Open, RemoveItem};
    use super::CartError::{CartAlreadyClosed, CartAlreadyOpen, ItemAlreadyAdded, ItemNotInCart};
    use super::CartEvent::{CartClosed, CartOpened, ItemAdded, ItemRemoved};
    use super::*;
    use crate::testing::{KEY, NOW, given, key};

    fn added(item: &str) -> Event {
        ItemAdded { item: key(item), time: NOW }
    }

    fn add(item: &str) -> Command {
        AddItem { item: key(item) }
    }

    fn remove(item: &str) -> Command {
        RemoveItem { item: key(item) }
    }

    #[test]
    fn a_cart_is_opened_filled_and_closed() {
        given::<ShoppingCart>([])
            .when(Open)
            .then([CartOpened])
            .then_patch(json!({"status":"open","items":{}}))
            .when(add("apple"))
            .then([added("apple")])
            .then_patch(json!({"items":{"apple":{"added":NOW}}}))
            .when(add("pear"))
            .when(remove("apple"))
            .then([ItemRemoved { item: key("apple"), time: NOW }])
            .then_patch(json!({"items":{"apple":null}}))
            .when(Close)
            .then([CartClosed])
            .then_patch(json!({"status":"closed"}))
            .then_state(json!({"status":"closed","items":{"pear":{"added":NOW}}}));
    }

    #[test]
    fn an_item_in_the_cart_cannot_be_added_again() {
        given::<ShoppingCart>([CartOpened, added("apple")])
            .when(add("apple"))
            .then_fails(ItemAlreadyAdded { item: key("apple"), cart: key(KEY) })
            .then_says(&format!("apple has already been added to cart {KEY}!"))
            .when(add("Apple"))
            .then([added("Apple")])
            .when(remove("apple"))
            .when(add("apple"))
            .then([added("apple")]);
    }

    #[test]
    fn an_item_that_is_not_in_the_cart_cannot_be_removed() {
        given::<ShoppingCart>([CartOpened])
            .when(remove("pear"))
            .then_fails(ItemNotInCart { item: key("pear"), cart: key(KEY) })
            .then_says(&format!("pear is not in cart {KEY}!"));
    }

    #[test]
    fn a_closed_cart_cannot_be_changed() {
        for command in [add("pear"), remove("apple"), Close] {
            given::<ShoppingCart>([CartOpened, added("apple"), CartClosed])
                .when(command)
                .then_fails(CartAlreadyClosed { cart: key(KEY) })
                .then_says(&format!("cart {KEY} has already been closed!"));
        }
    }

    #[test]
    fn a_cart_can_be_opened_once() {
        for events in [vec![CartOpened], vec![CartOpened, CartClosed]] {
            given::<ShoppingCart>(events)
                .when(Open)
                .then_fails(CartAlreadyOpen { cart: key(KEY) })
                .then_says(&format!("cart {KEY} has already been opened!"));
        }
    }

    #[test]
    fn a_cart_that_was_never_opened_does_not_exist() {
        for command in [add("apple"), remove("apple"), Close] {
            given::<ShoppingCart>([]).when(command).then_not_found();
        }
    }
}
