//! What a message broker does for the publisher.

use std::error::Error;
use std::future::Future;

use serde::{Deserialize, Serialize};

use super::message::Message;
use crate::domain::key::Key;

/// What is published: each goes into a stream of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The change events of all collections.
    Changes,
    /// The domain events of all event-sourced collections.
    Journal,
}

impl Output {
    /// `changes` or `journal`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Journal => "journal",
        }
    }
}

/// One stream of a message broker, to which messages are appended.
///
/// The last message of the stream is the publisher's checkpoint: the publisher keeps nothing itself, and asks for it
/// at start and after each error. A broker that does not keep its messages needs a place where the carrier does.
///
/// Its futures run on a thread of the publisher, one after the other. One that does not become ready within ten
/// seconds is dropped, and counts as an error.
///
/// The smallest one, a stream in memory:
///
/// ```
/// use duality::{Carrier, CarrierError, Message, Output, Position, Service, Stored};
///
/// #[derive(Default)]
/// struct Memory {
///     last: u64,
///     messages: Vec<Stored>,
/// }
///
/// impl Carrier for Memory {
///     async fn position(&mut self) -> Result<Position, CarrierError> {
///         let first = self.messages.first().map_or(self.last + 1, |stored| stored.number);
///         let message = self.messages.last().map(|stored| stored.message.clone());
///         Ok(Position { first, last: self.last, message })
///     }
///
///     async fn last_of(&mut self, collection: &str) -> Result<Option<Stored>, CarrierError> {
///         let mut messages = self.messages.iter().rev();
///         Ok(messages.find(|stored| stored.message.collection == collection).cloned())
///     }
///
///     async fn append(&mut self, expected: u64, messages: &[Message]) -> Result<(), CarrierError> {
///         if expected != self.last {
///             return Err(CarrierError::Conflict);
///         }
///         for message in messages.iter().cloned() {
///             self.last += 1;
///             self.messages.push(Stored { number: self.last, message });
///         }
///         Ok(())
///     }
///
///     async fn reset(&mut self, before: u64) -> Result<(), CarrierError> {
///         self.messages.retain(|stored| stored.number >= before);
///         Ok(())
///     }
/// }
///
/// let service = Service::new().publish(Output::Changes, Memory::default);
/// ```
pub trait Carrier {
    /// Where the stream stands. It is also asked regularly in between, to notice what others do to the stream.
    fn position(&mut self) -> impl Future<Output = Result<Position, CarrierError>>;

    /// The last message of the stream about this collection, if it still has one.
    fn last_of(&mut self, collection: &str) -> impl Future<Output = Result<Option<Stored>, CarrierError>>;

    /// Appends messages, in order, if the last message of the stream has the number `expected`. It returns when the
    /// broker has stored all of them. After an error, the stream has the first few of them or none.
    fn append(&mut self, expected: u64, messages: &[Message]) -> impl Future<Output = Result<(), CarrierError>>;

    /// Removes the messages before this number: what follows replaces them.
    fn reset(&mut self, before: u64) -> impl Future<Output = Result<(), CarrierError>>;

    /// Removes messages about an aggregate that was erased, so that nobody can read them any more, in the files of the
    /// broker neither, as far as it can do that. It removes a few at a time, and is asked again while there are more. The
    /// last message of the stream always stays.
    ///
    /// Without this method nothing is removed: a broker that keeps no messages has none to remove.
    fn erase(&mut self, past: &Past) -> impl Future<Output = Result<Removal, CarrierError>> {
        let _ = past;
        std::future::ready(Ok(Removal::Unsupported))
    }
}

/// The messages about an aggregate that was erased, without those that stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The collection of the aggregate.
    pub collection: String,
    /// The key of the aggregate.
    pub key: Key,
    /// What stays.
    pub keep: Keep,
}

/// Which messages about an erased aggregate stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Keep {
    /// The last one about the aggregate, which says that it is gone.
    Last,
    /// Those from this number on: a catch-up begins there, and what is before it is about to be removed.
    From(u64),
}

/// What has become of the messages about an erased aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// None is left.
    Done,
    /// There may be more.
    More,
    /// The carrier removes none.
    Unsupported,
}

/// Where a stream stands. Its messages are numbered 1, 2, 3 …, and no number is used twice.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The number of the oldest message that the stream has; that of the next one, if it is empty.
    pub first: u64,
    /// The number of the last message that was appended, be it still there or not; 0 before the first.
    pub last: u64,
    /// That message; `None` if the stream does not have it any more, or if somebody else appended it.
    pub message: Option<Message>,
}

/// A message that a stream has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its place in the stream, see [`Position`].
    pub number: u64,
    /// The message.
    pub message: Message,
}

/// Why a broker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarrierError {
    /// The last message is another one than expected.
    #[error("the stream has other messages than expected")]
    Conflict,
    /// Another service publishes into this stream.
    #[error("another service publishes into this stream: {0}")]
    Taken(String),
    /// Another service with the same database publishes into this stream, so nothing has to be done.
    #[error("another service with this database publishes: {0}")]
    StandBy(String),
    /// The broker does not take messages of this size.
    #[error("a message about {about} has {size} bytes, and the broker takes {limit}")]
    TooLarge {
        /// The collection and the key.
        about: String,
        /// In bytes, with its headers.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// The broker cannot be reached, is full, or answers with an error.
    #[error(transparent)]
    Unavailable(#[from] Box<dyn Error + Send + Sync>),
}
