//! The connection of a client: what the framework reads and writes, and what a hub may write to beside it.
//!
//! An event for a thousand quiet streams is one chunk of bytes and a thousand sockets. On its way through the framework it
//! would be copied into a buffer for each of them, and each would be a task that is woken, polled and asked for more:
//! 2 to 3 µs of a delivery's 10. So a hub writes the chunk itself, where that is the same to the client: where the framework
//! has handed over everything that it had. The rest of what the kernel did not take at once goes before anything that
//! the framework writes later, and the framework waits for it as for its own.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
use actix_web::web::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The framework's side of a connection.
#[derive(Debug)]
pub(crate) struct Socket(Rc<DirectWriter>);

/// The hub's side of a connection. Both are of one worker thread.
#[derive(Debug)]
pub(crate) struct DirectWriter {
    stream: TcpStream,
    /// Whether everything that the framework wrote is with the kernel, and the rest is empty.
    framework_idle: Cell<bool>,
    /// What the kernel did not take yet of a chunk that was written here.
    unsent: RefCell<Bytes>,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    All,
    /// Its rest goes when the connection's task is polled, which the caller wakes.
    Part,
    /// Something else is on its way, or the kernel has no room: it has to go through the framework.
    Nothing,
}

impl DirectWriter {
    /// Writes a chunk as HTTP/1.1 has it, if nothing else is on its way.
    pub(crate) fn write(&self, chunk: &Bytes) -> WriteOutcome {
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

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Rc::new(DirectWriter { stream, framework_idle: Cell::new(false), unsent: RefCell::default() }))
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    pub(crate) fn writer(&self) -> &Rc<DirectWriter> {
        &self.0
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(context))?;
            // Into memory that is not touched before: an idle connection's buffer costs nothing but what was read.
            match self.0.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => {
                    // There was no more: to be told when there is, without asking the kernel once more.
                    if read.is_ok() && buffer.remaining() > 0 {
                        drop(self.0.stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into())));
                    }
                    return Poll::Ready(read.map(drop));
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
