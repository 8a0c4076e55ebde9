//! Reads all JSON from clients: stricter than `serde_json`, and with errors that name the invalid member.

mod declared;
mod number;
mod plain;
mod variant;
mod wording;
mod written;

use std::fmt;

pub(crate) use declared::{member_names, member_names_of, takes_object, variant_names};
pub(crate) use number::{MAX as MAX_NUMBER, check_text as check_numbers};
pub(crate) use plain::read as read_plain;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
pub(crate) use variant::{Variant, kebab_case, tagged};
pub(crate) use written::{WrittenJson, write};

use crate::domain::merge_patch;

/// The maximum depth of nested objects and arrays.
pub(crate) const MAX_DEPTH: usize = 64;

/// The error for a null inside an array: a merge patch cannot express it.
pub(crate) const NULL_ELEMENT: &str = "array elements must not be null";

/// Why a body is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonError {
    /// Not valid JSON, or nested deeper than [`MAX_DEPTH`]; the text says where.
    Malformed(String),
    /// Valid JSON with an invalid member.
    Invalid(ValidationError),
}

/// An invalid member of a body, or an invalid body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidationError {
    /// The path of the member, such as `items.apple.price`; empty if the error concerns the whole body.
    pub member: String,
    /// What is wrong, and what was expected: `must not be empty`.
    pub detail: String,
}

impl ValidationError {
    /// An error of the member at the path `member`.
    pub fn new(member: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { member: member.into(), detail: detail.into() }
    }
}

impl fmt::Display for ValidationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.member.as_str() {
            "" => f.write_str(&self.detail),
            member => write!(f, "{member}: {}", self.detail),
        }
    }
}

impl std::error::Error for ValidationError {}

/// Parses one JSON text: UTF-8, no duplicate members, no numbers that JavaScript would change, at most [`MAX_DEPTH`] levels,
/// no trailing characters.
///
/// # Errors
/// See [`JsonError`].
pub(crate) fn parse(text: &[u8]) -> Result<Value, JsonError> {
    let text = std::str::from_utf8(text)
        .map_err(|error| JsonError::Malformed(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let mut position = Position::default();
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict(&mut position).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        position.rejection.unwrap_or_else(|| JsonError::Malformed(wording::malformed(text, &error.to_string())))
    })
}

/// The type of a JSON value, for error messages.
fn kind(json: &Value) -> &'static str {
    match json {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Rejects every value that is not an object.
pub(crate) fn expect_object(json: &Value) -> Result<(), ValidationError> {
    match json {
        Value::Object(_) => Ok(()),
        other => Err(ValidationError::new("", format!("expected a JSON object, got {}", kind(other)))),
    }
}

/// Rejects unknown members, even those that are null, which would otherwise be ignored.
///
/// # Errors
/// Names the member, and lists the known ones.
pub(crate) fn check_names(known: Option<&[&str]>, json: &Value) -> Result<(), ValidationError> {
    let (Some(known), Value::Object(members)) = (known, json) else { return Ok(()) };
    let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) else { return Ok(()) };
    let expected = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(ValidationError::new(unknown.as_str(), format!("unknown member; expected {expected}")))
}

/// Decodes JSON into a typed value. A member that is null counts as absent.
///
/// # Errors
/// Names the member: missing, unknown (at any depth), or of the wrong type.
pub(crate) fn decode<T: DeserializeOwned>(value: Value) -> Result<T, ValidationError> {
    let value = without_nulls(value)?;
    let mut is_known = true;
    // The path of each member is followed only if something is wrong with one.
    match serde_ignored::deserialize(&value, |_| is_known = false) {
        Ok(decoded) if is_known => Ok(decoded),
        _ => typed(value),
    }
}

/// Decodes JSON into a typed value, without the members that the type does not have.
///
/// # Errors
/// Names the member: missing, or of the wrong type.
pub(crate) fn decode_known<T: DeserializeOwned>(value: Value) -> Result<T, ValidationError> {
    read(without_nulls(value)?, &mut |_| {})
}

