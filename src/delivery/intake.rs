//! What a connection has sent and the framework has not handed over: parts of heads, and requests behind one that is still
//! being answered. The framework keeps up to 128 KiB of it, for as long as the connection lasts.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Result};

use actix_web::dev::RequestHead;
use actix_web::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use super::connection_limiter::Permit;
use crate::memory::fair_shares::Share;

/// What every connection may have without a charge, in bytes: the buffer that the framework gives each one.
const FREE: usize = 8 * 1024;

/// The framework reads no more when it has this many bytes.
const MOST: usize = 128 * 1024;

/// What a head may take beyond the estimate, in bytes: white space around its values and before its first line.
const SLACK: usize = 128;

/// How often the framework may flush nothing without reading anything. It does so without a pause when it has as much as it
/// keeps, and a request that is not answered yet.
const MAX_IDLE_FLUSHES: usize = 100;

/// What one connection has sent that is not a request in work.
#[derive(Debug)]
pub(crate) struct Intake {
    /// In bytes; up to a few more than there are.
    held: Cell<usize>,
    charge: RefCell<Share>,
    /// Whether what arrives belongs to a body, which is charged where it is read.
    in_body: Cell<bool>,
    idle_flushes: Cell<usize>,
    /// There was no memory for what is held.
    is_uncharged: Cell<bool>,
    /// How many looks in a row have found bytes and no new request.
    looks: Cell<u32>,
    /// `None` for a connection without an address.
    _permit: Option<Permit>,
}

impl Intake {
    pub(crate) fn new(charge: Share, permit: Option<Permit>) -> Self {
        Self {
            held: Cell::default(),
            charge: RefCell::new(charge),
            in_body: Cell::default(),
            idle_flushes: Cell::default(),
            is_uncharged: Cell::default(),
            looks: Cell::default(),
            _permit: permit,
        }
    }

    /// A request begins: its head, and what has come of its body, are no longer held.
    pub(crate) fn begin(&self, head: &RequestHead) {
        let headers: usize =
            head.headers.iter().map(|(name, value)| name.as_str().len() + ": \r\n".len() + value.len()).sum();
        let line = head.method.as_str().len() + uri_length(head) + "  HTTP/1.1\r\n\r\n".len();
        let is_chunked = head.headers.contains_key(TRANSFER_ENCODING);
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = if is_chunked { MOST } else { announced.unwrap_or(0) };
        self.in_body.set(body > 0);
        self.looks.set(0);
        let rest = self.held.get().saturating_sub((line + headers).saturating_add(body));
        self.hold(if rest <= SLACK { 0 } else { rest });
    }

    /// The response to the request is known, so nobody reads the rest of its body.
    pub(crate) fn end_body(&self) {
        self.in_body.set(false);
    }

    /// Bytes have arrived.
    pub(super) fn add(&self, bytes: usize) {
        if !self.in_body.get() {
            self.hold((self.held.get() + bytes).min(MOST));
        }
    }

    /// Charges twice the bytes, since a buffer that grows doubles. Without memory for them, the connection goes on until
    /// the next look, since most of them are a request that is handed over in a moment, and has to get its answer.
    fn hold(&self, bytes: usize) {
        self.held.set(bytes);
        let charge = if bytes <= FREE { 0 } else { 2 * bytes.next_multiple_of(FREE) };
        self.is_uncharged.set(self.charge.borrow_mut().resize(charge).is_err());
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
        let is_stuck = self.idle_flushes.get() > MAX_IDLE_FLUSHES && !self.in_body.get();
        if is_stuck { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Looks whether bytes wait to become a request, and returns for how many looks in a row. If there is no memory for them,
    /// they have waited too long.
    pub(crate) fn look(&self) -> u32 {
        let waits = self.held.get() > 0 && !self.in_body.get();
        let looks = if self.is_uncharged.get() { u32::MAX } else { self.looks.get().saturating_add(1) };
        self.looks.set(if waits { looks } else { 0 });
        self.looks.get()
    }
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

    const TEXT: usize = "GET /persons HTTP/1.1\r\nhost: localhost\r\n\r\n".len();

    #[test]
    fn what_is_no_request_in_work_is_charged() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(TEXT);
        intake.begin(&head(None));
        assert_eq!((intake.held.get(), budget.used()), (0, 0), "a head that is handed over");
        intake.add(TEXT + SLACK);
        intake.begin(&head(None));
        assert_eq!(intake.look(), 0, "a head with more white space");
        intake.add(TEXT + 3 * FREE);
        intake.begin(&head(None));
        assert_eq!((intake.held.get(), budget.used()), (3 * FREE, 6 * FREE), "what comes behind it");
        intake.add(10 * MOST);
        assert_eq!(budget.used(), 2 * MOST, "the framework keeps no more");
        drop(intake);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_is_charged_elsewhere() {
        let budget = MemoryBudget::new(4 << 20);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(TEXT + 20_000);
        intake.begin(&head(Some("90000")));
        assert_eq!(budget.used(), 0);
        intake.add(70_000);
        assert_eq!((budget.used(), intake.look()), (0, 0));
        intake.end_body();
        intake.add(FREE + 1);
        assert_eq!(budget.used(), 4 * FREE, "after the response, nobody reads it");
    }

    #[test]
    fn a_connection_ends_without_memory_and_without_progress() {
        let budget = MemoryBudget::new(64 * 1024);
        let intake = Intake::new(FairShares::new(&budget).share(None), None);
        intake.add(FREE);
        assert_eq!(intake.look(), 1);
        intake.add(MOST);
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
        intake.add(TEXT - 2);
        assert_eq!((intake.look(), intake.look()), (1, 2));
        intake.add(2);
        intake.begin(&head(None));
        assert_eq!(intake.look(), 0);
    }
}
