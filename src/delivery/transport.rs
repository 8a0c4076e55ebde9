//! The bytes of a connection on their way from and to the kernel: as they are, or in TLS.

#[cfg(feature = "tls")]
use std::cell::RefCell;
use std::io::{ErrorKind, Result};
use std::mem::MaybeUninit;
use std::net::Shutdown;
#[cfg(feature = "tls")]
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::rt::net::TcpStream;
#[cfg(feature = "tls")]
use tokio::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{Interest, ReadBuf};
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

/// How many bytes are read at once that may be requests: a head, mostly.
pub(super) const PIECE: usize = 2048;

/// A connection after its handshake, if it has one.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    /// Its state is as large as everything else that belongs to a connection.
    #[cfg(feature = "tls")]
    Tls(RefCell<Box<TlsStream<TcpStream>>>),
}

impl Transport {
    #[cfg(feature = "tls")]
    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(RefCell::new(Box::new(stream)))
    }

    /// Writes what the kernel takes at once. With TLS that is nothing: a record is encrypted as a whole, and may have to
    /// wait behind another one, so everything goes through the task of the connection.
    pub(super) fn try_write(&self, bytes: &[u8]) -> Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write(bytes),
            #[cfg(feature = "tls")]
            Self::Tls(_) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Ends a side of the connection, or both, without a word. A connection that has failed already has no sides.
    pub(super) fn shut_down(&self, side: Shutdown) {
        let _ = match self {
            Self::Plain(stream) => socket2::SockRef::from(stream).shutdown(side),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => socket2::SockRef::from(stream.borrow().get_ref().0).shutdown(side),
        };
    }

    /// Reads some bytes, or none at the end; at most `expected` of them, or a piece if that is less.
    pub(super) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        expected: usize,
    ) -> Poll<Result<()>> {
        let most = expected.max(PIECE).min(buffer.remaining());
        if most == buffer.remaining() {
            // Into memory that is not initialized first.
            return self.poll_read_into(context, buffer);
        }
        if most > PIECE {
            let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
            ready!(self.poll_read_into(context, &mut part))?;
            let read = part.filled().len();
            buffer.advance(read);
        } else {
            // An idle connection's buffer costs only what was read.
            let mut piece = [MaybeUninit::uninit(); PIECE];
            let mut part = ReadBuf::uninit(&mut piece[..most]);
            ready!(self.poll_read_into(context, &mut part))?;
            buffer.put_slice(part.filled());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read_into(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.poll_read_ready(context))?;
                match stream.try_read_buf(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                    Ok(_) => {
                        // The kernel had no more: clear the readiness without another system call.
                        if buffer.remaining() > 0 {
                            let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
                        }
                        return Poll::Ready(Ok(()));
                    }
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream.borrow_mut()).poll_read(context, buffer),
        }
    }

    /// Writes what is taken, or waits until something is taken.
    pub(super) fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.poll_write_ready(context))?;
                match stream.try_write(bytes) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream.borrow_mut()).poll_write(context, bytes),
        }
    }

    /// Waits until the kernel has everything.
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only a record of TLS may have to wait"))]
    pub(super) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream.borrow_mut()).poll_flush(context),
        }
    }

    /// Ends this side of the connection; with TLS, it says so first
    /// ([RFC 8446, section 6.1](https://www.rfc-editor.org/rfc/rfc8446#section-6.1)).
    #[cfg_attr(not(feature = "tls"), expect(unused_variables, reason = "only a record of TLS may have to wait"))]
    pub(super) fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Plain(stream) => Poll::Ready(socket2::SockRef::from(stream).shutdown(Shutdown::Write)),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(&mut **stream.borrow_mut()).poll_shutdown(context),
        }
    }
}
