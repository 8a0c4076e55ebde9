//! The change events of the outbox as messages. If the stream does not go up to what the outbox still has, the states of all
//! aggregates replace it: a catch-up.

use std::sync::Arc;

use super::carrier::{Output, Position, Stored};
use super::heads::Heads;
use super::message::{Content, Message, Part};
use super::source::{Backlog, Batch, ERASURES, Resumed, Source};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::collection::Registry;
use crate::domain::cursor::Cursor;
use crate::domain::feed::Feed;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, Revision};
use crate::events::resume::Position as Reached;
use crate::projector::main_reader::MainReader;
use crate::storage::aggregates::State;
use crate::storage::counters::Horizon;
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Progress, Span};

/// How much is read and published at once.
const PAGE: PageLimit = PageLimit { items: 4096, bytes: 512 * 1024 };

/// Reads change events and states for a stream.
pub(super) struct ChangeSource {
    reader: MainReader,
    registry: Arc<Registry>,
    clock: Arc<Clock>,
    epoch: Epoch,
}

/// Where publishing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// With a catch-up, which replaces everything in the stream.
    Begin,
    /// In a catch-up, whose first message has the number `first`.
    CatchUp { first: u64, reached: Reached, sent: Option<Sent> },
    /// With the end of a catch-up at this revision, of which some messages have been published.
    End { first: u64, at: Revision, sent: u32 },
    /// With the events after this revision; of the first one, some messages have been published.
    Log { after: Revision, sent: u32 },
}

/// The last message of a revision in a catch-up, of which others are to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    revision: Revision,
    number: u32,
    collection: CollectionId,
    key: Key,
    is_null: bool,
}

/// What a state that does not exist is in a merge patch.
const NULL: &str = "null";
/// The patch that changes nothing.
const NOTHING: &str = "{}";

impl ChangeSource {
    pub(super) fn new(reader: MainReader, registry: Arc<Registry>, clock: Arc<Clock>) -> Self {
        let epoch = reader.epochs().epoch().clone();
        Self { reader, registry, clock, epoch }
    }

