//! The steps of one output, as plain functions: where the stream stands, what comes next, and that the broker has it.

use std::time::{Duration, Instant};

use super::carrier::{Carrier, CarrierError, Keep, Output, Position, Stored};
use super::erasing::{Erasing, ErasingContext};
use super::error::{PublishError, answered};
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
    /// What goes from the stream because it was erased.
    erasing: Erasing,
    /// Whether the stream has more to lose. It is asked where it stands before each step that removes something, so that
    /// nobody takes what is missing afterwards for what others have removed.
    is_losing: bool,
    /// How far it has come, for the status.
    reached: Reached<S::Place>,
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Published(Progress),
    /// Another service with the same database publishes.
    LeftToOthers,
    Failed,
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
        Self {
            carrier,
            source,
            status,
            check_interval,
            stream: None,
            seen: None,
            erasing: Erasing::default(),
            is_losing: false,
            reached: Reached::Unknown,
        }
    }

    /// Publishes the next messages. After an error the next step begins with the question where the stream stands.
    pub(super) async fn step(&mut self) -> Step {
        let outcome = self.try_step().await;
        if let Some(stream) = &self.stream {
            self.reached = Reached::Place(stream.place.clone());
        }
        let backlog = self.backlog();
        match outcome {
            Ok(progress) => {
                self.status.stepped(progress, backlog);
                Step::Published(progress)
            }
            Err(PublishError::Carrier(CarrierError::StandBy(other))) => {
                self.status.stands_by(&other, backlog);
                Step::LeftToOthers
            }
            Err(error) => {
                self.status.failed(&error, backlog);
                Step::Failed
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
            Some(stream) if stream.checked.elapsed() < self.check_interval && !self.is_losing => stream,
            known => {
                let mut stream = self.look(known).await?;
                self.lose(&mut stream).await?;
                stream
            }
        };
        if Self::replaced_before(&stream).is_some() {
            self.stream = Some(stream);
            return Ok(Progress::More);
        }
        let Self { carrier, source, status, .. } = self;
        let Batch { messages, next, progress } = source.next(&stream.place, stream.last, &mut stream.heads)?;
        if !messages.is_empty() {
            answered(carrier.append(stream.last, &messages)).await?;
            stream.last += messages.len() as u64;
            status.published(messages.len());
        }
        // What a catch-up replaces is removed when its begin is in the stream: whoever loses the stream to another
        // service has removed nothing.
        if S::start_of(&next).is_some() && S::start_of(&stream.place).is_none() {
            status.catching_up();
            self.seen = Some(stream.last);
            self.is_losing = true;
            self.erasing.restart();
        }
        stream.place = next;
        self.stream = Some(stream);
        Ok(if self.is_losing { Progress::More } else { progress })
    }

    /// Removes some of what the stream is to lose: what it has about erased aggregates, and what a catch-up replaces. The
    /// former goes first, because a broker may overwrite it more thoroughly.
    async fn lose(&mut self, stream: &mut Stream<S::Place>) -> Result<(), PublishError> {
        let Self { carrier, source, status, .. } = self;
        let replaced = Self::replaced_before(stream);
        let keep = match (S::start_of(&stream.place), replaced) {
            (None, _) => Keep::Last,
            (Some(_), Some(first)) => Keep::From(first),
            (Some(_), None) => {
                self.is_losing = false;
                return Ok(());
            }
        };
        let context = ErasingContext { carrier, source, status, place: &stream.place, keep };
        self.is_losing = self.erasing.step(context).await? == Progress::More;
        if let Some(first) = replaced.filter(|_| !self.is_losing) {
            answered(self.carrier.reset(first)).await?;
            stream.first = first;
            self.erasing.restart();
        }
        Ok(())
    }

    /// The begin of the catch-up in which the stream is, if it still has what is before that.
    fn replaced_before(stream: &Stream<S::Place>) -> Option<u64> {
        S::start_of(&stream.place).filter(|first| stream.first < *first)
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
        self.seen = Some(position.last);
        self.erasing.restart();
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
