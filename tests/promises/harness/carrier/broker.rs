//! A message broker in memory that does everything that a broker may do wrong.

use std::sync::{Arc, Mutex, MutexGuard};

use duality::{Carrier, CarrierError, Content, Keep, Message, Past, Position, Removal};

/// One stream, which outlives the services that publish into it.
#[derive(Clone, Default)]
pub(crate) struct MemoryBroker(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    contents: Contents,
    starts: usize,
    faults: Vec<Fault>,
    /// Whether messages about erased aggregates are removed.
    is_erasing: bool,
    /// What was removed because a catch-up replaced it.
    replaced: Vec<Message>,
}

/// What is in a stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    pub(crate) messages: Vec<Stored>,
    /// The number of the last message that was appended.
    pub(crate) last: u64,
    pub(crate) loss: Loss,
}

/// A message in a stream.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) number: u64,
    /// `None` if somebody else appended it.
    pub(crate) message: Option<Message>,
}

/// Whether somebody has removed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Loss {
    #[default]
    None,
    /// The service has to notice that.
    Noticeable,
    /// It cannot notice that: what the stream has now may be all that it ever had.
    Unnoticeable,
}

/// What a broker does wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not say where the stream stands.
    NoPosition,
    NoLastOf,
    /// It removes nothing, or does not say that it has.
    NoReset,
    ResetWithoutAnswer,
    /// It stores the first messages, at most this many, and does not say so.
    Append(usize),
    /// It never answers, having stored everything.
    Silence,
    /// Somebody empties the stream just before messages are appended.
    EmptiedBefore,
    /// Somebody else appends a message just before.
    ForeignBefore,
}

impl MemoryBroker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A carrier to this broker.
    pub(crate) fn carrier(&self) -> impl Fn() -> Connection + Send + Sync + use<> {
        let broker = self.clone();
        move || Connection(broker.clone())
    }

    /// It removes messages about erased aggregates, one at a time.
    pub(crate) fn erasing() -> Self {
        Self(Arc::new(Mutex::new(State { is_erasing: true, ..State::default() })))
    }

    /// What was removed because a catch-up replaced it.
    pub(crate) fn replaced(&self) -> Vec<Message> {
        self.state().replaced.clone()
    }

    pub(crate) fn contents(&self) -> Contents {
        self.state().contents.clone()
    }

    /// The broker was stopped, and started with this: everybody who reads it has to connect again.
    pub(crate) fn put_back(&self, contents: Contents) {
        let mut state = self.state();
        state.contents = contents;
        state.starts += 1;
    }

    /// How often it was put back.
    pub(crate) fn starts(&self) -> usize {
        self.state().starts
    }

    /// From now on, this goes wrong once.
    pub(crate) fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub(crate) fn heal(&self) {
        self.state().faults.clear();
    }

    pub(crate) fn has_faults(&self) -> bool {
        !self.state().faults.is_empty()
    }

    /// Removes all messages.
    pub(crate) fn empty(&self) {
        self.state().contents.empty();
    }

    /// Removes the oldest messages, as limits do.
    pub(crate) fn remove_oldest(&self, number: usize) {
        let contents = &mut self.state().contents;
        let number = number.min(contents.messages.len());
        contents.messages.drain(..number);
        if number > 0 {
            contents.loss = Loss::Unnoticeable;
        }
    }

    pub(crate) fn append_foreign(&self) {
        self.state().contents.append(None);
    }

    /// The service has ended, and with it everything that it knew of the stream.
    pub(crate) fn forgotten(&self) {
        let contents = &mut self.state().contents;
        let has_last = contents.messages.last().is_some_and(|last| last.message.is_some());
        if contents.loss == Loss::Noticeable && has_last {
            contents.loss = Loss::Unnoticeable;
        }
    }
}

impl Contents {
    fn append(&mut self, message: Option<Message>) {
        self.last += 1;
        if let Some(Message { content: Content::CatchUp { first }, .. }) = &message
            && *first == self.last
        {
            self.loss = Loss::None;
        }
        self.messages.push(Stored { number: self.last, message });
    }

    fn empty(&mut self) {
        if !self.messages.is_empty() {
            self.loss = self.loss.max(Loss::Noticeable);
        }
        self.messages.clear();
    }

