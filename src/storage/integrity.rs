//! What SQLite itself finds wrong with a file.

use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use diesel::sqlite::SqliteConnection;

use super::error::StoreError;
use crate::domain::error_chain::ErrorChain;

/// Compares every page, row and index of the file. Returns what is wrong.
pub(crate) fn integrity_check(connection: &mut SqliteConnection) -> Vec<String> {
    let mut findings = run(connection, "SELECT integrity_check AS line FROM pragma_integrity_check");
    findings.retain(|line| line != "ok");
    let query =
        "SELECT 'a row of ' || \"table\" || ' refers to none of ' || parent AS line FROM pragma_foreign_key_check";
    findings.extend(run(connection, query));
    findings
}

/// The same without the content of indices, which takes less time. Returns what is wrong.
///
/// # Errors
/// The file cannot be read, for a reason that says nothing about it.
pub(super) fn quick_check(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let query = diesel::sql_query("SELECT quick_check AS line FROM pragma_quick_check");
    match query.load::<Line>(connection).map_err(StoreError::from) {
        Ok(lines) => Ok(lines.into_iter().filter_map(|row| row.line).filter(|line| line != "ok").collect()),
        Err(error) if error.is_damage() => Ok(vec![ErrorChain(&error).to_string()]),
        Err(error) => Err(error),
    }
}

/// A file may be so damaged that SQLite cannot even compare it: that is a finding, too.
fn run(connection: &mut SqliteConnection, query: &str) -> Vec<String> {
    match diesel::sql_query(query).load::<Line>(connection) {
        Ok(lines) => lines.into_iter().filter_map(|row| row.line).collect(),
        Err(error) => vec![error.to_string()],
    }
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Nullable<Text>)]
    line: Option<String>,
}
