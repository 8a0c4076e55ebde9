//! Rows of aggregates as they are in the record while its token is the one that is known.

use std::sync::Arc;

use lru::LruCache;

use super::aggregates::Row;
use super::hot_states::Place;
use crate::domain::body::Body;
use crate::memory::budget::{MemoryBudget, Reservation};

/// The part of its budget that the cache may take. The rest stays for decoded states.
const SHARE: usize = 2;

/// What the record has about an aggregate.
#[derive(Debug, Clone)]
pub(super) struct Aggregate {
    /// Its row, which may be a tombstone.
    pub(super) row: Option<Row>,
    /// Whether it was erased, if it does not exist.
    pub(super) is_erased: bool,
    /// Whether the journal has events of it, if it has no row.
    pub(super) has_events: bool,
}

impl Aggregate {
    /// Whether it has this row.
    pub(super) fn has(&self, known: &Row) -> bool {
        let same = |row: &Row| row.revision == known.revision && row.version == known.version;
        self.row.as_ref().is_some_and(same)
    }
}

/// What an entry takes beside its texts, in bytes, approximately.
const ENTRY_BYTES: usize = 256;

/// Rows, up to a part of a budget. The least recently used ones go first.
pub(super) struct RowCache {
    rows: LruCache<Place, Aggregate>,
    /// What they take.
    charge: Reservation,
    /// In bytes.
    limit: usize,
}

impl RowCache {
    pub(super) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { rows: LruCache::unbounded(), charge: budget.reservation(), limit: budget.limit() / SHARE }
    }

    pub(super) fn get(&mut self, place: &Place) -> Option<&Aggregate> {
        self.rows.get(place)
    }

    /// Keeps a row, in the place of the one before.
    pub(super) fn put(&mut self, place: Place, aggregate: Aggregate) {
        let mut bytes = self.charge.size() + weight(&place, &aggregate);
        if let Some((place, before)) = self.rows.push(place, aggregate) {
            bytes -= weight(&place, &before);
        }
        while bytes > self.limit || self.charge.resize(bytes).is_err() {
            let Some((place, oldest)) = self.rows.pop_lru() else { return };
            bytes -= weight(&place, &oldest);
        }
    }

    /// Forgets everything: the token of the record is another one.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        // Less always fits.
        let _ = self.charge.resize(0);
    }
}

fn weight(place: &Place, aggregate: &Aggregate) -> usize {
    let body = aggregate.row.as_ref().and_then(|row| row.body.as_ref()).map_or(0, Body::size);
    ENTRY_BYTES + place.1.as_str().len() + body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::collection::{Document, Registry};
    use crate::domain::key::Key;
    use crate::domain::revision::{Revision, Version};

    #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    struct Note {}

    impl Document for Note {
        const NAME: &'static str = "notes";
    }

    fn aggregate(bytes: usize) -> Aggregate {
        let body = Some(Body::from_db("x".repeat(bytes)));
        let row = Some(Row { revision: Revision::ZERO, version: Version::ZERO, body });
        Aggregate { row, is_erased: false, has_events: false }
    }

    #[test]
    fn what_was_used_last_is_kept_within_the_limit() {
        let mut registry = Registry::default();
        registry.document::<Note>();
        let collection = registry.id("notes").unwrap();
        let place = |number| (collection, Key::of_number(number));
        let budget = MemoryBudget::new(SHARE * 2 * (ENTRY_BYTES + 101));
        let mut cache = RowCache::new(&budget);
        for number in [1, 2] {
            cache.put(place(number), aggregate(100));
        }
        assert!(cache.get(&place(1)).is_some());
        cache.put(place(3), aggregate(100));
        let is_kept = [1, 2, 3].map(|number| cache.get(&place(number)).is_some());
        assert_eq!((is_kept, budget.used()), ([true, false, true], 2 * (ENTRY_BYTES + 101)));
        cache.put(place(3), aggregate(50));
        assert_eq!(budget.used(), 2 * (ENTRY_BYTES + 101) - 50, "it is replaced");
        cache.put(place(4), aggregate(1000));
        let is_kept = [1, 3, 4].map(|number| cache.get(&place(number)).is_some());
        assert_eq!((is_kept, budget.used()), ([false; 3], 0), "too large for the cache");

        let mut others = budget.reservation();
        others.resize(budget.limit() - (ENTRY_BYTES + 101)).unwrap();
        for number in [1, 2] {
            cache.put(place(number), aggregate(100));
        }
        let is_kept = [1, 2].map(|number| cache.get(&place(number)).is_some());
        assert_eq!((is_kept, budget.free()), ([false, true], 0), "the others leave no more room");
        cache.clear();
        assert_eq!(budget.free(), ENTRY_BYTES + 101);
    }
}
