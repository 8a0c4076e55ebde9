//! The filtered feeds that the live streams of one thread follow, found by what changed.
//!
//! A change costs a look-up and the feeds that cover it, however many others there are and however many keys they name.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::key_index::KeyIndex;
use crate::domain::feed::Feed;
use crate::domain::key::CollectionId;
use crate::storage::outbox::Change;

/// What a key takes in the index in bytes, at most, while a stream is live: an entry of a hash map that is half full.
pub(crate) const BYTES_PER_KEY: usize = 20;

/// A map of filtered feeds, with something for each.
#[derive(Debug)]
pub(super) struct FilteredFeeds<T> {
    /// By their numbers; those that are `None` are in `free`.
    feeds: Vec<Option<(Feed, T)>>,
    free: Vec<u32>,
    numbers: HashMap<Feed, u32>,
    /// Feeds that name keys.
    by_key: KeyIndex,
    /// Feeds of the document that name collections, by the index of the collection.
    by_collection: Vec<Vec<u32>>,
    /// Secret, so that no client can choose keys with one hash.
    hasher: RandomState,
}

/// A change that a feed may cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Touch {
    /// The number of the feed.
    pub(super) feed: u32,
    /// The index of the change.
    pub(super) change: u32,
}

impl<T> Default for FilteredFeeds<T> {
    fn default() -> Self {
        Self {
            feeds: Vec::new(),
            free: Vec::new(),
            numbers: HashMap::new(),
            by_key: KeyIndex::default(),
            by_collection: Vec::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<T: Default> FilteredFeeds<T> {
    /// What there is for a feed, which is added if it is new.
    pub(super) fn entry(&mut self, feed: Feed) -> &mut T {
        let number = self.numbers.get(&feed).copied().unwrap_or_else(|| self.add(feed));
        let (_, found) = self.feeds[number as usize].as_mut().expect("the feed of a known number is there");
        found
    }

    fn add(&mut self, feed: Feed) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.feeds.push(None);
            u32::try_from(self.feeds.len() - 1).expect("a thread has fewer streams")
        });
        for hash in hashes(&self.hasher, &feed) {
            self.by_key.add(hash, number);
        }
        for collection in collections(&feed) {
            let size = self.by_collection.len().max(collection.index() + 1);
            self.by_collection.resize_with(size, Vec::new);
            self.by_collection[collection.index()].push(number);
        }
        self.numbers.insert(feed.clone(), number);
        self.feeds[number as usize] = Some((feed, T::default()));
        number
    }
}

impl<T> FilteredFeeds<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The changes that feeds may cover: at least those that they do, feed by feed, in their order.
    pub(super) fn touched(&self, changes: &[Change]) -> Vec<Touch> {
        let mut touched = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let of_collection = self.by_collection.get(change.collection.index()).map_or(&[][..], Vec::as_slice);
            let of_key = self.by_key.get(hash(&self.hasher, change.collection, change.key.as_str()));
            let change = u32::try_from(index).expect("a batch fits into memory");
            touched.extend(of_collection.iter().chain(of_key).map(|feed| Touch { feed: *feed, change }));
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// A feed by its number, and what there is for it.
    pub(super) fn get_mut(&mut self, number: u32) -> Option<(&Feed, &mut T)> {
        self.feeds.get_mut(number as usize)?.as_mut().map(|(feed, found)| (&*feed, found))
    }

    /// Removes a feed.
    pub(super) fn remove(&mut self, number: u32) {
        let Some((feed, _)) = self.feeds.get_mut(number as usize).and_then(Option::take) else { return };
        self.numbers.remove(&feed);
        self.free.push(number);
        for hash in hashes(&self.hasher, &feed) {
            self.by_key.remove(hash, number);
        }
        for collection in collections(&feed) {
            self.by_collection[collection.index()].retain(|other| *other != number);
        }
    }

    /// All feeds with what there is for them, by number.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &Feed, &mut T)> {
        (0..).zip(&mut self.feeds).filter_map(|(number, entry)| {
            let (feed, found) = entry.as_mut()?;
            Some((number, &*feed, found))
        })
    }

    /// Removes all of them.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Feed, T)> + use<T> {
        std::mem::take(self).feeds.into_iter().flatten()
    }
}

/// The collections that a feed of the document names.
fn collections(feed: &Feed) -> &[CollectionId] {
    match feed {
        Feed::Everything(Some(only)) => only,
        _ => &[],
    }
}

/// The hashes of the keys that a feed names.
fn hashes(hasher: &RandomState, feed: &Feed) -> Vec<u32> {
    match feed {
        Feed::Collection(collection, Some(only)) => only.iter().map(|key| hash(hasher, *collection, key)).collect(),
        Feed::Aggregate(collection, key) => vec![hash(hasher, *collection, key.as_str())],
        Feed::Collection(_, None) | Feed::Everything(_) => vec![],
    }
}

