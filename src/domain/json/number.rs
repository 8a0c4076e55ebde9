//! The range of numbers: those that every client reads as the same number.

use serde_json::{Number, Value};

use super::ValidationError;

/// The largest integer that is exact in JavaScript, and in everything else that reads numbers as doubles
/// (`Number.MAX_SAFE_INTEGER`; [RFC 8259, section 6](https://www.rfc-editor.org/rfc/rfc8259#section-6)): 2^53 - 1.
pub(crate) const MAX: i64 = (1 << 53) - 1;

/// The smallest double above the range. From there on, a double has no fraction.
const FIRST_INEXACT: f64 = 9_007_199_254_740_992.0;

/// The number of digits of [`MAX`]. A number outside the range has at least as many, or an exponent.
const DIGITS: usize = 16;

/// Rejects a number outside the range; `member` is its path.
pub(super) fn check(number: &Number, member: impl FnOnce() -> String) -> Result<(), ValidationError> {
    let is_exact = match (number.as_i64(), number.as_u64()) {
        (Some(integer), _) => (-MAX..=MAX).contains(&integer),
        (None, Some(_)) => false,
        (None, None) => number.as_f64().is_some_and(|double| double.abs() < FIRST_INEXACT),
    };
    if is_exact { Ok(()) } else { Err(ValidationError::new(member(), detail(number))) }
}

fn detail(number: &Number) -> String {
    format!(
        "expected a number from -{MAX} to {MAX}, which are exact in JavaScript, got {number}; send larger ones as text"
    )
}

/// Rejects JSON text, as this program writes it, that has a number outside the range.
///
/// Looks at few bytes of the text; only one that might have such a number is parsed.
///
/// # Errors
/// Names the member, or says why the text cannot be parsed.
pub(crate) fn check_text(text: &str) -> Result<(), ValidationError> {
    if !may_be_large(text.as_bytes()) {
        return Ok(());
    }
    let unreadable = |error: serde_json::Error| ValidationError::new("", error.to_string());
    let value = serde_json::from_str(text).map_err(unreadable)?;
    check_all(&value, &mut Vec::new())
}

/// Whether a text has as many digits in a row as a large number, or an exponent. Texts within it can have them, too.
fn may_be_large(text: &[u8]) -> bool {
    // As many digits in a row include one of these bytes.
    let has_digits = (DIGITS - 1..text.len()).step_by(DIGITS).any(|at| {
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let before = text[..at].iter().rev().take(DIGITS).take_while(is_digit).count();
        text[at].is_ascii_digit() && before + text[at..].iter().take(DIGITS).take_while(is_digit).count() >= DIGITS
    });
    has_digits || memchr::memchr_iter(b'e', text).any(|at| is_exponent(text, at))
}

/// Whether the `e` at this place is between two digits, with a plus or without. A negative exponent makes a number small.
fn is_exponent(text: &[u8], at: usize) -> bool {
    let is_digit = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_digit);
    let sign = usize::from(text.get(at + 1) == Some(&b'+'));
    is_digit(at.checked_sub(1)) && is_digit(Some(at + 1 + sign))
}

fn check_all<'a>(value: &'a Value, path: &mut Vec<String>) -> Result<(), ValidationError> {
    let mut check_member = |name: String, value: &'a Value| {
        path.push(name);
        check_all(value, path)?;
        path.pop();
        Ok(())
    };
    match value {
        Value::Number(number) => check(number, || path.join(".")),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, item)| check_member(index.to_string(), item))
        }
        Value::Object(members) => members.iter().try_for_each(|(name, value)| check_member(name.clone(), value)),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_outside_the_range_is_named_by_its_path() {
        for (text, member) in [
            ("9007199254740992", ""),
            (r#"{"a":-9007199254740992}"#, "a"),
            (r#"{"a":[1,{"b":18446744073709551615}]}"#, "a.1.b"),
            (r#"{"a":1e16}"#, "a"),
            (r#"{"a":1e+16}"#, "a"),
            (r#"{"a":-6.02e23}"#, "a"),
            (r#"{"a":9007199254740992.0}"#, "a"),
        ] {
            assert_eq!(check_text(text).unwrap_err().member, member, "{text}");
        }
    }

    #[test]
    fn other_numbers_and_all_texts_are_accepted() {
        for text in [
            "9007199254740991",
            "-9007199254740991",
            "0.30000000000000004",
            "5e-324",
            "9007199254740991.0",
            r#"{"18446744073709551615":"18446744073709551615","a":"1e99"}"#,
        ] {
            assert_eq!(check_text(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn a_text_that_cannot_be_searched_is_rejected() {
        let deep = |number: &str| "[".repeat(130) + number + &"]".repeat(130);
        assert!(check_text(&deep("9007199254740992")).is_err());
        assert_eq!(check_text(&deep("1")), Ok(()), "there is nothing to search for");
    }

    proptest! {
        #[test]
        fn every_integer_outside_the_range_is_found_wherever_it_is(
            before in "[ab]{0,20}", number in any::<i64>(), after in "[0-9a]{0,20}",
        ) {
            let text = format!(r#"{{"{before}":{number},"x":"{after}"}}"#);
            prop_assert_eq!(check_text(&text).is_ok(), (-MAX..=MAX).contains(&number));
        }

        #[test]
        fn every_double_outside_the_range_is_found(number in any::<f64>()) {
            if let Some(written) = Number::from_f64(number) {
                prop_assert_eq!(check_text(&format!("[{written}]")).is_ok(), number.abs() < 9_007_199_254_740_992.0);
            }
        }
    }
}
