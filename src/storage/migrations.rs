//! The migrations of the tables.

#[cfg(feature = "postgres")]
use diesel::connection::Connection as _;
use diesel::migration::{Migration, MigrationSource as _, MigrationVersion};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::engine::{AnyConnection, MultiBackend};
use super::error::StoreError;
#[cfg(feature = "postgres")]
use super::server::start;

const OF_FILES: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

#[cfg(feature = "postgres")]
const OF_SERVERS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Those of an engine.
fn of(connection: &AnyConnection) -> EmbeddedMigrations {
    match connection {
        AnyConnection::Sqlite(_) => OF_FILES,
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(_) => OF_SERVERS,
    }
}

/// Runs the pending migrations. Fails if a newer program has already migrated the database further.
pub(super) fn migrate(connection: &mut AnyConnection) -> Result<(), StoreError> {
    if pending(connection)?.is_empty() {
        return Ok(());
    }
    match connection {
        AnyConnection::Sqlite(_) => run(connection),
        // Another service may be about to do the same.
        #[cfg(feature = "postgres")]
        AnyConnection::Postgres(_) => connection.transaction(|connection| {
            if let AnyConnection::Postgres(server) = &mut *connection {
                start::take_turn(server)?;
            }
            run(connection)?;
            pending(connection).map(|_| ())
        }),
    }
}

fn run(connection: &mut AnyConnection) -> Result<(), StoreError> {
    connection.run_pending_migrations(of(connection)).map_err(StoreError::Migration)?;
    Ok(())
}

/// The names of the migrations that a database lacks, oldest first.
///
/// # Errors
/// A newer version of this program has migrated it.
pub(super) fn pending(connection: &mut AnyConnection) -> Result<Vec<String>, StoreError> {
    let known = embedded(connection)?;
    let applied = applied(connection)?;
    let is_known = |version: &MigrationVersion<'_>| known.iter().any(|known| known.name().version() == *version);
    if let Some(newer) = applied.iter().find(|version| !is_known(version)) {
        return Err(StoreError::NewerSchema { version: newer.to_string() });
    }
    let names = known.iter().map(Migration::name);
    Ok(names.filter(|name| !applied.contains(&name.version())).map(ToString::to_string).collect())
}

/// Fails unless a database has exactly the migrations of this program.
pub(super) fn require_current(connection: &mut AnyConnection) -> Result<(), StoreError> {
    let pending = pending(connection)?.len();
    if pending == 0 {
        return Ok(());
    }
    let known = embedded(connection)?.len();
    Err(StoreError::NotMigrated { found: format!("{} of {known} migrations", known - pending) })
}

/// The versions of the migrations that were run. Diesel's own function creates the table of them where it is missing,
/// which a read-only connection cannot.
fn applied(connection: &mut AnyConnection) -> Result<Vec<MigrationVersion<'static>>, StoreError> {
    use diesel::prelude::*;
    diesel::table! {
        __diesel_schema_migrations (version) {
            version -> Text,
        }
    }
    let versions =
        __diesel_schema_migrations::table.select(__diesel_schema_migrations::version).load::<String>(connection);
    match versions {
        Ok(versions) => Ok(versions.into_iter().map(MigrationVersion::from).collect()),
        Err(diesel::result::Error::DatabaseError(_, info)) if is_of_missing_table(info.message()) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Whether an engine says that there is no such table.
pub(super) fn is_of_missing_table(message: &str) -> bool {
    message.starts_with("no such table") || (message.starts_with("relation") && message.ends_with("does not exist"))
}

fn embedded(connection: &AnyConnection) -> Result<Vec<Box<dyn Migration<MultiBackend>>>, StoreError> {
    of(connection).migrations().map_err(StoreError::Migration)
}
