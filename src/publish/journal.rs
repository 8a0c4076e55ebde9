//! The domain events of the journal as messages. It is never pruned, so that publishing can go on anywhere; what is in the
//! stream stays there.

use std::sync::Arc;

use serde_json::json;

use super::carrier::{Output, Position, Stored};
use super::heads::Heads;
use super::message::{Content, Message, Part};
use super::source::{Backlog, Batch, ERASURES, Resumed, Source};
use super::subject::WHOLE;
use crate::domain::clock::Clock;
use crate::domain::collection::{Collection, Registry};
use crate::domain::cursor::Cursor;
use crate::domain::revision::{Epoch, JournalPosition, Revision};
use crate::events::domain_event::{self, object};
use crate::projector::main_reader::MainReader;
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::journal::Entry;
use crate::storage::page::{PageLimit, Progress};

/// How much is read and published at once.
const PAGE: PageLimit = PageLimit { items: 4096, bytes: 512 * 1024 };

/// Reads domain events for a stream.
pub(super) struct JournalSource {
    reader: MainReader,
    registry: Arc<Registry>,
    clock: Arc<Clock>,
    epoch: Epoch,
}

/// Where publishing goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// After this position.
    After(JournalPosition),
    /// After a position from which another history went on: what the stream has after it is abandoned.
    Fork { after: JournalPosition, abandoned: Abandoned },
}

/// Domain events that are in the stream, and not in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Abandoned {
    epoch: Epoch,
    to: JournalPosition,
}

impl JournalSource {
    pub(super) fn new(reader: MainReader, registry: Arc<Registry>, clock: Arc<Clock>) -> Self {
        let epoch = reader.epochs().epoch().clone();
        Self { reader, registry, clock, epoch }
    }

    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method alone is for one lifetime of a view only"
    )]
    fn position(&mut self) -> Result<JournalPosition, StoreError> {
        self.reader.view(|view| view.position())
    }

    /// The place after the domain event with this id.
    fn place_after(&self, id: &str, current: JournalPosition) -> Option<Place> {
        let (epoch, position) = read(id)?;
        let end = self.end_of(&epoch).min(current);
        if position <= end {
            return Some(Place::After(position));
        }
        Some(Place::Fork { after: end, abandoned: Abandoned { epoch, to: position } })
    }

    /// The last position of an epoch. Of one that this database does not know, it has nothing.
    fn end_of(&self, epoch: &Epoch) -> JournalPosition {
        self.reader.epochs().end_of_positions(epoch).unwrap_or(JournalPosition::ZERO)
    }

    /// The message that says where the journal goes on.
    fn fork(&self, after: JournalPosition, abandoned: &Abandoned) -> Message {
        let Abandoned { epoch, to } = abandoned;
        let body = json!({
            "epoch": self.epoch.as_str(),
            "after": after.number(),
            "abandoned": {"epoch": epoch.as_str(), "from": after.next().number(), "to": to.number()},
        });
        Message {
            collection: WHOLE.to_owned(),
            key: None,
            id: domain_event::id(&self.epoch, after),
            part: Part { number: 1, of: 1 },
            previous: None,
            content: Content::Fork,
            time: self.clock.now(),
            body: body.to_string(),
        }
    }

    fn message(&self, entry: Entry, heads: &mut Heads) -> Message {
        let collection = self.registry.get(entry.collection).name();
        let body = object(&self.registry, &entry);
        Message {
            collection: collection.to_owned(),
            key: Some(entry.key),
            id: domain_event::id(&self.epoch, entry.position),
            part: Part { number: 1, of: 1 },
            previous: heads.advance(collection, entry.position.number()),
            content: Content::Event { kind: entry.event.kind, schema: entry.schema, version: entry.version.number() },
            time: entry.time,
            body,
        }
    }
}

/// The parts of an id.
fn read(id: &str) -> Option<(Epoch, JournalPosition)> {
    match id.parse() {
        Ok(Cursor::After { epoch: Some(epoch), after }) => Some((epoch, JournalPosition::from_raw(after.number()))),
        _ => None,
    }
}

impl Source for JournalSource {
    type Place = Place;

    const OUTPUT: Output = Output::Journal;

    fn collections(&self) -> Vec<&'static str> {
        let all = self.registry.ids().map(|id| self.registry.get(id));
        let journaled = all.filter(|collection| collection.journaled().is_some()).map(Collection::name);
        // A fork is about all of them.
        journaled.chain([WHOLE]).collect()
    }

    fn resume(&mut self, position: &Position, heads: &[Stored]) -> Result<Resumed<Place>, StoreError> {
        let current = self.position()?;
        // The last message may have been removed, or be of somebody else.
        let last_head = || heads.iter().max_by_key(|stored| stored.number).map(|stored| &stored.message);
        let last = position.message.as_ref().or_else(last_head);
        let place = last.and_then(|message| self.place_after(&message.id, current));
        let place = place.unwrap_or(Place::After(JournalPosition::ZERO));
        let (Place::After(after) | Place::Fork { after, .. }) = &place;
        // What comes after the place comes again.
        let is_before = |message: &&Message| {
            read(&message.id).is_some_and(|(epoch, position)| position <= self.end_of(&epoch).min(*after))
        };
        let heads = Heads::of(heads.iter().map(|stored| &stored.message).filter(is_before));
        Ok(Resumed { place, heads })
    }

    fn start_of(_: &Place) -> Option<u64> {
        None
    }

    fn next(&mut self, place: &Place, _: u64, heads: &mut Heads) -> Result<Batch<Place>, StoreError> {
        let after = match place {
            Place::After(after) => *after,
            Place::Fork { after, abandoned } => {
                let messages = vec![self.fork(*after, abandoned)];
                return Ok(Batch { messages, next: Place::After(*after), progress: Progress::More });
            }
        };
        let read = self.reader.view(|view| view.journal(None, after, PAGE))?;
        if read.to <= after {
            return Ok(Batch::nothing(place.clone()));
        }
        let progress = if read.to < read.current { Progress::More } else { Progress::Done };
        let messages = read.entries.into_iter().map(|entry| self.message(entry, heads)).collect();
        Ok(Batch { messages, next: Place::After(read.to), progress })
    }

    fn erasures(&mut self, place: &Place, after: Revision) -> Result<Vec<Erasure>, StoreError> {
        let Place::After(published) = place else { return Ok(Vec::new()) };
        let mut erasures = self.reader.view(|view| view.erasures_after(after, ERASURES))?;
        // A document has no last event, and no messages here.
        let is_over = |erasure: &Erasure| {
            erasure.is_concluded() && erasure.position.is_none_or(|position| position <= *published)
        };
        erasures.truncate(erasures.iter().take_while(|erasure| is_over(erasure)).count());
        Ok(erasures)
    }

    fn backlog(&mut self, place: Option<&Place>) -> Result<Backlog, StoreError> {
        let last = self.position()?.number();
        let published = match place {
            Some(Place::After(after) | Place::Fork { after, .. }) => after.number(),
            None => last,
        };
        Ok(Backlog { published, last })
    }
}
