//! The limits in SQL on a server: the least statement that writes a batch as the service does, and a scan of the log by
//! pages.

use std::time::Instant;

use diesel::connection::SimpleConnection as _;
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Integer, Text};

pub fn connect(url: &str) -> PgConnection {
    let mut connection = PgConnection::establish(url).unwrap();
    connection.batch_execute("SET jit = off; SET plan_cache_mode = force_generic_plan").unwrap();
    connection
}

/// A batch of new persons, in columns.
struct Batch<'a> {
    known: Vec<u8>,
    new: Vec<u8>,
    last: i64,
    collections: Vec<&'a str>,
    ranks: Vec<i32>,
    keys: Vec<String>,
    revisions: Vec<i64>,
    bodies: Vec<&'a str>,
}

impl<'a> Batch<'a> {
    fn after(revision: i64, size: usize, body: &'a str) -> Self {
        let last = revision + i64::try_from(size).unwrap();
        let revisions: Vec<i64> = (revision + 1..=last).collect();
        let keys: Vec<String> = revisions.iter().map(ToString::to_string).collect();
        Self {
            known: token(revision),
            new: token(last),
            last,
            collections: vec!["persons"; size],
            ranks: keys.iter().map(|key| i32::try_from(key.len()).unwrap()).collect(),
            keys,
            revisions,
            bodies: vec![body; size],
        }
    }
}

fn token(revision: i64) -> Vec<u8> {
    [[0; 8], revision.to_be_bytes()].concat()
}

impl QueryFragment<Pg> for Batch<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH fence AS (UPDATE metadata SET token = ");
        out.push_bind_param::<Binary, _>(&self.new)?;
        out.push_sql(", revision = ");
        out.push_bind_param::<BigInt, _>(&self.last)?;
        out.push_sql(" WHERE token = ");
        out.push_bind_param::<Binary, _>(&self.known)?;
        out.push_sql(
            " RETURNING revision
            ), numbers AS (UPDATE collections SET next_key = fence.revision + 1, changed = fence.revision
                FROM fence WHERE name = 'persons'
            ), changes AS (INSERT INTO outbox (revision, collection, key, patch, time)
                SELECT c.revision, collection, key, body, 1763700000000 FROM fence, unnest(",
        );
        out.push_bind_param::<Array<BigInt>, _>(&self.revisions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.collections)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.bodies)?;
        out.push_sql(
            ") AS c (revision, collection, key, body)
            ), rows AS (INSERT INTO aggregates (collection, rank, key, revision, version, body)
                SELECT collection, rank, key, r.revision, 0, body FROM fence, unnest(",
        );
        out.push_bind_param::<Array<Text>, _>(&self.collections)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.ranks)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.keys)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.revisions)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.bodies)?;
        out.push_sql(
            ") AS r (collection, rank, key, revision, body)
                ON CONFLICT (collection, rank, key) DO UPDATE SET revision = excluded.revision, body = excluded.body
            ) SELECT count(*) FROM fence",
        );
        Ok(())
    }
}

impl QueryId for Batch<'_> {
    type QueryId = Batch<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Batch<'_> {
    type SqlType = BigInt;
}

impl RunQueryDsl<PgConnection> for Batch<'_> {}

/// Writes persons for a while by statements of `size` of them each, and returns the writes a second. The database has the
/// service's tables, and each run uses its own numbers.
pub fn writes(connection: &mut PgConnection, size: usize, seconds: f64, body: &str, run: usize) -> f64 {
    let first = 1_000_000_000 * i64::try_from(run + 1).unwrap();
    diesel::sql_query("UPDATE metadata SET token = $1").bind::<Binary, _>(token(first)).execute(connection).unwrap();
    let (mut revision, begun) = (first, Instant::now());
    while begun.elapsed().as_secs_f64() < seconds {
        let batch = Batch::after(revision, size, body);
        revision = batch.last;
        assert_eq!(batch.get_result::<i64>(connection).unwrap(), 1, "nobody else writes");
    }
    (revision - first) as f64 / begun.elapsed().as_secs_f64()
}

/// Adds this many persons with their change events, as that many commands would have done.
pub fn fill(connection: &mut PgConnection, persons: usize) {
    connection
        .batch_execute(&format!(
            "BEGIN;
             INSERT INTO aggregates (collection, rank, key, revision, version, body)
                 SELECT 'persons', length(i::text), i, i, 0, '{{\"name\":\"Ann ' || i || '\"}}'
                 FROM generate_series(1, {persons}) AS i;
             INSERT INTO outbox (revision, collection, key, patch, time)
                 SELECT i, 'persons', i, '{{\"name\":\"Ann ' || i || '\"}}', extract(epoch FROM now()) * 1000
                 FROM generate_series(1, {persons}) AS i;
             UPDATE metadata SET revision = {persons};
             UPDATE collections SET next_key = {persons} + 1, changed = {persons} WHERE name = 'persons';
             COMMIT"
        ))
        .unwrap();
    connection.batch_execute("VACUUM ANALYZE").unwrap();
}

diesel::table! {
    outbox (revision, collection, key) {
        revision -> BigInt,
        collection -> Text,
        key -> Text,
        patch -> Text,
    }
}

/// Reads the change events in order, by pages, does nothing with them, and returns the events a second.
pub fn scan_outbox(connection: &mut PgConnection, page: i64) -> f64 {
    let (mut events, mut after, begun) = (0, 0, Instant::now());
    loop {
        let rows: Vec<(i64, String, String)> = outbox::table
            .filter(outbox::revision.gt(after))
            .order((outbox::revision, outbox::collection, outbox::key))
            .limit(page)
            .select((outbox::revision, outbox::key, outbox::patch))
            .load(connection)
            .unwrap();
        let Some((last, ..)) = rows.last() else { return events as f64 / begun.elapsed().as_secs_f64() };
        (after, events) = (*last, events + rows.len());
    }
}
