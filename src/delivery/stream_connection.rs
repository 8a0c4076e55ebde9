//! A connection that has left the framework, because nothing but a stream is left to send on it.
//!
//! The framework keeps two buffers of 8 KiB and the state of a request for each connection: 10 KiB for a stream on which
//! nothing happens, four times what the stream itself takes. So as soon as the kernel has everything that a stream had to
//! send, what the framework has for the connection is dropped, and the task of the connection goes on alone. It takes no
//! further request, as none was ever answered behind a stream. It stays the task that the server started for the connection, so the
//! server goes on counting it, and waits for it when it stops.

use std::future::poll_fn;
use std::io::{ErrorKind, Result};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::rt;
use actix_web::web::Bytes;

use super::direct_write::DirectWriter;
use super::stream_body::{Error, Framing, StreamBody};

/// How long a client that has sent something behind its stream may take to close its side, after the stream has ended. If the
/// connection was closed here at once, what such a client sends meanwhile could make the kernel drop what it has not
/// delivered yet. All others wait for nothing: a connection that is closed has room for another one.
const LINGER: Duration = Duration::from_secs(1);

/// How much a client may send behind the request for a stream, in bytes: it is read, since that shows whether the client is
/// still there, and thrown away.
const MAX_IGNORED: usize = 128 * 1024;

/// Lets a connection go on with a body. The returned one is for the framework.
pub(crate) fn lend(body: BoxBody, framing: Framing, connection: &Rc<DirectWriter>) -> BoxBody {
    let body = StreamBody::new(body, framing);
    connection.carry(&body);
    BoxBody::new(LentBody { body, connection: Rc::downgrade(connection) })
}

/// A body in the hands of the framework.
struct LentBody {
    body: Rc<StreamBody>,
    connection: Weak<DirectWriter>,
}

impl MessageBody for LentBody {
    type Error = Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Bytes, Self::Error>>> {
        self.body.poll_lent(context)
    }
}

impl Drop for LentBody {
    /// The framework has ended the stream itself, unless the connection has gone on with it.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.put_down(&self.body);
        }
    }
}

/// The future of a connection: the framework serves it until only a stream is left, and then nobody else. It is no `async`
/// function, whose state would be several times as large: a quiet stream takes little more than what it keeps here.
pub(crate) struct ConnectionTask<F>(Stage<F>);

/// Who serves a connection.
enum Stage<F> {
    Framework(Rc<DirectWriter>, Pin<Box<F>>),
    Stream(StreamConnection),
    /// The stream is over.
    Ending(Pin<Box<dyn Future<Output = ()>>>),
}

impl<F> ConnectionTask<F> {
    /// What the framework has for the connection is in a block of its own, which is freed when a stream leaves it.
    pub(crate) fn new(connection: Rc<DirectWriter>, framework: F) -> Self {
        Self(Stage::Framework(connection, Box::pin(framework)))
    }
}

impl<F, E> Future for ConnectionTask<F>
where
    F: Future<Output = std::result::Result<(), E>>,
{
    /// An error is one of the framework.
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            self.0 = match &mut self.0 {
                Stage::Framework(connection, framework) => {
                    if let Poll::Ready(result) = framework.as_mut().poll(context) {
                        return Poll::Ready(result);
                    }
                    let Some(body) = connection.take_over() else { return Poll::Pending };
                    let connection = Rc::clone(connection);
                    // What the framework has for it is dropped in a moment, and this thread does nothing else before.
                    connection.intake().leave();
                    Stage::Stream(StreamConnection { connection, body, ignored: 0 })
                }
                Stage::Stream(stream) => match ready!(stream.poll(context)) {
                    Ok(()) => Stage::Ending(Box::pin(end(Rc::clone(&stream.connection), stream.ignored))),
                    Err(_) => return Poll::Ready(Ok(())),
                },
                Stage::Ending(ending) => return ending.as_mut().poll(context).map(Ok),
            };
        }
    }
}

/// A connection that carries only a stream.
struct StreamConnection {
    connection: Rc<DirectWriter>,
    body: Rc<StreamBody>,
    /// How much the client has sent behind the request, in bytes.
    ignored: usize,
}

impl StreamConnection {
    /// Sends a stream until it is over, or the client has gone.
    ///
    /// # Errors
    /// The connection has failed, or the client sends without an end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        if self.connection.poll_ignored(&mut self.ignored, context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if self.ignored > MAX_IGNORED {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        loop {
            ready!(self.connection.poll_sent(context))?;
            match ready!(self.body.poll_framed(context)) {
                Some(bytes) => self.connection.send_next(bytes),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Says that nothing follows, and lets a client that has sent something close its side as well. Whatever becomes of it, the
/// connection is closed afterwards.
async fn end(connection: Rc<DirectWriter>, mut ignored: usize) {
    let closed = async {
        poll_fn(|context| connection.poll_shutdown(context)).await?;
        if ignored == 0 {
            return Ok(());
        }
        poll_fn(|context| connection.poll_ignored(&mut ignored, context)).await
    };
    let _ = rt::time::timeout(LINGER, closed).await;
}
