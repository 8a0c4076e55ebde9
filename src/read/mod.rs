//! The threads that read, and the bodies that they make.

pub(crate) mod collection_cache;
pub(crate) mod pool;
pub(crate) mod spooled_body;
