//! One message of a stream, read without the code that wrote it.

use async_nats::jetstream::Message;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::server::headers;

/// A message as the broker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sequence: u64,
    pub(crate) subject: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Stored {
    pub(super) fn delivered(message: &Message) -> Self {
        Self {
            sequence: message.info().unwrap().stream_sequence,
            subject: message.subject.to_string(),
            headers: headers(message.headers.as_ref()),
            body: message.payload.to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next();
        assert!(found.next().is_none(), "{name} is there twice: {self:?}");
        value.map(|(_, value)| value.as_str())
    }
}

/// A message of a service: its place in the history, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) stored: Stored,
    pub(crate) sequence: u64,
    pub(crate) collection: String,
    /// `None` for the collection as a whole.
    pub(crate) key: Option<String>,
    pub(crate) id: String,
    pub(crate) epoch: String,
    /// The revision or position in its id.
    pub(crate) number: i64,
    /// Whether the id is one of those within a catch-up, which end nowhere.
    pub(crate) is_partial: bool,
    pub(crate) part: u32,
    pub(crate) parts: u32,
    pub(crate) previous: Option<i64>,
    /// The number of the first message of its catch-up.
    pub(crate) catch_up: Option<u64>,
    pub(crate) body: Value,
}

impl Published {
    /// Reads a message, and checks everything that it must have by itself.
    pub(crate) fn read(stored: &Stored) -> Result<Self, String> {
        Self::parse(stored).ok_or_else(|| format!("not a message of a service: {stored:?}"))
    }

    fn parse(stored: &Stored) -> Option<Self> {
        let (place, token) = stored.subject.strip_prefix("duality.")?.rsplit_once('.')?;
        let is_journal = place.starts_with("journal.");
        let collection = place.strip_prefix("journal.").unwrap_or(place);
        let id = stored.header("Duality-Id")?;
        let (epoch, place) = id.split_once('.')?;
        let (number, is_partial) = match place.split_once('.') {
            Some((number, rest)) => (number, rest == "partial" || rest.starts_with("partial.")),
            None => (place, false),
        };
        let (part, parts) = stored.header("Part")?.split_once('/')?;
        let number_of = |name| stored.header(name).map(|value| value.parse().unwrap());
        let message = Self {
            sequence: stored.sequence,
            collection: collection.to_owned(),
            key: key(token)?,
            id: id.to_owned(),
            epoch: epoch.to_owned(),
            number: number.parse().ok()?,
            is_partial,
            part: part.parse().ok()?,
            parts: parts.parse().ok()?,
            previous: number_of("Previous"),
            catch_up: stored.header("Catch-Up").map(|value| value.parse().unwrap()),
            body: serde_json::from_slice(&stored.body).ok()?,
            stored: stored.clone(),
        };
        (message.has_message_id() && message.has_attributes(is_journal)).then_some(message)
    }

    /// The revision, and whether it is within a catch-up.
    pub(super) fn place(&self) -> (i64, bool) {
        (self.number, self.is_partial)
    }

    /// One by which the broker recognises a repetition.
    fn has_message_id(&self) -> bool {
        let id = format!("{}.{}", self.id, self.part);
        let given = self.stored.header("Nats-Msg-Id").unwrap_or_default();
        // It has the expected sequence as well, if the broker knows the plain one from messages that are gone.
        let rest = given.strip_prefix(&id);
        rest.is_some_and(|rest| rest.is_empty() || rest == format!(".{}", self.sequence - 1))
    }

    /// Those of CloudEvents 1.0, in binary mode.
    fn has_attributes(&self, is_journal: bool) -> bool {
        let collection = &self.collection;
        let kind = self.stored.header("Kind").map(|kind| format!("{collection}.{kind}"));
        let (source, kind, media_type) = match (kind, self.is_fork(), self.catch_up) {
            (Some(kind), _, _) => (format!("/journal/{collection}"), kind, "application/json"),
            (None, true, _) => ("/journal".to_owned(), "duality.fork".to_owned(), "application/json"),
            (None, false, Some(_)) => {
                (format!("/{collection}"), "duality.catch-up".to_owned(), "application/merge-patch+json")
            }
            (None, false, None) => {
                (format!("/{collection}"), "duality.change".to_owned(), "application/merge-patch+json")
            }
        };
        let token = self.stored.subject.rsplit_once('.').unwrap().1;
        let is_event = self.stored.header("Kind").is_some() || self.is_fork();
        let time = self.stored.header("ce-time").unwrap_or_default();
        [
            ("ce-specversion", Some("1.0".to_owned())),
            ("ce-id", Some(format!("{}.{}", self.id, self.part))),
            ("ce-source", Some(source)),
            ("ce-type", Some(kind)),
            ("ce-subject", self.key.as_ref().map(|_| token.to_owned())),
            ("ce-datacontenttype", Some(media_type.to_owned())),
        ]
        .into_iter()
        .all(|(name, value)| self.stored.header(name) == value.as_deref())
            && humantime::parse_rfc3339(time).is_ok()
            && is_event == is_journal
    }

    /// Whether the journal goes back to an earlier position here.
    pub(crate) fn is_fork(&self) -> bool {
        self.stored.header("Fork").is_some()
    }

    /// Whether it is the first message of a catch-up.
    pub(crate) fn begins_catch_up(&self) -> bool {
        self.catch_up == Some(self.sequence)
    }

    /// What it changes in the document.
    pub(crate) fn patch(&self) -> Value {
        let body = self.body.clone();
        let body = self.key.as_ref().map_or_else(|| body.clone(), |key| serde_json::json!({ key.as_str(): body }));
        serde_json::json!({ self.collection.as_str(): body })
    }
}

/// The key of the last token of a subject; `None` within for the collection as a whole.
fn key(token: &str) -> Option<Option<String>> {
    // Nothing that has a meaning in a subject, nothing that is not ASCII, and nothing that is empty.
    let is_plain = token.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte));
    if !is_plain || token.is_empty() {
        return None;
    }
    if token == "_" {
        return Some(None);
    }
    percent_decode_str(token).decode_utf8().ok().map(|key| Some(key.into_owned()))
}
