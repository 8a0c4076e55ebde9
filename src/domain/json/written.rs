//! Writes JSON text, and notices on the way what a reader could not take as it is.

use std::io;

use serde::Serialize;
use serde::ser::Error as _;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::plain::without_nulls;

/// The levels of objects and arrays that a text may have. `serde_json` reads 127 ([its recursion
/// limit](https://docs.rs/serde_json/1/serde_json/struct.Deserializer.html#method.disable_recursion_limit)), and the messages
/// and pages around a state have a few of their own.
const DEEPEST: usize = 120;

/// The JSON text of a value.
pub(crate) struct WrittenJson {
    pub(crate) text: String,
    /// Whether it has a null anywhere.
    pub(crate) has_null: bool,
    /// Whether a number may be written in another way after it was read.
    has_other_numbers: bool,
}

impl WrittenJson {
    /// The text as it would be if it were read, and written again without the members that are null. `None` if that has to be
    /// done, or is an error.
    pub(crate) fn without_nulls(&self) -> Option<String> {
        if self.has_other_numbers { None } else { without_nulls(&self.text) }
    }
}

/// The JSON text of a value, without spaces.
///
/// # Errors
/// The value cannot be written, or its text has more levels of objects and arrays than can be read again.
pub(crate) fn write(value: &impl Serialize) -> Result<WrittenJson, serde_json::Error> {
    let mut seen = Seen::default();
    let mut bytes = Vec::with_capacity(128);
    value.serialize(&mut Serializer::with_formatter(&mut bytes, &mut seen))?;
    if seen.deepest > DEEPEST {
        let levels = seen.deepest;
        return Err(serde_json::Error::custom(format!(
            "{levels} levels of objects and arrays, of which there may be {DEEPEST}, to be read again"
        )));
    }
    let text = String::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    let Seen { has_null, has_other_numbers, .. } = seen;
    Ok(WrittenJson { text, has_null, has_other_numbers })
}

/// What was written so far.
#[derive(Default)]
struct Seen {
    depth: usize,
    deepest: usize,
    has_null: bool,
    has_other_numbers: bool,
}

impl Seen {
    fn enter(&mut self) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
    }
}

impl Formatter for &mut Seen {
    fn write_null<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.has_null = true;
        writer.write_all(b"null")
    }

    fn write_i128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i128) -> io::Result<()> {
        self.has_other_numbers = true;
        write!(writer, "{value}")
    }

    fn write_u128<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u128) -> io::Result<()> {
        self.has_other_numbers = true;
        write!(writer, "{value}")
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        self.has_other_numbers = true;
        CompactFormatter.write_f32(writer, value)
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter();
        writer.write_all(b"[")
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"]")
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.enter();
        writer.write_all(b"{")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        writer.write_all(b"}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_text_is_that_of_serde_json_and_a_null_is_noticed() {
        for (value, has_null) in [
            (json!({"a":[1,{}],"b":"null","c":[],"d":{"e":true}}), false),
            (json!({"a":[{"b":null}]}), true),
            (json!(null), true),
        ] {
            let written = write(&value).unwrap();
            assert_eq!((written.text, written.has_null), (value.to_string(), has_null));
        }
        assert!(write(&json!({"a":1})).is_ok_and(|written| !written.has_null));
        assert!(write(&[f64::NAN]).unwrap().has_null);
    }

    #[test]
    fn what_is_written_can_be_read_again() {
        let nested = |levels| (1..levels).fold(json!([]), |inner, _| json!([inner]));
        let page = format!(r#"{{"events":[{{"body":{}}}]}}"#, write(&nested(DEEPEST)).unwrap().text);
        assert!(serde_json::from_str::<Value>(&page).is_ok());
        assert!(write(&nested(DEEPEST + 1)).is_err());
    }
}
