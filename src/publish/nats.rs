//! The carrier for [NATS JetStream](https://docs.nats.io/nats-concepts/jetstream), 2.9 and later.

mod append;
mod connection;
mod erase;
mod owner;
mod stream;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::time::Duration;

pub(crate) use self::connection::Broker;
use self::connection::Connection;
pub(crate) use self::owner::Owner;
use self::owner::Ownership;
use self::stream::{Place, Standing};
use super::carrier::{Carrier, CarrierError, Output, Past, Position, Removal, Stored};
use super::message::Message;

/// How long the work on a call may take. The publisher waits somewhat longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(9);

/// One output in its JetStream stream.
pub(crate) struct NatsCarrier {
    connection: Connection,
    place: Place,
    ownership: Ownership,
    /// The number of the last message of the stream, as far as this carrier has appended or seen it.
    last: Option<u64>,
    /// The size of the largest message that the stream takes, if it has a limit of its own.
    largest: Option<usize>,
}

impl NatsCarrier {
    /// A carrier for the stream of this output. `owner` says whose messages these are, for other services that want to
    /// publish there. It connects when it is asked something.
    pub(crate) fn new(broker: Broker, output: Output, owner: &Owner) -> Self {
        let place = Place::new(output, &broker);
        let ownership = Ownership::new(place.owner_subject.clone(), owner);
        Self { connection: Connection::new(broker, output), place, ownership, last: None, largest: None }
    }

    /// Where the stream stands, once it is certain that nobody else publishes there.
    async fn own(&mut self) -> Result<Standing, CarrierError> {
        let client = self.connection.client().await?;
        self.ownership.take(&client).await?;
        let standing = self.place.open(&self.connection).await?;
        if self.last.is_none_or(|last| last == standing.last) {
            return Ok(standing);
        }
        // Somebody else has appended messages, or the stream is another one.
        self.ownership.release();
        self.ownership.take(&client).await?;
        self.place.open(&self.connection).await
    }

    async fn find_position(&mut self) -> Result<Position, CarrierError> {
        let Standing { first, last, largest } = self.own().await?;
        let message = if first > last { None } else { self.place.message(&self.connection, last).await? };
        self.last = Some(last);
        self.largest = largest;
        Ok(Position { first, last, message })
    }

    async fn append_all(&mut self, expected: u64, messages: &[Message]) -> Result<(), CarrierError> {
        let client = self.connection.client().await?;
        if !self.ownership.is_held(&client) {
            return Err(self.ownership.loss());
        }
        self.last = None;
        let Self { connection, place, largest, .. } = &*self;
        let batch = append::Batch { connection, place, expected, largest: *largest, messages };
        match batch.append(&client).await {
            Ok(()) => self.last = Some(expected + messages.len() as u64),
            Err(CarrierError::Conflict) => {
                self.ownership.release();
                return Err(CarrierError::Conflict);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl NatsCarrier {
    async fn erase_some(&self, past: &Past) -> Result<Removal, CarrierError> {
        let Self { connection, place, ownership, .. } = self;
        if !ownership.is_held(&connection.client().await?) {
            return Err(ownership.loss());
        }
        erase::Erasing { connection, place, past }.some().await
    }
}

impl Carrier for NatsCarrier {
    async fn position(&mut self) -> Result<Position, CarrierError> {
        in_time(self.find_position()).await
    }

    async fn last_of(&mut self, collection: &str) -> Result<Option<Stored>, CarrierError> {
        in_time(self.place.last_of(&self.connection, collection)).await
    }

    async fn append(&mut self, expected: u64, messages: &[Message]) -> Result<(), CarrierError> {
        in_time(self.append_all(expected, messages)).await
    }

    async fn reset(&mut self, before: u64) -> Result<(), CarrierError> {
        in_time(self.place.purge(&self.connection, before)).await
    }

    async fn erase(&mut self, past: &Past) -> Result<Removal, CarrierError> {
        in_time(self.erase_some(past)).await
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, CarrierError>>) -> Result<T, CarrierError> {
    tokio::time::timeout(CALL_TIMEOUT, work).await.unwrap_or_else(|_| Err(unavailable("NATS does not answer in time")))
}

fn unavailable(why: impl Into<Box<dyn Error + Send + Sync>>) -> CarrierError {
    CarrierError::Unavailable(why.into())
}
