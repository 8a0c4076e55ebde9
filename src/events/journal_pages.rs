//! Pages of the journal as streams send them, shared by all streams that stand at the same position: all that are up to
//! date want the same page after each command.
//!
//! The journal only grows, so a page that was read once stays right, until some of its events are overwritten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use actix_web::web::Bytes;
use tokio::sync::OnceCell;

use crate::domain::key::CollectionId;
use crate::domain::revision::JournalPosition;
use crate::memory::budget::MemoryBudget;
use crate::storage::page::PageLimit;

/// The pages that are kept, in bytes: a stream needs those that were read while it was sending.
const KEPT_BYTES: usize = 4 << 20;

/// The most pages that are kept.
const KEPT_PAGES: usize = 256;

/// Pages of the whole journal end at multiples of this position, so that streams meet that come from different ones.
const CUT: i64 = 512;

/// An estimate of what a page takes beside its text, in bytes.
const OVERHEAD: usize = 256;

/// What a stream wants next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// Only the events of these collections.
    pub(crate) only: Option<Arc<[CollectionId]>>,
    /// How often domain events were overwritten before: a page from before that is not read again.
    pub(crate) overwritten: u64,
    /// It has everything up to here.
    pub(crate) after: JournalPosition,
}

/// A page from the database.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub(crate) text: String,
    /// The page has all events up to here.
    pub(crate) to: JournalPosition,
}

/// A page for a stream.
#[derive(Debug, Clone)]
pub(crate) struct JournalPage {
    pub(crate) text: Bytes,
    /// It has all events up to here.
    pub(crate) to: JournalPosition,
    /// There was no room for it in the budget.
    is_too_much: bool,
}

/// A page that somebody reads or has read.
type Cell = Arc<OnceCell<JournalPage>>;

/// The last pages.
pub(crate) struct JournalPages {
    budget: Arc<MemoryBudget>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pages: HashMap<Place, Cell>,
    oldest_first: VecDeque<Place>,
}

impl Place {
    /// The limits of its page.
    pub(crate) fn limit(&self) -> PageLimit {
        if self.only.is_some() {
            return PageLimit::PAGE;
        }
        let to_cut = CUT - self.after.number().rem_euclid(CUT);
        PageLimit { items: usize::try_from(to_cut).unwrap_or(usize::MAX), ..PageLimit::PAGE }
    }
}

impl JournalPages {
    /// With a budget, against which pages count until their last holder drops them.
    pub(crate) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), kept: Mutex::default() }
    }

    /// The page of a place after which there are events: from memory, or else by `read`. A page that is being read
    /// already is waited for.
    ///
    /// # Errors
    /// `read` has failed. The next stream that wants the page reads it again.
    pub(crate) async fn get<E>(
        &self,
        place: Place,
        read: impl Future<Output = Result<Encoded, E>>,
    ) -> Result<JournalPage, E> {
        let cell = self.kept().cell(&place);
        // If the stream that reads is closed, another one that waits reads instead.
        let page = cell.get_or_try_init(|| async { Ok(self.page(read.await?)) }).await?.clone();
        if page.is_too_much {
            self.kept().forget(&place, &cell);
        }
        Ok(page)
    }

    fn page(&self, Encoded { text, to }: Encoded) -> JournalPage {
        self.kept().make_room(text.len());
        let mut held = self.budget.reservation();
        match held.resize(text.len() + OVERHEAD) {
            Ok(()) => JournalPage { text: Arc::new(held.hold(text.into_bytes())).share(), to, is_too_much: false },
            Err(_) => JournalPage { text: text.into(), to, is_too_much: true },
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no thread panics during a lookup")
    }
}

impl Kept {
    fn cell(&mut self, place: &Place) -> Cell {
        if let Some(cell) = self.pages.get(place) {
            return Arc::clone(cell);
        }
        while self.oldest_first.len() >= KEPT_PAGES {
            self.forget_oldest();
        }
        let cell = Cell::default();
        self.pages.insert(place.clone(), Arc::clone(&cell));
        self.oldest_first.push_back(place.clone());
        cell
    }

    /// Forgets pages until there is room for one of this length.
    fn make_room(&mut self, length: usize) {
        let of = |cell: &Cell| cell.get().map_or(0, |page| page.text.len());
        let mut sum = length + self.pages.values().map(of).sum::<usize>();
        while sum > KEPT_BYTES
            && let Some(forgotten) = self.forget_oldest()
        {
            sum -= of(&forgotten);
        }
    }

    fn forget_oldest(&mut self) -> Option<Cell> {
        let place = self.oldest_first.pop_front()?;
        self.pages.remove(&place)
    }

