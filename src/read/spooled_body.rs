//! A response body between a thread that reads from the database and a client that may be slow.
//!
//! The reader must not wait: its read transaction would keep SQLite's log from being checkpointed for as long as the
//! client likes. And memory must not grow with the body. So the first chunks go through a bounded queue, and from the
//! moment it is full, everything else goes to an unlinked temporary file beside the database, which the body sends
//! when the queue is empty.

use std::fmt;
use std::fs::File;
use std::future::Future as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::domain::error_chain::ErrorChain;
use crate::storage::error::StoreError;

/// Chunks that wait in memory for one client; together about 1 MiB.
const QUEUE: usize = 16;

/// How much is read from the file at once, in bytes.
const PIECE: usize = 256 * 1024;

/// The end that is written to. Dropped unfinished, it cuts the response.
pub(crate) struct Spool {
    /// `None` once the queue was full.
    queue: Option<mpsc::Sender<Bytes>>,
    file: Option<File>,
    rest: oneshot::Sender<Option<File>>,
    directory: PathBuf,
}

/// Why a body was not written to its end.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// Nobody wants it any more.
    ClientGone,
    /// The temporary file failed, for want of room perhaps.
    File(std::io::Error),
    /// The database failed.
    Store(StoreError),
}

/// A spool and the body that it fills; its temporary file, if it needs one, will be in `directory`.
pub(crate) fn spool(directory: &Path) -> (Spool, SpooledBody) {
    let (queue, chunks) = mpsc::channel(QUEUE);
    let (rest, pending) = oneshot::channel();
    let spool = Spool { queue: Some(queue), file: None, rest, directory: directory.to_owned() };
    (spool, SpooledBody { chunks, rest: Rest::Pending(pending) })
}

impl Spool {
    /// Adds a chunk. Never waits for the client.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<(), SpoolError> {
        let chunk = match &self.queue {
            None => chunk,
            Some(queue) => match queue.try_send(chunk) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(SpoolError::ClientGone),
                Err(mpsc::error::TrySendError::Full(chunk)) => chunk,
            },
        };
        self.queue = None;
        if self.rest.is_closed() {
            return Err(SpoolError::ClientGone);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.directory).map_err(SpoolError::File)?),
        };
        file.write_all(&chunk).map_err(SpoolError::File)
    }

    /// The body is whole.
    pub(crate) fn finish(mut self) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.rewind()
        {
            return log::error!("a response was not finished: {error}");
        }
        drop(self.rest.send(self.file));
    }
}

/// The body that a spool fills. Ends as whole only if the spool was finished; else the connection is cut.
pub(crate) struct SpooledBody {
    chunks: mpsc::Receiver<Bytes>,
    rest: Rest,
}

/// What comes after the queue.
enum Rest {
    Pending(oneshot::Receiver<Option<File>>),
    Reading(JoinHandle<std::io::Result<(File, Bytes)>>),
    End,
}

impl MessageBody for SpooledBody {
    type Error = std::io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        if let Some(chunk) = ready!(self.chunks.poll_recv(context)) {
            return Poll::Ready(Some(Ok(chunk)));
        }
        loop {
            self.rest = match &mut self.rest {
                Rest::Pending(rest) => match ready!(Pin::new(rest).poll(context)) {
                    Ok(Some(file)) => Rest::Reading(spawn_blocking(move || piece(file))),
                    Ok(None) => Rest::End,
                    Err(_) => return Poll::Ready(Some(Err(std::io::Error::other("a body was not finished")))),
                },
                Rest::Reading(reading) => {
                    let read = ready!(Pin::new(reading).poll(context)).map_err(std::io::Error::other).flatten();
                    let (file, bytes) = read.inspect_err(|error| log::error!("a response was cut: {error}"))?;
                    if bytes.is_empty() {
                        self.rest = Rest::End;
                        continue;
                    }
                    self.rest = Rest::Reading(spawn_blocking(move || piece(file)));
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Rest::End => return Poll::Ready(None),
            };
        }
    }
}

/// The next piece of the file; empty at its end.
fn piece(mut file: File) -> std::io::Result<(File, Bytes)> {
    let mut bytes = Vec::with_capacity(PIECE);
    (&mut file).take(PIECE as u64).read_to_end(&mut bytes)?;
    Ok((file, bytes.into()))
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client has gone"),
            Self::File(error) => write!(f, "the temporary file failed: {error}"),
            Self::Store(error) => ErrorChain(error).fmt(f),
        }
    }
}

impl From<StoreError> for SpoolError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
