//! Aggregates, commands, change events, and the numbers that order them. Uses no SQL, no actors and no HTTP.

pub(crate) mod body;
pub(crate) mod clock;
pub(crate) mod collection;
pub(crate) mod command;
pub(crate) mod cursor;
pub(crate) mod error_chain;
pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod idempotency;
pub(crate) mod json;
pub(crate) mod key;
pub(crate) mod merge_patch;
pub(crate) mod metadata;
pub(crate) mod precondition;
pub(crate) mod revision;
pub(crate) mod schema;
pub(crate) mod selection;
mod text_diff;
pub(crate) mod unique_id;
