//! The bytes on their way to one client, between its hub, its session and its response body.
//!
//! All three run on one worker thread, so this is a plain queue behind an `Rc`, at a fraction of the cost of a message per
//! event. It is bounded in bytes; the hub stops adding to a full queue, and nobody waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::web::Bytes;

#[cfg(feature = "direct-write")]
use super::direct_write::{DirectWriter, WriteOutcome};
use crate::domain::feed::Presence;
use crate::domain::revision::Revision;
use crate::events::sse::Chunk;
use crate::memory::budget::BudgetExceeded;
use crate::memory::fair_shares::Share;

/// A session reads the next page when less than this is queued, which is a little more than a page: the next page is read
/// while the last one is sent.
const LOW_WATER: usize = 160 * 1024;

/// The most that the response body gives to the framework at once, which copies it.
const PIECE: usize = 32 * 1024;

/// The sending side of one response.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    queue: RefCell<VecDeque<Queued>>,
    /// The bytes in `queue`.
    bytes: Cell<usize>,
    /// The memory that `queue` takes, in bytes.
    weight: Cell<usize>,
    /// The memory that is reserved for a page that is being read, in bytes.
    reserved: Cell<usize>,
    /// The memory that the last page had needed, in bytes, if it was not to be had.
    missed: Cell<usize>,
    /// What counts for it; `None` where nothing is limited.
    share: RefCell<Option<Share>>,
    waker: RefCell<Option<Waker>>,
    /// Writes to the socket beside the task of its connection; `None` where the client does not expect chunks.
    #[cfg(feature = "direct-write")]
    writer: RefCell<Option<Rc<DirectWriter>>>,
    /// The queue is full from this many bytes on; it may exceed that by one page.
    bound: usize,
    /// Everything up to this revision that concerns the feed was put into the queue. For a live stream, that includes all
    /// that the hub has published.
    sent_up_to: Cell<Revision>,
    /// The revision of the last id in the queue.
    last_id: Cell<Revision>,
    /// Whether the aggregate of the feed exists, after `last_id`.
    presence: Cell<Presence>,
    /// The session wants to be notified when the queue has drained.
    notify_when_drained: Cell<bool>,
    /// Nothing more will be added.
    ended: Cell<bool>,
    /// The client has disconnected.
    closed: Cell<bool>,
}

/// Bytes in a queue.
#[derive(Debug)]
struct Queued {
    bytes: Bytes,
    holder: Holder,
}

/// Whose memory bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// They count for this queue.
    Queue,
    /// They count for what made them, until the last of its readers has sent them.
    Cache,
}

impl Queued {
    /// What counts for the queue, in bytes.
    fn weight(&self) -> usize {
        size_of::<Self>() + if self.holder == Holder::Queue { self.bytes.len() } else { 0 }
    }
}

/// What the response body gets from a queue.
#[derive(Debug)]
pub(crate) enum QueueItem {
    /// Bytes to send.
    Chunk(Bytes),
    /// The queue has room for another page.
    Drained,
    /// Everything was sent, and the stream ends.
    End,
}

impl SendQueue {
    pub(crate) fn new(bound: usize) -> Rc<Self> {
        Rc::new(Self { bound, ..Self::default() })
    }

    /// A queue whose bytes count against a budget.
    pub(crate) fn charged(bound: usize, share: Share) -> Rc<Self> {
        Rc::new(Self { bound, share: RefCell::new(Some(share)), ..Self::default() })
    }

    /// Chunks may be written to this socket from now on, whenever the queue is empty.
    #[cfg(feature = "direct-write")]
    pub(crate) fn connect(&self, writer: Option<Rc<DirectWriter>>) {
        *self.writer.borrow_mut() = writer;
    }

    /// Sends a chunk: to the socket itself if nothing else is on its way there, otherwise through the queue.
    ///
    /// # Errors
    /// There is no memory to keep it in the queue. It was not sent.
    pub(crate) fn send(&self, chunk: &Chunk) -> Result<(), BudgetExceeded> {
        #[cfg(feature = "direct-write")]
        match self.write(chunk) {
            WriteOutcome::All => return Ok(()),
            WriteOutcome::Part => {
                self.wake();
                return Ok(());
            }
            WriteOutcome::Nothing => {}
        }
        self.push(chunk.content())
    }

    #[cfg(feature = "direct-write")]
    fn write(&self, chunk: &Chunk) -> WriteOutcome {
        let writer = self.writer.borrow();
        let is_next = self.queue.borrow().is_empty();
        let writer = writer.as_ref().filter(|_| is_next);
        writer.map_or(WriteOutcome::Nothing, |writer| writer.write(chunk.framed()))
    }

    /// Adds bytes to the queue, unless the client has disconnected.
    ///
    /// # Errors
    /// There is no memory for them. They were not added.
    pub(crate) fn push(&self, chunk: Bytes) -> Result<(), BudgetExceeded> {
        self.push_page(Vec::new(), chunk)
    }

