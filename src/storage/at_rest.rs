//! Reads of a database that this process has not locked: beside a running service, or of a file at rest, without leaving a
//! file behind; or of a database on a server.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::connection::{open_immutable, open_read_only};
use super::database::with_suffix;
use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open};
use super::location::{existing, is_url};
#[cfg(feature = "postgres")]
use super::server;

/// Runs `work` on a read-only connection. If the file changes while it counts as unused, `work` runs a second time.
///
/// A read-only connection creates a log and its index, and cannot remove them. So if there is no log, which is so after
/// every orderly stop, SQLite may assume that nobody writes the file; that also works in a directory without write access.
pub(crate) fn read_undisturbed<T>(
    path: &Path,
    mut work: impl FnMut(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    if let Some(url) = path.to_str().filter(|path| is_url(path)) {
        return work(&mut connect(url)?);
    }
    let path = &existing(path)?;
    if let Some(before) = Stamp::at_rest(path)? {
        let outcome = open_immutable(path).and_then(|connection| work(&mut AnyConnection::Sqlite(connection)));
        if Stamp::at_rest(path)? == Some(before) {
            return outcome;
        }
    }
    work(&mut AnyConnection::Sqlite(open_read_only(path)?))
}

#[cfg(feature = "postgres")]
fn connect(url: &str) -> Result<AnyConnection, StoreError> {
    server::connect_for_reading(url)
}

#[cfg(not(feature = "postgres"))]
fn connect(_: &str) -> Result<AnyConnection, StoreError> {
    Err(StoreError::NoPostgres)
}

/// What changes if somebody writes a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    /// `None` if there is a log, because a service uses the file, or did not stop in order.
    fn at_rest(path: &Path) -> Result<Option<Self>, StoreError> {
        if with_suffix(path, "-wal").exists() {
            return Ok(None);
        }
        let metadata = fs::metadata(path).map_err(|error| cannot_open(path, error))?;
        Ok(Some(Self { length: metadata.len(), modified: metadata.modified().ok() }))
    }
}
