//! Keys as tokens of a subject, such as `duality.persons.St%2E%20Gallen`.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::domain::key::Key;

/// What NATS gives a meaning, or does not allow, and the escape character itself. Everything but ASCII is encoded anyway.
const RESERVED: &AsciiSet = &CONTROLS.add(b'.').add(b'*').add(b'>').add(b' ').add(b'%');

/// The token of a collection as a whole. The key `_` is encoded.
pub(crate) const WHOLE: &str = "_";

/// The token of an aggregate, or of the collection as a whole.
pub(crate) fn token(key: Option<&Key>) -> String {
    match key.map(Key::as_str) {
        None => WHOLE.to_owned(),
        Some(WHOLE) => "%5F".to_owned(),
        Some(key) => utf8_percent_encode(key, RESERVED).to_string(),
    }
}

/// The key of a token: `Some(None)` for the collection as a whole, `None` if it is not a token of ours.
pub(crate) fn key(token: &str) -> Option<Option<Key>> {
    if token == WHOLE {
        return Some(None);
    }
    let text = percent_decode_str(token).decode_utf8().ok()?;
    Key::parse(&text).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_one_token_and_comes_back() {
        for (text, expected) in [
            ("1", "1"),
            ("St. Gallen", "St%2E%20Gallen"),
            ("a/b", "a/b"),
            ("a.b", "a%2Eb"),
            ("*", "%2A"),
            (">", "%3E"),
            ("_", "%5F"),
            ("__", "__"),
            ("100%", "100%25"),
            ("é", "%C3%A9"),
            ("😀", "%F0%9F%98%80"),
        ] {
            let parsed = Key::parse(text).unwrap();
            assert_eq!(token(Some(&parsed)), expected);
            assert_eq!(key(expected), Some(Some(parsed)));
        }
        let long = Key::parse(&"é".repeat(256)).unwrap();
        assert_eq!(key(&token(Some(&long))), Some(Some(long)));
        assert_eq!((token(None), key("_")), ("_".to_owned(), Some(None)));
        assert_eq!(key("%FF"), None);
    }
}
