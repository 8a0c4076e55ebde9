//! The member and variant names that a type declares by its serde derive, so that nobody repeats them.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};

use super::Variant;

/// The member names that a struct declares; `None` for a type that accepts any (a map, a flattened struct).
pub(crate) fn member_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    Declared::of::<T>().members
}

/// The member names that a variant of an enum declares: empty if it has no fields, `None` if it accepts any.
pub(crate) fn member_names_of<T: DeserializeOwned>(variant: &str) -> Option<&'static [&'static str]> {
    let mut declared = Declared::default();
    // Always an error: only the request for members matters.
    let _ = T::deserialize(Variant { name: variant, fields: &mut declared });
    declared.members
}

/// Whether a variant of an enum can be read from an object: it has named fields or none, or one field that can. A variant with
/// several fields without names is an array in JSON.
pub(crate) fn takes_object<T: DeserializeOwned>(variant: &str) -> bool {
    let mut declared = Declared::default();
    // Always an error: only what is asked for matters.
    let _ = T::deserialize(Variant { name: variant, fields: &mut declared });
    !declared.rejects_objects
}

/// The names of an enum's variants; `None` for a type that is not an externally tagged enum.
pub(crate) fn variant_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    Declared::of::<T>().variants
}

/// The names that a type passes to its deserializer.
#[derive(Default)]
struct Declared {
    members: Option<&'static [&'static str]>,
    variants: Option<&'static [&'static str]>,
    /// Whether it was asked for something that no object is.
    rejects_objects: bool,
}

impl Declared {
    fn of<T: DeserializeOwned>() -> Self {
        let mut declared = Self::default();
        // Always an error: only the request for members or variants matters.
        let _ = T::deserialize(&mut declared);
        declared
    }
}

/// Methods that ask for something that no object is.
macro_rules! reject_objects {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.rejects_objects = true;
            Err(Error::custom("no data"))
        }
    )*};
}

/// A deserializer without data, which only records the names that it is asked for.
impl<'de> Deserializer<'de> for &mut Declared {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no data"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.members = Some(fields);
        Err(Error::custom("no data"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.variants = Some(variants);
        Err(Error::custom("no data"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    reject_objects! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_seq
    }

    serde::forward_to_deserialize_any! { option unit_struct map identifier ignored_any }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "the test reads the declaration only")]
    struct Basket {
        owner: String,
        weight: Option<u32>,
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "the test reads the declaration only")]
    enum Change {
        Emptied,
        ItemAdded { item: String },
    }

    #[derive(serde::Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Emptied,
    }

    #[test]
    fn a_struct_declares_member_names_and_a_map_does_not() {
        assert_eq!(member_names::<Basket>(), Some(&["owner", "weight"][..]));
        assert_eq!(member_names::<std::collections::BTreeMap<String, u8>>(), None);
    }

    #[test]
    fn a_variant_declares_its_member_names_even_if_it_has_none() {
        assert_eq!(member_names_of::<Change>("item_added"), Some(&["item"][..]));
        assert_eq!(member_names_of::<Change>("emptied"), Some(&[][..]));
        assert_eq!(member_names_of::<Change>("stolen"), None);
    }

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "the test reads the declaration only")]
    enum Shapes {
        Unit,
        Named { a: u8 },
        Object(Basket),
        Map(std::collections::BTreeMap<String, u8>),
        Anything(serde_json::Value),
        Number(u8),
        Text(String),
        List(Vec<u8>),
        Pair(Basket, Basket),
    }

    #[test]
    fn only_a_variant_that_can_be_an_object_takes_one() {
        let shapes = variant_names::<Shapes>().unwrap();
        let callable: Vec<_> = shapes.iter().filter(|name| takes_object::<Shapes>(name)).collect();
        assert_eq!(callable, [&"Unit", &"Named", &"Object", &"Map", &"Anything"]);
    }

    #[test]
    fn an_enum_declares_its_variant_names_unless_it_has_a_tag() {
        assert_eq!(variant_names::<Change>(), Some(&["emptied", "item_added"][..]));
        assert_eq!(variant_names::<Tagged>(), None);
        assert_eq!(variant_names::<Basket>(), None);
    }
}
