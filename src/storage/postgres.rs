//! The record on a `PostgreSQL` server, which any number of services may read and write.

pub(super) mod schema;
pub(super) mod server_record;
mod token;
