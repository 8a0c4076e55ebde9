//! JSON text in which nothing needs a closer look, so that a type can be read from it in one pass.
//!
//! The strict reader makes a tree of values first, and knows the path of each. Nearly all texts have nothing to complain
//! about, and are read without either. For all others, the strict reader has the last word.

use serde::de::DeserializeOwned;

use super::MAX_DEPTH;

/// The most members of one object whose names are compared with each other.
const MAX_NAMES: usize = 32;

/// The most digits of a number that is certainly exact.
const MAX_DIGITS: usize = 15;

/// Reads a type from the text of an object, whose members may have the `known` names only. `None` if anything about it is
/// unusual, let alone wrong: nulls, numbers that are long or no integers, escapes in names, many members, members that the
/// type does not have.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8], known: Option<&[&str]>) -> Option<T> {
    if !is_plain(text, known) {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(std::str::from_utf8(text).ok()?);
    let mut is_known = true;
    let value = serde_ignored::deserialize(&mut reader, |_| is_known = false).ok()?;
    reader.end().ok()?;
    is_known.then_some(value)
}

/// Whether a text is that of an object, if it is JSON at all, in which the strict reader finds nothing wrong.
fn is_plain(text: &[u8], known: Option<&[&str]>) -> bool {
    let mut names = Names::default();
    let mut at = skip_spaces(text, 0);
    if text.get(at) != Some(&b'{') {
        return false;
    }
    while let Some(byte) = text.get(at) {
        at = match byte {
            b'{' | b'[' if names.starts.len() < MAX_DEPTH => {
                names.starts.push(names.all.len());
                at + 1
            }
            b'}' | b']' => {
                let Some(start) = names.starts.pop() else { return false };
                names.all.truncate(start);
                at + 1
            }
            b'"' => {
                let Some(length) = memchr::memchr2(b'"', b'\\', &text[at + 1..]) else { return false };
                let end = at + 1 + length;
                let next = skip_spaces(text, end + 1);
                if text[end] == b'\\' {
                    // Names have no escapes; whether this is one shows at its end.
                    match end_of_value(text, at) {
                        Some(end) => end,
                        None => return false,
                    }
                } else if text.get(next) == Some(&b':') {
                    if !names.add(&text[at + 1..end], known) {
                        return false;
                    }
                    next + 1
                } else {
                    end + 1
                }
            }
            b'1'..=b'9' => {
                let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let is_integer = !matches!(text.get(at + digits), Some(b'.' | b'e' | b'E'));
                if digits > MAX_DIGITS || !is_integer {
                    return false;
                }
                at + digits
            }
            b'0' if !matches!(text.get(at + 1), Some(b'0'..=b'9' | b'.' | b'e' | b'E')) => at + 1,
            b'-' if matches!(text.get(at + 1), Some(b'1'..=b'9')) => at + 1,
            b' ' | b'\t' | b'\n' | b'\r' | b',' => at + 1,
            b't' if text[at..].starts_with(b"true") => at + 4,
            b'f' if text[at..].starts_with(b"false") => at + 5,
            _ => return false,
        };
    }
    names.starts.is_empty()
}

fn skip_spaces(text: &[u8], at: usize) -> usize {
    at + text[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count()
}

/// The end of a string with escapes that is a value.
fn end_of_value(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            break;
        }
        // The byte after a backslash is not the end.
        at += 2;
    }
    (text.get(skip_spaces(text, at + 1)) != Some(&b':')).then_some(at + 1)
}

/// The names of the members of all objects that are open.
#[derive(Default)]
struct Names<'a> {
    all: Vec<&'a [u8]>,
    /// Where those of each object or array begin.
    starts: Vec<usize>,
}

impl<'a> Names<'a> {
    /// Adds a name to the innermost object, unless it has it already, or too many. Those of the outermost one have to be known.
    fn add(&mut self, name: &'a [u8], known: Option<&[&str]>) -> bool {
        let is_known =
            self.starts.len() > 1 || known.is_none_or(|known| known.iter().any(|one| one.as_bytes() == name));
        let here = &self.all[self.starts.last().copied().unwrap_or(0)..];
        if !is_known || here.len() >= MAX_NAMES || here.contains(&name) {
            return false;
        }
        self.all.push(name);
        true
    }
}

