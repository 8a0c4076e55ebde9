//! Which aggregates a feed covers, and how their changes become one merge patch.

use std::sync::Arc;

use crate::domain::collection::Registry;
use crate::domain::key::{CollectionId, Key};
use crate::domain::selection::Selection;

/// One of the three levels at which clients can follow the document, and the selection within it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Feed {
    /// The whole document, or some of its collections.
    Everything(Option<Arc<[CollectionId]>>),
    /// A collection, or some of its aggregates.
    Collection(CollectionId, Option<Selection>),
    /// One aggregate, whether it exists or not.
    Aggregate(CollectionId, Key),
}

/// A change of one aggregate, or its state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) collection: CollectionId,
    /// Empty if the collection itself was created.
    pub(crate) key: &'a str,
    /// A merge patch for the aggregate, as JSON text.
    pub(crate) patch: &'a str,
}

impl Feed {
    /// Whether the feed covers this aggregate.
    pub(crate) fn selects(&self, collection: CollectionId, key: &str) -> bool {
        match self {
            Self::Everything(None) => true,
            Self::Everything(Some(only)) => only.contains(&collection),
            Self::Collection(ours, None) => *ours == collection && !key.is_empty(),
            Self::Collection(ours, Some(only)) => *ours == collection && only.contains(key),
            Self::Aggregate(ours, only) => *ours == collection && only.as_str() == key,
        }
    }

    /// The collection, if the feed covers exactly one.
    pub(crate) fn collection(&self) -> Option<CollectionId> {
        match self {
            Self::Everything(_) => None,
            Self::Collection(ours, _) | Self::Aggregate(ours, _) => Some(*ours),
        }
    }

    /// Whether the feed covers only some aggregates of its collection, which it names.
    pub(crate) fn names_keys(&self) -> bool {
        matches!(self, Self::Collection(_, Some(_)) | Self::Aggregate(..))
    }

    /// The aggregates that the feed names, if it covers only some of its collection.
    pub(crate) fn keys(&self) -> Option<Vec<Key>> {
        match self {
            Self::Everything(_) | Self::Collection(_, None) => None,
            Self::Collection(_, Some(only)) => Some(only.iter().map(Key::from_db).collect()),
            Self::Aggregate(_, only) => Some(vec![only.clone()]),
        }
    }

    /// The number of keys that the feed is limited to; `None` for all.
    pub(crate) fn number_of_keys(&self) -> Option<usize> {
        match self {
            Self::Everything(_) | Self::Collection(_, None) => None,
            Self::Collection(_, Some(only)) => Some(only.len()),
            Self::Aggregate(..) => Some(1),
        }
    }

    /// Appends one merge patch with all of `members` that the feed covers. Returns `false`, and appends nothing, if it covers
    /// none.
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
                for Member { key, patch, .. } in ours.filter(|member| member.collection == CollectionId::DROPPED) {
                    text.push(if text.len() == start { '{' } else { ',' });
                    push_member(text, key, patch);
                }
                text.push('}');
            }
            Self::Collection(..) => push_aggregates(text, ours),
            Self::Aggregate(..) => text.push_str(ours.last().map_or("", |member| member.patch)),
        }
        true
    }

    /// One merge patch with all of `members` that the feed covers; `None` if it covers none.
    pub(crate) fn patch<'a>(
        &self,
        registry: &Registry,
        members: impl Iterator<Item = Member<'a>> + Clone,
    ) -> Option<String> {
        let mut text = String::new();
        self.write(&mut text, registry, members).then_some(text)
    }

    /// The state without any aggregate. As a patch, it adds the collections that the client does not have yet.
    pub(crate) fn frame(&self, registry: &Registry) -> String {
        match self {
            Self::Everything(only) => {
                let covered = registry.ids().filter(|id| only.as_ref().is_none_or(|only| only.contains(id)));
                object(covered.map(|id| (registry.get(id).name(), "{}".to_owned())))
            }
            Self::Collection(..) => "{}".to_owned(),
            Self::Aggregate(..) => "null".to_owned(),
        }
    }

    /// The same for a consumer that may still have these collections, which were dropped.
    pub(crate) fn frame_without(&self, registry: &Registry, dropped: &[String]) -> String {
        let frame = self.frame(registry);
        let (Self::Everything(None), Some(members)) = (self, frame.strip_suffix('}')) else { return frame };
        let mut text = members.to_owned();
        for name in dropped {
            if text.len() > 1 {
                text.push(',');
            }
            push_member(&mut text, name, "null");
        }
        text.push('}');
        text
    }

    /// A patch that changes nothing.
    pub(crate) fn unchanged(&self, exists: Presence) -> &'static str {
        match (self, exists) {
            (Self::Aggregate(..), Presence::Absent) => "null",
            _ => "{}",
        }
    }
}

/// Whether the aggregate of a feed exists; a document or a collection always does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Presence {
    #[default]
    Present,
    Absent,
}

impl Presence {
    /// The presence after this patch of the aggregate.
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
    use crate::memory::budget::MemoryBudget;

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
        let persons = registry.id("persons").unwrap();
        let locations = registry.id("locations").unwrap();
        let moved = [
            ("locations", "Oslo", r#"{"total":1}"#),
            ("locations", "Rome", "null"),
            ("persons", "1", r#"{"city":"Oslo"}"#),
        ];
        let of = |feed: Feed| patch(&feed, &registry, &moved);
        let rome = Key::from_db("Rome");
        let oslo = Key::from_db("Oslo");
        assert_eq!(
            of(Feed::Everything(None)).unwrap(),
            r#"{"persons":{"1":{"city":"Oslo"}},"locations":{"Oslo":{"total":1},"Rome":null}}"#
        );
        assert_eq!(of(Feed::Everything(Some([persons].into()))).unwrap(), r#"{"persons":{"1":{"city":"Oslo"}}}"#);
        assert_eq!(of(Feed::Collection(locations, None)).unwrap(), r#"{"Oslo":{"total":1},"Rome":null}"#);
        let selection = Selection::new(std::slice::from_ref(&rome), 0, &MemoryBudget::new(1000)).unwrap();
        assert_eq!(of(Feed::Collection(locations, Some(selection))).unwrap(), r#"{"Rome":null}"#);
        assert_eq!(of(Feed::Aggregate(locations, oslo.clone())).unwrap(), r#"{"total":1}"#);
        assert_eq!(of(Feed::Aggregate(locations, rome)).unwrap(), "null");
        assert_eq!(of(Feed::Aggregate(persons, oslo)), None);
    }

    #[test]
    fn a_name_is_escaped_as_json_requires() {
        for name in ["1", "", "a b", "\"", "\\", "a\"b\\c", "🍎\u{7f}\u{2028}", "\u{1}\n"] {
            let mut object = String::new();
            push_member(&mut object, name, "1");
            assert_eq!(object, format!("{}:1", serde_json::Value::from(name)));
        }
    }

    #[test]
    fn a_new_collection_is_a_change_of_the_document_only() {
        let registry = registry();
        let created = [("locations", "", "{}")];
        assert_eq!(patch(&Feed::Everything(None), &registry, &created).unwrap(), r#"{"locations":{}}"#);
        assert_eq!(patch(&Feed::Collection(registry.id("locations").unwrap(), None), &registry, &created), None);
    }
}
