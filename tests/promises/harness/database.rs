//! Direct access to the database file while no service has it open.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection};

fn connect(database: &Path) -> SqliteConnection {
    SqliteConnection::establish(database.to_str().unwrap()).unwrap()
}

/// Executes SQL statements.
pub(crate) fn sql(database: &Path, statements: &str) {
    connect(database).batch_execute(statements).unwrap();
}

#[derive(diesel::QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// The rows of a query whose only column is called `line`.
pub(crate) fn lines(database: &Path, query: &str) -> Vec<String> {
    let rows: Vec<Line> = diesel::sql_query(query).load(&mut connect(database)).unwrap();
    rows.into_iter().map(|row| row.line).collect()
}
