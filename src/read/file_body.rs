//! A response body that is the beginning of a file.

use std::fs::File;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::Bytes;

use super::spooled_body::piece;

/// The first bytes of a file, of which nothing is in memory while the client does not read.
pub(crate) struct FileBody {
    file: Arc<File>,
    length: u64,
    at: u64,
    reading: Option<JoinHandle<std::io::Result<Bytes>>>,
}

/// The size of one read, in bytes.
const PIECE: u64 = 64 * 1024;

impl FileBody {
    /// The first `length` bytes of a file, which must not change.
    pub(crate) fn new(file: File, length: u64) -> Self {
        Self { file: Arc::new(file), length, at: 0, reading: None }
    }
}

impl MessageBody for FileBody {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        let (at, rest) = (self.at, self.length - self.at);
        if rest == 0 {
            return Poll::Ready(None);
        }
        let file = Arc::clone(&self.file);
        let length = usize::try_from(rest.min(PIECE)).unwrap_or(usize::MAX);
        let reading = self.reading.get_or_insert_with(|| spawn_blocking(move || piece(&file, at, length)));
        let read = ready!(Pin::new(reading).poll(context)).map_err(std::io::Error::other).flatten();
        self.reading = None;
        let bytes = read.inspect_err(|error| log::error!("a response was cut: a file cannot be read: {error}"))?;
        self.at += bytes.len() as u64;
        Poll::Ready(Some(Ok(bytes)))
    }
}
