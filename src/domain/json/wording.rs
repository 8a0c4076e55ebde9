//! The errors of serde in the words of JSON: it names the types of Rust.

/// What serde expects, and how a client reads it.
const EXPECTED: [(&str, &str); 24] = [
    ("u8", "a whole number from 0 to 255"),
    ("i8", "a whole number from -128 to 127"),
    ("u16", "a whole number from 0 to 65535"),
    ("i16", "a whole number from -32768 to 32767"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("u64", "a whole number, 0 or more"),
    ("usize", "a whole number, 0 or more"),
    ("u128", "a whole number, 0 or more"),
    ("i64", "a whole number"),
    ("isize", "a whole number"),
    ("i128", "a whole number"),
    ("f32", "a number"),
    ("f64", "a number"),
    ("a nonzero u8", "a whole number from 1 to 255"),
    ("a nonzero u16", "a whole number from 1 to 65535"),
    ("a nonzero u32", "a whole number from 1 to 4294967295"),
    ("a nonzero u64", "a whole number, 1 or more"),
    ("a nonzero usize", "a whole number, 1 or more"),
    ("a character", "a text of one character"),
    ("a sequence", "an array"),
    ("a map", "an object"),
    ("string or map", "a string or an object"),
    ("unit", "null"),
];

/// What serde has found, and how a client reads it.
const FOUND: [(&str, &str); 5] = [
    ("floating point `", "number `"),
    ("integer `", "number `"),
    ("sequence", "array"),
    ("map", "object"),
    ("unit value", "null"),
];

/// How serde begins what it expects where JSON has an array.
const ARRAYS: [&str; 3] = ["a tuple ", "tuple struct ", "an array of length "];

/// A message of serde in the words of JSON: `invalid value: number `0`, expected a whole number, 1 or more`.
pub(super) fn plain(message: &str) -> String {
    let Some((found, expected)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let (Some((kind, found)), false) = (found.split_once(": "), expected.starts_with(['`', 'o'])) else {
        return message.to_owned();
    };
    let replacement = FOUND.iter().find_map(|(word, plain)| Some((found.strip_prefix(word)?, plain)));
    let found = replacement.map_or_else(|| found.to_owned(), |(rest, plain)| format!("{plain}{rest}"));
    let expected = match EXPECTED.iter().find(|(name, _)| *name == expected) {
        Some((_, plain)) => plain,
        None if expected.starts_with("struct ") => "an object",
        None if ARRAYS.iter().any(|start| expected.starts_with(start)) => "an array",
        None => expected,
    };
    format!("{kind}: {found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn types_of_rust_become_words_of_json() {
        for (message, expected) in [
            (
                "invalid value: integer `0`, expected a nonzero u64",
                "invalid value: number `0`, expected a whole number, 1 or more",
            ),
            ("invalid type: floating point `1.5`, expected i64", "invalid type: number `1.5`, expected a whole number"),
            ("invalid type: sequence, expected a string", "invalid type: array, expected a string"),
            ("invalid type: map, expected u8", "invalid type: object, expected a whole number from 0 to 255"),
            (r#"invalid type: string "a, b", expected f64"#, r#"invalid type: string "a, b", expected a number"#),
            ("invalid type: boolean `true`, expected struct Item", "invalid type: boolean `true`, expected an object"),
            ("invalid type: unit value, expected a tuple of size 2", "invalid type: null, expected an array"),
            ("invalid type: map, expected tuple struct Pair", "invalid type: object, expected an array"),
            ("invalid type: string \"x\", expected unit", "invalid type: string \"x\", expected null"),
            ("unknown variant `x`, expected one of `a`, `b`", "unknown variant `x`, expected one of `a`, `b`"),
            ("unknown variant `x`, expected `a`", "unknown variant `x`, expected `a`"),
            ("the key \"x\" is empty", "the key \"x\" is empty"),
        ] {
            assert_eq!(plain(message), expected);
        }
    }
}
