//! How the connections of clients are set up, and how long they may last.

use std::time::Duration;

use actix_web::rt::net::TcpStream;

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

/// What the settings say about connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionTimes {
    /// A peer that makes no progress for six times this counts as dead.
    pub(crate) peer_timeout: Duration,
    /// How long a connection may be quiet between two requests.
    pub(crate) keep_alive: Duration,
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
