//! Whole collections as bodies that all who ask share, kept up to date by what changed.
//!
//! A body is a list of pieces; the next version shares those in which nothing changed. One is brought up to date when
//! somebody asks for it and not before, by at most one thread at a time, in one read transaction. All living pieces
//! together, those that slow clients still hold among them, stay within a budget. What has no room there is streamed.

mod body;
mod gzip;
mod piece;
mod sending;

pub(crate) use body::Body;
pub(crate) use gzip::{Zip, Zipped};
pub(crate) use sending::{Sending, Text};

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::domain::key::CollectionId;
use crate::domain::revision::Revision;
use crate::events::memory_budget::MemoryBudget;
use crate::storage::counters::Horizon;
use crate::storage::error::StoreError;
use crate::storage::reader::View;
use body::Unmade;

/// The bodies of all collections.
pub(crate) struct Bodies {
    shelves: Box<[Mutex<Shelf>]>,
    budget: Arc<MemoryBudget>,
}

/// What there is of one collection.
#[derive(Default)]
struct Shelf {
    kept: Option<Shown>,
    is_being_made: bool,
    waiting: Vec<Waiting>,
    /// There was no room for it the last time.
    refused: Option<Refused>,
}

/// A body, and a revision of the document that it shows.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) body: Arc<Body>,
    pub(crate) revision: Revision,
}

/// One who asked.
struct Waiting {
    /// What is made has to show this revision or a later one.
    at_least: Revision,
    answer: oneshot::Sender<Option<Shown>>,
}

/// A body for which there was no room.
#[derive(Debug, Clone, Copy)]
struct Refused {
    /// The room that there was, in bytes.
    tried: usize,
    /// The size of the body as it was streamed since, in bytes.
    size: Option<usize>,
    /// What it took beside its text when there was room, in bytes.
    beside: Option<usize>,
}

/// What there is for one who asks.
pub(crate) enum Asked {
    Here(Shown),
    /// It comes; `None` when there is no room for it. The channel is closed if it could not be read. `make` is to be run
    /// by somebody, if it is there.
    Pending {
        answer: oneshot::Receiver<Option<Shown>>,
        make: Option<Make>,
    },
    /// There is no room for it.
    TooLarge,
}

/// The order to bring the body of a collection up to date. Dropped without an outcome, those who wait are told.
pub(crate) struct Make {
    bodies: Arc<Bodies>,
    collection: CollectionId,
    /// Nobody waits for this order any more.
    is_done: bool,
}

/// Notes how long a body was that had to be streamed.
pub(crate) struct Measure {
    bodies: Arc<Bodies>,
    collection: CollectionId,
}

impl Bodies {
    /// For so many collections, with room for so many bytes.
    pub(crate) fn new(collections: usize, limit: usize) -> Self {
        let shelves = (0..collections).map(|_| Mutex::default()).collect();
        Self { shelves, budget: MemoryBudget::new(limit) }
    }

    fn shelf(&self, collection: CollectionId) -> MutexGuard<'_, Shelf> {
        self.shelves[collection.index()].lock().expect("nobody panics while holding it")
    }

    /// A body that shows a durable revision, up to which the collection last `changed` at another, or a later one.
    pub(crate) fn ask(self: &Arc<Self>, collection: CollectionId, (revision, changed): (Revision, Revision)) -> Asked {
        let mut shelf = self.shelf(collection);
        if let Some(kept) = &mut shelf.kept {
            if kept.body.changed() == changed {
                // Nothing has changed since, so it shows that revision too; what is read next begins there.
                kept.revision = kept.revision.max(revision);
                return Asked::Here(Shown { body: Arc::clone(&kept.body), revision });
            }
            if kept.revision >= revision {
                return Asked::Here(kept.clone());
            }
        }
        if self.budget.limit() == 0 || shelf.refused.is_some_and(|refused| !refused.may_fit(self.budget.free())) {
            return Asked::TooLarge;
        }
        let (sender, answer) = oneshot::channel();
        shelf.waiting.push(Waiting { at_least: revision, answer: sender });
        let make = !std::mem::replace(&mut shelf.is_being_made, true);
        drop(shelf);
        Asked::Pending { answer, make: make.then(|| Make { bodies: Arc::clone(self), collection, is_done: false }) }
    }

    /// A body compressed.
    pub(crate) fn zipped(&self, body: &Arc<Body>) -> Zipped {
        body.zipped(&self.budget)
    }

    /// For a body that is streamed.
    pub(crate) fn measure(self: &Arc<Self>, collection: CollectionId) -> Measure {
        Measure { bodies: Arc::clone(self), collection }
    }
}

