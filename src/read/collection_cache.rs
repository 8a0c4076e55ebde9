//! Whole collections in memory, each as one body that all its readers share.
//!
//! A body is built when a client requests it, from the one before it and what has changed since, in one read transaction.
//! Builds are single-flight: a request waits for the running build if that build will include the revision that was
//! current when the request arrived, and else for the next one. A body counts against the budget as long as the cache or
//! a response holds it. If the budget has no room for a new one, bodies of other collections that nobody is reading are
//! evicted, the least recently used first. A collection that does not fit even then is streamed.

use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::web::Bytes;
use lru::LruCache;
use tokio::sync::OnceCell;

use crate::domain::key::CollectionId;
use crate::domain::revision::Revision;
use crate::memory::budget::MemoryBudget;
use crate::read::body::{self, Body, BuildError, Room};
use crate::read::gzip::compress;
use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::reader::View;

/// The bodies of all collections.
pub(crate) struct CollectionCache {
    budget: Arc<MemoryBudget>,
    state: Mutex<State>,
}

struct State {
    bodies: LruCache<CollectionId, CachedBody>,
    /// One for each collection.
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    /// The build that runs, or the next one.
    build: Arc<Build>,
    /// Set if the last build had no room.
    rejected: Option<Rejected>,
}

/// A build, from the request that starts it to its outcome, for all requests that wait for it.
pub(crate) type Build = OnceCell<BuildOutcome>;

/// The outcome of a build.
pub(crate) enum BuildOutcome {
    Built(CachedBody),
    /// The budget has no room for the body.
    Rejected,
    /// The database cannot be read; the log has the reason.
    Failed,
}

/// A body, and a revision of the document at which it is exact.
#[derive(Clone)]
pub(crate) struct CachedBody {
    body: Arc<Body>,
    pub(crate) revision: Revision,
}

/// A revision of the document, and the revision of the last change of one collection up to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CollectionRevision {
    pub(crate) document: Revision,
    pub(crate) changed: Revision,
}

/// The last revision of the document, and the revision of the last change of each collection up to it.
#[derive(Debug)]
pub(crate) struct CollectionRevisions {
    pub(crate) document: Revision,
    /// By the index of the collection.
    pub(crate) changed: Box<[Revision]>,
}

/// The answer to a request for a body.
pub(crate) enum Lookup {
    Cached(CachedBody),
    /// A build has to be awaited; the first to do so starts it. If its body is too old, look it up again.
    Pending(Arc<Build>),
    /// The budget has no room for the body.
    Rejected,
}

/// A body that had no room.
#[derive(Debug, Default, Clone, Copy)]
struct Rejected {
    /// The size that the body would have in memory, in bytes, measured when it was last streamed.
    size: Option<usize>,
}

/// A job for a reading thread: builds the body of a collection.
pub(crate) struct BuildJob {
    cache: Arc<CollectionCache>,
    collection: CollectionId,
}

/// A job for a reading thread: compresses a body.
pub(crate) struct CompressJob {
    cache: Arc<CollectionCache>,
    cached: CachedBody,
}

/// Notes the size of a collection that is streamed because the budget has no room for it.
pub(crate) struct SizeObserver {
    cache: Arc<CollectionCache>,
    collection: CollectionId,
}

impl CollectionCache {
    /// For this many collections.
    pub(crate) fn new(collections: usize, budget: &Arc<MemoryBudget>) -> Self {
        let slots = (0..collections).map(|_| Slot::default()).collect();
        let state = State { bodies: LruCache::unbounded(), slots };
        Self { budget: Arc::clone(budget), state: Mutex::new(state) }
    }

    /// A body that is exact at a durable revision or at a later one.
    pub(crate) fn lookup(&self, collection: CollectionId, wanted: CollectionRevision) -> Lookup {
        let mut state = self.state();
        if let Some(cached) = state.bodies.get_mut(&collection) {
            if cached.body.changed() == wanted.changed {
                // Nothing has changed since, so the body is exact at this revision too, and the next update begins there.
                cached.revision = cached.revision.max(wanted.document);
                return Lookup::Cached(CachedBody { revision: wanted.document, ..cached.clone() });
            }
            if cached.revision >= wanted.document {
                return Lookup::Cached(cached.clone());
            }
        }
        let rejected = state.slots[collection.index()].rejected;
        if self.budget.limit() == 0 || rejected.is_some_and(|rejected| !rejected.may_fit(self.available(&state))) {
            return Lookup::Rejected;
        }
        let build = &mut state.slots[collection.index()].build;
        if build.initialized() {
            *build = Arc::default();
        }
        Lookup::Pending(Arc::clone(build))
    }

    pub(crate) fn build_job(self: &Arc<Self>, collection: CollectionId) -> BuildJob {
        BuildJob { cache: Arc::clone(self), collection }
    }

    pub(crate) fn compress_job(self: &Arc<Self>, cached: &CachedBody) -> CompressJob {
        CompressJob { cache: Arc::clone(self), cached: cached.clone() }
    }

