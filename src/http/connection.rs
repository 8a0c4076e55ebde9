//! How the connections of clients are set up, and how long they may last.

#[cfg(feature = "direct-write")]
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

#[cfg(not(feature = "direct-write"))]
use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;

#[cfg(feature = "tls")]
use super::tls::TlsAcceptor;
use crate::delivery::connection_limiter::ConnectionLimiter;
#[cfg(feature = "direct-write")]
use crate::delivery::intake::Intake;
#[cfg(feature = "direct-write")]
use crate::memory::fair_shares::{FairShares, Network};

/// How long connections that are still busy may delay a stop, in seconds.
pub(super) const STOP_TIMEOUT: u64 = 1;

/// How long a peer may take to close its side of a connection.
pub(super) const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of a body is written to a socket at once, in bytes: two or three pieces of a shared body, one chunk of any
/// other.
pub(super) const WRITE_BUFFER: usize = 64 * 1024;

/// What the kernel buffers for one client, in bytes; Linux takes twice as much.
const SEND_BUFFER: usize = 256 * 1024;

/// How many times `--peer-timeout` a peer may make no progress. The kernel of a peer that reads slowly announces room only when
/// most of its receive buffer is free: over a loopback interface, at 8 KiB/s, that takes 24 seconds.
const PATIENCE: u32 = 6;

/// What connections may take, and how they begin.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimits {
    /// Further connections wait until others are closed.
    pub(crate) max: usize,
    pub(crate) by_address: Arc<ConnectionLimiter>,
    /// The memory of what has arrived and is no request yet: that of request bodies.
    #[cfg(feature = "direct-write")]
    pub(crate) memory: Arc<FairShares>,
    /// A peer that makes no progress for six times this counts as dead.
    pub(crate) peer_timeout: Duration,
    /// How long a connection may be quiet between two requests, and how long a later head may take.
    pub(crate) keep_alive: Duration,
    /// What connections begin with, if they are to be encrypted.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsAcceptor>,
}

impl ConnectionLimits {
    /// The maximum number of connections of each worker thread: the framework counts them there. What
    /// is beyond the file descriptors could not be accepted, so this is rounded down.
    pub(super) fn per_worker(&self, workers: usize) -> usize {
        (self.max / workers).max(1)
    }

    /// The intake of a new connection from this address; `None` if there are too many.
    #[cfg(feature = "direct-write")]
    pub(super) fn intake(&self, address: Option<IpAddr>) -> Option<Intake> {
        let permit = match address {
            Some(address) => Some(self.by_address.try_acquire(address)?),
            None => None,
        };
        Some(Intake::new(self.memory.share(address.map(Network::from)), permit))
    }

    /// Keeps a permit with a new connection, or ends it. What it has sent by then may still be executed, as whenever a
    /// connection fails.
    #[cfg(not(feature = "direct-write"))]
    pub(super) fn admit(&self, stream: &TcpStream, extensions: &mut Extensions) {
        let Ok(peer) = stream.peer_addr() else { return };
        match self.by_address.try_acquire(peer.ip()) {
            Some(permit) => drop(extensions.insert(permit)),
            None => drop(socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both)),
        }
    }
}

/// Bytes are sent at once, a peer without progress is dropped, and the kernel's buffer for a slow stream is bounded. A failure
/// of one of these does not concern the client.
///
/// Progress is what the kernel sees: acknowledged bytes, or room in the receive buffer of the peer. Whether a peer without
/// progress reads slowly or is gone, it does not say, so both have the same time.
pub(super) fn set_up(stream: &TcpStream, peer_timeout: Duration) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(peer_timeout.saturating_mul(PATIENCE)));
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
}
