//! The steps of one output, as plain functions: where the stream stands, what comes next, and that the broker has it.

use std::future::Future;
use std::time::{Duration, Instant};

use actix::clock::timeout;

use super::carrier::{Carrier, CarrierError, Output, Position, Stored};
use super::error::{ANSWER_TIMEOUT, PublishError};
use super::heads::Heads;
use super::source::{Backlog, Batch, Resumed, Source};
use super::status::Status;
use crate::storage::page::Progress;

/// Publishes one output.
pub(super) struct Publisher<C, S: Source> {
    carrier: C,
    source: S,
    status: Status,
    /// How often the stream is asked whether it is still as it was left.
    check_interval: Duration,
    /// `None` at start and after an error, until the broker has said where its stream stands.
    stream: Option<Stream<S::Place>>,
    /// The last message of the stream when it was looked at, if it was.
    seen: Option<u64>,
    /// How far it has come, for the status.
    reached: Reached<S::Place>,
}

/// How far publishing has come.
enum Reached<Place> {
    /// The database has not been read yet.
    Unknown,
    /// The stream is not known. What is written after this revision, or position, is certainly not published.
    Start(i64),
    Place(Place),
}

/// A stream, as the publisher left it.
struct Stream<Place> {
    place: Place,
    heads: Heads,
    /// The number of the oldest message when it was looked at.
    first: u64,
    /// The number of the last message.
    last: u64,
    checked: Instant,
}

impl<C: Carrier, S: Source> Publisher<C, S> {
    pub(super) fn new(carrier: C, source: S, status: Status, check_interval: Duration) -> Self {
        Self { carrier, source, status, check_interval, stream: None, seen: None, reached: Reached::Unknown }
    }

    /// Publishes the next messages. After an error the next step begins with the question where the stream stands.
    pub(super) async fn step(&mut self) -> Result<Progress, ()> {
        let outcome = self.try_step().await;
        if let Some(stream) = &self.stream {
            self.reached = Reached::Place(stream.place.clone());
        }
        let backlog = self.backlog();
        match outcome {
            Ok(progress) => {
                self.status.stepped(progress, backlog);
                Ok(progress)
            }
            Err(error) => {
                self.status.failed(&error, backlog);
                Err(())
            }
        }
    }

    /// What is not published; nothing, if the database cannot be read, which is an error elsewhere.
    fn backlog(&mut self) -> Backlog {
        let place = if let Reached::Place(place) = &self.reached { Some(place) } else { None };
        let mut backlog = self.source.backlog(place).unwrap_or_default();
        match self.reached {
            Reached::Unknown => self.reached = Reached::Start(backlog.last),
            Reached::Start(last) => backlog.published = last,
            Reached::Place(_) => {}
        }
        backlog
    }

    async fn try_step(&mut self) -> Result<Progress, PublishError> {
        let mut stream = match self.stream.take() {
            Some(stream) if stream.checked.elapsed() < self.check_interval => stream,
            known => self.look(known).await?,
        };
        let Self { carrier, source, status, .. } = self;
        let Batch { messages, next, progress } = source.next(&stream.place, stream.last, &mut stream.heads)?;
        if !messages.is_empty() {
            answered(carrier.append(stream.last, &messages)).await?;
            stream.last += messages.len() as u64;
            status.published(messages.len());
        }
        // What a catch-up replaces is removed when its begin is in the stream: whoever loses the stream to another
        // service has removed nothing.
        if let Some(first) = S::start_of(&next).filter(|_| S::start_of(&stream.place).is_none()) {
            status.catching_up();
            if stream.first < first {
                answered(carrier.reset(first)).await?;
            }
            self.seen = Some(stream.last);
        }
        stream.place = next;
        self.stream = Some(stream);
        Ok(progress)
    }

    /// Asks where the stream stands. If it is as it was left, nothing changes; otherwise, the place follows from its last
    /// message.
    async fn look(&mut self, known: Option<Stream<S::Place>>) -> Result<Stream<S::Place>, PublishError> {
        let Self { carrier, source, .. } = self;
        let mut position = answered(carrier.position()).await?;
        // Its limits remove old messages, too, but not all that it had, in so short a time.
        let is_emptied = self.seen.is_some_and(|seen| position.first > seen.max(1));
        if let Some(known) = known
            && !is_emptied
            && is_as_left(&known, &position)
        {
            self.seen = Some(position.last);
            return Ok(Stream { first: position.first, checked: Instant::now(), ..known });
        }
        if is_emptied {
            // What was appended since then is not the whole, and comes again with the rest. A catch-up removes it itself.
            if S::OUTPUT == Output::Journal && position.first <= position.last {
                answered(carrier.reset(position.last + 1)).await?;
            }
            position.message = None;
        }
        let Resumed { place, heads } = source.resume(&position, &heads(carrier, source).await?)?;
        if let Some(first) = S::start_of(&place).filter(|first| position.first < *first) {
            answered(carrier.reset(first)).await?;
        }
        self.seen = Some(position.last);
        Ok(Stream { place, heads, first: position.first, last: position.last, checked: Instant::now() })
    }
}

/// The last message about each collection, if the stream has one.
async fn heads<C: Carrier, S: Source>(carrier: &mut C, source: &S) -> Result<Vec<Stored>, PublishError> {
    let mut heads = Vec::new();
    for collection in source.collections() {
        heads.extend(answered(carrier.last_of(collection)).await?);
    }
    Ok(heads)
}

/// Whether the stream ends with the last message of the publisher.
fn is_as_left<Place>(known: &Stream<Place>, position: &Position) -> bool {
    position.last == known.last && (position.message.is_some() || position.last == 0)
}

/// What a broker answers, in time.
async fn answered<T>(answer: impl Future<Output = Result<T, CarrierError>>) -> Result<T, PublishError> {
    Ok(timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| PublishError::NoAnswer)??)
}
