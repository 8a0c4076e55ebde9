//! The aggregator, which is the only actor that writes.

pub(crate) mod aggregator;
mod replies;
