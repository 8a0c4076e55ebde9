//! What a developer writes to have a read projection.

pub(crate) mod csv_file;
pub(crate) mod error;
pub(crate) mod file_id;
pub(crate) mod projection;
pub(crate) mod report;
pub(crate) mod sink;
pub(crate) mod spec;
