//! What a developer writes to have a read projection.

pub(crate) mod csv_file;
pub(crate) mod inline;
pub(crate) mod projection;
pub(crate) mod report;
