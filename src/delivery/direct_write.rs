//! The connection of a client: the framework reads and writes it, and a hub may write to it as well.
//!
//! An event for a thousand quiet streams is one chunk of bytes and a thousand sockets. The framework would copy the chunk
//! into a buffer for each of them, and wake, poll and ask a task for each: 2 to 3 µs of the 10 that a delivery takes. So a
//! hub writes the chunk itself, when the framework has handed over everything it had. What the kernel does not take at
//! once is sent before anything that the framework writes later, and the framework waits for it as for its own bytes.
//!
//! Once only a stream is left to send, the connection leaves the framework (`stream_connection.rs`), and its own task sends
//! what a hub could not.
//!
//! This relies on when actix-http flushes, which its interface does not promise: see the test below, and `~3.20` in
//! Cargo.toml. Without the feature `direct-write`, every chunk goes through the framework; over TLS, through the task of the
//! connection.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{ErrorKind, Result};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_web::web::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::intake::Intake;
use super::stream_body::StreamBody;
use super::transport::{PIECE, Transport};

/// How many pieces of what is thrown away are read before the connection writes.
const MAX_PIECES: usize = 8;

/// What is written in the place of the end of some bytes of the framework.
#[derive(Debug)]
pub(crate) struct Replacement {
    /// Where that end begins.
    pub(crate) from: usize,
    pub(crate) text: Bytes,
}

/// Finds what is to be replaced of bytes that end with an empty line, as a head does.
pub(crate) type Replace = fn(&[u8]) -> Option<Replacement>;

/// The hub's side of a connection. Both sides are on one worker thread.
pub(crate) struct DirectWriter {
    transport: Transport,
    /// Whether the kernel has everything that the framework or the connection itself had to write, and `unsent` is empty.
    is_idle: Cell<bool>,
    /// The rest of what was written here and not taken by the kernel.
    unsent: RefCell<Bytes>,
    /// The stream that the framework sends, until one of them has ended it or the connection goes on with it alone.
    stream: RefCell<Option<Rc<StreamBody>>>,
    intake: Intake,
    replace: Replace,
    /// Whether the connection has carried text in which there may be anything, such as heads of responses.
    has_carried_text: Cell<bool>,
}

