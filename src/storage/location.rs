//! Where the database file is.

use std::path::{Path, PathBuf};

use super::error::{StoreError, cannot_open};

/// The path without symbolic links, so that a file has one lock. The file itself need not exist.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, StoreError> {
    let resolved = if path.exists() { path.canonicalize() } else { resolve_missing(path) };
    resolved.map_err(|error| cannot_open(path, error))
}

fn resolve_missing(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(directory), Some(name)) => Ok(directory.canonicalize()?.join(name)),
        _ => Err(std::io::ErrorKind::IsADirectory.into()),
    }
}

/// The path without symbolic links of a database that exists.
pub(crate) fn existing(path: &Path) -> Result<PathBuf, StoreError> {
    let path = resolve(path)?;
    if path.is_file() { Ok(path) } else { Err(StoreError::Missing { path }) }
}
