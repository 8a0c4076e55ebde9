//! The body of a stream, which the framework begins to send, and the connection goes on with.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BoxBody, MessageBody as _};
use actix_web::web::Bytes;

/// How much is taken from a stream and written at once, in bytes.
const WRITE_BUFFER: usize = 64 * 1024;

/// Why a body fails.
pub(super) type Error = Box<dyn std::error::Error>;

/// How a client finds the ends of the pieces of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As chunks of HTTP/1.1.
    Chunks,
    /// Not at all, for HTTP/1.0.
    Nothing,
}

/// The body of a stream.
pub(crate) struct StreamBody {
    body: RefCell<BoxBody>,
    framing: Framing,
    /// The framework has asked for it, so the head is before it.
    has_begun: Cell<bool>,
    has_ended: Cell<bool>,
}

impl StreamBody {
    pub(super) fn new(body: BoxBody, framing: Framing) -> Rc<Self> {
        Rc::new(Self { body: RefCell::new(body), framing, has_begun: Cell::default(), has_ended: Cell::default() })
    }

    /// Whether the head of the response is on its way, or further.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.get()
    }

    /// The next piece for the framework.
    pub(super) fn poll_lent(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.has_begun.set(true);
        self.poll_next(context)
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        Pin::new(&mut *self.body.borrow_mut()).poll_next(context)
    }

    /// What is to be written next, as it is written; `None` at the end.
    pub(super) fn poll_framed(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut framed = Vec::new();
        while !self.has_ended.get() && framed.len() < WRITE_BUFFER {
            match self.poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => self.framing.push(&mut framed, &piece),
                // A stream ends without a last chunk: a clean end would make some clients stop for good.
                Poll::Ready(Some(Err(_)) | None) => self.has_ended.set(true),
                Poll::Pending if framed.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(if framed.is_empty() { None } else { Some(framed.into()) })
    }
}

impl Framing {
    fn push(self, framed: &mut Vec<u8>, piece: &[u8]) {
        match self {
            Self::Nothing => framed.extend_from_slice(piece),
            // An empty chunk would be the end.
            Self::Chunks if piece.is_empty() => {}
            Self::Chunks => {
                framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                framed.extend_from_slice(piece);
                framed.extend_from_slice(b"\r\n");
            }
        }
    }
}
