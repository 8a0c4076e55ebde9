//! The bytes on their way to one subscriber, between its hub, its session and its response body.
//!
//! All three live on one worker thread, so this is a plain queue behind an `Rc`, at a fraction of the cost of a message
//! per event. Its bound is in bytes; the hub stops adding when it is full, and nobody waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::web::Bytes;

use crate::delivery::direct_write::{DirectWriter, WriteOutcome};
use crate::domain::feed::Presence;
use crate::domain::revision::Revision;
use crate::events::sse::Chunk;

/// The session reads on when less than this waits, a page and a bit: the next page is read while the last one is sent.
const LOW_WATER: usize = 160 * 1024;

/// The most that the response body gives to the framework at once, which copies it.
const PIECE: usize = 32 * 1024;

/// The sending side of one response.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    queue: RefCell<VecDeque<Bytes>>,
    /// The bytes in `queue`.
    bytes: Cell<usize>,
    waker: RefCell<Option<Waker>>,
    /// Where the hub may write beside the body; none where chunks are not what the client expects.
    writer: RefCell<Option<Rc<DirectWriter>>>,
    /// Bytes that may wait; one chunk more when they do.
    bound: usize,
    /// Everything up to here was put into the queue, or did not concern the feed. While it is live, so is everything
    /// that its hub has published.
    sent_up_to: Cell<Revision>,
    /// The revision of the last id that was put into the queue.
    last_id: Cell<Revision>,
    /// Whether the aggregate of the feed is there.
    presence: Cell<Presence>,
    /// The client is behind the hub: its session has to read on from the database as soon as there is room.
    parked: Cell<bool>,
    /// Nothing more comes.
    ended: Cell<bool>,
    /// The client has gone.
    closed: Cell<bool>,
}

/// What the response body finds in a channel.
#[derive(Debug)]
pub(crate) enum QueueItem {
    /// To be sent.
    Chunk(Bytes),
    /// There is room: the session should read on.
    Room,
    /// All was sent, and nothing more comes.
    End,
}

impl SendQueue {
    pub(crate) fn new(bound: usize) -> Rc<Self> {
        Rc::new(Self { bound, ..Self::default() })
    }

    /// From now on what is sent may go to this line, once the queue is empty.
    pub(crate) fn connect(&self, writer: Option<Rc<DirectWriter>>) {
        *self.writer.borrow_mut() = writer;
    }

    /// Sends a chunk: at once, if nothing is before it on its way to the client, or by way of the queue.
    pub(crate) fn send(&self, chunk: &Chunk) {
        let writer = self.writer.borrow();
        let is_next = self.queue.borrow().is_empty();
        match writer.as_ref().filter(|_| is_next).map_or(WriteOutcome::Nothing, |writer| writer.write(chunk.framed())) {
            WriteOutcome::All => {}
            WriteOutcome::Part => self.wake(),
            WriteOutcome::Nothing => self.push(chunk.content()),
        }
    }

    /// Puts bytes into the queue, unless nobody will take them.
    pub(crate) fn push(&self, chunk: Bytes) {
        if !chunk.is_empty() && !self.closed.get() {
            self.bytes.set(self.bytes.get() + chunk.len());
            self.queue.borrow_mut().push_back(chunk);
            self.wake();
        }
    }

    pub(crate) fn sent_up_to(&self) -> Revision {
        self.sent_up_to.get()
    }

    /// What was put in brings the client up to here.
    pub(crate) fn advance_to(&self, sent: Revision) {
        self.sent_up_to.set(self.sent_up_to.get().max(sent));
    }

    pub(crate) fn last_id(&self) -> Revision {
        self.last_id.get()
    }

    /// The last id that was put in named this revision, after which an aggregate is there or not.
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

    /// From now on the session brings the events: it is told when there is room.
    pub(crate) fn park(&self) {
        self.parked.set(true);
        self.wake();
    }

    pub(crate) fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    /// The response is over. Its connection may go on to others, or be closed by the framework. What waits is let go of: a
    /// hub may keep the channel for a while.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.connect(None);
        self.bytes.set(0);
        drop(self.queue.take());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The next thing for the response body.
    pub(crate) fn poll_next(&self, context: &Context<'_>) -> Poll<QueueItem> {
        if self.parked.get() && !self.ended.get() && self.bytes.get() < LOW_WATER.min(self.bound) {
            // Said once: what the session reads goes live in the end, or is parked again.
            self.parked.set(false);
            return Poll::Ready(QueueItem::Room);
        }
        let mut queue = self.queue.borrow_mut();
        if let Some(first) = queue.front_mut() {
            let piece = first.split_to(first.len().min(PIECE));
            if first.is_empty() {
                queue.pop_front();
            }
            if queue.is_empty() {
                // Most streams are quiet for most of the time; then they keep no memory for a queue.
                *queue = VecDeque::new();
            }
            self.bytes.set(self.bytes.get() - piece.len());
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

    /// Bytes that somebody can see the end of.
    struct Owned(Arc<[u8]>);

    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn nothing_is_kept_for_a_client_that_has_gone() {
        let (bytes, channel) = (Arc::from([0; 100]), SendQueue::new(1000));
        let push = || channel.push(Bytes::from_owner(Owned(Arc::clone(&bytes))));
        push();
        push();
        assert_eq!(Arc::strong_count(&bytes), 3);
        channel.close();
        push();
        assert_eq!((Arc::strong_count(&bytes), channel.bytes.get()), (1, 0));
    }
}
