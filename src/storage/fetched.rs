//! What was fetched for a batch before it is decided, and what turned out to be missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::answers::Found;
use super::error::ReadError;
use super::hot_states::Place;
use super::row_cache::{Aggregate, RowCache};
use crate::domain::command::Command;
use crate::domain::idempotency::RequestId;
use crate::memory::budget::MemoryBudget;

/// What a batch reads that is decided outside of a transaction: as it is in the record at one token.
pub(super) struct Fetched {
    cache: RowCache,
    /// What was fetched for this batch. The cache may be too small for all of it.
    aggregates: HashMap<Place, Aggregate>,
    /// `None` for a request that was not answered before.
    answers: HashMap<RequestId, Option<Found>>,
    pub(super) missing: Missing,
}

/// What has to be fetched.
#[derive(Default)]
pub(super) struct Missing {
    pub(super) aggregates: HashSet<Place>,
    pub(super) answers: HashSet<RequestId>,
    /// Whether the batch reads what is never fetched, so that it has to be decided in a transaction.
    pub(super) needs_transaction: bool,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.aggregates.is_empty() && self.answers.is_empty()
    }
}

impl Fetched {
    /// With a budget for what is kept between batches.
    pub(super) fn new(memory: &Arc<MemoryBudget>) -> Self {
        let missing = Missing::default();
        Self { cache: RowCache::new(memory), aggregates: HashMap::new(), answers: HashMap::new(), missing }
    }

    /// Begins with a batch of these commands: notes what they are going to read, as far as that is known before they are
    /// decided, and what it has read before.
    pub(super) fn begin(&mut self, commands: &[Command], again: impl Iterator<Item = Place>) {
        self.aggregates.clear();
        self.answers.clear();
        self.missing = Missing { aggregates: again.collect(), ..Missing::default() };
        for command in commands {
            // Whoever looks for something notes that it is missing.
            if let Some(key) = &command.key {
                let _ = self.aggregate(&(command.collection, key.clone()));
            }
            if let Some(idempotency) = &command.idempotency {
                let _ = self.answer(&idempotency.request);
            }
        }
    }

    /// Forgets everything: the token of the record is another one.
    pub(super) fn forget(&mut self) {
        self.cache.clear();
        self.aggregates.clear();
        self.answers.clear();
    }

    /// Adds what was missing.
    pub(super) fn add(&mut self, aggregates: Vec<(Place, Aggregate)>, answers: HashMap<RequestId, Option<Found>>) {
        self.missing = Missing::default();
        for (place, aggregate) in aggregates {
            self.cache.put(place.clone(), aggregate.clone());
            self.aggregates.insert(place, aggregate);
        }
        self.answers.extend(answers);
    }

    /// Keeps a row as it was written.
    pub(super) fn keep(&mut self, place: Place, aggregate: Aggregate) {
        self.cache.put(place, aggregate);
    }

    /// An aggregate, if it is here.
    pub(super) fn aggregate(&mut self, place: &Place) -> Result<&Aggregate, ReadError> {
        let Self { cache, aggregates, missing, .. } = self;
        if let Some(found) = aggregates.get(place) {
            return Ok(found);
        }
        if let Some(found) = cache.get(place) {
            return Ok(found);
        }
        missing.aggregates.insert(place.clone());
        Err(ReadError::Missing)
    }

    /// What is stored about a request, if that is here.
    pub(super) fn answer(&mut self, request: &RequestId) -> Result<Option<Found>, ReadError> {
        if let Some(found) = self.answers.get(request) {
            return Ok(found.clone());
        }
        self.missing.answers.insert(*request);
        Err(ReadError::Missing)
    }

    /// Notes that the batch has to be decided in a transaction.
    pub(super) fn needs_transaction(&mut self) -> ReadError {
        self.missing.needs_transaction = true;
        ReadError::Missing
    }
}
