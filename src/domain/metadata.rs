//! Who caused a write, and why: what the journal and the outbox keep beside it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::unique_id::UniqueId;

/// The most characters of each part of [`Metadata`].
pub const MAX_METADATA_LENGTH: usize = 128;

/// The actor of what the service writes by itself, such as at a start with a changed registration.
pub(crate) const SERVICE: &str = "duality";

/// Who caused a write, and why. Each part is a text of 1 to [`MAX_METADATA_LENGTH`] visible ASCII characters, or is not
/// known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlation: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causation: Option<Box<str>>,
}

impl Metadata {
    /// Metadata with a new correlation, as for a request that sends none.
    #[must_use]
    pub fn new() -> Self {
        Self { correlation: Some(UniqueId::new().as_str().into()), ..Self::default() }
    }

    /// The metadata of what the service writes by itself.
    pub(crate) fn of_service() -> Self {
        Self { actor: Some(SERVICE.into()), ..Self::default() }
    }

    /// Who caused the write: over HTTP, the name of the token.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.actor.as_deref()
    }

    /// What the write belongs to: everything with the same correlation follows from one thing that happened elsewhere.
    #[must_use]
    pub fn correlation(&self) -> Option<&str> {
        self.correlation.as_deref()
    }

    /// What directly caused the write, such as the id of a message.
    #[must_use]
    pub fn causation(&self) -> Option<&str> {
        self.causation.as_deref()
    }

    /// The same with this actor.
    ///
    /// # Errors
    /// See [`InvalidMetadata`].
    pub fn with_actor(self, actor: &str) -> Result<Self, InvalidMetadata> {
        Ok(Self { actor: Some(checked("actor", actor)?), ..self })
    }

    /// The same with this correlation.
    ///
    /// # Errors
    /// See [`InvalidMetadata`].
    pub fn with_correlation(self, correlation: &str) -> Result<Self, InvalidMetadata> {
        Ok(Self { correlation: Some(checked("correlation", correlation)?), ..self })
    }

    /// The same with this causation.
    ///
    /// # Errors
    /// See [`InvalidMetadata`].
    pub fn with_causation(self, causation: &str) -> Result<Self, InvalidMetadata> {
        Ok(Self { causation: Some(checked("causation", causation)?), ..self })
    }

    /// The form in which it is stored; `None` if nothing is known.
    pub(crate) fn stored(&self) -> Option<StoredMetadata> {
        // Each write does this, so it is not left to serde_json, which takes several times as long.
        let parts = [("actor", &self.actor), ("correlation", &self.correlation), ("causation", &self.causation)];
        let mut text = String::with_capacity(ROOM);
        for (name, value) in parts {
            let Some(value) = value else { continue };
            text.push_str(if text.is_empty() { "{\"" } else { ",\"" });
            text.push_str(name);
            text.push_str("\":\"");
            push_escaped(&mut text, value);
            text.push('"');
        }
        if text.is_empty() {
            return None;
        }
        text.push('}');
        Some(StoredMetadata(text.into()))
    }
}

/// The room for the JSON of an actor and a correlation, in bytes.
const ROOM: usize = 96;

/// Writes visible ASCII characters as a part of a JSON string: only two of them stand for something else there.
fn push_escaped(text: &mut String, value: &str) {
    if memchr::memchr2(b'"', b'\\', value.as_bytes()).is_none() {
        return text.push_str(value);
    }
    for character in value.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
}

/// Whether a text can be a part of [`Metadata`].
pub(crate) fn is_well_formed(text: &[u8]) -> bool {
    // Counted, not searched: that looks at many characters at a step.
    (1..=MAX_METADATA_LENGTH).contains(&text.len()) && text.iter().filter(|byte| !byte.is_ascii_graphic()).count() == 0
}

fn checked(part: &'static str, text: &str) -> Result<Box<str>, InvalidMetadata> {
    if is_well_formed(text.as_bytes()) { Ok(text.into()) } else { Err(InvalidMetadata(part)) }
}

/// A part of [`Metadata`] is empty, too long, or has other characters than visible ones of ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidMetadata(&'static str);

impl fmt::Display for InvalidMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected 1 to {MAX_METADATA_LENGTH} visible ASCII characters", self.0)
    }
}

impl std::error::Error for InvalidMetadata {}

/// [`Metadata`] as the journal and the outbox have it: a JSON object. All events of a command share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMetadata(Arc<str>);

impl StoredMetadata {
    /// A text from the database.
    pub(crate) fn from_db(text: &str) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts.
    ///
    /// # Errors
    /// It is not what this program stores.
    pub(crate) fn parts(&self) -> serde_json::Result<Metadata> {
        serde_json::from_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_1_to_128_visible_ascii_characters() {
        let longest = "x".repeat(MAX_METADATA_LENGTH);
        let too_long = "x".repeat(MAX_METADATA_LENGTH + 1);
        for (text, is_valid) in [
            ("x", true),
            ("!\"\\~", true),
            (longest.as_str(), true),
            ("", false),
            (too_long.as_str(), false),
            ("a b", false),
            ("a\nb", false),
            ("\u{7f}", false),
            ("ä", false),
        ] {
            let metadata = Metadata::default().with_actor(text);
            assert_eq!(metadata.is_ok(), is_valid, "{text:?}");
        }
        let error = Metadata::default().with_causation("").unwrap_err();
        assert_eq!(error.to_string(), "causation: expected 1 to 128 visible ASCII characters");
    }

    #[test]
    fn stored_metadata_has_what_is_known() {
        assert_eq!(Metadata::default().stored(), None);
        let texts = [None, Some("7"), Some("im\"port"), Some("\\"), Some("a\\\"\\\\b~!{}")];
        let text = |index: usize| texts[index].map(Into::into);
        for index in 1..texts.len().pow(3) {
            let (actor, correlation, causation) = (text(index % 5), text(index / 5 % 5), text(index / 25));
            let metadata = Metadata { actor, correlation, causation };
            let stored = metadata.stored().unwrap();
            assert_eq!(stored.as_str(), serde_json::to_string(&metadata).unwrap());
            assert_eq!(stored.parts().unwrap(), metadata);
        }
        assert_eq!(Metadata::of_service().stored().unwrap().as_str(), r#"{"actor":"duality"}"#);
    }

    #[test]
    fn parts_that_a_later_version_adds_are_ignored() {
        let stored = StoredMetadata::from_db(r#"{"actor":"a","place":"b"}"#);
        assert_eq!(stored.parts().unwrap(), Metadata::default().with_actor("a").unwrap());
    }
}
