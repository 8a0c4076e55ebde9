//! What a feed is about, and how its events are written for the wire: once, for all who follow it.

use actix_web::web::{Bytes, BytesMut};
use russe::{Event, Message};

use crate::collection::CollectionId;
use crate::cursor::{Epoch, Revision};
use crate::store::Change;

/// Which changes a subscriber wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Feed {
    pub(crate) collection: CollectionId,
}

/// Events of one feed, ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Bytes,
    /// Where the event of each revision ends.
    ends: Vec<(Revision, usize)>,
}

impl Frames {
    /// Encodes the events of a feed; `changes` are whole revisions, in order.
    pub(crate) fn encode(feed: Feed, epoch: &Epoch, changes: &[Change]) -> Self {
        let mut bytes = BytesMut::new();
        let mut ends = Vec::new();
        for revision in changes.chunk_by(|one, other| one.revision == other.revision) {
            let ours = revision.iter().filter(|change| change.collection == feed.collection);
            if let Some((number, patch)) = joined(ours) {
                bytes.extend_from_slice(event(format!("{epoch}.{number}"), patch).as_bytes());
                ends.push((number, bytes.len()));
            }
        }
        Self { bytes: bytes.freeze(), ends }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Those of later revisions than this one.
    pub(crate) fn after(&self, revision: Revision) -> Bytes {
        let known = self.ends.partition_point(|(of, _)| *of <= revision);
        let start = known.checked_sub(1).map_or(0, |last| self.ends[last].1);
        self.bytes.slice(start..)
    }
}

/// The patches of one revision as one merge patch of the collection: `{"1":{"city":"Rome"},"2":null}`.
fn joined<'a>(changes: impl Iterator<Item = &'a Change>) -> Option<(Revision, String)> {
    let mut patch = String::from("{");
    let mut revision = None;
    for change in changes {
        if revision.replace(change.revision).is_some() {
            patch.push(',');
        }
        push_member(&mut patch, change.key.as_str(), &change.patch);
    }
    patch.push('}');
    revision.map(|revision| (revision, patch))
}

/// Appends `"name":value`, where the value is JSON already.
pub(crate) fn push_member(object: &mut String, name: &str, value: &str) {
    object.push_str(&serde_json::Value::from(name).to_string());
    object.push(':');
    object.push_str(value);
}

fn event(id: String, patch: String) -> String {
    let message = Message { data: patch.into(), id: Some(id.into()), event: None, retry: None };
    Event::Message(message).into_bytestring().expect("an epoch and a number have no line breaks").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::Registry;
    use crate::collections::Person;
    use crate::key::Key;

    fn frames(changes: &[(i64, &str, &str)]) -> Frames {
        let mut registry = Registry::default();
        registry.document::<Person>();
        let collection = registry.id("persons").unwrap();
        let changes: Vec<_> = changes
            .iter()
            .map(|(revision, key, patch)| Change {
                revision: Revision::stored(*revision),
                collection,
                key: Key::parse(key).unwrap(),
                patch: (*patch).to_owned(),
            })
            .collect();
        Frames::encode(Feed { collection }, &"4f9c21aa".parse().unwrap(), &changes)
    }

    #[test]
    fn the_changes_of_one_revision_are_one_event() {
        let frames = frames(&[(3, "Oslo", r#"{"total":1}"#), (3, "Rome", "null"), (5, "\"", "{}")]);
        let text = String::from_utf8(frames.all().to_vec()).unwrap();
        let first = "id: 4f9c21aa.3\ndata: {\"Oslo\":{\"total\":1},\"Rome\":null}\n\n";
        assert_eq!(text, format!("{first}id: 4f9c21aa.5\ndata: {{\"\\\"\":{{}}}}\n\n"));
        assert_eq!(frames.after(Revision::stored(2)), frames.all());
        assert_eq!(frames.after(Revision::stored(3)), text[first.len()..]);
        assert_eq!(frames.after(Revision::stored(4)), text[first.len()..]);
        assert_eq!(frames.after(Revision::stored(5)), "");
    }
}
