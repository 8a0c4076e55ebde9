//! Change events on their way from the outbox to the sockets.

pub(crate) mod connection_limiter;
#[cfg(feature = "direct-write")]
pub(crate) mod direct_write;
#[cfg(feature = "direct-write")]
pub(crate) mod entrance;
pub(crate) mod filtered_feeds;
pub(crate) mod hub;
#[cfg(feature = "direct-write")]
pub(crate) mod intake;
pub(crate) mod interest;
pub(crate) mod journal_watch;
mod key_index;
pub(crate) mod pacing;
pub(crate) mod pending;
pub(crate) mod reach;
pub(crate) mod relay;
pub(crate) mod relay_metrics;
pub(crate) mod send_queue;
pub(crate) mod session;
#[cfg(feature = "direct-write")]
pub(crate) mod stream_body;
#[cfg(feature = "direct-write")]
pub(crate) mod stream_connection;
pub(crate) mod stream_limiter;
#[cfg(feature = "direct-write")]
pub(crate) mod transport;
pub(crate) mod watch;
