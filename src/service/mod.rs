//! The one place that wires everything.

pub(crate) mod builder;
mod cli;
mod control;
pub(crate) mod running;
pub(crate) mod settings;
