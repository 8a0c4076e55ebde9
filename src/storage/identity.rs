//! Whether a file is a database of this program, a new one, or something of somebody else.

use std::path::Path;

use diesel::prelude::*;
use diesel::sql_types::{Integer, Text};

use super::engine::AnyConnection;
use super::error::StoreError;

/// The `application_id` in the header of our databases, which `file` shows: "dual". A migration sets it.
const APPLICATION_ID: i32 = 0x6475_616c;

/// The tables by which a database from before the id is known.
const TABLES: [&str; 4] = ["aggregates", "collections", "metadata", "outbox"];

/// The table in which the migrations are recorded.
const MIGRATIONS: &str = "__diesel_schema_migrations";

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity {
    /// It has no tables yet.
    New,
    /// It is a database of this program, of some version.
    Ours,
}

/// Finds out what a file is. Changes nothing. The migrations of a server's database say what that is.
///
/// # Errors
/// It is no SQLite database, or that of another program.
pub(super) fn identify(connection: &mut AnyConnection, path: &Path) -> Result<Identity, StoreError> {
    let Some(connection) = connection.if_file() else { return Ok(Identity::Ours) };
    let query = "SELECT application_id AS id FROM pragma_application_id";
    let id =
        diesel::sql_query(query).get_result::<ApplicationId>(connection).map_err(|error| unreadable(path, error))?;
    let query =
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite#_%' ESCAPE '#'";
    let names: Vec<Name> = diesel::sql_query(query).load(connection).map_err(|error| unreadable(path, error))?;
    let names: Vec<_> = names.iter().map(|row| row.name.as_str()).filter(|name| *name != MIGRATIONS).collect();
    classify(id.id, &names).map_err(|found| StoreError::Foreign { path: path.to_owned(), found })
}

/// The error says what was found.
fn classify(id: i32, names: &[&str]) -> Result<Identity, String> {
    match id {
        APPLICATION_ID => Ok(Identity::Ours),
        0 if names.is_empty() => Ok(Identity::New),
        0 if TABLES.iter().all(|table| names.contains(table)) => Ok(Identity::Ours),
        0 => Err(format!("it has the tables {}", names.join(", "))),
        other => Err(format!("its application_id is {other}")),
    }
}

fn unreadable(path: &Path, error: diesel::result::Error) -> StoreError {
    match error {
        diesel::result::Error::DatabaseError(_, info) if info.message() == "file is not a database" => {
            StoreError::NotADatabase { path: path.to_owned() }
        }
        error => StoreError::Query(error),
    }
}

#[derive(QueryableByName)]
struct ApplicationId {
    #[diesel(sql_type = Integer)]
    id: i32,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_new_ours_or_foreign_by_its_id_and_its_tables() {
        let foreign = |found: &str| Err(found.to_owned());
        for (id, names, expected) in [
            (0, &[][..], Ok(Identity::New)),
            (0, &TABLES[..], Ok(Identity::Ours)),
            (0, &["outbox", "metadata", "journal", "collections", "aggregates"], Ok(Identity::Ours)),
            (0, &["metadata", "users"], foreign("it has the tables metadata, users")),
            (0, &["metadata"], foreign("it has the tables metadata")),
            (APPLICATION_ID, &[], Ok(Identity::Ours)),
            (252_006_673, &TABLES, foreign("its application_id is 252006673")),
            (1, &[], foreign("its application_id is 1")),
        ] {
            assert_eq!(classify(id, names), expected, "{id} {names:?}");
        }
    }
}
