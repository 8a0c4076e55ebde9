//! Removes the messages about an erased aggregate one after the other: a server overwrites a message that is deleted. One that
//! a purge removes stays readable in the file of the server, until that writes the file again for some other reason.

use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::Connection;
use super::stream::Place;
use super::unavailable;
use crate::publish::carrier::{CarrierError, Keep, Past, Removal};
use crate::publish::subject;

/// How many messages are deleted at once, and for how long about. Each is on the disk of the server before the next one is
/// asked for, and new messages wait meanwhile.
const MAX_MESSAGES: usize = 100;
const MAX_TIME: Duration = Duration::from_millis(500);

/// The errors of a message that is not there any more.
const IS_GONE: [ErrorCode; 2] = [ErrorCode::SEQUENCE_NOT_FOUND, MESSAGE_DELETE_FAILED];

/// The error of a message that cannot be deleted, be it because there is none, or because the stream does not allow it.
const MESSAGE_DELETE_FAILED: ErrorCode = ErrorCode(10057);

/// The messages about one aggregate.
pub(super) struct Erasing<'a> {
    pub(super) connection: &'a Connection,
    pub(super) place: &'a Place,
    pub(super) past: &'a Past,
}

/// A message, of which only the number counts.
#[derive(Deserialize)]
struct Found {
    message: Numbered,
}

#[derive(Deserialize)]
struct Numbered {
    seq: u64,
}

#[derive(Deserialize)]
struct Deleted {}

impl Erasing<'_> {
    /// Deletes the next messages. The server is asked for one thing at a time: of version 2.9, it loses messages when it
    /// removes some in two ways at once.
    pub(super) async fn some(&self) -> Result<Removal, CarrierError> {
        let began = Instant::now();
        let mut found = self.next(1).await?;
        for _ in 0..MAX_MESSAGES {
            let Some(number) = found else { return Ok(Removal::Done) };
            found = self.next(number + 1).await?;
            let stays = match self.past.keep {
                Keep::Last => found.is_none(),
                Keep::From(first) => number >= first,
            };
            if stays {
                return Ok(Removal::Done);
            }
            self.delete(number).await?;
            if began.elapsed() > MAX_TIME {
                break;
            }
        }
        Ok(Removal::More)
    }

    /// The number of the first message about the aggregate that has at least this number.
    async fn next(&self, from: u64) -> Result<Option<u64>, CarrierError> {
        let Past { collection, key, .. } = self.past;
        let subject = format!("{}{collection}.{}", self.place.prefix, subject::token(Some(key)));
        match self.ask("MSG.GET", &json!({ "seq": from, "next_by_subj": subject })).await? {
            Response::Ok(Found { message }) => Ok(Some(message.seq)),
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
            Response::Err { error } => Err(self.failed(&error)),
        }
    }

    async fn delete(&self, number: u64) -> Result<(), CarrierError> {
        // Without `no_erase`, the server overwrites it.
        match self.ask::<Deleted>("MSG.DELETE", &json!({ "seq": number })).await? {
            Response::Ok(_) => Ok(()),
            Response::Err { error } if IS_GONE.contains(&error.error_code()) && !self.has(number).await? => Ok(()),
            Response::Err { error } => Err(self.failed(&error)),
        }
    }

    /// Whether the message is there.
    async fn has(&self, number: u64) -> Result<bool, CarrierError> {
        Ok(self.next(number).await? == Some(number))
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        what: &str,
        question: &Value,
    ) -> Result<Response<T>, CarrierError> {
        self.connection.request(format!("STREAM.{what}.{}", self.place.stream), question).await
    }

    fn failed(&self, error: &async_nats::jetstream::Error) -> CarrierError {
        unavailable(format!("the stream {}: {error}", self.place.stream))
    }
}
