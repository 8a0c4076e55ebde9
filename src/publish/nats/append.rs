//! Appends messages, each on the condition that the one before it is there.
//!
//! The number of the last message alone is no such condition for any but the first one: if somebody else has appended one
//! message meanwhile, the first is refused, and the second would follow the other's. So each also names the one before it.

use async_nats::client::traits::Publisher as _;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::header::{HeaderName, NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap};

use super::connection::{Connection, REQUEST_TIMEOUT};
use super::stream::Place;
use super::unavailable;
use crate::publish::carrier::CarrierError;
use crate::publish::message::Message;

/// How many messages are on their way at most, and about how many bytes. A server drops what it cannot take up.
const MAX_MESSAGES: usize = 1000;
const MAX_BYTES: usize = 4 << 20;

/// The errors of a stream that ends with another message.
const WRONG_LAST: [ErrorCode; 2] = [ErrorCode::STREAM_WRONG_LAST_SEQUENCE, ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID];

/// What the size of a message's headers has beside their lines: `NATS/1.0` and the empty line.
const HEADER_OVERHEAD: usize = 12;

/// Messages that are to follow the one with the number `expected`.
pub(super) struct Batch<'a> {
    pub(super) connection: &'a Connection,
    pub(super) place: &'a Place,
    pub(super) expected: u64,
    /// The size of the largest message that the stream takes, if it has a limit of its own.
    pub(super) largest: Option<usize>,
    pub(super) messages: &'a [Message],
}

/// The ids by which a server knows duplicates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ids {
    /// Those of the messages.
    Own,
    /// With a suffix that no message before has had.
    New,
}

/// What became of some messages.
enum Outcome {
    /// So many.
    Stored(usize),
    /// Some or all of them are not there: the last message was another one, or the server has seen an id before.
    NotStored,
}

/// Messages on their way.
struct Sending<'a> {
    batch: &'a Batch<'a>,
    client: &'a Client,
    /// The size of the largest message that is taken.
    limit: usize,
    ids: Ids,
    /// How many of the messages are there.
    done: usize,
}

/// What the stream has to end with, so that a message is stored.
struct Condition {
    /// The number of the last message.
    expected: u64,
    /// Its id. The first of some messages has none: a server forgets the id of the last message when it starts.
    before: Option<String>,
}

/// A message as it is sent.
struct Sent {
    message: OutboundMessage,
    id: String,
    size: usize,
}

impl Batch<'_> {
    /// Appends all.
    ///
    /// A server compares the id of a message with those that it has seen lately before it looks at the number that is
    /// expected, and drops the message without an error: also if it has removed the first one meanwhile. So what is
    /// missing is sent once more, with ids that are new.
    ///
    /// # Errors
    /// [`CarrierError::TooLarge`] for the first message that is; those before it are appended.
    pub(super) async fn append(&self, client: &Client) -> Result<(), CarrierError> {
        let limit = self.largest.map_or(client.max_payload(), |largest| largest.min(client.max_payload()));
        let mut sending = Sending { batch: self, client, limit, ids: Ids::Own, done: 0 };
        while sending.done < self.messages.len() {
            match sending.send().await? {
                Outcome::Stored(count) => sending.done += count,
                Outcome::NotStored if sending.ids == Ids::New => return Err(CarrierError::Conflict),
                Outcome::NotStored => {
                    sending.ids = Ids::New;
                    sending.done = self.stored().await?;
                }
            }
        }
        Ok(())
    }

    fn explained(&self, error: &async_nats::client::RequestError) -> CarrierError {
        let stream = &self.place.stream;
        match error.kind() {
            RequestErrorKind::NoResponders => unavailable(format!("the stream {stream} is not there")),
            RequestErrorKind::TimedOut => unavailable(format!("the stream {stream} does not answer in time")),
            _ => unavailable(error.to_string()),
        }
    }

    /// How many of the messages the stream has, and nothing after them.
    ///
    /// # Errors
    /// [`CarrierError::Conflict`] if its last message is another one.
    async fn stored(&self) -> Result<usize, CarrierError> {
        let last = self.place.open(self.connection).await?.last;
        let count = last.checked_sub(self.expected).and_then(|count| usize::try_from(count).ok());
        let count = count.filter(|count| *count <= self.messages.len()).ok_or(CarrierError::Conflict)?;
        let Some(message) = count.checked_sub(1).and_then(|index| self.messages.get(index)) else { return Ok(0) };
        let id = self.place.id_of(self.connection, last).await?;
        let is_ours = id.is_some_and(|id| id == message.message_id() || id == new_id(message, last - 1));
        if is_ours { Ok(count) } else { Err(CarrierError::Conflict) }
    }
}

