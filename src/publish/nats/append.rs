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
    Stored,
    /// Some or all of them are not there: the last message was another one, or the server has seen an id before.
    NotStored,
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
    size: usize,
}

impl Batch<'_> {
    /// Appends all.
    ///
    /// A server compares the id of a message with those that it has seen lately before it looks at the number that is
    /// expected, and drops the message without an error: also if it has removed the first one meanwhile. So what is
    /// missing is sent once more, with ids that are new.
    pub(super) async fn append(&self, client: &Client) -> Result<(), CarrierError> {
        let mut ids = Ids::Own;
        let mut done = 0;
        let mut sent = self.sent(done, ids);
        self.check_sizes(client, &sent)?;
        while done < self.messages.len() {
            let count = chunk(&sent);
            let rest = sent.split_off(count);
            match self.send(client, done, std::mem::replace(&mut sent, rest)).await? {
                Outcome::Stored => done += count,
                Outcome::NotStored if ids == Ids::New => return Err(CarrierError::Conflict),
                Outcome::NotStored => {
                    ids = Ids::New;
                    done = self.stored().await?;
                    sent = self.sent(done, ids);
                }
            }
        }
        Ok(())
    }

    /// The messages after the first few, as they are sent.
    fn sent(&self, skipped: usize, ids: Ids) -> Vec<Sent> {
        let mut before = None;
        let numbered = (self.expected..).zip(self.messages).skip(skipped);
        let sent = numbered.map(|(expected, message)| {
            let id = match ids {
                Ids::Own => message.message_id(),
                Ids::New => new_id(message, expected),
            };
            let condition = Condition { expected, before: before.replace(id.clone()) };
            Sent::new(self.place, condition, message, id)
        });
        sent.collect()
    }

    fn check_sizes(&self, client: &Client, sent: &[Sent]) -> Result<(), CarrierError> {
        let limit = self.largest.map_or(client.max_payload(), |largest| largest.min(client.max_payload()));
        match sent.iter().zip(self.messages).find(|(sent, _)| sent.size > limit) {
            Some((Sent { size, .. }, message)) => {
                Err(CarrierError::TooLarge { about: message.subject(), size: *size, limit })
            }
            None => Ok(()),
        }
    }

    /// Sends messages, of which `done` were before, and waits for the acknowledgement of the last one: it says that all
    /// are there.
    async fn send(&self, client: &Client, done: usize, mut sent: Vec<Sent>) -> Result<Outcome, CarrierError> {
        let last_number = self.expected + (done + sent.len()) as u64;
        let Some(Sent { message: last, .. }) = sent.pop() else { return Ok(Outcome::Stored) };
        let acknowledged = async {
            for Sent { message, .. } in sent {
                client.publish_message(message).await.map_err(unavailable)?;
            }
            let request = Request::new().payload(last.payload).timeout(Some(REQUEST_TIMEOUT));
            let request = request.headers(last.headers.unwrap_or_default());
            client.send_request(last.subject, request).await.map_err(|error| self.explained(&error))
        };
        let answer = self.connection.unless_lost(acknowledged).await?;
        match serde_json::from_slice(&answer.payload).map_err(unavailable)? {
            Response::Ok(PublishAck { stream, .. }) if stream != self.place.stream => {
                Err(unavailable(format!("the messages have arrived in the stream {stream}")))
            }
            Response::Ok(PublishAck { sequence, duplicate: false, .. }) if sequence == last_number => {
                Ok(Outcome::Stored)
            }
            Response::Ok(_) => Ok(Outcome::NotStored),
            Response::Err { error } if WRONG_LAST.contains(&error.error_code()) => Ok(Outcome::NotStored),
            Response::Err { error } => Err(unavailable(format!("the stream {}: {error}", self.place.stream))),
        }
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

impl Sent {
    fn new(place: &Place, condition: Condition, message: &Message, id: String) -> Self {
        let mut headers = HeaderMap::new();
        let mut size = HEADER_OVERHEAD + message.body.len();
        let mut insert = |name: HeaderName, length: usize, value: String| {
            // A colon, a space, and the end of the line.
            size += length + value.len() + 4;
            headers.insert(name, value);
        };
        insert(NATS_MESSAGE_ID, "Nats-Msg-Id".len(), id);
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
        Self { message, size }
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

/// How many messages are sent together.
fn chunk(sent: &[Sent]) -> usize {
    let mut bytes = 0;
    let fitting = sent.iter().take(MAX_MESSAGES).take_while(|sent| {
        bytes += sent.size;
        bytes <= MAX_BYTES
    });
    fitting.count().max(1)
}
