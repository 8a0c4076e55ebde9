//! A shared body on its way to one client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

use super::body::Body;
use super::gzip::Gzip;

/// What is sent.
pub(crate) enum Text {
    Plain(Arc<Body>),
    Gzip(Arc<Gzip>),
}

/// The body of a response: nothing of it is copied before the framework does.
pub(crate) struct Sending {
    text: Text,
    /// The next chunk.
    next: usize,
    /// What is left of the one before.
    rest: Bytes,
    /// What was sent since others had their turn, in bytes.
    turn: usize,
}

/// The framework takes over a chunk as a whole, so that one is never longer than this, in bytes.
const AT_ONCE: usize = 64 * 1024;

/// After so many bytes the other connections of the thread have their turn. A client that reads as fast as it can would
/// have all of a body written before a command is read: with sixteen of them, writes took four times as long.
const TURN: usize = 128 * 1024;

impl Sending {
    pub(crate) fn new(text: Text) -> Self {
        Self { text, next: 0, rest: Bytes::new(), turn: 0 }
    }
}

impl MessageBody for Sending {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(match &self.text {
            Text::Plain(body) => body.size() as u64,
            Text::Gzip(gzip) => gzip.size() as u64,
        })
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.turn >= TURN {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            let chunk = match &self.text {
                Text::Plain(body) => body.chunk(self.next),
                Text::Gzip(gzip) => gzip.chunk(self.next),
            };
            let Some(chunk) = chunk else { return Poll::Ready(None) };
            self.rest = chunk;
            self.next += 1;
        }
        let length = self.rest.len().min(AT_ONCE);
        self.turn += length;
        Poll::Ready(Some(Ok(self.rest.split_to(length))))
    }
}
