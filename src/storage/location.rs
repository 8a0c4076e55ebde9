//! Where the database file is.

use std::os::unix::fs::PermissionsExt as _;
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

/// Whether a location is a database on a server, and not a file.
pub(super) fn is_url(location: &str) -> bool {
    location.starts_with("postgres://") || location.starts_with("postgresql://")
}

/// Whether a database is on a server.
pub(crate) fn is_on_server(database: &Path) -> bool {
    database.to_str().is_some_and(is_url)
}

/// Fails if there is no such file, and returns its path without symbolic links. Whether there is such a database on a server
/// shows when it is connected to.
pub(crate) fn require_existing(database: &Path) -> Result<PathBuf, StoreError> {
    if is_on_server(database) { Ok(database.to_owned()) } else { existing(database) }
}

/// With what the names of the files of a service begin, such as those of its projections: with that of its database, or, for
/// one on a server, with the name `files`.
pub(crate) fn files_of<'a>(database: &'a Path, files: &'a Path) -> &'a Path {
    if is_on_server(database) { files } else { database }
}

/// The mode of a file that every user of this machine can read or write, who can reach it through its directory.
pub(crate) fn mode_for_others(path: &Path) -> Option<u32> {
    const READ_OR_WRITE: u32 = 0o006;
    const ENTER: u32 = 0o001;
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    let (file, directory) = (mode(path), path.parent().map_or(0, mode));
    (file & READ_OR_WRITE != 0 && directory & ENTER != 0).then_some(file)
}
