//! What a program does with its settings: it wires everything, and runs it.

pub(crate) mod builder;
#[cfg(feature = "tls")]
mod certificate_watch;
mod cli;
mod collection_tasks;
mod control;
mod copies;
mod descriptors;
mod erasing;
mod listeners;
mod listening;
mod lives;
pub(crate) mod log_format;
mod log_output;
mod memory_limits;
mod new_epoch;
mod offline;
mod program;
mod progress;
pub(crate) mod running;
pub(crate) mod settings;
mod shell;
mod signals;
mod start_report;
mod task;
mod token_tasks;
mod waiting_room;
mod watchdog;