impl Measure {
    /// The body that was streamed had so many bytes.
    pub(crate) fn took(&self, size: usize) {
        if let Some(refused) = &mut self.bodies.shelf(self.collection).refused {
            refused.size = Some(size);
        }
    }
}

impl Refused {
    /// Whether an attempt is worth going through the table: with more room than the last time, or with far less to keep.
    fn may_fit(self, free: usize) -> bool {
        let Some(size) = self.size else { return false };
        free >= size + self.beside.unwrap_or(size / 4) && (free > self.tried + self.tried / 8 || size <= self.tried / 2)
    }
}

/// What came of an order.
pub(crate) struct Made(Result<Shown, Refused>);

impl Make {
    /// Reads what has changed since the last time, or all.
    pub(crate) fn run(&self, view: &mut View<'_>) -> Result<Made, StoreError> {
        let (budget, Horizon { current: revision, forgotten, .. }) = (&self.bodies.budget, view.horizon()?);
        let shown = |body| Ok(Made(Ok(Shown { body: Arc::new(body), revision })));
        let kept = self.bodies.shelf(self.collection).kept.clone();
        let (size, beside) = kept.as_ref().map(|kept| (kept.body.size(), kept.body.beside())).unzip();
        if let Some(Shown { body, revision }) = kept {
            match body.after((revision, forgotten), view, self.collection, budget) {
                Ok(Some(body)) => return shown(body),
                // Where the old one stands in the way of the new, there is room for one of them only.
                Ok(None) | Err(Unmade::BudgetExceeded) => self.bodies.shelf(self.collection).kept = None,
                Err(Unmade::Store(error)) => return Err(error),
            }
        }
        let tried = budget.free();
        match Body::anew(view, self.collection, budget) {
            Ok(body) => shown(body),
            Err(Unmade::BudgetExceeded) => Ok(Made(Err(Refused { tried, size, beside }))),
            Err(Unmade::Store(error)) => Err(error),
        }
    }

    /// Keeps what was made, and answers those for whom it will do. The order for the others, if there are any.
    pub(crate) fn finish(mut self, Made(made): Made) -> Option<Self> {
        let mut shelf = self.bodies.shelf(self.collection);
        let waiting = std::mem::take(&mut shelf.waiting);
        let (answered, waiting): (Vec<_>, Vec<_>) = waiting
            .into_iter()
            .partition(|waiting| made.as_ref().map_or(true, |shown| shown.revision >= waiting.at_least));
        shelf.waiting = waiting;
        (shelf.kept, shelf.refused) = match &made {
            Ok(shown) => (Some(shown.clone()), None),
            Err(refused) => (None, Some(*refused)),
        };
        shelf.is_being_made = !shelf.waiting.is_empty();
        self.is_done = !shelf.is_being_made;
        drop(shelf);
        for Waiting { answer, .. } in answered {
            // A client that has gone needs none.
            drop(answer.send(made.as_ref().ok().cloned()));
        }
        (!self.is_done).then_some(self)
    }
}