fn hash(hasher: &RandomState, collection: CollectionId, key: &str) -> u32 {
    let bytes = hasher.hash_one((collection, key)).to_le_bytes();
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::mutable_key_type, reason = "a feed is compared by its keys, not by the memory that they hold")]

    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::aggregates::{Location, Person};
    use crate::domain::clock::Timestamp;
    use crate::domain::collection::Registry;
    use crate::domain::key::Key;
    use crate::domain::revision::Revision;
    use crate::domain::selection::Selection;
    use crate::events::batch::Batch;
    use crate::events::sse::Frames;
    use crate::memory::budget::MemoryBudget;

    fn registry() -> Arc<Registry> {
        let mut registry = Registry::default();
        registry.document::<Person>();
        registry.derived::<Location>();
        Arc::new(registry)
    }

    /// A feed of few keys and collections, so that many of them overlap.
    fn feeds() -> impl Strategy<Value = Feed> {
        let collection = || prop::sample::select(registry().ids().collect::<Vec<_>>());
        let key = || (0..8_i64).prop_map(Key::of_number);
        let some = prop::collection::vec(key(), 1..6)
            .prop_map(|keys| Selection::new(&keys, BYTES_PER_KEY, &MemoryBudget::new(usize::MAX)).unwrap());
        prop_oneof![
            (collection(), some).prop_map(|(collection, keys)| Feed::Collection(collection, Some(keys))),
            (collection(), key()).prop_map(|(collection, key)| Feed::Aggregate(collection, key)),
            prop::collection::btree_set(collection(), 1..3)
                .prop_map(|only| Feed::Everything(Some(only.into_iter().collect()))),
        ]
    }

    /// A change of an aggregate or, with an empty key, of a collection.
    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let collection = prop::sample::select(registry().ids().collect::<Vec<_>>());
        let change = (collection, 0..10_i64, 0..2_i64, prop::bool::ANY);
        prop::collection::vec(change, 0..8).prop_map(|changes| {
            let mut revision = Revision::from_raw(1);
            let change = |(collection, key, later, is_there): (CollectionId, i64, i64, bool)| {
                revision = Revision::from_raw(revision.number() + later);
                let key = if key == 9 { Key::from_db("") } else { Key::of_number(key) };
                let patch = if is_there { "{}" } else { "null" }.to_owned();
                Change { revision, collection, key, patch, time: Timestamp::from_milliseconds(0), metadata: None }
            };
            changes.into_iter().map(change).collect()
        })
    }

    proptest! {
        #[test]
        fn the_look_up_finds_what_a_scan_of_all_feeds_finds(
            steps in prop::collection::vec((feeds(), 0..3_u8, changes()), 1..40),
        ) {
            let registry = registry();
            let mut filtered = FilteredFeeds::<u32>::default();
            let mut there: HashMap<Feed, u32> = HashMap::new();
            for (feed, step, changes) in steps {
                if step > 0 {
                    *filtered.entry(feed.clone()) += 1;
                    *there.entry(feed).or_default() += 1;
                } else if let Some(gone) = there.keys().next().cloned() {
                    let number = filtered.iter_mut().find(|(_, feed, _)| **feed == gone).unwrap().0;
                    filtered.remove(number);
                    there.remove(&gone);
                }
                let (from, to) = (Revision::ZERO, Revision::from_raw(100));
                let batch = Batch::new(from, to, changes, "4f9c21aa".parse().unwrap(), Arc::clone(&registry));
                let touched = filtered.touched(batch.changes());
                let mut found = HashMap::new();
                for touches in touched.chunk_by(|one, other| one.feed == other.feed) {
                    let own: Vec<_> = touches.iter().map(|touch| &batch.changes()[touch.change as usize]).collect();
                    let (feed, count) = filtered.get_mut(touches[0].feed).unwrap();
                    prop_assert_eq!(there.get(feed), Some(&*count));
                    found.insert(feed.clone(), batch.frames_of(feed, &own));
                }
                for feed in there.keys() {
                    let scanned = batch.frames(feed);
                    let (looked_up, expected) = (found.get(feed), scanned.all().content());
                    prop_assert_eq!(looked_up.map_or_else(Default::default, |frames| frames.all().content()), expected);
                    prop_assert_eq!(looked_up.and_then(Frames::last), scanned.last());
                }
            }
            prop_assert_eq!(filtered.drain().collect::<HashMap<_, _>>(), there);
            prop_assert!(filtered.is_empty() && filtered.by_key.is_empty());
        }
    }

    #[test]
    fn the_index_is_empty_when_all_feeds_have_gone() {
        let registry = registry();
        let persons = registry.id("persons").unwrap();
        let mut filtered = FilteredFeeds::<()>::default();
        for first in 0..50 {
            let keys: Vec<_> = (first..first + 100).map(Key::of_number).collect();
            let keys = Selection::new(&keys, BYTES_PER_KEY, &MemoryBudget::new(usize::MAX)).unwrap();
            filtered.entry(Feed::Collection(persons, Some(keys)));
        }
        // In another order than they came.
        for number in (0..50).map(|number| number * 7 % 50) {
            let (feed, ()) = filtered.get_mut(number).unwrap();
            let Feed::Collection(_, Some(keys)) = feed.clone() else { unreachable!() };
            for key in keys.iter() {
                assert!(filtered.by_key.get(hash(&filtered.hasher, persons, key)).contains(&number));
            }
            filtered.remove(number);
            for key in keys.iter() {
                assert!(!filtered.by_key.get(hash(&filtered.hasher, persons, key)).contains(&number));
            }
        }
        assert!(filtered.is_empty() && filtered.by_key.is_empty());
        assert!(filtered.get_mut(0).is_none());
    }
}
