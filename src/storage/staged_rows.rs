//! The rows that a batch of commands has read, and those that it changes.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

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

/// All of them, with the states of the batches before.
pub(super) struct StagedRows<'a> {
    registry: &'a Registry,
    rows: HashMap<Place, StagedRow>,
    /// What was decoded by the batches before.
    states: &'a mut HotStates,
    decoded: HashMap<Place, Decoded>,
}

/// A row that the batch has read, and perhaps changed.
#[derive(Clone)]
pub(super) struct StagedRow {
    pub(super) row: Row,
    /// The state according to the journal, if the row is missing although the aggregate exists.
    pub(super) folded: Option<Body>,
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
        Self { row, folded: None, is_changed: false, is_erased: false }
    }

    /// An aggregate that was never published has no row, even if it has events.
    pub(super) fn must_be_written(&self) -> bool {
        self.is_changed && self.row.revision != Revision::ZERO
    }
}

impl<'a> StagedRows<'a> {
    pub(super) fn new(registry: &'a Registry, states: &'a mut HotStates) -> Self {
        Self { registry, rows: HashMap::new(), states, decoded: HashMap::new() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &StagedRow)> {
        self.rows.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, place: &Place) -> Option<&StagedRow> {
        self.rows.get(place)
    }

    /// The row of an aggregate that was loaded before, or that is not to be loaded.
    pub(super) fn at(&mut self, place: Place) -> &mut StagedRow {
        self.rows.entry(place).or_insert_with(StagedRow::absent)
    }

    /// An aggregate with the changes that the batch has staged so far.
    pub(super) fn load(
        &mut self,
        source: &mut Source<'_>,
        memory: &mut BatchMemory,
        place: Place,
    ) -> Result<StagedRow, ReadError> {
        let vacant = match self.rows.entry(place) {
            Slot::Occupied(staged) => return Ok(staged.get().clone()),
            Slot::Vacant(vacant) => vacant,
        };
        let collection = self.registry.get(vacant.key().0);
        let name = collection.name();
        let mut staged = StagedRow::absent();
        if let Some(HotState { row, decoded, charge }) = self.states.take(vacant.key())
            && source.is_current(name, vacant.key(), &row)?
        {
            let body = row.body.clone();
            let decoded = body.map(|body| (vacant.key().clone(), Decoded { body, state: decoded, charge }));
            self.decoded.extend(decoded);
            staged.row = row;
        } else if let Some(row) = source.row(name, vacant.key())? {
            staged.row = row;
        } else if let Some(journaled) = collection.journaled() {
            // The row is a cache. It is missing if the aggregate never existed, if its tombstone was pruned, or if the row
            // was lost.
            let folded = source.fold(name, journaled, vacant.key())?;
            staged.row.version = folded.version;
            staged.folded = folded.body;
            staged.is_erased = folded.is_erased;
        }
        // What exists is not erased. The tombstone of what is may be pruned, and it need not have had any events.
        if staged.row.body.is_none() && staged.folded.is_none() && collection.derivation().is_none() {
            staged.is_erased |= source.is_erased(name, vacant.key())?;
        }
        memory.hold(staged.row.body.as_ref().or(staged.folded.as_ref()).map_or(0, Body::size));
        Ok(vacant.insert(staged).clone())
    }

    /// Makes the row of an aggregate what it was before a command.
    pub(super) fn restore(&mut self, place: Place, before: Option<StagedRow>) {
        if let Some(before) = before {
            self.rows.insert(place, before);
        } else {
            self.rows.remove(&place);
        }
    }

    /// The state of an aggregate as its type, if it is known.
    pub(super) fn take_decoded(&mut self, place: &Place, body: Option<&Body>) -> Option<(DecodedState, Reservation)> {
        if self.decoded.is_empty() {
            return None;
        }
        let decoded = self.decoded.remove(place)?;
        body.is_some_and(|body| body.is(&decoded.body)).then_some((decoded.state, decoded.charge))
    }

    /// Remembers a state for the next command of this aggregate, if there is room for it. It takes the room of the one before.
    pub(super) fn put_decoded(&mut self, place: Place, body: &Body, state: DecodedState, before: Option<Reservation>) {
        if let Some(charge) = self.states.charge(before, body.size()) {
            self.decoded.insert(place, Decoded { body: body.clone(), state, charge });
        }
    }

    /// Forgets the state of an erased aggregate.
    pub(super) fn forget_state(&mut self, place: &Place) {
        self.decoded.remove(place);
        self.states.take(place);
    }

    /// The states that are as in the rows that were written.
    pub(super) fn into_states(self) -> Vec<(Place, HotState)> {
        let Self { decoded, rows, .. } = self;
        let states = decoded.into_iter().filter_map(|(place, Decoded { body, state, charge })| {
            let row = &rows.get(&place)?.row;
            let is_current = row.body.as_ref().is_some_and(|current| current.is(&body));
            is_current.then(|| (place, HotState { row: row.clone(), decoded: state, charge }))
        });
        states.collect()
    }
}
