//! All SQL of the main database: the file, its tables, and the one transaction of a batch of commands.

pub(crate) mod aggregates;
pub(crate) mod commit;
pub(crate) mod connection;
pub(crate) mod counters;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod epochs;
pub(crate) mod error;
pub(crate) mod health;
mod inline_projections;
pub(crate) mod journal;
pub(crate) mod outbox;
pub(crate) mod page;
pub(crate) mod reader;
mod registration;
mod schema;
mod statement;
pub(crate) mod transaction;
pub(crate) mod verify;
pub(crate) mod writer;
