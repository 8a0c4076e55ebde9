//! Events as bytes on the wire, encoded once for all subscribers of a feed.

use std::borrow::Borrow;

use actix_web::web::Bytes;

use crate::domain::collection::Registry;
use crate::domain::feed::{Feed, Presence};
use crate::domain::revision::{Epoch, Revision};
use crate::events::line_safe::escape_separators;
use crate::storage::outbox::Change;

/// Encoded events of one feed.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    chunk: Chunk,
    /// The end of each revision's event in the chunk's content.
    ends: Vec<(Revision, usize)>,
    presence: Presence,
}

impl Frames {
    /// Encodes the events of a feed; `changes` are whole revisions, in order.
    pub(crate) fn encode<C: Borrow<Change>>(feed: &Feed, registry: &Registry, epoch: &Epoch, changes: &[C]) -> Self {
        let mut text = Chunk::begin();
        let mut frames = Self::default();
        for revision in changes.chunk_by(|one, other| one.borrow().revision == other.borrow().revision) {
            let (start, number) = (text.len(), revision[0].borrow().revision);
            text.push_str(DATA);
            let patch = text.len();
            if feed.write(&mut text, registry, revision.iter().map(|change| change.borrow().member())) {
                escape_separators(&mut text, patch);
                frames.presence = Presence::after(&text[patch..]);
                push_id(&mut text, epoch, number);
                frames.ends.push((number, text.len() - HEAD));
            } else {
                text.truncate(start);
            }
        }
        frames.chunk = Chunk::end(text);
        frames
    }

    /// All of them.
    pub(crate) fn all(&self) -> &Chunk {
        &self.chunk
    }

    /// The events after this revision.
    pub(crate) fn after(&self, revision: Revision) -> Bytes {
        let known = self.ends.partition_point(|(of, _)| *of <= revision);
        let start = known.checked_sub(1).map_or(0, |last| self.ends[last].1);
        self.chunk.content().slice(start..)
    }

    /// The revision of the last event, and whether the feed's aggregate exists after it.
    pub(crate) fn last(&self) -> Option<(Revision, Presence)> {
        self.ends.last().map(|(revision, _)| (*revision, self.presence))
    }

    /// Whether the feed has no events.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// Bytes as sent, framed as a chunk of an HTTP/1.1 body
/// ([RFC 9112, section 7.1](https://www.rfc-editor.org/rfc/rfc9112#section-7.1)) once for all subscribers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunk {
    framed: Bytes,
    /// The start of the content, which a line break ends.
    start: usize,
}

/// Space for the length of a chunk: eight hexadecimal digits and a line break.
const HEAD: usize = 10;

impl Chunk {
    pub(crate) fn new(content: &str) -> Self {
        Self::end(Self::begin() + content)
    }

    /// A text to append the content to.
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
    #[cfg(any(test, feature = "direct-write"))]
    pub(crate) fn framed(&self) -> &Bytes {
        &self.framed
    }

    /// The content without its frame.
    pub(crate) fn content(&self) -> Bytes {
        self.framed.slice(self.start..self.framed.len().saturating_sub(2))
    }
}

/// The id of an event: the cursor of a client that has everything up to this revision.
pub(crate) fn id(epoch: &Epoch, revision: Revision) -> String {
    format!("{epoch}.{revision}")
}

/// One message; `patch` is JSON text, and so has no line breaks.
pub(crate) fn event(id: Option<&str>, patch: &str) -> String {
    let mut text = String::new();
    push_message(&mut text, id, None, patch);
    text
}

/// One message with an event type of its own, the name of an enum's variant.
pub(crate) fn named_event(name: &str, id: &str, data: &str) -> String {
    let mut text = String::new();
    push_message(&mut text, Some(id), Some(name), data);
    text
}

/// Appends a message ([the HTML standard, section 9.2](https://html.spec.whatwg.org/multipage/server-sent-events.html)).
///
/// The id is the last line. Some clients take an id as soon as its line has arrived: one before the data would count
/// even if the connection broke before the data.
fn push_message(text: &mut String, id: Option<&str>, event: Option<&str>, data: &str) {
    let start = text.len();
    for (field, value) in [("event: ", event), (DATA, Some(data)), (ID, id)] {
        if let Some(value) = value {
            for piece in [field, value, "\n"] {
                text.push_str(piece);
            }
        }
    }
    escape_separators(text, start);
    text.push('\n');
}

/// The beginning of a message: JSON text without line breaks follows, so nothing else needs framing.
const DATA: &str = "data: ";