/// Compact JSON text without its members that are null. `None` if it is not certain that a reader which leaves them out would
/// write the same: there is a null in an array, or an object with many members or with a name twice.
pub(super) fn without_nulls(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut names = Names::default();
    let mut kept = String::with_capacity(text.len());
    // What is before this is kept or left out already.
    let (mut at, mut done) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        at = match byte {
            b'{' | b'[' => {
                names.starts.push(names.all.len());
                at + 1
            }
            b'}' | b']' => {
                names.all.truncate(names.starts.pop()?);
                at + 1
            }
            b'"' => {
                let length = memchr::memchr2(b'"', b'\\', &bytes[at + 1..])?;
                let end = at + 1 + length;
                if bytes[end] == b'\\' {
                    end_of_value(bytes, at)?
                } else if bytes.get(end + 1) != Some(&b':') {
                    end + 1
                } else if !names.add(&bytes[at + 1..end], None) {
                    return None;
                } else if bytes[end + 2..].starts_with(b"null") {
                    kept.push_str(text.get(done..at)?);
                    done = end + 2 + "null".len();
                    // The comma before it goes, or, for the first member, the one after it.
                    if kept.ends_with(',') {
                        kept.pop();
                    } else if bytes.get(done) == Some(&b',') {
                        done += 1;
                    }
                    done
                } else {
                    end + 2
                }
            }
            b'n' => return None,
            _ => at + 1,
        };
    }
    kept.push_str(text.get(done..)?);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::json::{check_names, decode, expect_object, member_names, parse};
    use crate::domain::merge_patch::strip_nulls;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Basket {
        owner: String,
        #[serde(default)]
        count: i32,
        items: Option<Vec<Item>>,
        #[serde(default)]
        more: std::collections::BTreeMap<String, Value>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Item {
        price: u32,
    }

    /// What the strict reader makes of a text.
    fn strictly(text: &str) -> Option<Basket> {
        let value = parse(text.as_bytes()).ok()?;
        expect_object(&value).ok()?;
        check_names(member_names::<Basket>(), &value).ok()?;
        decode(value).ok()
    }

    fn quickly(text: &str) -> Option<Basket> {
        read(text.as_bytes(), member_names::<Basket>())
    }

    #[test]
    fn what_a_client_usually_sends_is_plain() {
        for text in [
            r#"{"owner":"Ann"}"#,
            r#" { "owner" : "A\"nn\\" , "count" : -12 , "items" : [ { "price" : 0 } , {"price":1} ] } "#,
            r#"{"owner":"null","more":{"a":true,"b":[false,123456789012345],"owner":{}}}"#,
        ] {
            assert!(quickly(text).is_some(), "{text}");
            assert_eq!(quickly(text), strictly(text));
        }
    }

    #[test]
    fn what_needs_a_closer_look_is_not() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"owner":"Ann"}}"#,
            r#"{"owner":"Ann"} {}"#,
            r#"{"owner":"Ann","owner":"Bob"}"#,
            r#"{"owner":"Ann","more":{"a":1,"a":2}}"#,
            r#"{"owner":"Ann","more":{"a":1,"\u0061":2}}"#,
            r#"{"owner":"Ann","count":null}"#,
            r#"{"owner":"Ann","more":{"a":9007199254740992}}"#,
            r#"{"owner":"Ann","more":{"a":-9007199254740992}}"#,
            r#"{"owner":"Ann","more":{"a":1e3}}"#,
            r#"{"owner":"Ann","more":{"a":-0}}"#,
            r#"{"owner":"Ann","hat":1}"#,
            r#"{"owner":"Ann","items":[{"price":1,"prize":2}]}"#,
        ] {
            assert!(quickly(text).is_none(), "{text}");
        }
        let deep = format!(r#"{{"owner":"Ann","more":{{"a":{}{}}}}}"#, "[".repeat(63), "]".repeat(63));
        assert!(quickly(&deep).is_none() && strictly(&deep).is_none());
    }

    fn pieces() -> impl Strategy<Value = String> {
        const PIECES: [&str; 24] = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "true",
            "false",
            "0",
            "-0",
            "-1",
            "17",
            "1.5",
            "1e9",
            "9007199254740992",
            "\"owner\":\"Ann\"",
            "\"owner\"",
            "\"count\":",
            "\"items\":[{\"price\":1}]",
            "\"more\":{",
            "\"a\"",
            "\"\\n\\\"\"",
            " ",
        ];
        prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..14).prop_map(|pieces| pieces.concat())
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            3 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<f64>().prop_map(Value::from),
            2 => "[a-c\"\\\\,:{}n]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                3 => prop::collection::vec(("[a-c\"]{0,2}", inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_quickly_is_read_the_same_strictly(inner in pieces(), whole in pieces()) {
            for text in [format!("{{\"owner\":\"Ann\",{inner}}}"), format!("{{{inner}}}"), whole] {
                if let Some(quickly) = quickly(&text) {
                    prop_assert_eq!(Some(quickly), strictly(&text), "{}", text);
                }
            }
        }

        #[test]
        fn nulls_are_left_out_as_from_a_value(value in values()) {
            let mut stripped = value.clone();
            let expected = strip_nulls(&mut stripped).is_ok().then(|| stripped.to_string());
            let found = without_nulls(&value.to_string());
            prop_assert!(found.is_none() || found == expected, "{} {:?}", value, found);
        }
    }

    #[test]
    fn members_that_are_null_are_left_out_wherever_they_are() {
        for (value, expected) in [
            (json!({"a":null}), "{}"),
            (json!({"a":null,"b":1,"c":null}), r#"{"b":1}"#),
            (json!({"a":null,"b":null,"c":{"d":null},"e":[{"f":null,"g":"null,"}]}), r#"{"c":{},"e":[{"g":"null,"}]}"#),
            (json!({"a":"\"","b":null}), r#"{"a":"\""}"#),
        ] {
            assert_eq!(without_nulls(&value.to_string()).as_deref(), Some(expected));
        }
        assert_eq!(without_nulls(r#"{"a":null,"a":1}"#), None);
        assert_eq!(without_nulls(r#"{"a":[null]}"#), None);
    }
}
