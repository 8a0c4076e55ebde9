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

/// A lock for writing that another process holds, until it is dropped.
pub(crate) struct Lock {
    _connection: SqliteConnection,
}

impl Lock {
    pub(crate) fn take(database: &Path) -> Self {
        let mut connection = connect(database);
        connection.batch_execute("PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE").unwrap();
        Self { _connection: connection }
    }
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
