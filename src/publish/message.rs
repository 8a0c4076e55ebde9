//! One message for a broker, and its headers.

use std::time::UNIX_EPOCH;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::subject;
use crate::domain::clock::Timestamp;
use crate::domain::key::Key;

/// What happened to one aggregate at one revision, or one domain event, as a message for a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The collection that it is about; `_` in a [`Content::Fork`], which is about all.
    pub collection: String,
    /// The aggregate that it is about; `None` for the collection as a whole.
    pub key: Option<Key>,
    /// `<epoch>.<revision>`, or, within a catch-up, an id like those of streams; in the journal, `<epoch>.<position>`.
    pub id: String,
    /// Which of the messages with this id it is.
    pub part: Part,
    /// The revision or position of the message before it about the same collection, with another id. `None` at the begin
    /// of a catch-up, or if it is not known.
    pub previous: Option<i64>,
    /// What the body is.
    pub content: Content,
    /// When it happened; within a catch-up, when it was read.
    pub time: Timestamp,
    /// JSON.
    pub body: String,
}

/// Which of some messages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// 1, 2, 3 …
    pub number: u32,
    /// The number of the last one.
    pub of: u32,
}

/// What the body of a message is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Content {
    /// A merge patch: what one revision changed.
    Change,
    /// A merge patch that is part of a catch-up: `null`, and then the whole state.
    CatchUp {
        /// The number of the first message of the catch-up. What the stream had before it has no meaning any more.
        first: u64,
    },
    /// A domain event, in the form of the journal.
    Event {
        /// Its name.
        kind: String,
        /// The version of its fields.
        schema: i64,
        /// Its number among the events of its aggregate.
        version: i64,
    },
    /// The journal goes on from an earlier position. The body says where, and which of the events before are not part of
    /// it any more.
    Fork,
}

/// A header of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// As it is written.
    pub name: &'static str,
    /// Visible ASCII characters.
    pub value: String,
}

/// What a value must not have as it is (CloudEvents, HTTP protocol binding, section 3.1.3.2).
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

const ID: &str = "Duality-Id";
const PART: &str = "Part";
const PREVIOUS: &str = "Previous";
const CATCH_UP: &str = "Catch-Up";
const FORK: &str = "Fork";
const KIND: &str = "Kind";
const SCHEMA: &str = "Schema";
const VERSION: &str = "Version";
const TIME: &str = "ce-time";

impl Message {
    /// The subject after its prefix: `persons.1`, `locations.St%2E%20Gallen`, or `persons._` for the whole collection.
    #[must_use]
    pub fn subject(&self) -> String {
        format!("{}.{}", self.collection, subject::token(self.key.as_ref()))
    }

    /// An id that no other message has: `<epoch>.<revision>.<part>`.
    #[must_use]
    pub fn message_id(&self) -> String {
        format!("{}.{}", self.id, self.part.number)
    }

