//! The one place that wires everything.

pub(crate) mod builder;
pub(crate) mod cli;
pub(crate) mod running;
pub(crate) mod settings;
