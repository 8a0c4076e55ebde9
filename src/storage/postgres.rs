//! The record on a `PostgreSQL` server, which any number of services may read and write.

pub(super) mod aggregate;
mod batch;
pub(super) mod dropping;
mod fenced;
mod holders;
pub(super) mod new_epoch;
mod prefetch;
mod rules;
pub(super) mod schema;
pub(super) mod server_record;
mod token;
