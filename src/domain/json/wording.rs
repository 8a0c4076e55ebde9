//! The errors of serde in the words of JSON: it names the types of Rust.

/// What serde expects, and how a client reads it.
const EXPECTED: [(&str, &str); 24] = [
    ("u8", "a whole number from 0 to 255"),
    ("i8", "a whole number from -128 to 127"),
    ("u16", "a whole number from 0 to 65535"),
    ("i16", "a whole number from -32768 to 32767"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("u64", "a whole number from 0"),
    ("usize", "a whole number from 0"),
    ("u128", "a whole number from 0"),
    ("i64", "a whole number"),
    ("isize", "a whole number"),
    ("i128", "a whole number"),
    ("f32", "a number"),
    ("f64", "a number"),
    ("a nonzero u8", "a whole number from 1 to 255"),
    ("a nonzero u16", "a whole number from 1 to 65535"),
    ("a nonzero u32", "a whole number from 1 to 4294967295"),
    ("a nonzero u64", "a whole number from 1"),
    ("a nonzero usize", "a whole number from 1"),
    ("a character", "a text of one character"),
    ("a sequence", "an array"),
    ("a map", "an object"),
    ("string or map", "a string or an object"),
    ("unit", "null"),
];

/// What serde has found, and how a client reads it.
const FOUND: [(&str, &str); 7] = [
    ("floating point ", ""),
    ("integer ", ""),
    ("boolean ", ""),
    ("string ", ""),
    ("sequence", "an array"),
    ("map", "an object"),
    ("unit value", "null"),
];

/// How serde begins what it expects where JSON has an array.
const ARRAYS: [&str; 3] = ["a tuple ", "tuple struct ", "an array of length "];

/// A message of serde in the words of JSON: `expected a whole number from 1, got 0`.
pub(super) fn plain(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let (Some((_, found)), false) = (found.split_once(": "), expected.starts_with(['`', 'o'])) else {
        return message.to_owned();
    };
    let replacement = FOUND.iter().find_map(|(word, plain)| Some((found.strip_prefix(word)?, plain)));
    let found =
        replacement.map_or_else(|| found.to_owned(), |(rest, plain)| format!("{plain}{}", rest.trim_matches('`')));
    let expected = match EXPECTED.iter().find(|(name, _)| *name == expected) {
        Some((_, plain)) => plain,
        None if expected.starts_with("struct ") => "an object",
        None if ARRAYS.iter().any(|start| expected.starts_with(start)) => "an array",
        None => expected,
    };
    format!("expected {expected}, got {found}")
}

/// Why a text is no JSON: `the text ends within an object at line 1 column 8`.
pub(super) fn malformed(text: &str, error: &str) -> String {
    if text.trim_ascii().is_empty() {
        return "the body is empty; expected JSON".to_owned();
    }
    error.replacen("EOF while parsing ", "the text ends within ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_rust_become_words_of_json() {
        for (message, expected) in [
            ("invalid value: integer `0`, expected a nonzero u64", "expected a whole number from 1, got 0"),
            ("invalid type: floating point `1.5`, expected i64", "expected a whole number, got 1.5"),
            ("invalid type: sequence, expected a string", "expected a string, got an array"),
            ("invalid type: map, expected u8", "expected a whole number from 0 to 255, got an object"),
            (r#"invalid type: string "a, b", expected f64"#, r#"expected a number, got "a, b""#),
            ("invalid type: boolean `true`, expected struct Item", "expected an object, got true"),
            ("invalid type: unit value, expected a tuple of size 2", "expected an array, got null"),
            ("invalid type: map, expected tuple struct Pair", "expected an array, got an object"),
            ("invalid type: string \"x\", expected unit", "expected null, got \"x\""),
            ("unknown variant `x`, expected one of `a`, `b`", "unknown variant `x`, expected one of `a`, `b`"),
            ("unknown variant `x`, expected `a`", "unknown variant `x`, expected `a`"),
            ("the key \"x\" is empty", "the key \"x\" is empty"),
        ] {
            assert_eq!(plain(message), expected);
        }
    }

    #[test]
    fn a_text_that_ends_too_early_is_named_as_that() {
        for (text, expected) in [
            ("", "the body is empty; expected JSON"),
            (" \n", "the body is empty; expected JSON"),
            ("{", "the text ends within an object at line 1 column 1"),
            ("[1", "the text ends within a list at line 1 column 2"),
            ("{x", "key must be a string at line 1 column 2"),
        ] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            assert_eq!(malformed(text, &error.to_string()), expected);
        }
    }
}
