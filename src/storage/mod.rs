//! All SQL of the main database: the file, its tables, and the one transaction of a write.

pub(crate) mod aggregates;
pub(crate) mod commit;
pub(crate) mod connection;
pub(crate) mod counters;
pub(crate) mod error;
pub(crate) mod inline_projections;
pub(crate) mod journal;
pub(crate) mod outbox;
pub(crate) mod page;
pub(crate) mod reader;
pub(crate) mod registration;
pub(crate) mod schema;
pub(crate) mod statements;
pub(crate) mod verification;
pub(crate) mod verify;
pub(crate) mod writer;
