//! Commands, events and domain errors as enums: the name of a variant in serde's terms, and its fields.

use heck::ToKebabCase as _;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer as _, VariantAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Error, Value};

/// The name of a value's variant, and the JSON of its fields: `{}` if it has none.
///
/// # Errors
/// The type is not an externally tagged enum, or a value cannot be represented in JSON.
pub(crate) fn tagged(value: &impl Serialize) -> Result<(String, Value), Error> {
    match serde_json::to_value(value)? {
        Value::String(name) => Ok((name, Value::Object(serde_json::Map::new()))),
        Value::Object(members) if members.len() == 1 => {
            members.into_iter().next().ok_or_else(|| serde::ser::Error::custom("no variant"))
        }
        other => {
            Err(serde::ser::Error::custom(format!("expected a variant of an externally tagged enum, got {other}")))
        }
    }
}

/// `AddItem` → `add-item`: the name of a variant in paths and in the types of problems.
pub(crate) fn kebab_case(name: &str) -> String {
    name.to_kebab_case()
}

/// A deserializer for an enum: the name of the variant is known, and another deserializer provides the fields.
pub(crate) struct Variant<'a, D> {
    pub(crate) name: &'a str,
    pub(crate) fields: D,
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Variant<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, D: Deserializer<'de>> EnumAccess<'de> for Variant<'_, D> {
    type Error = D::Error;
    type Variant = Fields<D>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Fields<D>), D::Error> {
        let name: serde::de::value::StrDeserializer<'_, D::Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Fields(self.fields)))
    }
}

/// Deserializes the fields of a variant.
pub(crate) struct Fields<D>(D);

/// The fields of a variant without fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl<'de, D: Deserializer<'de>> VariantAccess<'de> for Fields<D> {
    type Error = D::Error;

    fn unit_variant(self) -> Result<(), D::Error> {
        Nothing::deserialize(self.0).map(|Nothing {}| ())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, D::Error> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::json::decode_variant;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Change {
        Emptied,
        ItemAdded { item: String, price: Option<Price> },
        Paid(Price),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Price {
        cents: u32,
    }

    #[test]
    fn a_variant_survives_a_round_trip_through_its_name_and_fields() {
        for (change, name, fields) in [
            (Change::Emptied, "Emptied", json!({})),
            (
                Change::ItemAdded { item: "apple".into(), price: Some(Price { cents: 5 }) },
                "ItemAdded",
                json!({"item":"apple","price":{"cents":5}}),
            ),
            (Change::Paid(Price { cents: 7 }), "Paid", json!({"cents":7})),
        ] {
            assert_eq!(tagged(&change).unwrap(), (name.to_owned(), fields.clone()));
            assert_eq!(decode_variant::<Change>(name, fields).unwrap(), change);
        }
        assert!(tagged(&Price { cents: 1 }).is_ok(), "one member looks like a variant: registration checks the type");
        assert!(tagged(&7).is_err());
    }

    #[test]
    fn an_error_in_the_fields_names_the_member() {
        let rejection = |name: &str, fields: Value| decode_variant::<Change>(name, fields).unwrap_err();
        assert_eq!(rejection("ItemAdded", json!({"item":5})).member, "item");
        assert_eq!(rejection("ItemAdded", json!({"item":"a","price":{"cents":"x"}})).member, "price.cents");
        assert_eq!(rejection("ItemAdded", json!({"item":"a","colour":"red"})).member, "colour");
        assert_eq!(rejection("ItemAdded", json!({"item":null})).to_string(), "item: is missing");
        assert_eq!(rejection("ItemAdded", json!({"item":"a","price":{}})).to_string(), "price.cents: is missing");
        assert_eq!(rejection("Paid", json!({"cents":1,"euros":1})).member, "euros");
        assert!(rejection("Emptied", json!({"all":true})).detail.contains("`all`"));
        assert!(rejection("Stolen", json!({})).detail.contains("unknown variant `Stolen`"));
    }

    #[test]
    fn names_in_paths_are_kebab_case() {
        for (name, expected) in [
            // Every command and every business rule of the shipped aggregates.
            ("Open", "open"),
            ("AddItem", "add-item"),
            ("RemoveItem", "remove-item"),
            ("Close", "close"),
            ("Book", "book"),
            ("RevertBooking", "revert-booking"),
            ("ItemAlreadyAdded", "item-already-added"),
            ("ItemNotInCart", "item-not-in-cart"),
            ("CartAlreadyClosed", "cart-already-closed"),
            ("CartAlreadyOpen", "cart-already-open"),
            ("InsufficientFunds", "insufficient-funds"),
            ("BookingNotFound", "booking-not-found"),
            ("AlreadyReverted", "already-reverted"),
            ("AccountAlreadyOpen", "account-already-open"),
            ("AmountTooLarge", "amount-too-large"),
            // Other conventions, digits and abbreviations.
            ("revert_booking", "revert-booking"),
            ("add-item", "add-item"),
            ("Add2Items", "add2-items"),
            ("ISBN13Changed", "isbn13-changed"),
            ("Level3", "level3"),
            ("step_2", "step-2"),
        ] {
            assert_eq!(kebab_case(name), expected);
        }
    }
}
