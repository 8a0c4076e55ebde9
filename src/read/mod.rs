//! The threads that read, and the bodies of whole collections.

mod body;
pub(crate) mod body_stream;
pub(crate) mod collection_cache;
pub(crate) mod collection_writer;
pub(crate) mod file_body;
pub(crate) mod gzip;
pub(crate) mod last_changes;
pub(crate) mod pool;
pub(crate) mod shared_spools;
pub(crate) mod spool;
pub(crate) mod spool_directory;
pub(crate) mod spool_writer;
pub(crate) mod spooled_body;
pub(crate) mod thread_pool;
mod waiting_requests;