/// The beginning of the line with the id.
const ID: &str = "id: ";

/// Appends the end of a message, from the end of its data.
fn push_id(text: &mut String, epoch: &Epoch, revision: Revision) {
    text.push('\n');
    text.push_str(ID);
    text.push_str(epoch.as_str());
    text.push('.');
    push_number(text, revision.number().unsigned_abs());
    text.push_str("\n\n");
}

/// Appends a number, at a tenth of the cost of the standard library's formatting, which is noticeable for each event.
fn push_number(text: &mut String, mut number: u64) {
    let (mut digits, mut start) = ([b'0'; 20], 20);
    while start == 20 || number > 0 {
        start -= 1;
        digits[start] += u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
    text.extend(digits[start..].iter().map(|digit| char::from(*digit)));
}

/// The form of messages.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// As Server-Sent Events, with ids of this epoch.
    Stream(Epoch),
    /// As the members of a JSON array: `{"revision":8,"patch":{…}}`; a part of a catch-up has no revision.
    Array,
    /// The same, one line each.
    Lines,
}

/// Messages for one consumer, in order.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) form: Form,
    /// The first messages, shared with other consumers.
    before: Vec<Bytes>,
    /// The last messages.
    pub(crate) text: String,
    /// The revision of the last id.
    pub(crate) last_id: Option<Revision>,
    /// Whether a message changes the consumer's position.
    pub(crate) has_news: bool,
}

impl Messages {
    pub(crate) fn new(form: Form) -> Self {
        Self { form, before: Vec::new(), text: String::new(), last_id: None, has_news: false }
    }

    /// Adds the event of a revision, unless `write`, which appends its patch, returns `false`.
    pub(crate) fn event(&mut self, revision: Revision, write: impl FnOnce(&mut String) -> bool) {
        let (start, text) = (self.text.len(), &mut self.text);
        match &self.form {
            Form::Stream(_) => text.push_str(DATA),
            Form::Array | Form::Lines => {
                text.push_str(if start > 0 && matches!(self.form, Form::Array) { "," } else { "" });
                text.push_str("{\"revision\":");
                push_number(text, revision.number().unsigned_abs());
                text.push_str(",\"patch\":");
            }
        }
        let patch = text.len();
        if write(text) {
            escape_separators(text, patch);
            match &self.form {
                Form::Stream(epoch) => push_id(text, epoch, revision),
                Form::Array => text.push('}'),
                Form::Lines => text.push_str("}\n"),
            }
            (self.last_id, self.has_news) = (Some(revision), true);
        } else {
            text.truncate(start);
        }
    }

    /// Adds events that are encoded as a stream already; `last` is the revision of the last one.
    pub(crate) fn share(&mut self, events: Bytes, last: Option<Revision>) {
        if let Some(last) = last {
            self.before.extend([std::mem::take(&mut self.text).into(), events]);
            (self.last_id, self.has_news) = (Some(last), true);
        }
    }

    /// The length of all, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.before.iter().map(Bytes::len).sum::<usize>() + self.text.len()
    }

    /// The messages that are shared with other consumers, and the rest.
    pub(crate) fn into_parts(self) -> (Vec<Bytes>, Bytes) {
        (self.before, self.text.into())
    }

    /// All messages, in pieces.
    #[cfg(test)]
    pub(crate) fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.before.into_iter().chain([self.text.into()])
    }

    /// Adds a part of a catch-up, with an id if the position after it has one.
    pub(crate) fn part(&mut self, id: Option<&str>, patch: &str) {
        let (start, text) = (self.text.len(), &mut self.text);
        let end = match &self.form {
            Form::Stream(_) => return push_message(text, id, None, patch),
            Form::Array => "}",
            Form::Lines => "}\n",
        };
        text.push_str(if start > 0 && end == "}" { "," } else { "" });
        for piece in ["{\"patch\":", patch, end] {
            text.push_str(piece);
        }
        escape_separators(text, start);
    }
}

#[cfg(test)]
mod tests {
    use actix_web::web::BytesMut;
    use tokio_util::codec::Decoder as _;

    use super::*;
    use crate::aggregates::Person;
    use crate::domain::key::Key;

    /// The messages as another implementation reads them.
    fn decoded(text: &str) -> Vec<(String, Option<String>, Option<String>)> {
        let (mut decoder, mut bytes) = (russe::Decoder::default(), BytesMut::from(text));
        let mut messages = Vec::new();
        while let Some(russe::Event::Message(message)) = decoder.decode(&mut bytes).unwrap() {
            let (event, id) = (message.event.map(Into::into), message.id.map(Into::into));
            messages.push((message.data.into(), event, id));
        }
        messages
    }

