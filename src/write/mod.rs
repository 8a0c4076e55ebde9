//! The aggregator, which is the only actor that writes.

pub(crate) mod aggregator;
pub(crate) mod attention;
pub(crate) mod committed_revision;
pub(crate) mod erasing;
mod erasure_retry;
mod gathering;
pub(crate) mod in_flight;
pub(crate) mod maintenance;
pub(crate) mod refusal;
mod replies;
pub(crate) mod write_metrics;
