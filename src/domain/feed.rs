//! What a feed is about: which aggregates, and how changes of them are one merge patch.

use std::sync::Arc;

use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};

/// One of the three levels at which the document can be followed, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Feed {
    /// The whole document, or some of its collections.
    Everything(Option<Arc<[CollectionId]>>),
    /// A collection, or some of its aggregates.
    Collection(CollectionId, Option<Arc<[Key]>>),
    /// One aggregate, whether it is there or not.
    Aggregate(CollectionId, Key),
}

/// What is true of one aggregate: a change of it, or its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) collection: CollectionId,
    /// Empty for the collection itself, which came to be.
    pub(crate) key: &'a str,
    /// A merge patch for the aggregate, as JSON text.
    pub(crate) patch: &'a str,
}

impl Feed {
    /// Whether a change of this aggregate belongs to the feed.
    pub(crate) fn selects(&self, collection: CollectionId, key: &str) -> bool {
        match self {
            Self::Everything(None) => true,
            Self::Everything(Some(only)) => only.contains(&collection),
            Self::Collection(ours, None) => *ours == collection && !key.is_empty(),
            Self::Collection(ours, Some(only)) => *ours == collection && only.iter().any(|only| only.as_str() == key),
            Self::Aggregate(ours, only) => *ours == collection && only.as_str() == key,
        }
    }

    /// The only collection that it is about, if it is about one.
    pub(crate) fn collection(&self) -> Option<CollectionId> {
        match self {
            Self::Everything(_) => None,
            Self::Collection(ours, _) | Self::Aggregate(ours, _) => Some(*ours),
        }
    }

    /// The aggregates that it is about, if it is about certain ones.
    pub(crate) fn keys(&self) -> Option<&[Key]> {
        match self {
            Self::Everything(_) | Self::Collection(_, None) => None,
            Self::Collection(_, Some(only)) => Some(only),
            Self::Aggregate(_, only) => Some(std::slice::from_ref(only)),
        }
    }

    /// Appends the merge patch that does all of `members`, or nothing (`false`) when none of them belongs to the feed.
    pub(crate) fn write<'a>(
        &self,
        text: &mut String,
        registry: &Registry,
        members: impl Iterator<Item = Member<'a>> + Clone,
    ) -> bool {
        let mut ours = members.filter(|member| self.selects(member.collection, member.key)).peekable();
        if ours.peek().is_none() {
            return false;
        }
        match self {
            Self::Everything(_) => {
                let start = text.len();
                for id in registry.ids() {
                    let mut members = ours.clone().filter(|member| member.collection == id).peekable();
                    if members.peek().is_some() {
                        text.push(if text.len() == start { '{' } else { ',' });
                        push_name(text, registry.get(id).name());
                        push_aggregates(text, members);
                    }
                }
                text.push('}');
            }
            Self::Collection(..) => push_aggregates(text, ours),
            Self::Aggregate(..) => text.push_str(ours.last().map_or("", |member| member.patch)),
        }
        true
    }

    /// The merge patch that does all of `members`; `None` when none of them belongs to the feed.
    pub(crate) fn patch<'a>(
        &self,
        registry: &Registry,
        members: impl Iterator<Item = Member<'a>> + Clone,
    ) -> Option<String> {
        let mut text = String::new();
        self.write(&mut text, registry, members).then_some(text)
    }

    /// What the state would be if nothing were there, which is also a patch that adds what is missing of the frame.
    pub(crate) fn frame(&self, registry: &Registry) -> String {
        match self {
            Self::Everything(only) => {
                let ours = registry.ids().filter(|id| only.as_ref().is_none_or(|only| only.contains(id)));
                object(ours.map(|id| (registry.get(id).name(), "{}".to_owned())))
            }
            Self::Collection(..) => "{}".to_owned(),
            Self::Aggregate(..) => "null".to_owned(),
        }
    }

    /// The patch that changes nothing, where the state is as it is.
    pub(crate) fn unchanged(&self, exists: Presence) -> &'static str {
        match (self, exists) {
            (Self::Aggregate(..), Presence::Absent) => "null",
            _ => "{}",
        }
    }
}

/// Whether the aggregate of a feed is there; a document or a collection always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Presence {
    #[default]
    Present,
    Absent,
}