    /// Removes the first message about an erased aggregate.
    fn erase(&mut self, past: &Past) -> Removal {
        let is_about =
            |message: &Message| message.collection == past.collection && message.key.as_ref() == Some(&past.key);
        let about = |stored: &&Stored| stored.message.as_ref().is_some_and(is_about);
        let numbers: Vec<_> = self.messages.iter().filter(about).map(|stored| stored.number).collect();
        let goes = match past.keep {
            Keep::Last => numbers.len() > 1,
            Keep::From(first) => numbers.first().is_some_and(|number| *number < first),
            _ => false,
        };
        if !goes {
            return Removal::Done;
        }
        self.messages.retain(|stored| stored.number != numbers[0]);
        Removal::More
    }

    fn position(&self) -> Position {
        let last = self.messages.last();
        let first = self.messages.first().map_or(self.last + 1, |first| first.number);
        Position { first, last: self.last, message: last.and_then(|last| last.message.clone()) }
    }
}

impl Loss {
    fn max(self, other: Self) -> Self {
        if self == Self::None { other } else { self }
    }
}

/// A connection of a service to a broker.
pub(crate) struct Connection(MemoryBroker);

impl Connection {
    /// Does something, unless it is to fail.
    fn answer<T>(&self, failure: Fault, work: impl FnOnce(&mut Contents) -> T) -> Result<T, CarrierError> {
        let mut state = self.0.state();
        match state.take(|fault| *fault == failure) {
            Some(_) => Err(unavailable()),
            None => Ok(work(&mut state.contents)),
        }
    }
}

impl State {
    fn take(&mut self, is_it: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let found = self.faults.iter().position(is_it)?;
        Some(self.faults.remove(found))
    }

    /// Stores messages. Returns how it answers, or nothing if it does not.
    fn append(&mut self, expected: u64, messages: &[Message]) -> Option<Result<(), CarrierError>> {
        let is_appending = |fault: &Fault| {
            matches!(fault, Fault::Append(_) | Fault::Silence | Fault::EmptiedBefore | Fault::ForeignBefore)
        };
        let fault = self.take(is_appending);
        match fault {
            Some(Fault::EmptiedBefore) => self.contents.empty(),
            Some(Fault::ForeignBefore) => self.contents.append(None),
            _ => {}
        }
        if self.contents.last != expected {
            return Some(Err(CarrierError::Conflict));
        }
        let stored = if let Some(Fault::Append(most)) = fault { most.min(messages.len()) } else { messages.len() };
        messages[..stored].iter().for_each(|message| self.contents.append(Some(message.clone())));
        match fault {
            Some(Fault::Append(_)) => Some(Err(unavailable())),
            Some(Fault::Silence) => None,
            _ => Some(Ok(())),
        }
    }
}

fn unavailable() -> CarrierError {
    CarrierError::Unavailable("the broker does not answer".into())
}

impl Carrier for Connection {
    async fn position(&mut self) -> Result<Position, CarrierError> {
        self.answer(Fault::NoPosition, |contents| contents.position())
    }

    async fn last_of(&mut self, collection: &str) -> Result<Option<duality::Stored>, CarrierError> {
        self.answer(Fault::NoLastOf, |contents| {
            let mut messages = contents.messages.iter().rev().filter_map(|stored| {
                let message = stored.message.as_ref().filter(|message| message.collection == collection)?;
                Some(duality::Stored { number: stored.number, message: message.clone() })
            });
            messages.next()
        })
    }

    async fn append(&mut self, expected: u64, messages: &[Message]) -> Result<(), CarrierError> {
        let answer = self.0.state().append(expected, messages);
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn reset(&mut self, before: u64) -> Result<(), CarrierError> {
        let remove = |contents: &mut Contents| {
            let (kept, replaced) = contents.messages.drain(..).partition(|stored| stored.number >= before);
            contents.messages = kept;
            replaced
        };
        let replaced: Vec<Stored> = self.answer(Fault::NoReset, remove)?;
        self.0.state().replaced.extend(replaced.into_iter().filter_map(|stored| stored.message));
        self.answer(Fault::ResetWithoutAnswer, |_| ())
    }

    async fn erase(&mut self, past: &Past) -> Result<Removal, CarrierError> {
        let mut state = self.0.state();
        if !state.is_erasing {
            return Ok(Removal::Unsupported);
        }
        Ok(state.contents.erase(past))
    }
}