    fn name(&self, id: CollectionId) -> &'static str {
        self.registry.get(id).name()
    }

    fn horizon(&mut self) -> Result<Horizon, StoreError> {
        self.reader.view_from(|_, horizon| Ok(horizon))
    }

    /// The place after a message of ours, which has the number `last`; `None` if publishing cannot go on there.
    fn place_after(&self, message: &Message, last: u64, horizon: &Horizon) -> Option<Place> {
        let reached = Reached::of(&message.id.parse::<Cursor>().ok()?, self.reader.epochs());
        let (number, is_complete) = (message.part.number, message.is_complete());
        match (&message.content, reached) {
            (Content::Change, Reached::Log(revision)) => {
                let sent = if is_complete { 0 } else { number };
                let after = if is_complete { revision } else { revision.previous() };
                (after >= horizon.pruned && revision <= horizon.current).then_some(Place::Log { after, sent })
            }
            (Content::CatchUp { .. }, Reached::Log(after)) if is_complete => {
                (after >= horizon.pruned && after <= horizon.current).then_some(Place::Log { after, sent: 0 })
            }
            (Content::CatchUp { first }, Reached::Log(at)) => {
                (at <= horizon.current).then_some(Place::End { first: *first, at, sent: number })
            }
            (Content::CatchUp { first }, Reached::State { after, since, at }) => {
                let first = *first;
                let Some(key) = &message.key else {
                    let begun = Place::CatchUp { first, reached, sent: None };
                    let is_begin = after == Revision::ZERO && last + 1 == first + u64::from(message.part.of);
                    return (is_complete && is_begin).then_some(begun);
                };
                if is_complete {
                    return Some(Place::CatchUp { first, reached, sent: None });
                }
                let collection = self.registry.id(&message.collection)?;
                let before = after.previous();
                let reached = Reached::State { after: before, since: since.min(before), at };
                let sent =
                    Sent { revision: after, number, collection, key: key.clone(), is_null: message.body == NULL };
                Some(Place::CatchUp { first, reached, sent: Some(sent) })
            }
            _ => None,
        }
    }

    /// Whether a message is of this history.
    fn knows(&self, message: &Message) -> bool {
        let cursor = message.id.parse::<Cursor>();
        cursor.is_ok_and(|cursor| Reached::of(&cursor, self.reader.epochs()) != Reached::Unknown)
    }

    /// `null` and `{}` for each collection: a consumer forgets what it had.
    fn begin(&self, first: u64, now: Timestamp, heads: &mut Heads) -> Batch<Place> {
        let id = Reached::NOTHING.id(&self.epoch).unwrap_or_default();
        let bodies = self.registry.ids().flat_map(|id| [(id, NULL), (id, NOTHING)]);
        let bodies = bodies.map(|(id, body)| Body { collection: self.name(id), key: None, body });
        let mut messages = self.messages(&id, &Content::CatchUp { first }, now, &bodies.collect::<Vec<_>>(), 0);
        heads.clear();
        heads.link(&mut messages, 0);
        Batch {
            messages,
            next: Place::CatchUp { first, reached: Reached::NOTHING, sent: None },
            progress: Progress::More,
        }
    }

    /// `{}` for each collection: a consumer has everything up to this revision.
    fn end(&self, first: u64, at: Revision, sent: u32, now: Timestamp, heads: &mut Heads) -> Vec<Message> {
        let id = Reached::Log(at).id(&self.epoch).unwrap_or_default();
        let bodies = self.registry.ids().map(|id| Body { collection: self.name(id), key: None, body: NOTHING });
        let mut messages = self.messages(&id, &Content::CatchUp { first }, now, &bodies.collect::<Vec<_>>(), sent);
        heads.link(&mut messages, at.number());
        messages
    }

    /// The messages with one id, without the first `sent` ones.
    fn messages(&self, id: &str, content: &Content, time: Timestamp, bodies: &[Body<'_>], sent: u32) -> Vec<Message> {
        let of = count(bodies.len());
        let numbered = (1..).zip(bodies).skip(sent as usize);
        let message = |(number, body): (u32, &Body<'_>)| Message {
            collection: body.collection.to_owned(),
            key: body.key.cloned(),
            id: id.to_owned(),
            part: Part { number, of },
            previous: None,
            content: content.clone(),
            time,
            body: body.body.to_owned(),
        };
        numbered.map(message).collect()
    }

    /// The next page of a catch-up, with its end after the last one.
    fn catch_up(
        &mut self,
        CatchingUp { first, reached, sent }: CatchingUp<'_>,
        heads: &mut Heads,
    ) -> Result<Batch<Place>, StoreError> {
        let now = self.clock.now();
        let (horizon, reached, read) = self.reader.view_from(|view, horizon| {
            let reached = reached.within(&horizon);
            let Reached::State { after, .. } = reached else { return Ok((horizon, reached, None)) };
            let read = view.states(&Feed::Everything(None), Span { after, to: horizon.current }, PAGE)?;
            Ok((horizon, reached, Some(read)))
        })?;
        // Deletions that the stream does not show have been forgotten meanwhile.
        let (Reached::State { since, .. }, Some(read)) = (reached, read) else {
            return Ok(Batch { messages: Vec::new(), next: Place::Begin, progress: Progress::More });
        };
        // After the last forgotten deletion, the id need not contain the begin of the catch-up.
        let since_at = |after: Revision| if after >= horizon.forgotten { after } else { since };
        let mut messages = Vec::new();
        let mut states = read.states;
        states.sort_by(|a, b| (a.revision, a.collection, &a.key).cmp(&(b.revision, b.collection, &b.key)));
        for group in states.chunk_by(|a, b| a.revision == b.revision) {
            let after = group[0].revision;
            let at = Reached::State { after, since: since_at(after), at: horizon.current };
            let id = at.id(&self.epoch).unwrap_or_default();
            let sent = sent.filter(|sent| sent.revision == after);
            let mut group = self.group(&id, &Content::CatchUp { first }, now, group, sent);
            heads.link(&mut group, after.number());
            messages.extend(group);
        }
        let Some(after) = read.to else {
            messages.extend(self.end(first, horizon.current, 0, now, heads));
            let next = Place::Log { after: horizon.current, sent: 0 };
            return Ok(Batch { messages, next, progress: Progress::More });
        };
        let reached = Reached::State { after, since: since_at(after), at: horizon.current };
        Ok(Batch { messages, next: Place::CatchUp { first, reached, sent: None }, progress: Progress::More })
    }

    /// The aggregates that last changed at one revision: `null`, because patches do not compose across a deletion and a new
    /// creation, then the whole state.
    fn group(
        &self,
        id: &str,
        content: &Content,
        now: Timestamp,
        states: &[State],
        sent: Option<&Sent>,
    ) -> Vec<Message> {
        let mut bodies = Vec::with_capacity(2 * states.len());
        for state in states {
            let place = (state.collection, &state.key);
            let (mut null, mut whole) = (true, state.body.is_some());
            if let Some(sent) = sent {
                let sent_place = (sent.collection, &sent.key);
                null = place > sent_place;
                whole &= null || (place == sent_place && sent.is_null);
            }
            let body = |body| Body { collection: self.name(state.collection), key: Some(&state.key), body };
            bodies.extend(null.then(|| body(NULL)));
            bodies.extend(state.body.as_deref().filter(|_| whole).map(body));
        }
        let mut messages = self.messages(id, content, now, &bodies, 0);
        // Those that were sent and have changed since then come again later, so that there may be fewer than before.
        let before = sent.map_or(0, |sent| sent.number);
        for message in &mut messages {
            message.part.number += before;
            message.part.of += before;
        }
        messages
    }

    /// The next page of the log.
    fn log(&mut self, after: Revision, sent: u32, heads: &mut Heads) -> Result<Batch<Place>, StoreError> {
        let read = self.reader.view_from(|view, horizon| {
            if horizon.pruned > after || horizon.current < after {
                return Ok(None);
            }
            let span = Span { after, to: horizon.current };
            Ok(Some((horizon.current, view.changes(&Feed::Everything(None), span, PAGE)?)))
        })?;
        let Some((current, read)) = read else {
            return Ok(Batch { messages: Vec::new(), next: Place::Begin, progress: Progress::More });
        };
        let mut messages = Vec::with_capacity(read.changes.len());
        for group in read.changes.chunk_by(|a, b| a.revision == b.revision) {
            let sent = if messages.is_empty() { sent } else { 0 };
            messages.extend((1..).zip(group).skip(sent as usize).map(|(number, change)| {
                let part = Part { number, of: count(group.len()) };
                self.message(change, part, heads)
            }));
        }
        let progress = if read.to < current { Progress::More } else { Progress::Done };
        let next =
            if messages.is_empty() { Place::Log { after, sent } } else { Place::Log { after: read.to, sent: 0 } };
        Ok(Batch { messages, next, progress })
    }

    fn message(&self, change: &Change, part: Part, heads: &mut Heads) -> Message {
        let collection = self.name(change.collection);
        // An event without a key says that the collection was registered.
        let key = Some(&change.key).filter(|key| !key.as_str().is_empty());
        Message {
            collection: collection.to_owned(),
            key: key.cloned(),
            id: format!("{}.{}", self.epoch, change.revision),
            part,
            previous: heads.advance(collection, change.revision.number()),
            content: Content::Change,
            time: change.time,
            body: change.patch.clone(),
        }
    }
}

