//! The state of one aggregate as JSON text, and the merge patch between two states.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::domain::json::{self, NULL_ELEMENT, ValidationError, WrittenJson};
use crate::domain::merge_patch;
use crate::domain::text_diff::{self, NotCompact};

/// The state of one aggregate as JSON text: stored, and sent to clients, byte for byte.
///
/// Contains no null inside an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body(Arc<str>);

impl Body {
    /// A body that was read from the database.
    pub(crate) fn from_db(text: String) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The length of the text, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }

    /// The JSON text of an aggregate, without members that are null.
    ///
    /// # Errors
    /// It cannot be written, is nested too deep to be read again, or has a null inside an array.
    pub(super) fn encode<T: Serialize>(aggregate: &T) -> Result<Self, ValidationError> {
        Encoded::of(aggregate).map(|encoded| encoded.body)
    }

    /// Whether it is the same text in memory, not only an equal one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The typed aggregate.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, CorruptState> {
        serde_json::from_str(&self.0).map_err(|error| {
            CorruptState(format!("a stored state is not a valid {}: {error}", std::any::type_name::<T>()))
        })
    }

    /// The aggregate as untyped JSON.
    pub(crate) fn value(&self) -> Result<Value, CorruptState> {
        self.decode()
    }
}

/// A state that was encoded just now.
pub(super) struct Encoded {
    pub(super) body: Body,
    /// Whether members were left out, so that it may be read as another value, or not at all.
    pub(super) lacks_nulls: bool,
}

impl Encoded {
    /// As [`Body::encode`].
    pub(super) fn of<T: Serialize>(aggregate: &T) -> Result<Self, ValidationError> {
        let unreadable = |error: serde_json::Error| ValidationError::new("", error.to_string());
        let written: WrittenJson = json::write(aggregate).map_err(unreadable)?;
        if !written.has_null {
            return Ok(Self { body: Body(written.text.into()), lacks_nulls: false });
        }
        if let Some(text) = written.without_nulls() {
            return Ok(Self { body: Body(text.into()), lacks_nulls: true });
        }
        let mut value: Value = serde_json::from_str(&written.text).map_err(unreadable)?;
        merge_patch::strip_nulls(&mut value).map_err(|path| ValidationError::new(path, NULL_ELEMENT))?;
        Ok(Self { body: Body(value.to_string().into()), lacks_nulls: true })
    }
}

/// The merge patch from one state of an aggregate to another, as JSON text; `None` if they are equal.
pub(crate) fn patch(before: Option<&Body>, after: Option<&Body>) -> Result<Option<String>, CorruptState> {
    Ok(match (before, after) {
        (None, None) => None,
        (Some(_), None) => Some("null".to_owned()),
        (None, Some(after)) => Some(after.as_str().to_owned()),
        (Some(before), Some(after)) if before == after => None,
        (Some(before), Some(after)) => match text_diff::diff(before.as_str(), after.as_str()) {
            Ok(patch) => patch,
            Err(NotCompact) => merge_patch::diff(&before.value()?, &after.value()?).map(|patch| patch.to_string()),
        },
    })
}

/// Stored data cannot be decoded or replayed; the text says why.
#[derive(Debug)]
pub(crate) struct CorruptState(String);

impl CorruptState {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for CorruptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_a_round_trip_exactly() {
        // Otherwise a state would differ from the fold of its events, and an empty patch would be a change.
        for number in (1..10_000_u32).map(|number| f64::from(number).sqrt() * 1e-30) {
            assert_eq!(Body::encode(&number).unwrap().decode::<f64>().unwrap().to_bits(), number.to_bits());
        }
    }

    #[test]
    fn a_null_member_is_not_stored() {
        let body = Body::encode(&serde_json::json!({"name":"null","city":null})).unwrap();
        assert_eq!(body.as_str(), r#"{"name":"null"}"#);
    }
}
