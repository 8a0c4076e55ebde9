//! The limits in SQL: the minimum cost of a write, and databases that are filled without the service.

use std::path::Path;
use std::time::Instant;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Integer, Text};
use diesel::sqlite::Sqlite;

/// The connection of a writer, configured like that of the service.
fn writer(database: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    let pragmas = [
        "PRAGMA busy_timeout = 5000",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA journal_size_limit = 67108864",
        "PRAGMA cache_size = -65536",
    ];
    for pragma in pragmas {
        connection.batch_execute(pragma).unwrap();
    }
    connection
}

/// A statement with constant text, which is prepared once.
macro_rules! statement {
    ($name:ident { $($field:ident: $rust:ty as $sql:ty),* } $($text:literal),*) => {
        struct $name<'a> { $($field: $rust,)* phantom: std::marker::PhantomData<&'a ()> }

        impl QueryFragment<Sqlite> for $name<'_> {
            fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
                let texts = [$($text),*];
                let mut texts = texts.iter();
                out.push_sql(texts.next().unwrap());
                $(
                    out.push_bind_param::<$sql, _>(&self.$field)?;
                    out.push_sql(texts.next().unwrap());
                )*
                Ok(())
            }
        }

        impl QueryId for $name<'_> {
            type QueryId = $name<'static>;
            const HAS_STATIC_QUERY_ID: bool = true;
        }

        impl RunQueryDsl<SqliteConnection> for $name<'_> {}
    };
}

statement!(Upsert { collection: &'a str as Text, rank: i32 as Integer, key: &'a str as Text, revision: i64 as BigInt, body: &'a str as Text }
    "INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted) VALUES (", ", ", ", ", ", ", ", 0, ",
    ", NULL) ON CONFLICT (collection, rank, key) DO UPDATE SET revision = excluded.revision, body = excluded.body");
statement!(Append { revision: i64 as BigInt, collection: &'a str as Text, key: &'a str as Text, patch: &'a str as Text }
    "INSERT INTO outbox (revision, collection, key, patch, time) VALUES (", ", ", ", ", ", ", ", 1763700000000)");
statement!(Revision { revision: i64 as BigInt } "UPDATE metadata SET revision = ", "");
statement!(NextKey { next: i64 as BigInt } "UPDATE collections SET next_key = ", " WHERE name = 'persons'");

/// Runs the minimum of statements for writes, in transactions of `batch` writes, and returns the writes a second. The
/// database has the service's tables, and each run uses its own numbers. With a city, each write has a second change
/// event, and each transaction writes the row of the city.
pub fn writes(database: &Path, batch: usize, seconds: f64, body: &str, city: bool, run: usize) -> f64 {
    let mut connection = writer(database);
    let phantom = std::marker::PhantomData;
    let first = 1_000_000 * i64::try_from(run + 1).unwrap();
    let mut revision = first;
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        connection
            .immediate_transaction::<_, diesel::result::Error, _>(|connection| {
                for _ in 0..batch {
                    revision += 1;
                    let key = revision.to_string();
                    let rank = i32::try_from(key.len()).unwrap();
                    Upsert { collection: "persons", rank, key: &key, revision, body, phantom }.execute(connection)?;
                    Append { revision, collection: "persons", key: &key, patch: body, phantom }.execute(connection)?;
                    if city {
                        let patch = format!(r#"{{"total":{revision}}}"#);
                        Append { revision, collection: "locations", key: "Rome", patch: &patch, phantom }
                            .execute(connection)?;
                    }
                }
                if city {
                    let body = format!(r#"{{"total":{revision}}}"#);
                    Upsert { collection: "locations", rank: 99, key: "Rome", revision, body: &body, phantom }
                        .execute(connection)?;
                }
                Revision { revision, phantom }.execute(connection)?;
                NextKey { next: revision + 1, phantom }.execute(connection)?;
                Ok(())
            })
            .unwrap();
    }
    (revision - first) as f64 / begun.elapsed().as_secs_f64()
}

/// Fills a database that has the service's tables with this many persons, as that many commands would have done.
pub fn fill(database: &Path, persons: usize, events: Events) {
    let mut connection = writer(database);
    let numbers = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {persons})");
    let pruned = if events == Events::Pruned { persons } else { 0 };
    connection
        .batch_execute(&format!(
            "BEGIN IMMEDIATE;
             {numbers} INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted)
                 SELECT 'persons', length(i), i, i, 0, '{{\"name\":\"Ann ' || i || '\"}}', NULL FROM n;
             UPDATE metadata SET revision = {persons}, pruned = {pruned};
             UPDATE collections SET next_key = {persons} + 1 WHERE name = 'persons';"
        ))
        .unwrap();
    if events == Events::Kept {
        connection
            .batch_execute(&format!(
                "{numbers} INSERT INTO outbox (revision, collection, key, patch, time)
                     SELECT i, 'persons', i, '{{\"name\":\"Ann ' || i || '\"}}', unixepoch() * 1000 FROM n"
            ))
            .unwrap();
    }
    connection.batch_execute("COMMIT").unwrap();
    connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

/// Adds an account with this many bookings. It has no events, which no command reads.
pub fn fill_account(database: &Path, key: &str, bookings: usize) {
    let entries: Vec<_> = (1..=bookings)
        .map(|number| format!(r#""00000000-0000-7000-8000-{number:012}":{{"amount":1,"text":"rent"}}"#))
        .collect();
    let body = format!(r#"{{"balance":{bookings},"bookings":{{{}}}}}"#, entries.join(","));
    let mut connection = writer(database);
    connection
        .batch_execute(&format!(
            "BEGIN IMMEDIATE;
             INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted)
                 VALUES ('accounts', 1000, '{key}', 1, {bookings} + 1, '{body}', NULL);
             UPDATE metadata SET revision = 1, pruned = 1;
             COMMIT;
             PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
}

/// Whether the database still has the change events of the inserted persons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    Kept,
    Pruned,
}

/// Scans the change events in order, does nothing with them, and returns the events a second.
pub fn scan_outbox(database: &Path) -> f64 {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = BigInt)]
        revision: i64,
        #[diesel(sql_type = Text)]
        key: String,
        #[diesel(sql_type = Text)]
        patch: String,
    }
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    let begun = Instant::now();
    let query = diesel::sql_query("SELECT revision, key, patch FROM outbox ORDER BY revision, collection, key");
    let rows = query.load_iter::<Row, diesel::connection::DefaultLoadingMode>(&mut connection).unwrap();
    let events =
        rows.map(|row| row.unwrap()).filter(|row| row.revision > 0 && row.key.len() + row.patch.len() > 0).count();
    events as f64 / begun.elapsed().as_secs_f64()
}