/// Where a catch-up is.
#[derive(Clone, Copy)]
struct CatchingUp<'a> {
    first: u64,
    reached: Reached,
    sent: Option<&'a Sent>,
}

/// What a message is about, and says.
struct Body<'a> {
    collection: &'a str,
    key: Option<&'a Key>,
    body: &'a str,
}

fn count(messages: usize) -> u32 {
    u32::try_from(messages).unwrap_or(u32::MAX)
}

impl Source for ChangeSource {
    type Place = Place;

    const OUTPUT: Output = Output::Changes;

    fn collections(&self) -> Vec<&'static str> {
        self.registry.ids().map(|id| self.name(id)).collect()
    }

    fn resume(&mut self, position: &Position, heads: &[Stored]) -> Result<Resumed<Place>, StoreError> {
        let horizon = self.horizon()?;
        let after = |message| self.place_after(message, position.last, &horizon);
        let place = position.message.as_ref().and_then(after).unwrap_or(Place::Begin);
        Ok(Resumed {
            place,
            heads: Heads::of(heads.iter().map(|stored| &stored.message).filter(|message| self.knows(message))),
        })
    }

    fn start_of(place: &Place) -> Option<u64> {
        match place {
            Place::CatchUp { first, .. } | Place::End { first, .. } => Some(*first),
            Place::Begin | Place::Log { .. } => None,
        }
    }

    fn next(&mut self, place: &Place, last: u64, heads: &mut Heads) -> Result<Batch<Place>, StoreError> {
        match place {
            Place::Begin => Ok(self.begin(last + 1, self.clock.now(), heads)),
            Place::CatchUp { first, reached, sent } => {
                self.catch_up(CatchingUp { first: *first, reached: *reached, sent: sent.as_ref() }, heads)
            }
            Place::End { first, at, sent } => {
                let messages = self.end(*first, *at, *sent, self.clock.now(), heads);
                Ok(Batch { messages, next: Place::Log { after: *at, sent: 0 }, progress: Progress::More })
            }
            Place::Log { after, sent } => self.log(*after, *sent, heads),
        }
    }

    fn erasures(&mut self, place: &Place, after: Revision) -> Result<Vec<Erasure>, StoreError> {
        let mut erasures = self.reader.view(|view| view.erasures_after(after, ERASURES))?;
        match place {
            Place::Begin => erasures.clear(),
            Place::CatchUp { .. } | Place::End { .. } => {}
            Place::Log { after: published, .. } => {
                let is_over = |erasure: &Erasure| erasure.is_concluded() && erasure.revision <= *published;
                erasures.truncate(erasures.iter().take_while(|erasure| is_over(erasure)).count());
            }
        }
        Ok(erasures)
    }

    fn backlog(&mut self, place: Option<&Place>) -> Result<Backlog, StoreError> {
        let last = self.horizon()?.current.number();
        let published = match place {
            Some(Place::Log { after, .. } | Place::End { at: after, .. }) => after.number(),
            Some(Place::CatchUp { reached: Reached::State { after, .. }, .. }) => after.number(),
            Some(Place::Begin | Place::CatchUp { .. }) => 0,
            None => last,
        };
        Ok(Backlog { published, last })
    }
}
