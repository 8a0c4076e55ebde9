//! The HTTP interface: routes, requests and responses. Uses collections by name and states as bytes, and no SQL.

pub(crate) mod accept;
mod access_log;
mod authorization;
mod awaited_revision;
#[cfg(feature = "direct-write")]
mod bare_answers;
mod caching;
pub(crate) mod collection_body;
pub(crate) mod collection_paths;
pub(crate) mod commands;
pub(crate) mod conditions;
pub(crate) mod connection;
pub(crate) mod constant_body;
mod constant_response;
pub(crate) mod cors;
#[cfg(feature = "direct-write")]
mod direct_server;
pub(crate) mod erasure;
mod excerpt;
pub(crate) mod feed_response;
pub(crate) mod feeds;
pub(crate) mod forwarded;
mod front;
#[cfg(feature = "direct-write")]
mod half_heads;
mod idempotency;
pub(crate) mod index;
pub(crate) mod journal;
mod last_request;
mod media_types;
mod metadata;
mod metrics;
pub(crate) mod nearest;
mod openapi;
pub(crate) mod ops;
mod options;
pub(crate) mod origin;
pub(crate) mod pages;
mod preferences;
pub(crate) mod problem;
mod process;
pub(crate) mod projections;
pub(crate) mod queries;
pub(crate) mod query;
mod readiness;
pub(crate) mod request;
pub(crate) mod request_body;
pub(crate) mod request_id;
pub(crate) mod request_metrics;
pub(crate) mod respond;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod shared;
mod spooled_response;
pub(crate) mod starting;
mod stream_permission;
pub(crate) mod surface;
mod text_response;
mod tickets;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod web_files;
