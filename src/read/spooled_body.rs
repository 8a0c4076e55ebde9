//! A response body that is read from a spool.

use std::fs::File;
use std::future::{Future as _, poll_fn};
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::Bytes;

use super::spool::{Cut, Next, Outcome, Spool};
use crate::read::body_stream::TURN;
use crate::read::collection_cache::CollectionRevision;

/// The end for one client. It is complete only if the spool was finished; otherwise the connection is cut.
pub(crate) struct SpooledBody {
    spool: Arc<Spool>,
    reader: u64,
    size: BodySize,
    /// The first piece, until it is sent.
    first: Option<Bytes>,
    /// A piece of the file that is being read.
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
    /// The number of bytes from memory since the other connections of the thread had their turn.
    sent_in_turn: usize,
}

/// A body that has so many bytes is sent while the rest is made.
const BEGUN: u64 = 64 * 1024;

impl SpooledBody {
    pub(super) fn new(spool: Arc<Spool>, reader: u64) -> Self {
        Self { spool, reader, size: BodySize::Stream, first: None, reading: None, sent_in_turn: 0 }
    }

    /// Waits until the body is worth sending: until a part of it is there, or all of it. Returns the revision at which it
    /// is exact.
    ///
    /// # Errors
    /// It will not be complete.
    pub(crate) async fn begun(&mut self) -> Result<Option<CollectionRevision>, Cut> {
        match poll_fn(|context| self.spool.poll_begun(self.reader, BEGUN, context)).await {
            Some(Outcome::Cut(why)) => Err(why),
            Some(Outcome::Complete) | None => Ok(self.spool.shown()),
        }
    }

    /// Waits until the first piece is at hand. A body that is cut before is an error that can still be answered: the framework
    /// sends no head if the first piece fails.
    ///
    /// # Errors
    /// It will not be complete.
    pub(crate) async fn fetch_first(&mut self) -> Result<(), Cut> {
        self.first = poll_fn(|context| self.poll_piece(context)).await.transpose()?;
        Ok(())
    }

    /// Has the response name its length, if that is known already.
    pub(crate) fn name_length(&mut self) {
        if let Some(length) = self.spool.complete_length() {
            self.size = BodySize::Sized(length);
        }
    }

    /// The next piece; `None` at the end.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            if let Some(piece) = ready!(self.poll_file(context)) {
                return Poll::Ready(Some(piece));
            }
            match ready!(self.spool.poll_next(self.reader, context)) {
                Next::Chunk(chunk) => {
                    self.sent_in_turn += chunk.len();
                    return Poll::Ready(Some(Ok(chunk)));
                }
                // Nothing of a file is in memory while its client does not read.
                Next::Stored { file, at, length } => {
                    self.reading = Some(spawn_blocking(move || piece(&file, at, length)));
                }
                Next::End(Outcome::Complete) => return Poll::Ready(None),
                Next::End(Outcome::Cut(why)) => return Poll::Ready(Some(Err(why))),
            }
        }
    }

    fn poll_file(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(Pin::new(reading).poll(context)).map_err(std::io::Error::other).flatten();
        self.reading = None;
        Poll::Ready(Some(read.map_err(|error| {
            log::error!("a response was cut: {error}");
            Cut::Interrupted
        })))
    }
}

impl Drop for SpooledBody {
    fn drop(&mut self) {
        self.spool.leave(self.reader);
    }
}

impl MessageBody for SpooledBody {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.reading.is_none() && self.sent_in_turn >= TURN {
            self.sent_in_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = ready!(self.poll_piece(context));
        Poll::Ready(piece.map(|piece| piece.map_err(|_| std::io::Error::other("a body was not finished"))))
    }
}

/// A part of a file.
pub(super) fn piece(file: &File, at: u64, length: usize) -> std::io::Result<Bytes> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.into())
}
