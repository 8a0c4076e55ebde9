//! The threads that read, and the bodies of whole collections.

mod body;
pub(crate) mod body_stream;
pub(crate) mod collection_cache;
pub(crate) mod collection_writer;
mod gzip;
pub(crate) mod pool;
pub(crate) mod spooled_body;
pub(crate) mod thread_pool;
