//! All SQL of the main database: the file, its tables, and the one transaction of a batch of commands.

pub(crate) mod aggregates;
pub(crate) mod commit;
pub(crate) mod connection;
pub(crate) mod counters;
pub(crate) mod database;
mod database_file;
pub(crate) mod epochs;
pub(crate) mod error;
mod fence;
pub(crate) mod file_lock;
pub(crate) mod health;
mod inline_projections;
pub(crate) mod journal;
mod location;
mod log_check;
mod main_file;
pub(crate) mod outbox;
pub(crate) mod page;
pub(crate) mod reader;
mod registration;
mod schema;
mod statement;
pub(crate) mod verify;
mod write_ahead_log;
pub(crate) mod writer;