    /// Forgets a page, unless another one is in its place already.
    fn forget(&mut self, place: &Place, cell: &Cell) {
        if self.pages.get(place).is_some_and(|there| Arc::ptr_eq(there, cell)) {
            self.pages.remove(place);
            self.oldest_first.retain(|other| other != place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell as Count;

    use actix_web::rt;

    use super::*;

    fn place(after: i64) -> Place {
        Place { only: None, overwritten: 0, after: JournalPosition::from_raw(after) }
    }

    /// Gets the page after a position, and counts reads.
    async fn get(
        pages: &JournalPages,
        after: i64,
        length: usize,
        reads: &Count<u32>,
    ) -> Result<JournalPage, &'static str> {
        let read = async {
            reads.set(reads.get() + 1);
            rt::task::yield_now().await;
            if length == 0 {
                return Err("cannot be read");
            }
            Ok(Encoded { text: "x".repeat(length), to: JournalPosition::from_raw(after + 1) })
        };
        pages.get(place(after), read).await
    }

    fn run(test: impl Future<Output = ()>) {
        rt::Runtime::new().unwrap().block_on(test);
    }

    #[test]
    fn a_page_is_read_once_for_all_who_want_it() {
        run(async {
            let (budget, reads) = (MemoryBudget::new(1 << 20), Count::new(0));
            let pages = JournalPages::new(&budget);
            let (one, other) = tokio::join!(get(&pages, 7, 100, &reads), get(&pages, 7, 100, &reads));
            let later = get(&pages, 7, 100, &reads).await.unwrap();
            assert_eq!(reads.get(), 1);
            assert_eq!(one.unwrap().text.as_ptr(), later.text.as_ptr(), "the same bytes");
            assert_eq!(other.unwrap().to, JournalPosition::from_raw(8));
            assert_eq!(budget.used(), 100 + OVERHEAD);
            let filtered = Place { only: Some([].into()), ..place(7) };
            let read = async { Err::<Encoded, _>("another page") };
            assert_eq!(pages.get(filtered, read).await.unwrap_err(), "another page");
            drop(pages);
            assert_eq!(budget.used(), 100 + OVERHEAD, "it is still being sent");
            drop(later);
        });
    }

    #[test]
    fn a_failed_read_is_repeated() {
        run(async {
            let reads = Count::new(0);
            let pages = JournalPages::new(&MemoryBudget::new(1 << 20));
            assert!(get(&pages, 7, 0, &reads).await.is_err());
            assert!(get(&pages, 7, 100, &reads).await.is_ok());
            assert_eq!(reads.get(), 2);
        });
    }

    #[test]
    fn a_page_without_room_in_the_budget_is_not_kept() {
        run(async {
            let (budget, reads) = (MemoryBudget::new(OVERHEAD + 99), Count::new(0));
            let pages = JournalPages::new(&budget);
            let (one, other) = tokio::join!(get(&pages, 7, 100, &reads), get(&pages, 7, 100, &reads));
            assert_eq!((one.unwrap().text.len(), other.unwrap().text.len(), reads.get()), (100, 100, 1));
            assert_eq!(budget.used(), 0);
            assert_eq!(get(&pages, 7, 100, &reads).await.unwrap().text.len(), 100);
            assert_eq!(reads.get(), 2);
            assert!(pages.kept().pages.is_empty() && pages.kept().oldest_first.is_empty());
        });
    }

    #[test]
    fn the_oldest_pages_are_forgotten_first() {
        run(async {
            let (budget, reads) = (MemoryBudget::new(64 << 20), Count::new(0));
            let pages = JournalPages::new(&budget);
            for after in 0..1000 {
                get(&pages, after, 10, &reads).await.unwrap();
            }
            assert_eq!(budget.used(), KEPT_PAGES * (10 + OVERHEAD));
            for after in 1000..1010 {
                get(&pages, after, KEPT_BYTES / 4, &reads).await.unwrap();
            }
            assert_eq!(budget.used(), 4 * (KEPT_BYTES / 4 + OVERHEAD));
            let before = reads.get();
            get(&pages, 1009, 1, &reads).await.unwrap();
            assert_eq!(reads.get(), before);
            get(&pages, 1005, 1, &reads).await.unwrap();
            assert_eq!(reads.get(), before + 1);
        });
    }

    #[test]
    fn pages_of_the_whole_journal_meet_at_the_same_positions() {
        for (after, items) in [(0, 512), (1, 511), (511, 1), (512, 512), (1000, 24)] {
            assert_eq!(place(after).limit().items, items, "after {after}");
        }
        assert_eq!(Place { only: Some([].into()), ..place(511) }.limit().items, PageLimit::PAGE.items);
    }
}
