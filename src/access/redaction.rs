//! Texts of clients without the tokens in them: a client may put one into a URL, where it does not belong, and logs and
//! problems repeat URLs.

use std::borrow::Cow;

use super::token::PREFIX;

/// The fewest digits that count as those of a token or of a ticket. Fewer say too little of one.
const MIN_DIGITS: usize = 16;

/// A secret in a text that may be percent-encoded.
struct Found {
    /// The bytes of its beginning, which is the same in all of them.
    prefix: usize,
    /// All of its bytes.
    length: usize,
}

/// A text with `…` in the place of the digits of tokens and tickets.
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let (mut shown, mut copied, mut at) = (String::new(), 0, 0);
    while at < bytes.len() {
        let Some(Found { prefix, length }) = found_at(&bytes[at..]) else {
            at += 1;
            continue;
        };
        shown.push_str(&text[copied..at + prefix]);
        shown.push('…');
        at += length;
        copied = at;
    }
    if copied == 0 {
        return text.into();
    }
    shown.push_str(&text[copied..]);
    shown.into()
}

/// The secret at the beginning of a text, if there is one.
fn found_at(text: &[u8]) -> Option<Found> {
    let mut length = 0;
    for expected in PREFIX.bytes() {
        let (byte, taken) = first(&text[length..])?;
        if !byte.eq_ignore_ascii_case(&expected) {
            return None;
        }
        length += taken;
    }
    let (prefix, mut digits) = (length, 0);
    while let Some((byte, taken)) = first(&text[length..])
        && byte.is_ascii_hexdigit()
    {
        length += taken;
        digits += 1;
    }
    (digits >= MIN_DIGITS).then_some(Found { prefix, length })
}

/// The first byte of a text, decoded, and how many bytes stand for it.
fn first(text: &[u8]) -> Option<(u8, usize)> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match text {
        [b'%', high, low, ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => Some((high << 4 | low, 3)),
            _ => Some((b'%', 1)),
        },
        [byte, ..] => Some((*byte, 1)),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_tokens_are_left_out_and_nothing_else_is() {
        let digits = "09af".repeat(16);
        let encoded: String = digits.bytes().map(|digit| format!("%{digit:02X}")).collect();
        for (text, expected) in [
            (String::new(), ""),
            ("/persons/1?key=é".to_owned(), "/persons/1?key=é"),
            (format!("duality_{digits}"), "duality_…"),
            (format!("é=duality_{digits}é"), "é=duality_…é"),
            (format!("a=duality_{digits}&b=duality_{digits}"), "a=duality_…&b=duality_…"),
            (format!("duality%5F{digits}"), "duality%5F…"),
            (format!("%64u%61lity%5f{encoded}/events"), "%64u%61lity%5f…/events"),
            (format!("DUALITY_{}", digits.to_uppercase()), "DUALITY_…"),
            (format!("duality_{}", &digits[..16]), "duality_…"),
            (format!("duality_{}", &digits[..15]), "duality_09af09af09af09a"),
            ("duality_added,duality_%zz,%,duality".to_owned(), "duality_added,duality_%zz,%,duality"),
            (digits.clone(), &digits),
        ] {
            assert_eq!(without_secrets(&text), expected);
        }
    }
}
