//! A shared body on its way to one client.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

/// A response body that shares its bytes with other responses. Only the framework copies them, a piece at a time.
pub(crate) struct BodyStream {
    rest: Bytes,
    /// The number of bytes sent since the other connections of the thread had their turn.
    sent_in_turn: usize,
}

/// The framework copies a piece as a whole into the connection's buffer, so this bounds the buffer, in bytes.
const PIECE: usize = 32 * 1024;

/// After this many bytes the body gives way to the other connections of its thread. Otherwise a client that reads fast
/// would receive a whole body before the thread reads the next command: with sixteen such clients, writes took four
/// times as long.
pub(super) const TURN: usize = 128 * 1024;

impl BodyStream {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, sent_in_turn: 0 }
    }
}

impl MessageBody for BodyStream {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.sent_in_turn >= TURN {
            self.sent_in_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = self.rest.len().min(PIECE);
        self.sent_in_turn += length;
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}
