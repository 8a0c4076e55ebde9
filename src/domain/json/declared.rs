//! What a type declares about itself by its serde derive, so that nothing is typed twice.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};

use super::Variant;

/// The member names that a struct declares; `None` for a type that takes any (a map, a flattened struct).
pub(crate) fn member_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    Declared::of::<T>().members
}

/// The member names that a variant of an enum declares: none, if it has no fields; `None` for one that takes any.
pub(crate) fn member_names_of<T: DeserializeOwned>(variant: &str) -> Option<&'static [&'static str]> {
    let mut declared = Declared::default();
    drop(T::deserialize(Variant { name: variant, fields: &mut declared }));
    declared.members
}

/// The names of an enum's variants; `None` for a type that is no enum, or one with a tag of its own.
pub(crate) fn variant_names<T: DeserializeOwned>() -> Option<&'static [&'static str]> {
    Declared::of::<T>().variants
}

/// What a type asks for when it is read.
#[derive(Default)]
struct Declared {
    members: Option<&'static [&'static str]>,
    variants: Option<&'static [&'static str]>,
}

impl Declared {
    fn of<T: DeserializeOwned>() -> Self {
        let mut declared = Self::default();
        drop(T::deserialize(&mut declared));
        declared
    }
}

/// A deserializer that has nothing to give, and only looks at what it is asked for.
impl<'de> Deserializer<'de> for &mut Declared {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("nothing here"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.members = Some(fields);
        Err(Error::custom("nothing here"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.variants = Some(variants);
        Err(Error::custom("nothing here"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "only its declaration is looked at")]
    struct Basket {
        owner: String,
        weight: Option<u32>,
    }

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its declaration is looked at")]
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
    fn a_struct_tells_its_member_names_and_a_map_has_none() {
        assert_eq!(member_names::<Basket>(), Some(&["owner", "weight"][..]));
        assert_eq!(member_names::<std::collections::BTreeMap<String, u8>>(), None);
    }

    #[test]
    fn a_variant_tells_its_member_names_also_that_it_has_none() {
        assert_eq!(member_names_of::<Change>("item_added"), Some(&["item"][..]));
        assert_eq!(member_names_of::<Change>("emptied"), Some(&[][..]));
        assert_eq!(member_names_of::<Change>("stolen"), None);
    }

    #[test]
    fn an_enum_tells_the_names_of_its_variants_unless_it_has_a_tag() {
        assert_eq!(variant_names::<Change>(), Some(&["emptied", "item_added"][..]));
        assert_eq!(variant_names::<Tagged>(), None);
        assert_eq!(variant_names::<Basket>(), None);
    }
}
