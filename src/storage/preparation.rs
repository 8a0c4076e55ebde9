//! What happens to a database file before its writer opens it: it is identified, its counters are compared after an unclean
//! stop, and it is copied before this version of the program changes its tables or its states.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel::sql_types::Text;

use super::at_rest::read_undisturbed;
use super::backup::{self, Check, CopyObserver, IfExists};
use super::database::{Database, with_suffix};
use super::dropping::Dropped;
use super::engine::AnyConnection;
use super::error::{StoreError, cannot_open};
use super::health::FileCheck;
use super::identity::{Identity, identify};
use super::location::require_existing;
use super::log_check::reject_foreign_log;
use super::ownership::give_to_service;
use super::schema::collections;
use super::upgrade::{self, Preview, Tables};
use super::{dropping, maxima, migrations, registration};
use crate::domain::collection::{Collection, Registry};

/// Whether a database is copied before its tables or its states are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyBefore {
    /// To a file beside it.
    Upgrade,
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
/// last user stopped in order, compares its counters if not, and copies it before its tables or its
/// states are changed. Writes nothing else.
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
    let Some(file) = database.file().filter(|_| fs::metadata(path).map_or(0, |file| file.len()) > 0) else {
        return Ok(());
    };
    reject_foreign_log(file)?;
    // An orderly stop leaves no log.
    let is_unclean = fs::metadata(with_suffix(path, "-wal")).is_ok_and(|log| log.len() > 0);
    let changes = read_undisturbed(path, |connection| {
        if identify(connection, path)? == Identity::New {
            return Ok(Changes::default());
        }
        let changes = Changes::find(connection, registry)?;
        if is_unclean && changes.migrations.is_empty() {
            maxima::require(connection, registry)?;
        }
        Ok(changes)
    })?;
    if is_unclean {
        database.health().set_file_check(FileCheck::Due);
    }
    backup::remove_leftovers(path);
    if copy_before == CopyBefore::Upgrade && changes.need_a_copy() {
        log::info!("{} is copied before {changes}", path.display());
        let copy = copy_before_upgrade(database, observer)?;
        log::info!("the database before that is {}; to go back, restore it", copy.display());
    }
    Ok(())
}

/// Copies the database to `duality.db.before-0.2.0`, with the version of this program, or to the next free name. A copy
/// with the same content, from a start that failed, is as good.
fn copy_before_upgrade(database: &Database, observer: &dyn CopyObserver) -> Result<PathBuf, StoreError> {
    let current = read_undisturbed(database.path(), state_of_numbers)?;
    let mut number = 1;
    loop {
        let copy = name_of_copy(database, number);
        if !copy.exists() {
            backup::copy(database.path(), &copy, IfExists::Fail, Check::File.into(), observer)?;
            give_to_service(&copy, database.path())?;
            return Ok(copy);
        }
        if read_undisturbed(&copy, state_of_numbers).is_ok_and(|numbers| numbers == current) {
            return Ok(copy);
        }
        number += 1;
    }
}

/// All counters of a database, whatever version it has: epoch and revision, what is pruned, next keys and last changes, the
/// ends of the journal and of the outbox. Two databases with the same have the same content.
fn state_of_numbers(connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    let mut numbers = Vec::new();
    for table in ["metadata", "collections", "journal", "outbox", "__diesel_schema_migrations"] {
        let query = format!("SELECT name AS line FROM pragma_table_info('{table}') ORDER BY name");
        let columns = lines(connection, &query)?;
        let values = match table {
            "journal" => "max(position)".to_owned(),
            "outbox" => "min(revision), max(revision)".to_owned(),
            _ => columns.join(", "),
        };
        if !columns.is_empty() {
            numbers.extend(lines(connection, &format!("SELECT json_array({values}) AS line FROM {table} ORDER BY 1"))?);
        }
    }
    Ok(numbers)
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

fn lines(connection: &mut AnyConnection, query: &str) -> Result<Vec<String>, StoreError> {
    let rows: Vec<Line> = diesel::sql_query(query).load(connection)?;
    Ok(rows.into_iter().map(|row| row.line).collect())
}

fn name_of_copy(database: &Database, number: u32) -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let suffix = if number == 1 { format!(".before-{version}") } else { format!(".before-{version}-{number}") };
    with_suffix(database.path(), &suffix)
}

