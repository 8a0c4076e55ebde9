//! What is published: messages in an order that follows from the database, from any place on.

use super::carrier::{Output, Position, Stored};
use super::heads::Heads;
use super::message::Message;
use crate::domain::revision::Revision;
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::page::Progress;

/// Where messages come from.
pub(super) trait Source {
    /// Where publishing goes on: a point in the order of the messages.
    type Place: Clone;

    const OUTPUT: Output;

    /// The names of the collections about which messages may be in the stream.
    fn collections(&self) -> Vec<&'static str>;

    /// Where publishing goes on in a stream, of which `heads` are the last messages about the collections.
    fn resume(&mut self, position: &Position, heads: &[Stored]) -> Result<Resumed<Self::Place>, StoreError>;

    /// The first message of the stream that has a meaning, if others before it are to be removed.
    fn start_of(place: &Self::Place) -> Option<u64>;

    /// The next messages; `last` is the number of the last one in the stream.
    fn next(&mut self, place: &Self::Place, last: u64, heads: &mut Heads) -> Result<Batch<Self::Place>, StoreError>;

    /// The next aggregates that were erased after a revision, and of which messages may be removed at this place: in a
    /// catch-up all, otherwise those of which the last message is published.
    fn erasures(&mut self, place: &Self::Place, after: Revision) -> Result<Vec<Erasure>, StoreError>;

    /// What is not published at this place.
    fn backlog(&mut self, place: Option<&Self::Place>) -> Result<Backlog, StoreError>;
}

/// How many erasures are read at once.
pub(super) const ERASURES: i64 = 256;

/// The place after the last message of a stream.
#[derive(Debug)]
pub(super) struct Resumed<Place> {
    pub(super) place: Place,
    /// The last messages before it.
    pub(super) heads: Heads,
}

/// The next messages, and the place after them.
#[derive(Debug)]
pub(super) struct Batch<Place> {
    pub(super) messages: Vec<Message>,
    pub(super) next: Place,
    pub(super) progress: Progress,
}

impl<Place> Batch<Place> {
    /// There is nothing to publish.
    pub(super) fn nothing(place: Place) -> Self {
        Self { messages: Vec::new(), next: place, progress: Progress::Done }
    }
}

/// What is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Backlog {
    /// The last revision, or position, that is published.
    pub(super) published: i64,
    /// The last one of the database.
    pub(super) last: i64,
}