impl Presence {
    /// After a patch for the state itself.
    pub(crate) fn after(patch: &str) -> Self {
        if patch == "null" { Self::Absent } else { Self::Present }
    }
}

/// `{"1":{"city":"Rome"},"2":null}`
fn push_aggregates<'a>(text: &mut String, members: impl Iterator<Item = Member<'a>>) {
    let start = text.len();
    for member in members.filter(|member| !member.key.is_empty()) {
        text.push(if text.len() == start { '{' } else { ',' });
        push_member(text, member.key, member.patch);
    }
    text.push_str(if text.len() == start { "{}" } else { "}" });
}

/// A JSON object of members whose values are JSON already.
fn object<'a, V: AsRef<str>>(members: impl Iterator<Item = (&'a str, V)>) -> String {
    let mut object = String::from("{");
    for (name, value) in members {
        if object.len() > 1 {
            object.push(',');
        }
        push_member(&mut object, name, value.as_ref());
    }
    object.push('}');
    object
}

/// Appends `"name":value`, where the value is JSON already.
pub(crate) fn push_member(object: &mut String, name: &str, value: &str) {
    push_name(object, name);
    object.push_str(value);
}

/// Appends `"name":`.
fn push_name(object: &mut String, name: &str) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if name.bytes().all(is_plain) {
        object.push('"');
        object.push_str(name);
        object.push('"');
    } else {
        object.push_str(&serde_json::Value::from(name).to_string());
    }
    object.push(':');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::{Location, Person};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.document::<Person>();
        registry.derived::<Location>();
        registry
    }

    fn patch(feed: &Feed, registry: &Registry, changes: &[(&str, &str, &str)]) -> Option<String> {
        let keys: Vec<_> = changes.iter().map(|(_, key, _)| Key::from_db(key)).collect();
        let members = changes.iter().zip(&keys).map(|((collection, _, patch), key)| Member {
            collection: registry.id(collection).unwrap(),
            key: key.as_str(),
            patch,
        });
        feed.patch(registry, members)
    }

    #[test]
    fn a_revision_is_one_patch_at_every_level() {
        let registry = registry();
        let (persons, locations) = (registry.id("persons").unwrap(), registry.id("locations").unwrap());
        let moved = [
            ("locations", "Oslo", r#"{"total":1}"#),
            ("locations", "Rome", "null"),
            ("persons", "1", r#"{"city":"Oslo"}"#),
        ];
        let of = |feed: Feed| patch(&feed, &registry, &moved);
        let (rome, oslo) = (Key::from_db("Rome"), Key::from_db("Oslo"));
        assert_eq!(
            of(Feed::Everything(None)).unwrap(),
            r#"{"persons":{"1":{"city":"Oslo"}},"locations":{"Oslo":{"total":1},"Rome":null}}"#
        );
        assert_eq!(of(Feed::Everything(Some([persons].into()))).unwrap(), r#"{"persons":{"1":{"city":"Oslo"}}}"#);
        assert_eq!(of(Feed::Collection(locations, None)).unwrap(), r#"{"Oslo":{"total":1},"Rome":null}"#);
        assert_eq!(of(Feed::Collection(locations, Some([rome.clone()].into()))).unwrap(), r#"{"Rome":null}"#);
        assert_eq!(of(Feed::Aggregate(locations, oslo.clone())).unwrap(), r#"{"total":1}"#);
        assert_eq!(of(Feed::Aggregate(locations, rome)).unwrap(), "null");
        assert_eq!(of(Feed::Aggregate(persons, oslo)), None);
    }

    #[test]
    fn a_name_is_written_as_json_has_it() {
        for name in ["1", "", "a b", "\"", "\\", "a\"b\\c", "🍎\u{7f}\u{2028}", "\u{1}\n"] {
            let mut object = String::new();
            push_member(&mut object, name, "1");
            assert_eq!(object, format!("{}:1", serde_json::Value::from(name)));
        }
    }

    #[test]
    fn a_collection_that_comes_to_be_is_a_change_of_the_document_only() {
        let registry = registry();
        let came = [("locations", "", "{}")];
        assert_eq!(patch(&Feed::Everything(None), &registry, &came).unwrap(), r#"{"locations":{}}"#);
        assert_eq!(patch(&Feed::Collection(registry.id("locations").unwrap(), None), &registry, &came), None);
    }
}
