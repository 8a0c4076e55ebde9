//! What a connection has sent and the framework has not handed over: parts of heads, and requests behind one that is still
//! being answered. The framework keeps up to 128 KiB of it, for as long as the connection lasts, and parses all of it at
//! once: that would be thousands of requests, each of which takes up to fifty times its bytes. So the connection is read
//! in small pieces, and not at all while enough requests wait.

mod heads;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Result};
use std::task::{Context, Poll, Waker};

use actix_web::dev::RequestHead;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use self::heads::Heads;
use super::connection_limiter::Permit;
use super::entrance::Place;
use crate::memory::fair_shares::Share;

/// What every connection may have without a charge, in bytes: the buffer that the framework gives each one.
const FREE: usize = 8 * 1024;

/// The framework reads no more when it has this many bytes.
const MOST: usize = 128 * 1024;

/// What a head may take beyond the estimate, in bytes: white space around its values and before its first line.
const SLACK: usize = 128;

/// How many requests may wait behind the one that is answered until no more are read: as many as the framework takes
/// before it stops parsing.
const MAX_WAITING: usize = 16;

/// What a line of a head takes when it is parsed, in bytes, at most: the table of the headers doubles when it grows.
const BYTES_PER_LINE: usize = 512;

/// How often the framework may flush nothing without reading anything. It does so without a pause when it has as much as it
/// keeps, and a request that is not answered yet.
const MAX_IDLE_FLUSHES: usize = 100;

/// How much of the body of a request is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// In bytes.
    Known(usize),
    /// It is in chunks, whose lengths nobody looks at here.
    Chunks,
    /// There may be one, and the response is known without it.
    Unread,
}

/// What one connection has sent that is not a request in work.
#[derive(Debug)]
pub(crate) struct Intake {
    /// In bytes; up to a few more than there are.
    held: Cell<usize>,
    /// The heads among that; those of a body in chunks too, which may be anything.
    heads: Cell<Heads>,
    charge: RefCell<Share>,
    /// What arrives belongs to a body as long as there is a rest. It is charged where it is read.
    body: Cell<Rest>,
    /// The task to wake when no longer too many requests wait.
    paused: RefCell<Option<Waker>>,
    /// The response that is being sent has no end, so nothing behind it will ever be answered.
    is_endless: Cell<bool>,
    /// The framework has parsed what it read before.
    has_yielded: Cell<bool>,
    idle_flushes: Cell<usize>,
    /// There was no memory for what is held.
    is_uncharged: Cell<bool>,
    /// How many looks in a row have found bytes and no new request.
    looks: Cell<u32>,
    /// `None` for a connection without an address.
    _permit: Option<Permit>,
    /// Until the framework has answered the first request, or a stream has left it.
    place: RefCell<Option<Place>>,
}

impl Intake {
    pub(crate) fn new(charge: Share, permit: Option<Permit>) -> Self {
        Self {
            held: Cell::default(),
            heads: Cell::default(),
            charge: RefCell::new(charge),
            body: Cell::new(Rest::Known(0)),
            paused: RefCell::default(),
            is_endless: Cell::default(),
            has_yielded: Cell::default(),
            idle_flushes: Cell::default(),
            is_uncharged: Cell::default(),
            looks: Cell::default(),
            _permit: permit,
            place: RefCell::default(),
        }
    }

    /// The framework gets the connection.
    pub(crate) fn enter(&self, place: Place) {
        self.place.replace(Some(place));
    }

    /// A stream has left the framework.
    pub(super) fn leave(&self) {
        self.place.take();
    }

