//! An epoch that an operator begins, because nothing in the record shows that it was put back.

use std::path::Path;

use super::error::StoreError;
use super::location::is_url;
#[cfg(feature = "postgres")]
use super::postgres;
use crate::domain::history::History;

/// Begins an epoch after everything that is in a database on a server. Services that use it notice, and go on in it.
///
/// # Errors
/// The database is a file, cannot be written, has no record, or is one of another version of the program.
pub(crate) fn begin(database: &Path) -> Result<History, StoreError> {
    match database.to_str().filter(|path| is_url(path)) {
        None => Err(StoreError::EpochOfFile { path: database.to_owned() }),
        #[cfg(feature = "postgres")]
        Some(url) => postgres::new_epoch::begin(url),
        #[cfg(not(feature = "postgres"))]
        Some(_) => Err(StoreError::NoPostgres),
    }
}