    /// Adds a page to the queue, unless the client has disconnected: bytes that others hold as well, then its own.
    ///
    /// # Errors
    /// There is no memory for them. Nothing was added.
    pub(crate) fn push_page(&self, shared: Vec<Bytes>, own: Bytes) -> Result<(), BudgetExceeded> {
        if self.closed.get() {
            return Ok(());
        }
        let shared = shared.into_iter().map(|bytes| Queued { bytes, holder: Holder::Cache });
        let pieces = shared.chain([Queued { bytes: own, holder: Holder::Queue }]);
        let pieces: VecDeque<_> = pieces.filter(|piece| !piece.bytes.is_empty()).collect();
        let weight = pieces.iter().map(Queued::weight).sum::<usize>();
        if let Err(exceeded) = self.charge(weight) {
            self.missed.set(weight);
            self.unreserve();
            return Err(exceeded);
        }
        self.reserved.take();
        self.missed.take();
        self.append(pieces, weight);
        Ok(())
    }

    fn append(&self, pieces: impl IntoIterator<Item = Queued>, weight: usize) {
        self.weight.set(self.weight.get() + weight);
        let mut queue = self.queue.borrow_mut();
        for piece in pieces {
            self.bytes.set(self.bytes.get() + piece.bytes.len());
            queue.push_back(piece);
        }
        drop(queue);
        self.wake();
    }

    /// Sends a bookmark or a comment, for which there is always room: it takes less than 200 bytes, and a stream gets one
    /// for each quiet time.
    pub(crate) fn send_note(&self, note: &Chunk) {
        if self.send(note).is_ok() || self.closed.get() {
            return;
        }
        let note = Queued { bytes: note.content(), holder: Holder::Queue };
        let weight = note.weight();
        if let Some(share) = &mut *self.share.borrow_mut() {
            share.add_few(weight);
        }
        self.append([note], weight);
    }

