//! Direct access to the database while no service has it open.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::sql_types::Text;
use diesel::{Connection as _, RunQueryDsl as _, SqliteConnection};

use super::engine::psql;

/// A service that is running may have a lock for a moment.
fn connect(database: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    connection.batch_execute("PRAGMA busy_timeout = 60000").unwrap();
    connection
}

/// Executes SQL statements.
pub(crate) fn sql(database: &Path, statements: &str) {
    match url(database) {
        Some(url) => drop(psql(url, statements)),
        None => connect(database).batch_execute(statements).unwrap(),
    }
}

/// The URL of a database that is not a file.
fn url(database: &Path) -> Option<&str> {
    database.to_str().filter(|database| database.starts_with("postgres://"))
}

/// A lock for writing that another process holds, until it is dropped.
pub(crate) struct Lock {
    _connection: SqliteConnection,
}

impl Lock {
    pub(crate) fn take(database: &Path) -> Self {
        let mut connection = connect(database);
        connection.batch_execute("BEGIN IMMEDIATE").unwrap();
        Self { _connection: connection }
    }
}

/// A moment of the database that another process reads, until it is dropped.
pub(crate) struct Snapshot {
    _connection: SqliteConnection,
}

impl Snapshot {
    pub(crate) fn take(database: &Path) -> Self {
        let mut connection = connect(database);
        connection.batch_execute("BEGIN; SELECT count(*) FROM aggregates").unwrap();
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
    if let Some(url) = url(database) {
        return psql(url, query).lines().map(str::to_owned).collect();
    }
    let rows: Vec<Line> = diesel::sql_query(query).load(&mut connect(database)).unwrap();
    rows.into_iter().map(|row| row.line).collect()
}

/// Adds many persons to a database that has none, as a service would have done before its change events were pruned. Eight
/// megabytes, so that copying them takes a while.
pub(crate) fn enlarge(database: &Path) {
    sql(
        database,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO aggregates (collection, rank, key, revision, version, body)
         SELECT 'persons', length(i), i, i, 0, '{\"name\":\"' || hex(zeroblob(150)) || '\"}' FROM n;
         UPDATE metadata SET revision = 20000, pruned = 20000;
         UPDATE collections SET changed = 20000, next_key = 20001 WHERE name = 'persons'",
    );
}

/// The names of all migrations, oldest first.
pub(crate) fn migrations() -> Vec<String> {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes a database one of the version before the last migration.
pub(crate) fn make_older(database: &Path) {
    if url(database).is_some() {
        return sql(database, "DELETE FROM __diesel_schema_migrations");
    }
    undo_migrations(database, migrations().last().unwrap());
}

/// Undoes a migration and all later ones.
pub(crate) fn undo_migrations(database: &Path, first: &str) {
    for name in migrations().iter().rev().take_while(|name| name.as_str() >= first) {
        let down = format!("{}/migrations/sqlite/{name}/down.sql", env!("CARGO_MANIFEST_DIR"));
        sql(database, &std::fs::read_to_string(down).unwrap());
        let version = name.split('_').next().unwrap().replace('-', "");
        sql(database, &format!("DELETE FROM __diesel_schema_migrations WHERE version = '{version}'"));
    }
}

/// Copies a database, and executes SQL statements on the copy, which are only in its log then, as after a kill.
pub(crate) fn sql_in_log(database: &Path, copy: &Path, statements: &str) {
    let between = copy.with_extension("between");
    std::fs::copy(database, &between).unwrap();
    let mut connection = connect(&between);
    connection.batch_execute(statements).unwrap();
    for suffix in ["", "-wal"] {
        let name = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(name(&between), name(copy)).unwrap();
    }
    // Only now: closing it moves the log into the file.
    drop(connection);
}
