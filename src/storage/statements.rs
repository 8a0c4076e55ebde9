//! The statements of every write. Diesel prepares an `UPDATE` or an upsert of its own anew each time, since their text
//! may vary; these have one constant text, and say so, and are prepared once per connection.

use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Integer, Nullable, Text};
use diesel::sqlite::Sqlite;

/// One aggregate's row, as it is after a batch.
pub(super) struct UpsertAggregate<'a> {
    pub(super) collection: &'a str,
    pub(super) rank: i32,
    pub(super) key: &'a str,
    pub(super) revision: i64,
    pub(super) version: i64,
    pub(super) body: Option<&'a str>,
    pub(super) deleted: Option<i64>,
}

impl QueryFragment<Sqlite> for UpsertAggregate<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted) VALUES (");
        out.push_bind_param::<Text, _>(self.collection)?;
        out.push_sql(", ");
        out.push_bind_param::<Integer, _>(&self.rank)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.key)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.revision)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.version)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Text>, _>(&self.body)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<BigInt>, _>(&self.deleted)?;
        out.push_sql(
            ") ON CONFLICT (collection, rank, key) DO UPDATE SET \
             revision = excluded.revision, version = excluded.version, body = excluded.body, \
             deleted = excluded.deleted",
        );
        Ok(())
    }
}

impl QueryId for UpsertAggregate<'_> {
    type QueryId = UpsertAggregate<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for UpsertAggregate<'_> {}

/// One change event.
pub(super) struct AppendChange<'a> {
    pub(super) revision: i64,
    pub(super) collection: &'a str,
    pub(super) key: &'a str,
    pub(super) patch: &'a str,
    pub(super) time: i64,
}

impl QueryFragment<Sqlite> for AppendChange<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("INSERT INTO outbox (revision, collection, key, patch, time) VALUES (");
        out.push_bind_param::<BigInt, _>(&self.revision)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.collection)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.key)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.patch)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.time)?;
        out.push_sql(")");
        Ok(())
    }
}

impl QueryId for AppendChange<'_> {
    type QueryId = AppendChange<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for AppendChange<'_> {}

/// The counter of the document.
pub(super) struct SaveRevision(pub(super) i64);

impl QueryFragment<Sqlite> for SaveRevision {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("UPDATE metadata SET revision = ");
        out.push_bind_param::<BigInt, _>(&self.0)
    }
}

impl QueryId for SaveRevision {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for SaveRevision {}

/// What is counted of a collection.
pub(super) struct SaveCollection<'a> {
    pub(super) collection: &'a str,
    pub(super) next_key: i64,
    pub(super) changed: i64,
}

impl QueryFragment<Sqlite> for SaveCollection<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("UPDATE collections SET next_key = ");
        out.push_bind_param::<BigInt, _>(&self.next_key)?;
        out.push_sql(", changed = ");
        out.push_bind_param::<BigInt, _>(&self.changed)?;
        out.push_sql(" WHERE name = ");
        out.push_bind_param::<Text, _>(self.collection)
    }
}

impl QueryId for SaveCollection<'_> {
    type QueryId = SaveCollection<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for SaveCollection<'_> {}