    /// Reserves memory for the next page, until that is added.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn reserve_page(&self) -> Result<(), BudgetExceeded> {
        if self.closed.get() {
            return Ok(());
        }
        let usual = self.share.borrow().as_ref().map_or(LOW_WATER, |share| LOW_WATER.min(share.max()));
        // A page that had no room is not read again before it has.
        let page = usual.max(self.missed.get());
        self.charge(page)?;
        self.reserved.set(page);
        Ok(())
    }

    /// The page for which memory was reserved does not come.
    fn unreserve(&self) {
        self.reserved.take();
        self.release(0);
    }

    /// Charges for a page beside what is queued. However large it is, an empty queue gets it sooner or later: otherwise
    /// the stream would end there.
    fn charge(&self, page: usize) -> Result<(), BudgetExceeded> {
        let mut share = self.share.borrow_mut();
        let Some(share) = &mut *share else { return Ok(()) };
        match self.weight.get() {
            0 => share.resize_outsize(page),
            weight => share.resize(weight + page),
        }
    }

    /// Some bytes have left the queue.
    fn release(&self, weight: usize) {
        self.weight.set(self.weight.get() - weight);
        if let Some(share) = &mut *self.share.borrow_mut() {
            // Less is always possible.
            let _ = share.resize(self.weight.get() + self.reserved.get());
        }
    }

    pub(crate) fn sent_up_to(&self) -> Revision {
        self.sent_up_to.get()
    }

    /// The queue brings the client at least up to this revision.
    pub(crate) fn advance_to(&self, revision: Revision) {
        self.sent_up_to.set(self.sent_up_to.get().max(revision));
    }

    pub(crate) fn last_id(&self) -> Revision {
        self.last_id.get()
    }

    /// The last id in the queue is that of this revision, after which the feed's aggregate exists or not.
    pub(crate) fn set_last_id(&self, revision: Revision, presence: Presence) {
        self.last_id.set(revision);
        self.presence.set(presence);
    }

    pub(crate) fn presence(&self) -> Presence {
        self.presence.get()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.get() >= self.bound
    }

    /// The body gets [`QueueItem::Drained`] once, as soon as the queue has room for another page.
    pub(crate) fn notify_when_drained(&self) {
        self.notify_when_drained.set(true);
        self.wake();
    }

    /// Ends the stream after what is queued.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.unreserve();
        self.wake();
    }

    /// The response is over: its connection may serve another one, or is closed by the framework. The queued bytes are
    /// freed, because a hub may keep the queue for a while.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        #[cfg(feature = "direct-write")]
        self.connect(None);
        self.bytes.take();
        self.queue.take();
        self.reserved.take();
        self.release(self.weight.get());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The next item for the response body.
    pub(crate) fn poll_next(&self, context: &Context<'_>) -> Poll<QueueItem> {
        if self.notify_when_drained.get() && !self.ended.get() && self.bytes.get() < LOW_WATER.min(self.bound) {
            self.notify_when_drained.set(false);
            return Poll::Ready(QueueItem::Drained);
        }
        let mut queue = self.queue.borrow_mut();
        if let Some(first) = queue.front_mut() {
            let before = first.weight();
            let piece = first.bytes.split_to(first.bytes.len().min(PIECE));
            let mut released = before - first.weight();
            if first.bytes.is_empty() {
                released += first.weight();
                queue.pop_front();
            }
            if queue.is_empty() {
                // Most streams are quiet most of the time, and then need no memory for a queue.
                *queue = VecDeque::new();
            }
            self.bytes.set(self.bytes.get() - piece.len());
            self.release(released);
            return Poll::Ready(QueueItem::Chunk(piece));
        }
        if self.ended.get() {
            return Poll::Ready(QueueItem::End);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::budget::MemoryBudget;
    use crate::memory::fair_shares::FairShares;

    /// Bytes whose end of life a test can observe.
    struct Owned(Arc<[u8]>);

    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    fn owned(bytes: &Arc<[u8]>) -> Bytes {
        Bytes::from_owner(Owned(Arc::clone(bytes)))
    }

    fn charged(limit: usize) -> (Rc<SendQueue>, Arc<MemoryBudget>) {
        let budget = MemoryBudget::new(limit);
        (SendQueue::charged(1000, FairShares::new(&budget).share(None)), budget)
    }

    #[test]
    fn a_closed_queue_keeps_nothing() {
        let bytes = Arc::from([0; 100]);
        let (queue, budget) = charged(64 * 1024);
        let push = || queue.push(owned(&bytes)).unwrap();
        push();
        push();
        assert_eq!(Arc::strong_count(&bytes), 3);
        assert_eq!(budget.used(), 2 * (100 + size_of::<Queued>()));
        queue.close();
        push();
        assert_eq!(Arc::strong_count(&bytes), 1);
        assert_eq!((queue.bytes.get(), budget.used()), (0, 0));
    }

    #[test]
    fn an_empty_queue_takes_a_page_of_any_size() {
        let large = Arc::from([0; 100_000]);
        let (queue, budget) = charged(64 * 1024);
        let context = Context::from_waker(Waker::noop());
        queue.push(Bytes::from_static(b": begin")).unwrap();
        assert!(queue.push(owned(&large)).is_err(), "something is queued");
        assert!(queue.reserve_page().is_err());
        assert!(matches!(queue.poll_next(&context), Poll::Ready(QueueItem::Chunk(_))));
        queue.reserve_page().unwrap();
        assert!(budget.used() > large.len(), "what had no room before is reserved");
        queue.push(owned(&large)).unwrap();
        assert_eq!(budget.used(), large.len() + size_of::<Queued>());
        queue.close();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_reserved_for_a_page_stays_while_others_leave() {
        let bytes = Arc::from([0; 1000]);
        let (queue, budget) = charged(1 << 20);
        let context = Context::from_waker(Waker::noop());
        queue.push(owned(&bytes)).unwrap();
        queue.reserve_page().unwrap();
        while matches!(queue.poll_next(&context), Poll::Ready(QueueItem::Chunk(_))) {}
        assert_eq!(budget.used(), LOW_WATER);
        queue.push_page(Vec::new(), owned(&bytes)).unwrap();
        assert_eq!(budget.used(), 1000 + size_of::<Queued>());
        queue.reserve_page().unwrap();
        queue.end();
        assert_eq!(budget.used(), 1000 + size_of::<Queued>(), "no page comes");
    }

    #[test]
    fn there_is_room_for_a_note_when_there_is_none_for_events() {
        let bytes = Arc::from([0; 24 * 1024 - size_of::<Queued>()]);
        let (queue, budget) = charged(64 * 1024);
        queue.push(owned(&bytes)).unwrap();
        assert!(queue.push(owned(&bytes)).is_err());
        let before = queue.bytes.get();
        queue.send_note(&Chunk::new(":\n"));
        assert_eq!(queue.bytes.get(), before + 2);
        queue.close();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_page_without_memory_leaves_the_queue_as_it_was() {
        let bytes = Arc::from([0; 10_000]);
        let (queue, budget) = charged(64 * 1024);
        queue.push_page(vec![owned(&bytes), owned(&bytes)], owned(&bytes)).unwrap();
        assert_eq!(budget.used(), 10_000 + 3 * size_of::<Queued>(), "what is shared counts elsewhere");
        queue.push(owned(&bytes)).unwrap();
        let used = budget.used();
        assert!(queue.push_page(vec![owned(&bytes)], owned(&bytes)).is_err());
        assert!(queue.reserve_page().is_err());
        assert_eq!((budget.used(), Arc::strong_count(&bytes)), (used, 5));
        let context = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while let Poll::Ready(QueueItem::Chunk(piece)) = queue.poll_next(&context) {
            sent += piece.len();
        }
        assert_eq!((sent, budget.used()), (40_000, 0));
    }
}