/// What this version of the program changes in a database when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The names of the pending migrations.
    pub(crate) migrations: Vec<String>,
    /// The collections that are new, or whose states are computed by another rule than before.
    pub(crate) collections: Vec<&'static str>,
    /// Whether a service has used the database.
    is_used: bool,
}

impl Changes {
    fn find(connection: &mut AnyConnection, registry: &Registry) -> Result<Self, StoreError> {
        let known = known_collections(connection)?;
        let is_changed = |collection: &dyn Collection| {
            let stored = known.iter().find(|(name, _)| name == collection.name());
            stored.is_none_or(|(_, number)| upgrade::stored_version(collection, *number) != collection.rule())
        };
        let registered = registry.ids().map(|id| registry.get(id));
        Ok(Self {
            migrations: migrations::pending(connection)?,
            collections: registered.filter(|collection| is_changed(*collection)).map(Collection::name).collect(),
            is_used: !known.is_empty(),
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.collections.is_empty()
    }

    /// Whether there is something to lose.
    pub(crate) fn need_a_copy(&self) -> bool {
        self.is_used && !self.is_empty()
    }
}

/// `2 migrations and changes of carts, cities`
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { migrations, collections, .. } = self;
        let collections = (!collections.is_empty()).then(|| format!("changes of {}", collections.join(", ")));
        let migrations = (!migrations.is_empty()).then(|| format!("{} migrations", migrations.len()));
        let parts: Vec<_> = migrations.into_iter().chain(collections).collect();
        f.write_str(&parts.join(" and "))
    }
}

/// What the next start has to do, and what it needs for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) changes: Changes,
    pub(crate) upgrades: Vec<Preview>,
    /// The collections that were dropped, and of which something is left.
    pub(crate) dropped: Vec<Dropped>,
    /// The size of a copy in bytes.
    pub(crate) size: u64,
    /// The bytes that may still be written where the copy would be.
    pub(crate) room: u64,
}

/// Finds out what the next start has to do. Changes nothing. A service may be using the database.
pub(crate) fn plan(path: &Path, registry: &Registry) -> Result<Plan, StoreError> {
    // The room is that of its directory, which a relative path need not name.
    let path = &require_existing(path)?;
    read_undisturbed(path, |connection| {
        identify(connection, path)?;
        let changes = Changes::find(connection, registry)?;
        if changes.is_used {
            registration::reject_unregistered(connection, registry, path)?;
        }
        let tables = if changes.migrations.is_empty() { Tables::Current } else { Tables::Former };
        let upgrades = if changes.is_used { upgrade::preview(connection, registry, tables)? } else { Vec::new() };
        let dropped = match tables {
            Tables::Current => dropping::unfinished(connection)?,
            Tables::Former => Vec::new(),
        };
        // Nobody copies a database on a server.
        let (size, room) = match connection {
            AnyConnection::Sqlite(connection) => {
                (backup::size(connection)?, backup::room(path).map_err(|error| cannot_open(path, error))?)
            }
            #[cfg(feature = "postgres")]
            AnyConnection::Postgres(_) => (0, 0),
        };
        Ok(Plan { changes, upgrades, dropped, size, room })
    })
}

/// The collections that the database has, with their rules.
fn known_collections(connection: &mut AnyConnection) -> Result<Vec<(String, i64)>, StoreError> {
    let known: QueryResult<Vec<(String, i64)>> =
        collections::table.select((collections::name, collections::version)).load(connection);
    match known {
        Ok(known) => Ok(known),
        // A database without tables.
        Err(diesel::result::Error::DatabaseError(_, info)) if migrations::is_of_missing_table(info.message()) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}