impl Sending<'_> {
    /// Sends the next messages, and waits for the acknowledgement of the last one: it says that all are there.
    async fn send(&self) -> Result<Outcome, CarrierError> {
        let mut last = self.message(0, None)?;
        let (mut count, mut bytes) = (1, last.size);
        let acknowledged = async {
            while count < MAX_MESSAGES && self.done + count < self.batch.messages.len() {
                // One that is too large is the first of the next ones.
                let Ok(next) = self.message(count, Some(last.id.clone())) else { break };
                bytes += next.size;
                if bytes > MAX_BYTES {
                    break;
                }
                let before = std::mem::replace(&mut last, next);
                self.client.publish_message(before.message).await.map_err(unavailable)?;
                count += 1;
            }
            let Sent { message, .. } = last;
            let request = Request::new().payload(message.payload).timeout(Some(REQUEST_TIMEOUT));
            let request = request.headers(message.headers.unwrap_or_default());
            let sent = self.client.send_request(message.subject, request).await;
            sent.map_err(|error| self.batch.explained(&error))
        };
        let answer = self.batch.connection.unless_lost(acknowledged).await?;
        self.outcome(&answer.payload, count)
    }

    fn outcome(&self, answer: &[u8], count: usize) -> Result<Outcome, CarrierError> {
        let last = self.batch.expected + (self.done + count) as u64;
        let ours = &self.batch.place.stream;
        match serde_json::from_slice(answer).map_err(unavailable)? {
            Response::Ok(PublishAck { stream, .. }) if stream != *ours => {
                Err(unavailable(format!("the messages have arrived in the stream {stream}")))
            }
            Response::Ok(PublishAck { sequence, duplicate: false, .. }) if sequence == last => {
                Ok(Outcome::Stored(count))
            }
            Response::Ok(_) => Ok(Outcome::NotStored),
            Response::Err { error } if WRONG_LAST.contains(&error.error_code()) => Ok(Outcome::NotStored),
            Response::Err { error } => Err(unavailable(format!("the stream {ours}: {error}"))),
        }
    }

    /// The message with this index among the next ones, as it is sent after the one with the id `before`.
    fn message(&self, index: usize, before: Option<String>) -> Result<Sent, CarrierError> {
        let index = self.done + index;
        let (message, expected) = (&self.batch.messages[index], self.batch.expected + index as u64);
        let id = match self.ids {
            Ids::Own => message.message_id(),
            Ids::New => new_id(message, expected),
        };
        let sent = Sent::new(self.batch.place, Condition { expected, before }, message, id);
        if sent.size > self.limit {
            return Err(CarrierError::TooLarge { about: message.subject(), size: sent.size, limit: self.limit });
        }
        Ok(sent)
    }
}

impl Sent {
    fn new(place: &Place, condition: Condition, message: &Message, id: String) -> Self {
        let mut headers = HeaderMap::new();
        let mut size = HEADER_OVERHEAD + message.body.len();
        let mut insert = |name: HeaderName, length: usize, value: String| {
            // A colon, a space, and the end of the line.
            size += length + value.len() + 4;
            headers.insert(name, value);
        };
        insert(NATS_MESSAGE_ID, "Nats-Msg-Id".len(), id.clone());
        insert(NATS_EXPECTED_LAST_SEQUENCE, "Nats-Expected-Last-Sequence".len(), condition.expected.to_string());
        if let Some(before) = condition.before {
            insert(NATS_EXPECTED_LAST_MESSAGE_ID, "Nats-Expected-Last-Msg-Id".len(), before);
        }
        for header in message.headers() {
            insert(HeaderName::from_static(header.name), header.name.len(), header.value);
        }
        let message = OutboundMessage {
            subject: place.subject(message).into(),
            reply: None,
            payload: message.body.clone().into(),
            headers: Some(headers),
        };
        Self { message, id, size }
    }
}

/// An id that the stream has not seen: no number is used twice.
fn new_id(message: &Message, expected: u64) -> String {
    format!("{}.{expected}", message.message_id())
}

/// The size of a message as it is sent after another one.
#[cfg(test)]
pub(super) fn size(place: &Place, expected: u64, message: &Message) -> usize {
    Sent::new(place, Condition { expected, before: None }, message, message.message_id()).size
}