/// Decodes an enum from the name of a variant and the JSON of its fields. A member that is null counts as absent.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_variant<T: DeserializeOwned>(name: &str, fields: Value) -> Result<T, ValidationError> {
    typed(Variant { name, fields: without_nulls(fields)? })
}

fn without_nulls(mut value: Value) -> Result<Value, ValidationError> {
    merge_patch::strip_nulls(&mut value).map_err(|path| ValidationError::new(path, NULL_ELEMENT))?;
    Ok(value)
}

fn typed<'de, T: DeserializeOwned>(json: impl Deserializer<'de>) -> Result<T, ValidationError> {
    let mut unknown = None;
    let decoded = read(json, &mut |path| unknown = unknown.take().or(Some(path)))?;
    match unknown {
        Some(path) => Err(ValidationError::new(path, "unknown member")),
        None => Ok(decoded),
    }
}

/// Calls `ignored` with the path of each unknown member.
fn read<'de, T: DeserializeOwned>(
    json: impl Deserializer<'de>,
    ignored: &mut dyn FnMut(String),
) -> Result<T, ValidationError> {
    let mut track = serde_path_to_error::Track::new();
    let reader = serde_path_to_error::Deserializer::new(json, &mut track);
    serde_ignored::deserialize(reader, |path| ignored(path_of_ignored(&path)))
        .map_err(|error| invalid_member(path_of_error(&track.path()), &error.to_string()))
}

/// The error at a path. For a missing member, serde reports the path of its object.
fn invalid_member(path: String, detail: &str) -> ValidationError {
    let missing = detail.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    match missing {
        None => ValidationError::new(path, wording::plain(detail)),
        Some(name) if path.is_empty() => ValidationError::new(name, "is missing"),
        Some(name) => ValidationError::new(format!("{path}.{name}"), "is missing"),
    }
}

/// `items.1.price`, from a path of `serde_path_to_error`.
fn path_of_error(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let members: Vec<String> = path
        .iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect();
    members.join(".")
}

/// `items.1.price`, from a path of `serde_ignored`.
fn path_of_ignored(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let (parent, member) = match path {
        Path::Root => return String::new(),
        Path::Seq { parent, index } => (parent, index.to_string()),
        Path::Map { parent, key } => (parent, key.clone()),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            return path_of_ignored(parent);
        }
    };
    match path_of_ignored(parent) {
        head if head.is_empty() => member,
        head => format!("{head}.{member}"),
    }
}

/// The path that the reader has reached, and why it rejected the text there.
#[derive(Default)]
struct Position {
    path: Vec<String>,
    rejection: Option<JsonError>,
}

impl Position {
    /// Stops the reader; the error of serde has no place for ours.
    fn reject<E: serde::de::Error>(&mut self, why: JsonError) -> E {
        self.rejection = Some(why);
        E::custom("rejected")
    }

    fn enter<E: serde::de::Error>(&mut self, member: String) -> Result<(), E> {
        if self.path.len() >= MAX_DEPTH {
            return Err(self.reject(JsonError::Malformed(format!("nested deeper than {MAX_DEPTH} levels"))));
        }
        self.path.push(member);
        Ok(())
    }

    fn number<E: serde::de::Error>(&mut self, number: Number) -> Result<Value, E> {
        match number::check(&number, || self.path.join(".")) {
            Ok(()) => Ok(Value::Number(number)),
            Err(invalid) => Err(self.reject(JsonError::Invalid(invalid))),
        }
    }
}