    /// Whether it is a whole step: after it, a consumer has everything up to its id.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.part.number == self.part.of
    }

    /// What the message says beside its body: where it belongs, and the attributes of the binary mode of
    /// [CloudEvents](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/nats-protocol-binding.md).
    #[must_use]
    pub fn headers(&self) -> Vec<Header> {
        let header = |name, value| Header { name, value };
        let mut headers =
            vec![header(ID, self.id.clone()), header(PART, format!("{}/{}", self.part.number, self.part.of))];
        headers.extend(self.previous.map(|previous| header(PREVIOUS, previous.to_string())));
        match &self.content {
            Content::Change => {}
            Content::CatchUp { first } => headers.push(header(CATCH_UP, first.to_string())),
            Content::Event { kind, schema, version } => {
                headers.push(header(KIND, encoded(kind)));
                headers.push(header(SCHEMA, schema.to_string()));
                headers.push(header(VERSION, version.to_string()));
            }
            Content::Fork => headers.push(header(FORK, self.id.clone())),
        }
        let CloudEvent { source, kind, media_type } = self.cloud_event();
        headers.push(header("ce-specversion", "1.0".to_owned()));
        headers.push(header("ce-id", self.message_id()));
        headers.push(header("ce-source", source));
        headers.push(header("ce-type", kind));
        headers.extend(self.key.as_ref().map(|key| header("ce-subject", subject::token(Some(key)))));
        headers.push(header(TIME, self.time.to_string()));
        headers.push(header("ce-datacontenttype", media_type.to_owned()));
        headers
    }

    /// Source, type and media type as a CloudEvent.
    fn cloud_event(&self) -> CloudEvent {
        let collection = &self.collection;
        let (source, kind, media_type) = match &self.content {
            Content::Change => (format!("/{collection}"), "duality.change".to_owned(), MERGE_PATCH),
            Content::CatchUp { .. } => (format!("/{collection}"), "duality.catch-up".to_owned(), MERGE_PATCH),
            Content::Event { kind, .. } => {
                (format!("/journal/{collection}"), format!("{collection}.{}", encoded(kind)), JSON)
            }
            Content::Fork => ("/journal".to_owned(), "duality.fork".to_owned(), JSON),
        };
        CloudEvent { source, kind, media_type }
    }

    /// The message with this subject (without its prefix), these headers and this body; `None` if it is not one of ours.
    #[must_use]
    pub fn read(subject: &str, header: impl Fn(&str) -> Option<String>, body: String) -> Option<Self> {
        let number = |name| header(name)?.parse().ok();
        let (collection, token) = subject.split_once('.')?;
        let (part, of) = header(PART)?.split_once('/').map(|(part, of)| (part.parse(), of.parse()))?;
        let content = match (header(CATCH_UP), header(KIND), header(FORK)) {
            (Some(first), _, _) => Content::CatchUp { first: first.parse().ok()? },
            (None, Some(kind), _) => {
                let kind = percent_decode_str(&kind).decode_utf8().ok()?.into_owned();
                Content::Event { kind, schema: number(SCHEMA)?, version: number(VERSION)? }
            }
            (None, None, Some(_)) => Content::Fork,
            (None, None, None) => Content::Change,
        };
        let time = humantime::parse_rfc3339(&header(TIME)?).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            collection: collection.to_owned(),
            key: subject::key(token)?,
            id: header(ID)?,
            part: Part { number: part.ok()?, of: of.ok()? },
            previous: number(PREVIOUS),
            content,
            time: Timestamp::from_milliseconds(i64::try_from(time.as_millis()).ok()?),
            body,
        })
    }
}

const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// The attributes of a CloudEvent that say what it is.
struct CloudEvent {
    source: String,
    kind: String,
    media_type: &'static str,
}

fn encoded(value: &str) -> String {
    utf8_percent_encode(value, UNSAFE).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: Content) -> Message {
        Message {
            collection: "carts".to_owned(),
            key: Some(Key::parse("St. Gallen").unwrap()),
            id: "4f9c21aa.8".to_owned(),
            part: Part { number: 1, of: 2 },
            previous: Some(5),
            content,
            time: Timestamp::from_milliseconds(1_764_000_000_123),
            body: "{}".to_owned(),
        }
    }

    #[test]
    fn a_message_can_be_read_from_its_headers() {
        let event = Content::Event { kind: "Größe 100%".to_owned(), schema: 2, version: 7 };
        for content in [Content::Change, Content::CatchUp { first: 12 }, event, Content::Fork] {
            let sent = message(content);
            for sent in [Message { key: None, previous: None, ..sent.clone() }, sent] {
                let headers = sent.headers();
                assert!(headers.iter().all(|header| header.value.bytes().all(|byte| byte.is_ascii_graphic())));
                let find =
                    |name: &str| headers.iter().find(|header| header.name == name).map(|header| header.value.clone());
                assert_eq!(Message::read(&sent.subject(), find, sent.body.clone()), Some(sent));
            }
        }
    }

    #[test]
    fn what_is_not_a_message_is_not_read() {
        let headers = message(Content::Change).headers();
        for missing in [ID, PART, TIME] {
            let find = |name: &str| {
                let header = headers.iter().find(|header| header.name == name && name != missing);
                header.map(|header| header.value.clone())
            };
            assert_eq!(Message::read("carts.1", find, String::new()), None);
        }
    }
}
