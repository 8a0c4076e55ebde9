//! Keys of aggregates, and of members inside aggregates that come from user data.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use crate::domain::clock::Timestamp;

/// The key of an aggregate in its collection, or of a member of an object inside it that comes from user data.
///
/// 1 to 512 bytes of UTF-8 without control characters; not `.` or `..`, which URL parsers remove, and not one of the names
/// that JavaScript objects inherit, which merge-patch libraries drop or fail on. Keys are compared bytewise, without
/// normalisation or case folding. Their order is the order in bodies: canonical integers first, by value, then all others
/// bytewise.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

/// The index of a collection in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CollectionId(usize);

impl CollectionId {
    /// In place of a collection that was dropped, which has no index: its name is the key, as that of a member of the document.
    pub(crate) const DROPPED: Self = Self(usize::MAX);

    /// The collection at this index, counted from 0.
    pub(super) fn at(index: usize) -> Self {
        Self(index)
    }

    /// The index, counted from 0.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// Why a text is not a valid [`Key`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidKey(&'static str);

/// The maximum length of a key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// Keys that URL parsers remove, or that JavaScript objects inherit.
const LOST_BY_CLIENTS: [&str; 6] = [".", "..", "__proto__", "constructor", "prototype", "hasOwnProperty"];

/// The rank of a key that is not a canonical integer; above every possible number of digits.
const RANK_OF_TEXT: i32 = 1000;

impl Key {
    /// Parses a key.
    ///
    /// # Errors
    /// Names the rule that the text violates.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let reason = match text {
            "" => "is empty",
            "." | ".." => "is `.` or `..`, which URL parsers remove",
            "__proto__" | "constructor" | "prototype" | "hasOwnProperty" => {
                "is a name that JavaScript objects inherit, which merge-patch libraries drop"
            }
            _ if text.len() > MAX_KEY_BYTES => "is longer than 512 bytes",
            _ if text.chars().any(char::is_control) => "contains a control character",
            _ => return Ok(Self(text.into())),
        };
        Err(InvalidKey(reason))
    }

    /// The key that a sequence assigns to its `number`th aggregate.
    #[must_use]
    pub fn of_number(number: i64) -> Self {
        Self(number.to_string().into())
    }

    /// A new, unique key: a uuid of version 7 ([RFC 9562](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)),
    /// so that keys of later times sort after earlier ones.
    #[must_use]
    pub fn uuid(now: Timestamp) -> Self {
        let mut random = [0; 10];
        getrandom::fill(&mut random)
            .expect("the operating system provides random numbers, as it did for the epoch at start");
        let milliseconds = u64::try_from(now.milliseconds()).unwrap_or_default();
        let uuid = uuid::Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid();
        Self(uuid.hyphenated().to_string().into())
    }

    /// Whether it is a uuid in the form of [`Key::uuid`]: lower-case, with hyphens; of any version.
    #[must_use]
    pub fn is_uuid(&self) -> bool {
        uuid::Uuid::try_parse(self.as_str()).is_ok_and(|uuid| uuid.hyphenated().to_string() == self.as_str())
    }

    /// A key from the database, which was checked when it was stored.
    pub(crate) fn from_db(text: &str) -> Self {
        Self(text.into())
    }

    /// The text of the key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of digits of a canonical integer, or [`RANK_OF_TEXT`]: keys sorted by rank, then bytewise, are in the order
    /// of bodies.
    pub(crate) fn rank(&self) -> i32 {
        let text = self.as_str().as_bytes();
        let canonical = text.iter().all(u8::is_ascii_digit) && (text == b"0" || text[0] != b'0');
        if canonical { i32::try_from(text.len()).unwrap_or(RANK_OF_TEXT) } else { RANK_OF_TEXT }
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::parse(text)
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.rank(), self.as_str()).cmp(&(other.rank(), other.as_str()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|invalid| D::Error::custom(format!("the key {text:?} {invalid}")))
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A key: 1 to 512 bytes of UTF-8 without control characters, and not a name that clients lose.",
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_KEY_BYTES,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
            "not": {"enum": LOST_BY_CLIENTS},
        })
    }
}

impl fmt::Display for InvalidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; a key is 1 to {MAX_KEY_BYTES} bytes of UTF-8 without control characters", self.0)
    }
}

impl std::error::Error for InvalidKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_clients_would_lose_are_rejected() {
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        for text in ["", "a\nb", "\u{85}", &long].into_iter().chain(LOST_BY_CLIENTS) {
            assert!(Key::parse(text).is_err(), "{text:?} must be rejected");
        }
    }

    #[test]
    fn any_other_text_is_a_valid_key_and_stays_unchanged() {
        let longest = "x".repeat(MAX_KEY_BYTES);
        for text in ["a/b", "a%2Fb", "🍎", "...", " ", "e\u{301}", "\u{e9}", "__proto", &longest] {
            assert_eq!(Key::parse(text).unwrap().as_str(), text);
        }
        assert_ne!(Key::parse("e\u{301}"), Key::parse("\u{e9}"));
    }

    #[test]
    fn a_uuid_has_one_form_and_sorts_by_time() {
        let earlier = Key::uuid(Timestamp::from_milliseconds(1));
        let later = Key::uuid(Timestamp::from_milliseconds(2));
        assert!(earlier.is_uuid() && earlier < later);
        assert_eq!(earlier.as_str().as_bytes()[14], b'7');
        assert!(Key::from_db("0193a5b0-7b2c-7def-8000-123456789abc").is_uuid());
        for text in ["1", "0193A5B0-7b2c-7def-8000-123456789abc", "0193a5b07b2c7def8000123456789abc"] {
            assert!(!Key::from_db(text).is_uuid(), "{text}");
        }
    }

    #[test]
    fn integers_come_first_by_value_then_all_others_bytewise() {
        let mut keys: Vec<_> =
            ["b", "10", "9", "010", "B", "0", "-1", "100"].map(|text| Key::parse(text).unwrap()).into();
        keys.sort();
        let sorted: Vec<_> = keys.iter().map(Key::as_str).collect();
        assert_eq!(sorted, ["0", "9", "10", "100", "-1", "010", "B", "b"]);
    }
}
