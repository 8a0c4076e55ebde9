//! A response body between a thread that reads from the database and a client that may be slow.
//!
//! The thread must not wait for the client, because its read transaction prevents checkpoints of SQLite's log. And memory
//! must not grow with the body. So the first chunks go through a bounded queue. Once it is full, the rest of the body
//! goes to an unlinked temporary file beside the database, and is sent from there when the queue is empty.

use std::fmt;
use std::fs::File;
use std::future::Future as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::rt::task::{JoinHandle, spawn_blocking};
use actix_web::web::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::domain::error_chain::ErrorChain;
use crate::metrics::{Gauge, Held};
use crate::storage::database::Database;
use crate::storage::error::StoreError;
use crate::storage::health::Part;

/// The number of chunks that wait in memory for one client; they have about 1 MiB.
const QUEUE: usize = 16;

/// The size of one read from the file, in bytes.
const PIECE: usize = 256 * 1024;

/// The end for the writer. If it is dropped unfinished, the response is cut.
pub(crate) struct Spool {
    /// `None` after the queue was full.
    queue: Option<mpsc::Sender<Bytes>>,
    file: Option<SpoolFile>,
    rest: oneshot::Sender<Option<SpoolFile>>,
    directory: Arc<SpoolDirectory>,
}

/// The directory of the temporary files.
pub(crate) struct SpoolDirectory {
    path: PathBuf,
    /// For the health of the service.
    database: Arc<Database>,
    /// What all files contain.
    bytes: Arc<Gauge>,
}

/// A temporary file, and how much of it counts.
struct SpoolFile {
    file: File,
    bytes: Held,
}

impl SpoolDirectory {
    /// A directory on the disk of the database.
    pub(crate) fn beside(database: &Arc<Database>) -> Arc<Self> {
        let path = database.directory().to_owned();
        Arc::new(Self { path, database: Arc::clone(database), bytes: Arc::default() })
    }

    /// What all temporary files contain, in bytes.
    pub(crate) fn bytes(&self) -> i64 {
        self.bytes.get()
    }

    /// Finds out whether a file can be written again.
    pub(crate) fn probe(&self) {
        let written = self.create().and_then(|mut file| self.write(&mut file, &[0; 64 * 1024]));
        if written.is_ok() {
            self.database.health().recover(Part::Spool);
        }
    }

    fn create(&self) -> Result<SpoolFile, SpoolError> {
        let file = tempfile::tempfile_in(&self.path).map_err(|error| self.failed(error))?;
        Ok(SpoolFile { file, bytes: self.bytes.hold(0) })
    }

    fn write(&self, SpoolFile { file, bytes }: &mut SpoolFile, chunk: &[u8]) -> Result<(), SpoolError> {
        file.write_all(chunk).map_err(|error| self.failed(error))?;
        bytes.grow(chunk.len());
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> SpoolError {
        let reason = format!("cannot write a temporary file in {}: {error}", self.path.display());
        self.database.health().fail(Part::Spool, &reason);
        SpoolError::File(error)
    }
}

/// Why a body was not completed.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// The client has disconnected.
    ClientGone,
    /// The temporary file failed, for example because the disk is full.
    File(std::io::Error),
    /// The database failed.
    Store(StoreError),
}

/// A spool and the body that it fills; its temporary file, if it needs one, will be in `directory`.
pub(crate) fn spool(directory: &Arc<SpoolDirectory>) -> (Spool, SpooledBody) {
    let (queue, chunks) = mpsc::channel(QUEUE);
    let (rest, pending) = oneshot::channel();
    let spool = Spool { queue: Some(queue), file: None, rest, directory: Arc::clone(directory) };
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
            none => none.insert(self.directory.create()?),
        };
        self.directory.write(file, &chunk)
    }

    /// Completes the body.
    pub(crate) fn finish(mut self) {
        if let Some(SpoolFile { file, .. }) = &mut self.file {
            if let Err(error) = file.rewind() {
                return log::error!("a response was not finished: {error}");
            }
            self.directory.database.health().recover(Part::Spool);
        }
        // The client may have disconnected.
        let _ = self.rest.send(self.file);
    }
}

/// The end for the client. It is complete only if the spool was finished; otherwise the connection is cut.
pub(crate) struct SpooledBody {
    chunks: mpsc::Receiver<Bytes>,
    rest: Rest,
}

/// The part of the body after the queue.
enum Rest {
    Pending(oneshot::Receiver<Option<SpoolFile>>),
    Reading(JoinHandle<std::io::Result<(SpoolFile, Bytes)>>),
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
fn piece(mut file: SpoolFile) -> std::io::Result<(SpoolFile, Bytes)> {
    let mut bytes = Vec::with_capacity(PIECE);
    (&mut file.file).take(PIECE as u64).read_to_end(&mut bytes)?;
    Ok((file, bytes.into()))
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientGone => f.write_str("the client has disconnected"),
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn a_body_whose_client_does_not_read_waits_in_a_file_except_for_the_queue() {
        const CHUNKS: usize = 200;
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::lock(&directory.path().join("test.db")).unwrap());
        let directory = SpoolDirectory::beside(&database);
        let (mut spool, mut body) = spool(&directory);
        let chunk = |number: usize| vec![u8::try_from(number).unwrap(); 64 * 1024];
        for number in 0..CHUNKS {
            spool.push(chunk(number).into()).unwrap();
        }
        assert_eq!(body.chunks.len(), QUEUE);
        let on_disk = spool.file.as_ref().unwrap().file.metadata().unwrap().len();
        assert_eq!(on_disk, ((CHUNKS - QUEUE) * 64 * 1024) as u64);
        assert_eq!(directory.bytes(), i64::try_from(on_disk).unwrap());
        spool.finish();
        let received = actix_web::rt::System::new().block_on(async {
            let mut received = Vec::new();
            while let Some(bytes) = poll_fn(|context| Pin::new(&mut body).poll_next(context)).await {
                received.extend_from_slice(&bytes.unwrap());
            }
            received
        });
        assert_eq!(directory.bytes(), 0);
        assert!(received == (0..CHUNKS).flat_map(chunk).collect::<Vec<u8>>());
    }
}
