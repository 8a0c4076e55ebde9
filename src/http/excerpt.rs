//! Excerpts of texts that clients have sent: a problem does not send a megabyte back.

use std::borrow::Cow;

use serde_json::Value;

use crate::access::redaction::without_secrets;

/// The most of a text that a problem repeats, in bytes; a key has 512, and may be percent-encoded.
const MAX_TEXT: usize = 2048;

/// A text without its middle, if it is long: its beginning may be sent by a client, and its end say what was expected. The
/// digits of a token that was sent in the wrong place are not repeated.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    match without_secrets(text) {
        Cow::Borrowed(text) => cut(text),
        Cow::Owned(text) => cut(&text).into_owned().into(),
    }
}

fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let boundary = |at: &usize| text.is_char_boundary(*at);
    let first = (0..=MAX_TEXT / 2).rev().find(boundary).unwrap_or(0);
    let last = (text.len() - MAX_TEXT / 2..text.len()).find(boundary).unwrap_or(text.len());
    format!("{} … {}", &text[..first], &text[last..]).into()
}

/// A value with excerpts of its texts.
pub(super) fn excerpt_of(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(excerpt(text)),
        Value::Array(list) => list.iter().map(excerpt_of).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (excerpt(name).into_owned(), excerpt_of(value))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        for text in ["", "short", &"x".repeat(MAX_TEXT), &"é".repeat(MAX_TEXT / 2)] {
            assert_eq!(excerpt(text), text);
        }
        for long in ["x".repeat(1 << 20), "🍎".repeat(1 << 18), "é".repeat(MAX_TEXT)] {
            let text = format!("begin{long}: unknown member; expected name");
            let excerpt = excerpt(&text);
            assert!(excerpt.len() <= MAX_TEXT + " … ".len(), "{}", excerpt.len());
            assert!(excerpt.starts_with("begin") && excerpt.ends_with(": unknown member; expected name"), "{excerpt}");
        }
    }

    #[test]
    fn every_text_in_a_value_is_cut() {
        let long = "x".repeat(1 << 20);
        let value = json!({"a": [long, {"b": long}, 1, null], &long: true});
        assert!(excerpt_of(&value).to_string().len() < 4 * MAX_TEXT);
        let short = json!({"a": ["x", {"b": 1.5}], "c": null});
        assert_eq!(excerpt_of(&short), short);
    }
}
