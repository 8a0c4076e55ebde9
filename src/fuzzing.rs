//! What must hold for any bytes: the properties that the fuzz targets in `fuzz/` look for exceptions of, and property tests
//! as well. Each function panics if its property does not hold.

use serde_json::Value;

use crate::domain::cursor::{Cursor, CursorParams};
use crate::domain::json::{JsonError, MAX_DEPTH, check_numbers, parse};
use crate::domain::merge_patch;
use crate::events::line_safe::escape_separators;
use crate::http::query;

/// Reads bytes as the strict reader does. What it accepts is JSON in UTF-8 within the limits; it stays the same when it is
/// written and read again, also as one line.
pub fn json(bytes: &[u8]) {
    let value = match parse(bytes) {
        Ok(value) => value,
        Err(JsonError::Malformed(why)) => return assert!(!why.is_empty()),
        Err(JsonError::Invalid(invalid)) => return assert!(!invalid.detail.is_empty()),
    };
    assert_eq!(serde_json::from_slice::<Value>(bytes).ok(), Some(value.clone()), "another reader reads the same");
    assert!(std::str::from_utf8(bytes).is_ok());
    assert!(depth(&value) <= MAX_DEPTH);
    let mut text = value.to_string();
    assert_eq!(check_numbers(&text), Ok(()), "{text}");
    assert_eq!(parse(text.as_bytes()), Ok(value.clone()), "{text}");
    escape_separators(&mut text, 0);
    assert!(!text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']), "{text}");
    assert_eq!(parse(text.as_bytes()), Ok(value), "{text}");
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Reads bytes as a cursor, wherever a request can have it. A header is never an error; what is a cursor in the query is
/// the same cursor in the header.
pub fn cursor(bytes: &[u8]) {
    let in_header = CursorParams { last_event_id: Some(bytes), ..CursorParams::default() }.cursor();
    assert!(in_header.is_ok());
    let Ok(text) = std::str::from_utf8(bytes) else { return assert_eq!(in_header, Ok(Cursor::Foreign)) };
    let in_query = CursorParams { last_event_id_query: Some(text), ..CursorParams::default() }.cursor();
    match in_query {
        Ok(cursor) => assert_eq!(in_header, Ok(cursor)),
        Err(name) => assert_eq!((name, in_header), ("lastEventId", Ok(Cursor::Foreign))),
    }
    for (revision, epoch) in text.split_once('.').into_iter().chain([(text, ""), ("1", text)]) {
        let header = CursorParams { revision: Some(revision), epoch: Some(epoch), ..CursorParams::default() }.cursor();
        let query =
            CursorParams { revision_query: Some(revision), epoch_query: Some(epoch), ..CursorParams::default() };
        assert_eq!(header.is_ok(), query.cursor().is_ok(), "{revision} {epoch}");
    }
}

/// Parses text as a query. What is accepted has the declared names only.
pub fn query(text: &str) {
    query::check(text);
}

/// Reads bytes as two JSON texts with a line break between them, a state and a patch, or two states. Applying agrees with
/// another implementation of RFC 7396, `apply`, and a computed patch leads from one state to the other.
pub fn merge_patch(bytes: &[u8], apply: impl Fn(&mut Value, &Value)) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let (Some(Ok(one)), Some(Ok(other))) = (lines.next().map(parse), lines.next().map(parse)) else { return };
    let (mut ours, mut theirs) = (one.clone(), one.clone());
    merge_patch::apply(&mut ours, other.clone());
    apply(&mut theirs, &other);
    assert_eq!(ours, theirs);
    // An aggregate has no null, which a patch could not express.
    let (mut before, mut after) = (one, other);
    if merge_patch::strip_nulls(&mut before).is_err() || merge_patch::strip_nulls(&mut after).is_err() {
        return;
    }
    if before.is_null() || after.is_null() {
        return;
    }
    match merge_patch::diff(&before, &after) {
        None => assert_eq!(before, after),
        Some(patch) => {
            apply(&mut before, &patch);
            assert_eq!(before, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Texts that look like JSON, and some that are.
    fn almost_json() -> impl Strategy<Value = Vec<u8>> {
        const PARTS: [&str; 22] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"b\":",
            "null",
            "true",
            "1",
            "-0",
            "0.5",
            "1e9",
            "9007199254740992",
            " ",
            "\\u2028",
            "\\ud800",
            "\u{2028}",
            "\"\u{85}\"",
            "\\",
        ];
        let parts = prop::collection::vec(prop::sample::select(&PARTS[..]), 0..24).prop_map(|parts| parts.concat());
        prop_oneof![
            3 => valid_json().prop_map(|json| json.to_string().into_bytes()),
            3 => parts.prop_map(String::into_bytes),
            2 => (valid_json(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(json, at, byte)| {
                let mut bytes = json.to_string().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            }),
            1 => (0..200_usize).prop_map(|depth| ["[".repeat(depth), "]".repeat(depth)].concat().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    fn valid_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            (-3..4_i64).prop_map(Value::from),
            "[ab\u{85}\u{2028}\u{2029}\\\\\"\n]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc\u{2028}]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn almost_cursor() -> impl Strategy<Value = Vec<u8>> {
        const PARTS: [&str; 14] = [
            "4f9c21aa",
            ".",
            "..",
            "0",
            "8",
            "partial",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "00",
            " ",
            "é",
            "A",
            "",
        ];
        let parts = prop::collection::vec(prop::sample::select(&PARTS[..]), 0..8).prop_map(|parts| parts.concat());
        prop_oneof![parts.prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..16)]
    }

    fn almost_query() -> impl Strategy<Value = String> {
        const PARTS: [&str; 14] =
            ["key", "limit", "=", "&", "%", "%2", "%2F", "%ff", "+", "a", "", "key=", "limit=5", "é"];
        prop::collection::vec(prop::sample::select(&PARTS[..]), 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn json_is_read_the_same_again(bytes in almost_json()) {
            json(&bytes);
        }

        #[test]
        fn a_cursor_is_the_same_wherever_it_is(bytes in almost_cursor()) {
            cursor(&bytes);
        }

        #[test]
        fn a_query_has_declared_parameters_only(text in almost_query()) {
            query(&text);
        }

        #[test]
        fn merge_patches_agree_with_another_implementation(one in almost_json(), other in almost_json()) {
            merge_patch(&[&one[..], &other[..]].join(&b'\n'), json_patch::merge);
        }
    }
}
