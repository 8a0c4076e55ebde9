//! The rows that a batch of commands has read, and those that it changes.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use super::aggregates::Row;
use super::batch_memory::BatchMemory;
use super::error::ReadError;
use super::hot_states::{HotState, HotStates, Place};
use super::source::Source;
use crate::domain::body::Body;
use crate::domain::collection::Registry;
use crate::domain::command::DecodedState;
use crate::domain::revision::{Revision, Version};
use crate::memory::budget::Reservation;

/// All of them, with the states of the batches before. A command looks an aggregate up once, and has its slot from then on.
pub(super) struct StagedRows<'a> {
    registry: &'a Registry,
    slots: HashMap<Place, Slot>,
    /// In the order in which they were first asked for.
    staged: Vec<Staged>,
    /// What was decoded by the batches before.
    states: &'a mut HotStates,
}

/// Where a batch has the row of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(usize);

/// An aggregate of the batch.
struct Staged {
    place: Place,
    row: StagedRow,
    decoded: Option<Decoded>,
}

/// A row that the batch has read, and perhaps changed.
#[derive(Clone)]
pub(super) struct StagedRow {
    pub(super) row: Row,
    /// The state according to the journal, if the row is missing although the aggregate exists.
    pub(super) folded: Option<Body>,
    /// Its key was never given out, so the table has no row.
    pub(super) is_unused: bool,
    pub(super) is_changed: bool,
    pub(super) is_erased: bool,
}

/// A state as its type. It is out of date if the row has another body, even an equal one: then the command that resulted in
/// it was not staged.
struct Decoded {
    body: Body,
    state: DecodedState,
    /// See [`HotStates::charge`].
    charge: Reservation,
}

impl StagedRow {
    pub(super) fn absent() -> Self {
        let row = Row { revision: Revision::ZERO, version: Version::ZERO, body: None };
        Self { row, folded: None, is_unused: false, is_changed: false, is_erased: false }
    }

    /// The state of the aggregate, if it exists.
    pub(super) fn state(&self) -> Option<&Body> {
        self.row.body.as_ref().or(self.folded.as_ref())
    }

    /// An aggregate that was never published has no row, even if it has events.
    pub(super) fn must_be_written(&self) -> bool {
        self.is_changed && self.row.revision != Revision::ZERO
    }
}

impl Index<Slot> for StagedRows<'_> {
    type Output = StagedRow;

    fn index(&self, Slot(index): Slot) -> &StagedRow {
        &self.staged[index].row
    }
}

impl IndexMut<Slot> for StagedRows<'_> {
    fn index_mut(&mut self, Slot(index): Slot) -> &mut StagedRow {
        &mut self.staged[index].row
    }
}

impl<'a> StagedRows<'a> {
    pub(super) fn new(registry: &'a Registry, states: &'a mut HotStates) -> Self {
        Self { registry, slots: HashMap::new(), staged: Vec::new(), states }
    }

    /// Makes room for the aggregates of so many commands, and for as many that are derived from them, so that no key is hashed
    /// again because the batch grows.
    pub(super) fn reserve(&mut self, commands: usize) {
        self.slots.reserve(2 * commands);
        self.staged.reserve(2 * commands);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &StagedRow)> {
        self.staged.iter().map(|Staged { place, row, .. }| (place, row))
    }

    pub(super) fn len(&self) -> usize {
        self.staged.len()
    }

    /// The slot of an aggregate that the batch has already.
    pub(super) fn find(&self, place: &Place) -> Option<Slot> {
        self.slots.get(place).copied()
    }

    pub(super) fn place(&self, Slot(index): Slot) -> &Place {
        &self.staged[index].place
    }

    /// An aggregate that is not to be loaded, unless it was before.
    pub(super) fn unread(&mut self, place: Place) -> Slot {
        let next = Slot(self.staged.len());
        let slot = *self.slots.entry(place.clone()).or_insert(next);
        if slot == next {
            self.staged.push(Staged { place, row: StagedRow::absent(), decoded: None });
        }
        slot
    }

    /// A new aggregate, whose key was never given out.
    pub(super) fn unused(&mut self, place: Place) -> Slot {
        let next = self.staged.len();
        let slot = self.unread(place);
        self[slot].is_unused |= slot == Slot(next);
        slot
    }

    /// An aggregate with the changes that the batch has staged so far.
    pub(super) fn load(
        &mut self,
        source: &mut Source<'_>,
        memory: &mut BatchMemory,
        place: Place,
    ) -> Result<Slot, ReadError> {
        if let Some(slot) = self.find(&place) {
            return Ok(slot);
        }
        let collection = self.registry.get(place.0);
        let name = collection.name();
        let (mut staged, mut known) = (StagedRow::absent(), None);
        if let Some(HotState { row, decoded, charge }) = self.states.take(&place)
            && source.is_current(name, &place, &row)?
        {
            known = row.body.clone().map(|body| Decoded { body, state: decoded, charge });
            staged.row = row;
        } else if let Some(row) = source.row(name, &place)? {
            staged.row = row;
        } else if let Some(journaled) = collection.journaled() {
            // The row is a cache. It is missing if the aggregate never existed, if its tombstone was pruned, or if the row
            // was lost.
            let folded = source.fold(name, journaled, &place)?;
            staged.row.version = folded.version;
            staged.folded = folded.body;
            staged.is_erased = folded.is_erased;
        }
        // What exists is not erased. The tombstone of what is may be pruned, and it need not have had any events.
        if staged.state().is_none() && collection.derivation().is_none() {
            staged.is_erased |= source.is_erased(name, &place)?;
        }
        memory.hold(staged.state().map_or(0, Body::size));
        let slot = Slot(self.staged.len());
        self.slots.insert(place.clone(), slot);
        self.staged.push(Staged { place, row: staged, decoded: known });
        Ok(slot)
    }

    /// Forgets an aggregate that was not loaded: the next command that needs it loads it.
    pub(super) fn forget(&mut self, slot: Slot) {
        self[slot] = StagedRow::absent();
        self.slots.remove(&self.staged[slot.0].place);
    }

    /// The state of an aggregate as its type, if it is known.
    pub(super) fn take_decoded(
        &mut self,
        Slot(index): Slot,
        body: Option<&Body>,
    ) -> Option<(DecodedState, Reservation)> {
        let Decoded { body: of, state, charge } = self.staged[index].decoded.take()?;
        body.is_some_and(|body| body.is(&of)).then_some((state, charge))
    }

    /// Remembers a state for the next command of this aggregate, if there is room for it. It takes the room of the one before.
    pub(super) fn put_decoded(
        &mut self,
        Slot(index): Slot,
        body: &Body,
        state: DecodedState,
        before: Option<Reservation>,
    ) {
        if let Some(charge) = self.states.charge(before, body.size()) {
            self.staged[index].decoded = Some(Decoded { body: body.clone(), state, charge });
        }
    }

    /// Forgets the state of an erased aggregate.
    pub(super) fn forget_state(&mut self, Slot(index): Slot) {
        let Staged { place, decoded, .. } = &mut self.staged[index];
        *decoded = None;
        self.states.take(place);
    }

    /// The states that are as in the rows that were written.
    pub(super) fn into_states(self) -> Vec<(Place, HotState)> {
        let states = self.staged.into_iter().filter_map(|Staged { place, row: StagedRow { row, .. }, decoded }| {
            let Decoded { body, state, charge } = decoded?;
            let is_current = row.body.as_ref().is_some_and(|current| current.is(&body));
            is_current.then(|| (place, HotState { row, decoded: state, charge }))
        });
        states.collect()
    }
}
