//! The one place that wires everything.

pub(crate) mod builder;
#[cfg(feature = "tls")]
mod certificate_watch;
mod cli;
mod control;
mod copies;
mod descriptors;
mod erasing;
mod listeners;
mod listening;
pub(crate) mod log_format;
mod log_output;
mod memory_limits;
mod offline;
mod progress;
pub(crate) mod running;
pub(crate) mod settings;
mod shell;
mod signals;
mod start_report;
mod task;
mod token_tasks;
