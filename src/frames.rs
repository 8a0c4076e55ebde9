//! Events as bytes on the wire: written once, for all who follow the feed.

use actix_web::web::Bytes;
use russe::{Event, Message};

use crate::collection::Registry;
use crate::cursor::{Epoch, Revision};
use crate::feed::{Feed, Presence};
use crate::store::Change;

/// Events of one feed, ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    chunk: Chunk,
    /// Where the event of each revision ends in the chunk's content.
    ends: Vec<(Revision, usize)>,
    presence: Presence,
}

impl Frames {
    /// Encodes the events of a feed; `changes` are whole revisions, in order.
    pub(crate) fn encode(feed: &Feed, registry: &Registry, epoch: &Epoch, changes: &[Change]) -> Self {
        let mut text = Chunk::begin();
        let mut frames = Self::default();
        for revision in changes.chunk_by(|one, other| one.revision == other.revision) {
            if let Some(patch) = feed.patch(registry, revision.iter().map(Change::member)) {
                let number = revision[0].revision;
                frames.presence = Presence::after(&patch);
                text.push_str(&event(Some(id(epoch, number)), patch));
                frames.ends.push((number, text.len() - HEAD));
            }
        }
        frames.chunk = Chunk::end(text);
        frames
    }

    /// All of them.
    pub(crate) fn all(&self) -> &Chunk {
        &self.chunk
    }

    /// Those of later revisions than this one.
    pub(crate) fn after(&self, revision: Revision) -> Bytes {
        let known = self.ends.partition_point(|(of, _)| *of <= revision);
        let start = known.checked_sub(1).map_or(0, |last| self.ends[last].1);
        self.chunk.content().slice(start..)
    }

    /// The revision that the last of them names, and whether an aggregate is there after it.
    pub(crate) fn last(&self) -> Option<(Revision, Presence)> {
        self.ends.last().map(|(revision, _)| (*revision, self.presence))
    }

    /// A feed's changes, of which there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Bytes as they are sent, and as HTTP/1.1 has them as a part of a body of unknown length
/// ([RFC 9112, section 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)), so that they are framed once for all.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunk {
    framed: Bytes,
    /// Where the content begins; a line break ends it.
    start: usize,
}

/// Room for the length of a chunk: eight hexadecimal digits and a line break.
const HEAD: usize = 10;

impl Chunk {
    pub(crate) fn new(content: &str) -> Self {
        Self::end(Self::begin() + content)
    }

    /// A text to which the content is appended.
    fn begin() -> String {
        " ".repeat(HEAD)
    }

    fn end(text: String) -> Self {
        let length = format!("{:x}\r\n", text.len() - HEAD);
        let begin = HEAD - length.len();
        let mut framed = text.into_bytes();
        framed[begin..HEAD].copy_from_slice(length.as_bytes());
        framed.extend_from_slice(b"\r\n");
        Self { framed: Bytes::from(framed).slice(begin..), start: length.len() }
    }

    /// A chunk of HTTP/1.1.
    pub(crate) fn framed(&self) -> &Bytes {
        &self.framed
    }

    /// What is in it.
    pub(crate) fn content(&self) -> Bytes {
        self.framed.slice(self.start..self.framed.len().saturating_sub(2))
    }
}

/// The id of an event: everything up to this revision.
pub(crate) fn id(epoch: &Epoch, revision: Revision) -> String {
    format!("{epoch}.{revision}")
}

/// One message.
pub(crate) fn event(id: Option<String>, patch: String) -> String {
    encoded(Message { data: patch.into(), id: id.map(Into::into), event: None, retry: None })
}

/// One message with a type of its own.
pub(crate) fn named_event(name: String, id: String, data: String) -> String {
    encoded(Message { data: data.into(), id: Some(id.into()), event: Some(name.into()), retry: None })
}

fn encoded(message: Message) -> String {
    let encoded = Event::Message(message).into_bytestring();
    encoded.expect("neither an epoch and a number nor the name of a variant has a line break").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collections::Person;
    use crate::key::Key;

    #[test]
    fn the_events_after_a_revision_are_a_part_of_the_bytes() {
        let mut registry = Registry::default();
        registry.document::<Person>();
        let collection = registry.id("persons").unwrap();
        let changes: Vec<_> = [(3, "1", r#"{"city":"Oslo"}"#), (3, "2", "null"), (5, "\"", "{}")]
            .into_iter()
            .map(|(revision, key, patch)| Change {
                revision: Revision::stored(revision),
                collection,
                key: Key::stored(key),
                patch: patch.to_owned(),
                time: crate::clock::Timestamp::from_milliseconds(0),
            })
            .collect();
        let epoch = "4f9c21aa".parse().unwrap();
        let frames = Frames::encode(&Feed::Collection(collection, None), &registry, &epoch, &changes);
        let text = String::from_utf8(frames.all().content().to_vec()).unwrap();
        let framed = String::from_utf8(frames.all().framed().to_vec()).unwrap();
        assert_eq!(framed, format!("{:x}\r\n{text}\r\n", text.len()));
        let first = "id: 4f9c21aa.3\ndata: {\"1\":{\"city\":\"Oslo\"},\"2\":null}\n\n";
        assert_eq!(text, format!("{first}id: 4f9c21aa.5\ndata: {{\"\\\"\":{{}}}}\n\n"));
        assert_eq!(frames.after(Revision::stored(2)), text);
        assert_eq!(frames.after(Revision::stored(3)), text[first.len()..]);
        assert_eq!(frames.after(Revision::stored(4)), text[first.len()..]);
        assert_eq!(frames.after(Revision::stored(5)), "");
        assert_eq!(frames.last().unwrap().0, Revision::stored(5));
    }
}