/// Reads a [`Value`], and rejects what `serde_json` accepts: duplicate members, deep nesting and inexact numbers.
struct Strict<'a>(&'a mut Position);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.0.number(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.0.number(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("number out of range"))?;
        self.0.number(number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            self.0.enter(items.len().to_string())?;
            let item = access.next_element_seed(Strict(self.0))?;
            self.0.path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        self.0.enter(String::new())?;
        self.0.path.pop();
        while let Some(name) = access.next_key::<String>()? {
            self.0.enter(name.clone())?;
            if members.contains_key(&name) {
                let duplicate = ValidationError::new(self.0.path.join("."), "duplicate member");
                return Err(self.0.reject(JsonError::Invalid(duplicate)));
            }
            members.insert(name, access.next_value_seed(Strict(self.0))?);
            self.0.path.pop();
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Basket {
        owner: String,
        weight: Option<u32>,
        items: Option<Vec<Item>>,
    }

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Item {
        price: u32,
    }

    fn rejection(value: Value) -> (String, String) {
        let invalid = decode::<Basket>(value).unwrap_err();
        (invalid.member, invalid.detail)
    }

    #[test]
    fn members_keep_their_order() {
        assert_eq!(
            parse(br#"{"b":1,"a":[true,-2,1.5,"x",null]}"#).unwrap().to_string(),
            r#"{"b":1,"a":[true,-2,1.5,"x",null]}"#
        );
    }

    #[test]
    fn a_text_that_is_not_json_is_malformed() {
        for text in ["", "{", "{}x", "{'a':1}", "[1,]", "nul", "1e999", r#""\ud800""#] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Malformed(_))), "{text}");
        }
        assert_eq!(parse(b"\"\xff\""), Err(JsonError::Malformed("invalid UTF-8 at byte 1".to_owned())));
    }

    #[test]
    fn at_most_sixty_four_levels_are_accepted() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(64).as_bytes()).is_ok());
        assert!(
            matches!(parse(nested(65).as_bytes()), Err(JsonError::Malformed(why)) if why.contains("deeper than 64"))
        );
        let objects =
            |levels: usize| format!("{}{}", r#"{"a":"#.repeat(levels - 1), "{".to_owned() + &"}".repeat(levels));
        assert!(parse(objects(64).as_bytes()).is_ok());
        assert!(parse(objects(65).as_bytes()).is_err());
    }

    #[test]
    fn a_duplicate_member_is_named_by_its_path() {
        let duplicate = JsonError::Invalid(ValidationError::new("a.1.b", "duplicate member"));
        assert_eq!(parse(br#"{"a":[0,{"b":1,"b":1}]}"#), Err(duplicate));
    }

    #[test]
    fn a_number_that_javascript_would_change_is_named_by_its_path() {
        for number in ["9007199254740992", "-9007199254740992", "18446744073709551615", "18446744073709551616", "1e17"]
        {
            let text = format!(r#"{{"a":[0,{{"b":{number}}}]}}"#);
            let invalid = match parse(text.as_bytes()) {
                Err(JsonError::Invalid(invalid)) => invalid,
                other => panic!("{number}: {other:?}"),
            };
            assert_eq!(invalid.member, "a.1.b");
            assert!(invalid.detail.starts_with("expected a number from -9007199254740991 to "), "{}", invalid.detail);
        }
        for number in ["9007199254740991", "-9007199254740991", "0.1", "1e15", "-0"] {
            assert!(parse(number.as_bytes()).is_ok(), "{number}");
        }
    }

    #[test]
    fn a_null_member_counts_as_absent() {
        let basket = decode::<Basket>(json!({"owner":"Ann","weight":null})).unwrap();
        assert_eq!(basket, Basket { owner: "Ann".into(), weight: None, items: None });
        assert_eq!(rejection(json!({"owner":null})), ("owner".into(), "is missing".into()));
    }

    #[test]
    fn an_error_names_the_invalid_member() {
        assert_eq!(rejection(json!({"owner":5})).0, "owner");
        assert_eq!(rejection(json!({"owner":"Ann","items":[{"price":1},{"price":"x"}]})).0, "items.1.price");
        assert_eq!(rejection(json!({"owner":"Ann","items":[{"price":1,"prize":1}]})).0, "items.0.prize");
        assert_eq!(rejection(json!({"owner":"Ann","colour":"red"})).0, "colour");
        assert_eq!(rejection(json!({"owner":"Ann","items":[null]})).0, "items.0");
    }
}
