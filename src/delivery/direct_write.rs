//! The connection of a client: the framework reads and writes it, and a hub may write to it as well.
//!
//! An event for a thousand quiet streams is one chunk of bytes and a thousand sockets. The framework would copy the chunk
//! into a buffer for each of them, and wake, poll and ask a task for each: 2 to 3 µs of the 10 that a delivery takes. So a
//! hub writes the chunk itself, when the framework has handed over everything it had. What the kernel does not take at
//! once is sent before anything that the framework writes later, and the framework waits for it as for its own bytes.
//!
//! This relies on when actix-http flushes, which its interface does not promise: see the test below, and `~3.20` in
//! Cargo.toml. Without the feature `direct-write`, every chunk goes through the framework.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
use actix_web::web::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The hub's side of a connection. Both sides are on one worker thread.
#[derive(Debug)]
pub(crate) struct DirectWriter {
    stream: TcpStream,
    /// Whether the kernel has everything that the framework wrote, and `unsent` is empty.
    framework_idle: Cell<bool>,
    /// The rest of a chunk that was written here and not taken by the kernel.
    unsent: RefCell<Bytes>,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// The kernel has all of it.
    All,
    /// The rest is sent when the connection's task is polled; the caller wakes it.
    Part,
    /// Other bytes are on their way, or the kernel's buffer is full: the chunk has to go through the framework.
    Nothing,
}

impl DirectWriter {
    /// Writes a chunk, framed for HTTP/1.1, if nothing else is on its way.
    pub(super) fn write(&self, chunk: &Bytes) -> WriteOutcome {
        if !self.framework_idle.get() {
            return WriteOutcome::Nothing;
        }
        match self.stream.try_write(chunk) {
            Ok(written) if written == chunk.len() => WriteOutcome::All,
            Ok(0) | Err(_) => WriteOutcome::Nothing,
            Ok(written) => {
                self.framework_idle.set(false);
                *self.unsent.borrow_mut() = chunk.slice(written..);
                WriteOutcome::Part
            }
        }
    }

    /// Writes what the kernel takes, or waits until it takes something.
    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Writes the rest of a chunk.
    fn poll_unsent(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            match ready!(self.poll_write(context, &unsent))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => unsent.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The framework's side of a connection.
#[derive(Debug)]
pub(crate) struct Socket(Rc<DirectWriter>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Rc::new(DirectWriter { stream, framework_idle: Cell::new(false), unsent: RefCell::default() }))
    }

    pub(crate) fn writer(&self) -> &Rc<DirectWriter> {
        &self.0
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(context))?;
            // Reads into memory that is not initialized first: an idle connection's buffer costs only what was read.
            match self.0.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => {
                    // The kernel had no more: clear the readiness without another system call.
                    if read.is_ok() && buffer.remaining() > 0 {
                        let _ = self.0.stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
                    }
                    return Poll::Ready(read.map(|_| ()));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.0.framework_idle.set(false);
        ready!(self.0.poll_unsent(context))?;
        self.0.poll_write(context, bytes)
    }

    /// The framework calls this when its buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.0.poll_unsent(context))?;
        self.0.framework_idle.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.framework_idle.set(false);
        ready!(self.0.poll_unsent(context))?;
        socket2::SockRef::from(&self.0.stream).shutdown(std::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}
