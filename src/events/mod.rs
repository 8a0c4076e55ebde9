//! Change events as bytes, and as the next page for a consumer.

pub(crate) mod batch;
pub(crate) mod domain_event;
pub(crate) mod journal_pages;
pub(crate) mod line_safe;
pub(crate) mod replay_cache;
pub(crate) mod resume;
pub(crate) mod sse;