    pub(crate) fn size_observer(self: &Arc<Self>, collection: CollectionId) -> SizeObserver {
        SizeObserver { cache: Arc::clone(self), collection }
    }

    /// The number of bytes that are free or can be freed by eviction.
    fn available(&self, state: &State) -> usize {
        let unused = state.bodies.iter().filter(|(_, cached)| cached.is_unused());
        self.budget.free() + unused.map(|(_, cached)| cached.body.size()).sum::<usize>()
    }

    /// Evicts the least recently used body that nobody is reading, of any collection but this one.
    fn evict(&self, except: CollectionId) -> bool {
        let mut state = self.state();
        let unused = state.bodies.iter().rev().find(|(id, cached)| **id != except && cached.is_unused());
        let Some(collection) = unused.map(|(id, _)| *id) else { return false };
        state.bodies.pop(&collection).is_some()
    }

    /// Notes the outcome of a build. Requests that arrive from now on do not wait for it.
    fn finish(&self, collection: CollectionId, outcome: &BuildOutcome) {
        let mut state = self.state();
        let slot = &mut state.slots[collection.index()];
        slot.build = Arc::default();
        slot.rejected = matches!(outcome, BuildOutcome::Rejected).then(Rejected::default);
        if let BuildOutcome::Built(built) = outcome {
            // Two builds can run at a time, if the client that started the first one has disconnected.
            let is_newer = state.bodies.peek(&collection).is_none_or(|cached| cached.revision <= built.revision);
            if is_newer {
                state.bodies.put(collection, built.clone());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

impl CachedBody {
    /// The revision of the collection's last change.
    pub(crate) fn changed(&self) -> Revision {
        self.body.changed()
    }

    /// The collection as a JSON object.
    pub(crate) fn text(&self) -> Bytes {
        self.body.share_text()
    }

    /// The length of the text in bytes.
    pub(crate) fn length(&self) -> usize {
        self.body.text().len()
    }

    /// The cell for the result of a [`CompressJob`]: the text compressed with gzip, or `None` if the budget had no room
    /// for it.
    pub(crate) fn gzip(&self) -> &OnceCell<Option<Bytes>> {
        self.body.gzip()
    }

    /// Whether only the cache holds it.
    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.body) == 1 && !self.body.is_in_use()
    }
}

impl Rejected {
    /// Whether another attempt can succeed with this many bytes.
    fn may_fit(self, available: usize) -> bool {
        self.size.is_some_and(|size| size <= available)
    }
}

impl BuildJob {
    /// Brings the cached body up to date, or reads the whole collection.
    pub(super) fn build(&self, view: &mut View<'_>) -> Result<BuildOutcome, StoreError> {
        let horizon = view.horizon()?;
        let outcome = match self.body(view, &horizon) {
            Ok(body) => BuildOutcome::Built(CachedBody { body: Arc::new(body), revision: horizon.current }),
            Err(BuildError::BudgetExceeded) => BuildOutcome::Rejected,
            Err(BuildError::Store(error)) => return Err(error),
        };
        self.cache.finish(self.collection, &outcome);
        Ok(outcome)
    }

    fn body(&self, view: &mut View<'_>, horizon: &Horizon) -> Result<Body, BuildError> {
        let room = Room { budget: &self.cache.budget, evict: &|| self.cache.evict(self.collection) };
        let cached = self.cache.state().bodies.peek(&self.collection).cloned();
        if let Some(CachedBody { body, revision }) = cached {
            match body.updated(revision, horizon, view, self.collection, room) {
                Ok(Some(body)) => return Ok(body),
                Err(BuildError::Store(error)) => return Err(error.into()),
                // The budget may have room for one of the two bodies only.
                Ok(None) | Err(BuildError::BudgetExceeded) => {
                    self.cache.state().bodies.pop(&self.collection);
                }
            }
        }
        Body::read(view, self.collection, room)
    }
}

impl CompressJob {
    /// Returns `None` if the budget has no room for the compressed text.
    pub(super) fn compress(&self) -> Option<Bytes> {
        compress(self.cached.body.text(), &self.cache.budget)
    }
}

impl SizeObserver {
    /// Notes that the collection was streamed with this many bytes and this many aggregates.
    pub(super) fn observe(&self, bytes: usize, aggregates: usize) {
        if let Some(rejected) = &mut self.cache.state().slots[self.collection.index()].rejected {
            rejected.size = Some(body::size(bytes, aggregates));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::{Location, Person};
    use crate::domain::collection::Registry;

    struct Cache {
        cache: Arc<CollectionCache>,
        persons: CollectionId,
        locations: CollectionId,
    }

    fn cache(limit: usize) -> Cache {
        let mut registry = Registry::default();
        registry.document::<Person>();
        registry.derived::<Location>();
        let id = |name| registry.id(name).unwrap();
        let cache = Arc::new(CollectionCache::new(2, &MemoryBudget::new(limit)));
        Cache { cache, persons: id("persons"), locations: id("locations") }
    }

    impl Cache {
        fn lookup(&self, document: i64, changed: i64) -> Lookup {
            let (document, changed) = (Revision::from_raw(document), Revision::from_raw(changed));
            self.cache.lookup(self.persons, CollectionRevision { document, changed })
        }

        /// The build that a request for a collection which changed at this revision waits for.
        #[track_caller]
        fn pending(&self, revision: i64) -> Arc<Build> {
            match self.lookup(revision, revision) {
                Lookup::Pending(build) => build,
                _ => panic!("there is a body, or no room for one"),
            }
        }

        /// The revision of the body that a request gets at once.
        #[track_caller]
        fn cached(&self, document: i64, changed: i64) -> i64 {
            match self.lookup(document, changed) {
                Lookup::Cached(cached) => cached.revision.number(),
                _ => panic!("there is no body"),
            }
        }

        fn is_rejected(&self) -> bool {
            matches!(self.lookup(1, 1), Lookup::Rejected)
        }

        fn finish(&self, build: &Build, outcome: BuildOutcome) {
            self.cache.finish(self.persons, &outcome);
            assert!(build.set(outcome).is_ok());
        }
    }

    fn built(revision: i64) -> BuildOutcome {
        let revision = Revision::from_raw(revision);
        BuildOutcome::Built(CachedBody { body: Arc::new(Body::empty(revision)), revision })
    }

    #[test]
    fn requests_share_the_running_build_and_never_get_an_older_revision_than_they_asked_for() {
        let cache = cache(1000);
        let first = cache.pending(1);
        assert!(Arc::ptr_eq(&first, &cache.pending(2)), "one build for both");
        assert!(Arc::ptr_eq(&first, &cache.pending(3)));
        // It began to read before revision 3 was written.
        cache.finish(&first, built(2));
        assert_eq!(cache.cached(2, 1), 2);
        let second = cache.pending(3);
        assert!(!Arc::ptr_eq(&first, &second), "the request for revision 3 waits for the next build");
        assert!(Arc::ptr_eq(&second, &cache.pending(4)));
        cache.finish(&second, built(5));
        assert_eq!(cache.cached(3, 3), 5);
        assert_eq!(cache.cached(9, 5), 9, "nothing has changed since");
        assert!(!Arc::ptr_eq(&second, &cache.pending(10)));
    }

    #[test]
    fn a_failed_build_fails_its_waiters_and_the_next_request_tries_again() {
        let cache = cache(1000);
        let first = cache.pending(1);
        assert!(first.set(BuildOutcome::Failed).is_ok());
        let second = cache.pending(1);
        assert!(!Arc::ptr_eq(&first, &second));
        cache.finish(&second, built(1));
        assert_eq!(cache.cached(1, 1), 1);
    }

    #[test]
    fn an_older_body_does_not_replace_a_newer_one() {
        let cache = cache(1000);
        cache.cache.finish(cache.persons, &built(2));
        cache.cache.finish(cache.persons, &built(1));
        assert_eq!(cache.cached(2, 2), 2);
    }

    #[test]
    fn a_rejected_collection_is_tried_again_once_it_may_fit() {
        let cache = cache(1000);
        cache.finish(&cache.pending(1), BuildOutcome::Rejected);
        assert!(cache.is_rejected(), "its size is unknown");
        let observer = cache.cache.size_observer(cache.persons);
        observer.observe(5000, 10);
        assert!(cache.is_rejected());
        let fitting = 1000 - body::size(0, 10);
        observer.observe(fitting + 1, 10);
        assert!(cache.is_rejected());
        observer.observe(fitting, 10);
        assert!(!cache.is_rejected());
        let others = cache.cache.budget.reserve(vec![1], 0).unwrap();
        assert!(cache.is_rejected(), "other bodies need the room");
        drop(others);
        assert!(!cache.is_rejected());
    }

    #[test]
    fn an_attempt_may_fit_if_the_measured_size_does() {
        let cases = [(None, 0, false), (None, 1000, false), (Some(1000), 999, false), (Some(1000), 1000, true)];
        for (size, available, expected) in cases {
            assert_eq!(Rejected { size }.may_fit(available), expected, "{size:?} into {available}");
        }
    }

    #[test]
    fn only_unused_bodies_of_other_collections_are_evicted() {
        let cache = cache(1000);
        cache.cache.finish(cache.persons, &built(1));
        assert!(!cache.cache.evict(cache.persons), "there is no other collection");
        let Lookup::Cached(held) = cache.lookup(1, 1) else { panic!("there is no body") };
        assert!(!cache.cache.evict(cache.locations), "a response holds it");
        drop(held);
        assert!(cache.cache.evict(cache.locations));
        assert!(matches!(cache.lookup(1, 1), Lookup::Pending(_)));
    }
}
