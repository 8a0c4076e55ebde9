//! JSON that stays one line in every client.
//!
//! JSON escapes U+000A and U+000D in texts. Some clients also end a line at U+0085, U+2028 and U+2029, as Python's
//! `str.splitlines` does, and cut a message there. In JSON, a character and its escape are the same text
//! ([RFC 8259, section 7](https://www.rfc-editor.org/rfc/rfc8259#section-7)).

/// The first bytes of the separators in UTF-8: of U+0085, and of U+2028 and U+2029.
const FIRST_BYTES: (u8, u8) = (0xC2, 0xE2);

/// The separators, each with its escape.
const SEPARATORS: [(&str, &str); 3] = [("\u{85}", "\\u0085"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")];

/// Escapes the separators in the JSON that begins at the byte `start` of `text`.
///
/// The stored text is not changed: what was stored before is escaped as well. Text without the first bytes, such as all of
/// ASCII, costs a search for two bytes.
pub(crate) fn escape_separators(text: &mut String, start: usize) {
    let Some(first) = find(text, start) else { return };
    let tail = text.split_off(first);
    let mut rest = tail.as_str();
    loop {
        let (separator, escape) = separator_at(rest).expect("the search found one here");
        text.push_str(escape);
        rest = &rest[separator.len()..];
        let next = find(rest, 0).unwrap_or(rest.len());
        text.push_str(&rest[..next]);
        rest = &rest[next..];
        if rest.is_empty() {
            return;
        }
    }
}

/// The next separator from a byte on.
fn find(text: &str, start: usize) -> Option<usize> {
    memchr::memchr2_iter(FIRST_BYTES.0, FIRST_BYTES.1, &text.as_bytes()[start..])
        .map(|at| start + at)
        .find(|at| separator_at(&text[*at..]).is_some())
}

fn separator_at(text: &str) -> Option<(&'static str, &'static str)> {
    SEPARATORS.into_iter().find(|(separator, _)| text.starts_with(separator))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn escaped(json: &str) -> String {
        let mut text = format!("id: \u{2028}{json}");
        escape_separators(&mut text, "id: \u{2028}".len());
        text.split_off("id: \u{2028}".len())
    }

    #[test]
    fn only_the_separators_are_escaped() {
        for (json, expected) in [
            ("{}", "{}"),
            ("\"\u{85}\"", r#""\u0085""#),
            ("\"a\u{2028}\u{2029}b\u{2028}\"", r#""a\u2028\u2029b\u2028""#),
            ("\"©\u{84}\u{86}\u{2027}\u{202a}’é🍎\"", "\"©\u{84}\u{86}\u{2027}\u{202a}’é🍎\""),
        ] {
            assert_eq!(escaped(json), expected);
        }
    }

    proptest! {
        #[test]
        fn the_text_means_the_same_and_is_one_line(name in any::<String>(), odd in "[a\u{85}\u{2028}\u{2029}\u{2030}Â]{0,9}") {
            let value = Value::from(name + &odd);
            let json = escaped(&value.to_string());
            prop_assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
            let is_one_line = !json.contains(['\u{85}', '\u{2028}', '\u{2029}']);
            prop_assert!(is_one_line);
        }
    }
}