    #[test]
    fn another_implementation_reads_what_was_written() {
        let epoch: Epoch = "4f9c21aa".parse().unwrap();
        for number in [0, 7, 10, 1_234_567_890, i64::MAX] {
            let (revision, patch) = (Revision::from_raw(number), r#"{"1":{"name":"\n🍎"},"2":null}"#);
            let message = |event: Option<&str>, id: Option<&str>| {
                (patch.to_owned(), event.map(str::to_owned), id.map(str::to_owned))
            };
            let id = id(&epoch, revision);
            let mut messages = Messages::new(Form::Stream(epoch.clone()));
            messages.event(revision, |_| false);
            messages.event(revision, |text| {
                text.push_str(patch);
                true
            });
            messages.part(Some("4f9c21aa.3.partial"), patch);
            messages.part(None, patch);
            messages.text += &named_event("ItemAdded", &id, patch);
            let expected = [
                message(None, Some(&id)),
                message(None, Some("4f9c21aa.3.partial")),
                message(None, None),
                message(Some("ItemAdded"), Some(&id)),
            ];
            assert_eq!(decoded(&messages.text), expected);
        }
    }

    #[test]
    fn the_id_comes_after_the_data() {
        assert_eq!(event(Some("4f9c21aa.3"), "{}"), "data: {}\nid: 4f9c21aa.3\n\n");
        assert_eq!(named_event("Opened", "4f9c21aa.3", "{}"), "event: Opened\ndata: {}\nid: 4f9c21aa.3\n\n");
    }

    #[test]
    fn separators_that_some_clients_take_for_the_end_of_a_line_are_escaped_in_every_form() {
        let (raw, escaped) = ("{\"a\u{2028}\":\"\u{85}\"}", r#"{"a\u2028":"\u0085"}"#);
        let revision = Revision::from_raw(3);
        for (form, head, tail) in [
            (Form::Stream("4f9c21aa".parse().unwrap()), "data: ", "\nid: 4f9c21aa.3\n\n"),
            (Form::Array, r#"{"revision":3,"patch":"#, "}"),
            (Form::Lines, r#"{"revision":3,"patch":"#, "}\n"),
        ] {
            let mut messages = Messages::new(form);
            messages.event(revision, |text| {
                text.push_str(raw);
                true
            });
            assert_eq!(messages.text, format!("{head}{escaped}{tail}"));
            messages.part(None, raw);
            assert!(!messages.text.contains(['\u{85}', '\u{2028}']), "{}", messages.text);
        }
    }

    #[test]
    fn the_events_after_a_revision_are_a_part_of_the_bytes() {
        let mut registry = Registry::default();
        registry.document::<Person>();
        let collection = registry.id("persons").unwrap();
        let changes: Vec<_> = [(3, "1", r#"{"city":"Oslo"}"#), (3, "2", "null"), (5, "\"", "{}")]
            .into_iter()
            .map(|(revision, key, patch)| Change {
                revision: Revision::from_raw(revision),
                collection,
                key: Key::from_db(key),
                patch: patch.to_owned(),
                time: crate::domain::clock::Timestamp::from_milliseconds(0),
                metadata: None,
            })
            .collect();
        let epoch = "4f9c21aa".parse().unwrap();
        let frames = Frames::encode(&Feed::Collection(collection, None), &registry, &epoch, &changes);
        let text = String::from_utf8(frames.all().content().to_vec()).unwrap();
        let framed = String::from_utf8(frames.all().framed().to_vec()).unwrap();
        assert_eq!(framed, format!("{:x}\r\n{text}\r\n", text.len()));
        let first = "data: {\"1\":{\"city\":\"Oslo\"},\"2\":null}\nid: 4f9c21aa.3\n\n";
        assert_eq!(text, format!("{first}data: {{\"\\\"\":{{}}}}\nid: 4f9c21aa.5\n\n"));
        assert_eq!(frames.after(Revision::from_raw(2)), text);
        assert_eq!(frames.after(Revision::from_raw(3)), text[first.len()..]);
        assert_eq!(frames.after(Revision::from_raw(4)), text[first.len()..]);
        assert_eq!(frames.after(Revision::from_raw(5)), "");
        assert_eq!(frames.last().unwrap().0, Revision::from_raw(5));
    }
}