impl Drop for Make {
    fn drop(&mut self) {
        if !self.is_done {
            let mut shelf = self.bodies.shelf(self.collection);
            shelf.is_being_made = false;
            shelf.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregates::Person;
    use crate::domain::collection::Registry;

    type Answer = oneshot::Receiver<Option<Shown>>;

    fn persons(limit: usize) -> (Arc<Bodies>, CollectionId) {
        let mut registry = Registry::default();
        registry.document::<Person>();
        (Arc::new(Bodies::new(1, limit)), registry.id("persons").unwrap())
    }

    fn ask(bodies: &Arc<Bodies>, id: CollectionId, revision: i64) -> (Answer, Option<Make>) {
        match bodies.ask(id, (Revision::from_raw(revision), Revision::from_raw(revision))) {
            Asked::Pending { answer, make } => (answer, make),
            _ => panic!("there is none yet"),
        }
    }

    fn made(revision: i64) -> Made {
        let revision = Revision::from_raw(revision);
        Made(Ok(Shown { body: Arc::new(Body::empty(revision)), revision }))
    }

    fn revision(mut answer: Answer) -> i64 {
        answer.try_recv().unwrap().unwrap().revision.number()
    }

    #[test]
    fn many_who_ask_at_once_cost_one_reading_and_nobody_is_given_what_is_too_old() {
        let (bodies, id) = persons(1000);
        let (first, make) = ask(&bodies, id, 1);
        let make = make.unwrap();
        let (second, none) = ask(&bodies, id, 2);
        assert!(none.is_none());
        let (mut third, none) = ask(&bodies, id, 3);
        assert!(none.is_none());
        // It began to read before revision 3 was there.
        let next = make.finish(made(2)).unwrap();
        assert_eq!((revision(first), revision(second)), (2, 2));
        assert!(third.try_recv().is_err());
        assert!(matches!(bodies.ask(id, (Revision::from_raw(2), Revision::from_raw(1))), Asked::Here(_)));
        let (fourth, none) = ask(&bodies, id, 4);
        assert!(none.is_none(), "the next is on its way");
        assert!(next.finish(made(5)).is_none());
        assert_eq!((revision(third), revision(fourth)), (5, 5));
        assert!(
            matches!(bodies.ask(id, (Revision::from_raw(9), Revision::from_raw(5))), Asked::Here(shown)
            if shown.revision == Revision::from_raw(9)),
            "nothing has changed since"
        );
        let (_, make) = ask(&bodies, id, 10);
        assert!(make.is_some());
    }

    #[test]
    fn who_waits_for_what_cannot_be_read_is_told_and_the_next_one_tries_again() {
        let (bodies, id) = persons(1000);
        let ((mut first, make), (mut second, _)) = (ask(&bodies, id, 1), ask(&bodies, id, 2));
        drop(make);
        for answer in [&mut first, &mut second] {
            assert_eq!(answer.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        }
        let (third, make) = ask(&bodies, id, 2);
        assert!(make.unwrap().finish(made(2)).is_none());
        assert_eq!(revision(third), 2);
    }

    #[test]
    fn what_had_no_room_is_tried_again_when_it_would_have() {
        let (bodies, id) = persons(1000);
        let (mut first, make) = ask(&bodies, id, 1);
        assert!(make.unwrap().finish(Made(Err(Refused { tried: 1000, size: None, beside: None }))).is_none());
        assert!(first.try_recv().unwrap().is_none());
        let ask = || bodies.ask(id, (Revision::from_raw(1), Revision::from_raw(1)));
        assert!(matches!(ask(), Asked::TooLarge), "nobody knows how large it is");
        for size in [5000, 1000, 501] {
            bodies.measure(id).took(size);
            assert!(matches!(ask(), Asked::TooLarge), "{size} bytes");
        }
        bodies.measure(id).took(500);
        assert!(matches!(ask(), Asked::Pending { make: Some(_), .. }));
        let others = Refused { tried: 400, size: Some(600), beside: None };
        assert!(others.may_fit(1000) && !others.may_fit(700), "others have left some room");
        let known = Refused { beside: Some(50), ..others };
        assert!(known.may_fit(650) && !known.may_fit(649), "it had room once");
    }
}