impl fmt::Debug for DirectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectWriter").field("transport", &self.transport).finish_non_exhaustive()
    }
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
        if !self.is_idle.get() {
            return WriteOutcome::Nothing;
        }
        match self.transport.try_write(chunk) {
            Ok(written) if written == chunk.len() => WriteOutcome::All,
            Ok(0) | Err(_) => WriteOutcome::Nothing,
            Ok(written) => {
                self.is_idle.set(false);
                *self.unsent.borrow_mut() = chunk.slice(written..);
                WriteOutcome::Part
            }
        }
    }

    /// Whether the kernel has everything that was written.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_idle.get()
    }

    /// What the client has sent.
    pub(crate) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// A response has text of clients in it as it is, so what looks like a head need not be one.
    pub(crate) fn note_text(&self) {
        self.has_carried_text.set(true);
    }

    /// What is to be written in the place of the end of these bytes.
    fn replacement(&self, bytes: &[u8]) -> Option<Replacement> {
        let may_be = bytes.ends_with(b"\r\n\r\n") && !self.has_carried_text.get();
        if may_be { (self.replace)(bytes) } else { None }
    }

    /// Ends a side of the connection, or both.
    pub(crate) fn shut_down(&self, side: Shutdown) {
        self.transport.shut_down(side);
    }

    /// The framework begins to send a stream.
    pub(super) fn carry(&self, body: &Rc<StreamBody>) {
        *self.stream.borrow_mut() = Some(Rc::clone(body));
    }

    /// The framework no longer sends this stream.
    pub(super) fn put_down(&self, body: &Rc<StreamBody>) {
        let ended = self.stream.borrow_mut().take_if(|carried| Rc::ptr_eq(carried, body));
        drop(ended);
    }

    /// The stream to go on with, if there is one, and the kernel has its head and everything else that the framework had for
    /// the connection. The caller drops the framework's side.
    pub(super) fn take_over(&self) -> Option<Rc<StreamBody>> {
        let body = self.stream.borrow_mut().take_if(|body| self.is_idle.get() && body.has_begun())?;
        self.intake.forget();
        Some(body)
    }

    /// Sends these bytes as the next ones. Nothing else is on its way.
    pub(super) fn send_next(&self, bytes: Bytes) {
        self.is_idle.set(false);
        *self.unsent.borrow_mut() = bytes;
    }

    /// Waits until the kernel has everything.
    pub(super) fn poll_sent(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_unsent(context))?;
        ready!(self.transport.poll_flush(context))?;
        // A quiet stream keeps no buffer.
        self.unsent.take();
        self.is_idle.set(true);
        Poll::Ready(Ok(()))
    }

    /// Says that nothing follows.
    pub(super) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.is_idle.set(false);
        self.transport.poll_shutdown(context)
    }

    /// Reads what the client sends, counts it and throws it away. Ready when it has closed its side.
    pub(super) fn poll_ignored(&self, ignored: &mut usize, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        for _ in 0..MAX_PIECES {
            let mut buffer = ReadBuf::uninit(&mut piece);
            ready!(self.transport.poll_read(context, &mut buffer, 0))?;
            match buffer.filled().len() {
                0 => return Poll::Ready(Ok(())),
                length => *ignored = ignored.saturating_add(length),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the rest of a chunk.
    fn poll_unsent(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            match ready!(self.transport.poll_write(context, &unsent))? {
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
    pub(crate) fn new(transport: Transport, intake: Intake, replace: Replace) -> Self {
        Self(Rc::new(DirectWriter {
            transport,
            is_idle: Cell::new(false),
            unsent: RefCell::default(),
            stream: RefCell::default(),
            intake,
            replace,
            has_carried_text: Cell::default(),
        }))
    }

    pub(crate) fn writer(&self) -> &Rc<DirectWriter> {
        &self.0
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        self.0.intake.note_progress();
        ready!(self.0.intake.poll_room(context))?;
        let before = buffer.filled().len();
        // What may be requests comes in pieces, since the framework parses all that it has; a body, as much as there is.
        ready!(self.0.transport.poll_read(context, buffer, self.0.intake.expected()))?;
        self.0.intake.add(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.0.intake.note_progress();
        self.0.is_idle.set(false);
        ready!(self.0.poll_unsent(context))?;
        match self.0.replacement(bytes) {
            None => self.0.transport.poll_write(context, bytes),
            Some(Replacement { from: 0, text }) => {
                *self.0.unsent.borrow_mut() = text;
                Poll::Ready(Ok(bytes.len()))
            }
            Some(Replacement { from, .. }) => self.0.transport.poll_write(context, &bytes[..from]),
        }
    }

    /// The framework calls this when its buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.0.poll_sent(context))?;
        Poll::Ready(self.0.intake.note_flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.is_idle.set(false);
        ready!(self.0.poll_unsent(context))?;
        self.0.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use actix_http::body::{BodySize, MessageBody};
    use actix_http::{HttpService, Response};
    use actix_service::{ServiceFactoryExt as _, fn_service};
    use actix_web::rt::net::TcpStream;

    use super::*;
    use crate::memory::budget::MemoryBudget;
    use crate::memory::fair_shares::FairShares;

    /// The chunks of a body, pushed by the test.
    struct Chunks(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

    impl MessageBody for Chunks {
        type Error = Infallible;

        fn size(&self) -> BodySize {
            BodySize::Stream
        }

        fn poll_next(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<std::result::Result<Bytes, Infallible>>> {
            self.0.poll_recv(context).map(|chunk| chunk.map(Ok))
        }
    }

    /// What the test has the server's thread do.
    enum Step {
        /// The framework sends these bytes as a chunk.
        Framework(usize),
        /// The hub writes this chunk.
        Hub(&'static str),
    }

    /// Serves one connection, whose body and writer are driven by `steps`; the outcome of each hub write is returned.
    fn serve(steps: Receiver<Step>, outcomes: Sender<WriteOutcome>) -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            actix::System::new().block_on(async move {
                let (stream, peer) = listener.accept().unwrap();
                stream.set_nonblocking(true).unwrap();
                let charge = FairShares::new(&MemoryBudget::new(1 << 20)).share(None);
                let socket = Socket::new(
                    Transport::Plain(TcpStream::from_std(stream).unwrap()),
                    Intake::new(charge, None),
                    |_| None,
                );
                let writer = Rc::clone(socket.writer());
                let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
                let body = Cell::new(Some(Chunks(receiver)));
                let body = Rc::new(body);
                let service = HttpService::build()
                    .h1_allow_half_closed(false)
                    .h1(fn_service(move |_| {
                        let body = body.take().expect("there is one request");
                        async move { Ok::<_, actix_http::Error>(Response::ok().set_body(body)) }
                    }))
                    .map_err(|_| ());
                let service = actix_service::ServiceFactory::new_service(&service, ()).await.unwrap();
                actix_web::rt::spawn(actix_service::Service::call(&service, (socket, Some(peer))));
                loop {
                    match steps.try_recv() {
                        Ok(Step::Framework(length)) => sender.send(vec![b'f'; length].into()).unwrap(),
                        Ok(Step::Hub(chunk)) => {
                            outcomes.send(writer.write(&Bytes::from_static(chunk.as_bytes()))).unwrap();
                        }
                        Err(std::sync::mpsc::TryRecvError::Empty) => {}
                        Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                    }
                    actix_web::rt::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            });
        });
        address
    }

    /// Fails if a later actix-http no longer flushes when its buffer is empty, or flushes earlier.
    #[test]
    fn a_hub_writes_between_the_chunks_of_the_framework_and_never_into_them() {
        let (steps, receiver) = channel();
        let (sender, outcomes) = channel();
        let mut client = std::net::TcpStream::connect(serve(receiver, sender)).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut client = BufReader::new(client);
        let mut read_until = |end: &str| {
            let mut text = Vec::new();
            while !text.ends_with(end.as_bytes()) {
                assert_ne!(client.read_until(b'\n', &mut text).unwrap(), 0, "the connection is open");
            }
            String::from_utf8(text).unwrap()
        };
        let hub = |chunk| {
            steps.send(Step::Hub(chunk)).unwrap();
            outcomes.recv().unwrap()
        };
        steps.send(Step::Framework(1)).unwrap();
        assert!(read_until("\r\n\r\n").contains("transfer-encoding: chunked"));
        assert_eq!(read_until("f\r\n"), "1\r\nf\r\n");
        assert_eq!(hub("1\r\nh\r\n"), WriteOutcome::All, "the framework has flushed everything and waits for the body");
        assert_eq!(read_until("h\r\n"), "1\r\nh\r\n");
        steps.send(Step::Framework(2)).unwrap();
        assert_eq!(read_until("f\r\n"), "2\r\nff\r\n");
        // More than the kernel takes: the framework waits for the client, with bytes in its buffer.
        for _ in 0..16 {
            steps.send(Step::Framework(1024 * 1024)).unwrap();
        }
        while hub("3\r\nhub\r\n") == WriteOutcome::All {
            assert_eq!(read_until("3\r\nhub\r\n").matches("hub").count(), 1);
        }
        assert_eq!(hub("3\r\nhub\r\n"), WriteOutcome::Nothing, "the framework has bytes that it has not written");
        for _ in 0..16 {
            let head = read_until("\r\n");
            assert_eq!(head, "100000\r\n", "the hub wrote nothing into a chunk");
            assert_eq!(read_until("f\r\n").len(), 1024 * 1024 + 2);
        }
        assert_eq!(hub("1\r\nh\r\n"), WriteOutcome::All, "the framework has flushed again");
        assert_eq!(read_until("h\r\n"), "1\r\nh\r\n");
    }
}
