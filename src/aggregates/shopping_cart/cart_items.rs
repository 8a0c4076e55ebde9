//! The items that were added to carts and removed from them: a projection into tables.

use diesel::prelude::*;
use serde_json::{Value, json};

use super::{CartEvent, ShoppingCart};
use crate::{Event, Parameters, Projection, ProjectionError, Report, ReportError, Tables, Timestamp, ValidationError};

diesel::table! {
    /// One row for each cart and item.
    cart_items (cart, item) {
        cart -> Text,
        item -> Text,
        /// When it was last added.
        added -> BigInt,
        /// When it was removed after that.
        removed -> Nullable<BigInt>,
    }
}

/// The items of all carts: `GET /reports/cart-items`, `GET /reports/popular-items`.
pub struct CartItems;

impl Projection for CartItems {
    const NAME: &'static str = "cart_items";
    const COLLECTIONS: &'static [&'static str] = &["carts"];
    const SETUP: &'static str = "\
        CREATE TABLE cart_items (cart TEXT NOT NULL, item TEXT NOT NULL, added BIGINT NOT NULL, removed BIGINT, \
            PRIMARY KEY (cart, item)) WITHOUT ROWID;
        CREATE INDEX cart_items_by_item ON cart_items (item, cart);";

    type Sink = Tables;

    fn apply(tables: &mut Tables, event: &Event<'_>) -> Result<(), ProjectionError> {
        let cart = event.key.as_str();
        match event.domain::<ShoppingCart>()? {
            Some(CartEvent::ItemAdded { item, time }) => {
                diesel::replace_into(cart_items::table)
                    .values((
                        cart_items::cart.eq(cart),
                        cart_items::item.eq(item.as_str()),
                        cart_items::added.eq(time.milliseconds()),
                    ))
                    .execute(tables)?;
            }
            Some(CartEvent::ItemRemoved { item, time }) => {
                diesel::update(cart_items::table.find((cart, item.as_str())))
                    .set(cart_items::removed.eq(time.milliseconds()))
                    .execute(tables)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn reports() -> Vec<Report> {
        vec![
            Report { name: "cart-items", parameters: &["item", "status", "limit", "after"], read: items },
            Report { name: "popular-items", parameters: &["limit"], read: popular },
        ]
    }
}

type Row = (String, String, i64, Option<i64>);

/// `?item=apple&status=in-cart&limit=100&after=<cart>/<item>`: pages of rows, in the order of carts and items.
fn items(tables: &mut Tables, parameters: &Parameters) -> Result<Value, ReportError> {
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(100);
    let mut query = cart_items::table.order((cart_items::cart, cart_items::item)).limit(limit + 1).into_boxed();
    if let Some(item) = parameters.get("item") {
        query = query.filter(cart_items::item.eq(item.to_owned()));
    }
    query = match parameters.one_of("status", &["in-cart", "removed"])? {
        Some("in-cart") => query.filter(cart_items::removed.is_null()),
        Some(_) => query.filter(cart_items::removed.is_not_null()),
        None => query,
    };
    if let Some(after) = parameters.get("after") {
        let invalid =
            || ReportError::Invalid(ValidationError::new("after", "expected the value of `next`, <cart>/<item>"));
        let (cart, item) = after.split_once('/').ok_or_else(invalid)?;
        let is_later_item = cart_items::cart.eq(cart.to_owned()).and(cart_items::item.gt(item.to_owned()));
        query = query.filter(cart_items::cart.gt(cart.to_owned()).or(is_later_item));
    }
    let mut rows: Vec<Row> = query.load(tables)?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > page;
    rows.truncate(page);
    let next = rows.last().filter(|_| has_more).map(|(cart, item, ..)| format!("{cart}/{item}"));
    let items: Vec<_> = rows.into_iter().map(to_json).collect();
    Ok(match next {
        Some(next) => json!({ "items": items, "next": next }),
        None => json!({ "items": items }),
    })
}

fn to_json((cart, item, added, removed): Row) -> Value {
    let mut row = json!({"cart": cart, "item": item, "added": Timestamp::from_milliseconds(added)});
    if let Some(removed) = removed {
        row["removed"] = json!(Timestamp::from_milliseconds(removed));
    }
    row
}

/// `?limit=10`: the items that are in the most carts.
fn popular(tables: &mut Tables, parameters: &Parameters) -> Result<Value, ReportError> {
    let limit = parameters.number("limit", 1..=1000)?.unwrap_or(10);
    let carts = diesel::dsl::count_star();
    let rows: Vec<(String, i64)> = cart_items::table
        .filter(cart_items::removed.is_null())
        .group_by(cart_items::item)
        .select((cart_items::item, carts))
        .order((carts.desc(), cart_items::item))
        .limit(limit)
        .load(tables)?;
    let items: Vec<_> = rows.into_iter().map(|(item, carts)| json!({ "item": item, "carts": carts })).collect();
    Ok(json!({ "items": items }))
}
