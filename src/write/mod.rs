//! The actor that writes.

pub(crate) mod aggregator;
pub(crate) mod replies;