    /// A request begins: its head, and what has come of its body, are no longer held.
    pub(crate) fn begin(&self, head: &RequestHead) {
        let headers: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len()).sum();
        let line = head.method.as_str().len() + uri_length(head) + "  HTTP/1.1\r\n\r\n".len();
        let is_chunked = head.headers.contains_key(TRANSFER_ENCODING);
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let behind = self.held.get().saturating_sub(line + headers);
        let body = if is_chunked { MOST } else { announced.unwrap_or(0) };
        self.body.set(if is_chunked { Rest::Chunks } else { Rest::Known(body.saturating_sub(behind)) });
        self.looks.set(0);
        let rest = behind.saturating_sub(body);
        let heads = self.heads.get().without_first(head.headers.len());
        self.heads.set(if rest <= SLACK && !is_chunked { Heads::default() } else { heads });
        self.hold(if rest <= SLACK { 0 } else { rest });
        if let Some(paused) = self.paused.borrow_mut().take_if(|_| !self.is_full()) {
            paused.wake();
        }
    }

    /// The response to the request is known, so nobody reads the rest of its body. Returns whether the connection should
    /// end with this response: behind a body in chunks, too many requests may have been read.
    pub(crate) fn end_body(&self) -> AfterBody {
        if !self.is_endless.get() {
            self.place.take();
        }
        let was_chunked = self.body.get() == Rest::Chunks;
        if self.in_body() {
            self.body.set(Rest::Unread);
        }
        let heads = if was_chunked { self.heads.take() } else { Heads::default() };
        if heads.complete() > MAX_WAITING { AfterBody::End } else { AfterBody::GoOn }
    }

    /// The response to the request has no end.
    pub(crate) fn begin_endless(&self) {
        self.is_endless.set(true);
        if let Some(paused) = self.paused.take() {
            paused.wake();
        }
    }

    /// What has arrived is thrown away, and what still arrives as well.
    pub(super) fn forget(&self) {
        self.body.set(Rest::Known(0));
        self.heads.take();
        self.hold(0);
    }

    /// Bytes have arrived.
    pub(super) fn add(&self, bytes: &[u8]) {
        self.has_yielded.set(false);
        let new = match self.body.get() {
            Rest::Chunks => {
                self.heads.set(self.heads.get().with(bytes));
                return;
            }
            Rest::Unread => bytes,
            Rest::Known(rest) => {
                let of_body = rest.min(bytes.len());
                self.body.set(Rest::Known(rest - of_body));
                &bytes[of_body..]
            }
        };
        if !new.is_empty() {
            self.heads.set(self.heads.get().with(new));
            self.hold((self.held.get() + new.len()).min(MOST));
        }
    }

    /// Waits until more may be read.
    ///
    /// # Errors
    /// Too many requests wait behind a response without an end, so the connection has to end: without reading, nobody would
    /// notice that the client disconnects.
    pub(super) fn poll_room(&self, context: &Context<'_>) -> Poll<Result<()>> {
        if self.is_full() {
            if self.is_endless.get() {
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            *self.paused.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        // The framework parses what it has when there is nothing to read.
        if matches!(self.body.get(), Rest::Chunks | Rest::Unread) && !self.has_yielded.replace(true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// How many bytes may be read at once, whatever they are: those of a body of known length.
    pub(super) fn expected(&self) -> usize {
        if let Rest::Known(rest) = self.body.get() { rest } else { 0 }
    }

    /// Whether too many requests wait. The framework has all of them, so one of them begins when there is a response.
    fn is_full(&self) -> bool {
        self.body.get() == Rest::Known(0) && self.heads.get().complete() > MAX_WAITING
    }

    fn in_body(&self) -> bool {
        matches!(self.body.get(), Rest::Known(1..) | Rest::Chunks)
    }

    /// Charges twice the bytes, since a buffer that grows doubles, and what the requests among them take when they are
    /// parsed. Without memory for that, the connection goes on until the next look, since most of them are a request that
    /// is handed over in a moment, and has to get its answer.
    fn hold(&self, bytes: usize) {
        self.held.set(bytes);
        let heads = self.heads.get();
        let parsed = if heads.complete() > 1 { heads.lines() * BYTES_PER_LINE } else { 0 };
        let buffered = if bytes <= FREE { 0 } else { 2 * bytes.next_multiple_of(FREE) };
        self.is_uncharged.set(self.charge.borrow_mut().resize(buffered + parsed).is_err());
    }

    /// The framework reads, or writes bytes.
    pub(super) fn note_progress(&self) {
        self.idle_flushes.set(0);
    }

    /// The framework has flushed its buffer.
    ///
    /// # Errors
    /// It does nothing else any more: the connection has to end.
    pub(super) fn note_flush(&self) -> Result<()> {
        self.idle_flushes.set(self.idle_flushes.get() + 1);
        let is_stuck = self.idle_flushes.get() > MAX_IDLE_FLUSHES && !self.in_body();
        if is_stuck { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Looks whether bytes wait to become a request, and returns for how many looks in a row. If there is no memory for them,
    /// they have waited too long.
    pub(crate) fn look(&self) -> u32 {
        let waits = self.held.get() > 0 && !self.in_body();
        let looks = if self.is_uncharged.get() { u32::MAX } else { self.looks.get().saturating_add(1) };
        self.looks.set(if waits { looks } else { 0 });
        self.looks.get()
    }
}

/// What becomes of a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterBody {
    GoOn,
    End,
}

/// The length of the target of a request, in bytes.
fn uri_length(head: &RequestHead) -> usize {
    let uri = &head.uri;
    let before = uri.scheme_str().map_or(0, |scheme| scheme.len() + "://".len())
        + uri.authority().map_or(0, |authority| authority.as_str().len());
    before + uri.path_and_query().map_or(0, |target| target.as_str().len())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HOST, HeaderValue};

    use super::*;
    use crate::memory::budget::MemoryBudget;
    use crate::memory::fair_shares::FairShares;

    fn head(length: Option<&'static str>) -> RequestHead {
        let mut head = RequestHead::default();
        head.uri = "/persons".parse().unwrap();
        head.headers.insert(HOST, HeaderValue::from_static("localhost"));
        if let Some(length) = length {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        head
    }

    const HEAD: &str = "GET /persons HTTP/1.1\r\nhost: localhost\r\n\r\n";

    const TEXT: usize = HEAD.len();

    /// A head and as many bytes behind it.
    fn text(more: usize) -> Vec<u8> {
        [HEAD.as_bytes(), &vec![b'x'; more]].concat()
    }

    fn is_paused(intake: &Intake) -> bool {
        intake.poll_room(&Context::from_waker(Waker::noop())).is_pending()
    }

    #[test]
    fn nothing_is_read_while_enough_requests_wait() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(HEAD.repeat(100).as_bytes());
        assert!(is_paused(&intake), "until the first one begins, the framework has to parse them");
        intake.begin(&head(None));
        assert_eq!(budget.used(), 99 * 3 * BYTES_PER_LINE, "what they take when they are parsed");
        let pauses: Vec<_> = (1..100).map(|_| (is_paused(&intake), intake.begin(&head(None))).0).collect();
        assert_eq!(pauses.iter().filter(|paused| **paused).count(), 99 - MAX_WAITING);
        assert!(!is_paused(&intake));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_connection_ends_when_too_many_requests_wait_behind_a_response_without_an_end() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(HEAD.as_bytes());
        intake.begin(&head(None));
        intake.begin_endless();
        intake.add(HEAD.repeat(MAX_WAITING).as_bytes());
        assert!(!is_paused(&intake));
        intake.add(HEAD.as_bytes());
        assert!(matches!(intake.poll_room(&Context::from_waker(Waker::noop())), Poll::Ready(Err(_))));
    }

    #[test]
    fn a_body_is_read_whatever_is_in_it() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        let lines = "{\n\n".repeat(100);
        intake.add(&[HEAD.as_bytes(), lines.as_bytes()].concat());
        intake.begin(&head(Some("90000")));
        assert!(!is_paused(&intake));
        intake.add(lines.as_bytes());
        assert!(!is_paused(&intake));
        assert!(intake.expected() > 80_000);
        intake.add(&vec![b'\n'; intake.expected()]);
        intake.add(HEAD.repeat(20).as_bytes());
        assert!(is_paused(&intake), "requests behind the body");
        assert_eq!(intake.end_body(), AfterBody::GoOn);
    }

    #[test]
    fn a_connection_ends_that_may_have_sent_too_many_requests_behind_chunks() {
        let budget = MemoryBudget::new(4 << 20);
        let mut chunked = head(None);
        chunked.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        for (count, after) in [(16, AfterBody::GoOn), (18, AfterBody::End)] {
            let intake = Intake::new(FairShares::new(&budget).share(None), None);
            intake.add(HEAD.as_bytes());
            intake.begin(&chunked);
            intake.add(b"2\r\n{}\r\n0\r\n\r\n");
            intake.add(HEAD.repeat(count - 1).as_bytes());
            assert!(is_paused(&intake), "the framework has to parse it");
            assert!(!is_paused(&intake));
            assert_eq!(intake.end_body(), after, "{count}");
        }
    }

    #[test]
    fn what_is_no_request_in_work_is_charged() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(&text(0));
        intake.begin(&head(None));
        assert_eq!((intake.held.get(), budget.used()), (0, 0), "a head that is handed over");
        intake.add(&text(SLACK));
        intake.begin(&head(None));
        assert_eq!(intake.look(), 0, "a head with more white space");
        intake.add(&text(3 * FREE));
        intake.begin(&head(None));
        assert_eq!((intake.held.get(), budget.used()), (3 * FREE, 6 * FREE), "what comes behind it");
        intake.add(&[b'x'; 10 * MOST]);
        assert_eq!(budget.used(), 2 * MOST, "the framework keeps no more");
        drop(intake);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_is_charged_elsewhere() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(&text(20_000));
        intake.begin(&head(Some("90000")));
        assert_eq!(budget.used(), 0);
        intake.add(&[b'x'; 70_000]);
        assert_eq!((budget.used(), intake.look()), (0, 0));
        intake.end_body();
        intake.add(&[b'x'; FREE + 1]);
        assert_eq!(budget.used(), 4 * FREE, "after the response, nobody reads it");
    }

    #[test]
    fn a_connection_ends_without_memory_and_without_progress() {
        let budget = MemoryBudget::new(64 * 1024);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(&[b'x'; FREE]);
        assert_eq!(intake.look(), 1);
        intake.add(&[b'x'; MOST]);
        assert_eq!(intake.look(), u32::MAX, "it ends at the next look");
        intake.begin(&head(Some("200000")));
        assert_eq!(intake.look(), 0, "all of that was a request");
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        for _ in 0..MAX_IDLE_FLUSHES {
            intake.note_flush().unwrap();
        }
        intake.note_progress();
        assert!(intake.note_flush().is_ok(), "it has written");
        assert!((0..MAX_IDLE_FLUSHES).any(|_| intake.note_flush().is_err()));
    }

    #[test]
    fn half_a_head_is_older_with_each_look() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        assert_eq!(intake.look(), 0);
        intake.add(&HEAD.as_bytes()[..TEXT - 2]);
        assert_eq!((intake.look(), intake.look()), (1, 2));
        intake.add(b"\r\n");
        intake.begin(&head(None));
        assert_eq!(intake.look(), 0);
    }
}
