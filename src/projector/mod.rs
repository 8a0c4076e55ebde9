//! Background projections: one actor each, with its own generations and checkpoint.

pub(crate) mod actor;
pub(crate) mod at_rest;
pub(crate) mod event_page;
pub(crate) mod generation;
pub(crate) mod generations;
pub(crate) mod history;
pub(crate) mod history_check;
pub(crate) mod history_epochs;
mod history_tables;
mod history_tail;
pub(crate) mod main_reader;
pub(crate) mod manifest;
pub(crate) mod registry;
pub(crate) mod runner;
pub(crate) mod snapshot;
pub(crate) mod source;
pub(crate) mod source_id;
pub(crate) mod status;
pub(crate) mod verify;
