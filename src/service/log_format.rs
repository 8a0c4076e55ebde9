//! The two forms of a line of the log.

use std::fmt;
use std::io::{self, Write as _};

use env_logger::fmt::Formatter;
use log::Record;
use log::kv::{self, Key, Source, VisitSource, VisitValue};
use serde_json::{Map, Value};

use crate::http::request_id::with_current;

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// `[2026-11-22T08:30:00Z INFO  duality::service] stopped`, and the fields of the line as `name=value`.
    #[default]
    Plain,
    /// An object in each line, with `time`, `level`, `target`, `message`, and the fields of the line.
    Json,
}

impl LogFormat {
    /// The form with this name.
    ///
    /// # Errors
    /// What was expected.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err("expected plain or json".to_owned()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Json => "json",
        })
    }
}

/// The field with the id of a request.
const REQUEST: &str = "request";

/// Writes the fields of a plain line, and the id of the request that is being answered.
pub(super) fn write_fields(out: &mut Formatter, source: &dyn Source) -> io::Result<()> {
    for (name, value) in fields(source) {
        match value {
            Value::String(text) => write!(out, " {name}={text}")?,
            value => write!(out, " {name}={value}")?,
        }
    }
    Ok(())
}

/// Writes a line as a JSON object.
pub(super) fn write_json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut line = Map::new();
    line.insert("time".to_owned(), out.timestamp_millis().to_string().into());
    line.insert("level".to_owned(), record.level().as_str().to_lowercase().into());
    line.insert("target".to_owned(), record.target().into());
    line.insert("message".to_owned(), record.args().to_string().into());
    for (name, value) in fields(record.key_values()) {
        line.entry(name).or_insert(value);
    }
    writeln!(out, "{}", Value::Object(line))
}

/// The fields of a line that have a value. The last one is the id of the request, if the thread is answering one.
fn fields(source: &dyn Source) -> Map<String, Value> {
    let mut fields = Fields(Map::new());
    // It only fails if a visit does.
    let _ = source.visit(&mut fields);
    let Fields(mut fields) = fields;
    if !fields.contains_key(REQUEST) {
        fields.extend(with_current(|id| (REQUEST.to_owned(), id.into())));
    }
    fields
}

/// Collects fields.
struct Fields(Map<String, Value>);

impl<'a> VisitSource<'a> for Fields {
    fn visit_pair(&mut self, key: Key<'a>, value: kv::Value<'a>) -> Result<(), kv::Error> {
        let mut json = Json(Value::Null);
        value.visit(&mut json)?;
        if !json.0.is_null() {
            self.0.insert(key.to_string(), json.0);
        }
        Ok(())
    }
}

/// A value as JSON: a number, a truth value, or a text.
struct Json(Value);

impl VisitValue<'_> for Json {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.0 = value.to_string().into();
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_json_and_those_without_a_value_are_left_out() {
        let (bytes, none) = (Some(7_u64), None::<u64>);
        let source = [
            ("text", kv::Value::from("a b")),
            ("bytes", kv::ToValue::to_value(&bytes)),
            ("none", kv::ToValue::to_value(&none)),
            ("is", kv::Value::from(true)),
            ("less", kv::Value::from(-1_i64)),
        ];
        let fields = fields(&&source[..]);
        assert_eq!(Value::Object(fields), json!({"text": "a b", "bytes": 7, "is": true, "less": -1}));
    }

    #[test]
    fn a_form_has_a_name() {
        for form in [LogFormat::Plain, LogFormat::Json] {
            assert_eq!(LogFormat::parse(&form.to_string()), Ok(form));
        }
        assert_eq!(LogFormat::parse("xml").unwrap_err(), "expected plain or json");
    }
}
