//! What happens to a database file before its writer opens it: it is identified, its counters are compared after an unclean
//! stop, and it is copied before a migration.

use std::fs;
use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::at_rest::read_undisturbed;
use super::backup::{self, Check, CopyObserver, IfExists};
use super::database::{Database, with_suffix};
use super::error::{StoreError, cannot_open};
use super::health::FileCheck;
use super::identity::{Identity, identify};
use super::location::resolve;
use super::log_check::reject_foreign_log;
use super::schema::collections;
use super::{maxima, migrations};
use crate::domain::collection::Registry;

/// Whether a database is copied before it is migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyBefore {
    /// To a file beside it.
    Migration,
    /// Not at all.
    Never,
}

/// Refuses a file of another program before anything is created beside it. A file that cannot be read, or that is in use,
/// is left to those who lock it.
pub(crate) fn reject_foreign_file(path: &Path) -> Result<(), StoreError> {
    let is_filled = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
    if !is_filled || with_suffix(path, "-wal").exists() {
        return Ok(());
    }
    match read_undisturbed(path, |connection| identify(connection, path)) {
        Err(error @ (StoreError::Foreign { .. } | StoreError::NotADatabase { .. })) => Err(error),
        _ => Ok(()),
    }
}

/// Prepares the file of a locked database for its writer, which is not open yet: finds out what it is, notes whether its
/// last user stopped in order, compares its counters if not, and copies it before a migration. Writes nothing else.
///
/// # Errors
/// The file belongs to another program or to a newer version, its counters are wrong, or there is no room for a copy.
pub(crate) fn prepare(
    database: &Database,
    registry: &Registry,
    copy_before: CopyBefore,
    observer: &dyn CopyObserver,
) -> Result<(), StoreError> {
    let path = database.path();
    if fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    reject_foreign_log(database.file())?;
    // An orderly stop leaves no log.
    let is_unclean = fs::metadata(with_suffix(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let state = read_undisturbed(path, |connection| {
        if identify(connection, path)? == Identity::New {
            return Ok(None);
        }
        let pending = migrations::pending(connection)?;
        if is_unclean && pending.is_empty() {
            maxima::require(connection, registry)?;
        }
        Ok(Some(pending))
    })?;
    if is_unclean {
        database.health().set_file_check(FileCheck::Due);
    }
    match state {
        Some(pending) if !pending.is_empty() && copy_before == CopyBefore::Migration => {
            log::info!("{} is copied before {} migrations", path.display(), pending.len());
            let copy = copy_before_migration(database, observer)?;
            log::info!("the database before the migrations is {}; to go back, restore it", copy.display());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Copies the database to `duality.db.before-0.2.0`, with the version of this program, or to the next free name. A copy
/// with the same content, from a migration that failed, is as good.
fn copy_before_migration(database: &Database, observer: &dyn CopyObserver) -> Result<PathBuf, StoreError> {
    let current = read_undisturbed(database.path(), backup::content)?;
    let mut number = 1;
    loop {
        let copy = name_of_copy(database, number);
        if !copy.exists() {
            backup::copy(database.path(), &copy, IfExists::Fail, Check::File, observer)?;
            return Ok(copy);
        }
        if read_undisturbed(&copy, backup::content).is_ok_and(|content| content == current) {
            return Ok(copy);
        }
        number += 1;
    }
}

fn name_of_copy(database: &Database, number: u32) -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let suffix = if number == 1 { format!(".before-{version}") } else { format!(".before-{version}-{number}") };
    with_suffix(database.path(), &suffix)
}

/// What the next start has to do, and what it needs for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The names of the pending migrations.
    pub(crate) migrations: Vec<String>,
    /// The collections that are new, or whose states are computed by another rule than before.
    pub(crate) collections: Vec<&'static str>,
    /// The size of a copy in bytes.
    pub(crate) size: u64,
    /// The bytes that may still be written where the copy would be.
    pub(crate) room: u64,
}

/// Finds out what the next start has to do. Changes nothing. A service may be using the database.
pub(crate) fn plan(path: &Path, registry: &Registry) -> Result<Plan, StoreError> {
    let path = &resolve(path)?;
    if !path.is_file() {
        return Err(StoreError::Missing { path: path.clone() });
    }
    let room = backup::room(path).map_err(|error| cannot_open(path, error))?;
    read_undisturbed(path, |connection| {
        identify(connection, path)?;
        Ok(Plan {
            migrations: migrations::pending(connection)?,
            collections: changed_collections(connection, registry)?,
            size: backup::size(connection)?,
            room,
        })
    })
}

fn changed_collections(
    connection: &mut SqliteConnection,
    registry: &Registry,
) -> Result<Vec<&'static str>, StoreError> {
    let known: QueryResult<Vec<(String, i64)>> =
        collections::table.select((collections::name, collections::version)).load(connection);
    let known = match known {
        Ok(known) => known,
        // A file without tables.
        Err(diesel::result::Error::DatabaseError(_, info)) if info.message().starts_with("no such table") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let registered = registry.ids().map(|id| (registry.get(id).name(), registry.get(id).rule()));
    let is_unchanged = |name: &str, rule: i64| known.iter().any(|(known, version)| known == name && *version == rule);
    Ok(registered.filter(|(name, rule)| !is_unchanged(name, *rule)).map(|(name, _)| name).collect())
}
