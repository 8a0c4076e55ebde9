//! One statement that writes a batch, if nothing has changed since the token that is known.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{Array, BigInt, Binary, Integer, Nullable, Text};

use super::token::Token;
use crate::domain::body::Body;
use crate::domain::key::Key;
use crate::domain::metadata::StoredMetadata;
use crate::storage::aggregates::Row;
use crate::storage::answer_room::StoredAnswers;
use crate::storage::answers::NewAnswer;
use crate::storage::commit::StagedBatch;
use crate::storage::error::StoreError;
use crate::storage::hot_states::Place;
use crate::storage::journal::Entry;
use crate::storage::outbox::Change;
use crate::storage::statement::statement;

/// The tokens before and after a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tokens {
    pub(super) known: Token,
    pub(super) new: Token,
}

/// What became of a batch whose statement succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fenced {
    Written,
    /// The record has another token, or is in another place: nothing was written, and nothing ever will be by it.
    Missed,
}

/// Writes a batch, whose stored answers were these before it.
pub(super) fn write(
    connection: &mut PgConnection,
    batch: &StagedBatch<'_>,
    before: StoredAnswers,
    tokens: Tokens,
) -> Result<Fenced, StoreError> {
    let rows: i64 = statement(batch, before, &tokens).get_result(connection)?;
    Ok(if rows == 1 { Fenced::Written } else { Fenced::Missed })
}

fn statement<'a>(batch: &'a StagedBatch<'_>, before: StoredAnswers, tokens: &'a Tokens) -> WriteBatch<'a> {
    let name = |collection| batch.registry.get(collection).name();
    let rows: Vec<(&Place, &Row)> = batch
        .rows
        .iter()
        .filter(|(_, staged)| staged.must_be_written())
        .map(|(place, staged)| (place, &staged.row))
        .collect();
    let (changes, events): (&[Change], &[Entry]) = (&batch.changes, &batch.events);
    let answers: Vec<&NewAnswer> = batch.answers.iter().collect();
    let collections: Vec<_> = batch.counters.changed_collections(batch.before, batch.registry).collect();
    let now = batch.now.milliseconds();
    WriteBatch {
        new: tokens.new.as_bytes(),
        revision: batch.counters.revision.number(),
        more: batch.stored.texts - before.texts,
        known: tokens.known.as_bytes(),
        time: now,
        row_collections: rows.iter().map(|((collection, _), _)| name(*collection)).collect(),
        row_ranks: rows.iter().map(|((_, key), _)| key.rank()).collect(),
        row_keys: rows.iter().map(|((_, key), _)| key.as_str()).collect(),
        row_revisions: rows.iter().map(|(_, row)| row.revision.number()).collect(),
        row_versions: rows.iter().map(|(_, row)| row.version.number()).collect(),
        row_bodies: rows.iter().map(|(_, row)| row.body.as_ref().map(Body::as_str)).collect(),
        change_revisions: changes.iter().map(|change| change.revision.number()).collect(),
        change_collections: changes.iter().map(|change| name(change.collection)).collect(),
        change_keys: changes.iter().map(|change| change.key.as_str()).collect(),
        change_patches: changes.iter().map(|change| change.patch.as_str()).collect(),
        change_metadata: changes.iter().map(|change| text(change.metadata.as_ref())).collect(),
        event_positions: events.iter().map(|entry| entry.position.number()).collect(),
        event_collections: events.iter().map(|entry| name(entry.collection)).collect(),
        event_keys: events.iter().map(|entry| entry.key.as_str()).collect(),
        event_versions: events.iter().map(|entry| entry.version.number()).collect(),
        event_kinds: events.iter().map(|entry| entry.event.kind.as_str()).collect(),
        event_schemas: events.iter().map(|entry| entry.schema).collect(),
        event_bodies: events.iter().map(|entry| entry.event.fields.as_str()).collect(),
        event_metadata: events.iter().map(|entry| text(entry.metadata.as_ref())).collect(),
        requests: answers.iter().map(|answer| answer.request.as_bytes()).collect(),
        fingerprints: answers.iter().map(|answer| answer.fingerprint.as_bytes()).collect(),
        answer_collections: answers.iter().map(|answer| name(answer.collection)).collect(),
        answer_aggregates: answers.iter().map(|answer| answer.aggregate.as_ref().map(Key::as_str)).collect(),
        answers: answers.iter().map(|answer| answer.text.as_str()).collect(),
        next_keys: collections.iter().map(|changed| changed.next_key).collect(),
        changed: collections.iter().map(|changed| changed.changed).collect(),
        names: collections.iter().map(|changed| changed.name).collect(),
        first: batch.before.revision.next().number(),
    }
}

fn text(metadata: Option<&StoredMetadata>) -> Option<&str> {
    metadata.map(StoredMetadata::as_str)
}

statement! {
    /// Whoever changes the record replaces the token in a transaction that has the row of `metadata`. So either nothing has
    /// changed since this one was known, or the first part finds no row, and then the others write nothing. The timeline of
    /// the server is asked for in the statement: a promoted standby has another one.
    struct WriteBatch<'a> {
        "WITH fence AS (
            UPDATE metadata SET token = " new: &'a [u8] as Binary,
        ", revision = " revision: i64 as BigInt,
        ", answer_bytes = answer_bytes + " more: i64 as BigInt,
        " WHERE token = " known: &'a [u8] as Binary,
        " AND place LIKE '%/' || tableoid || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
            RETURNING token, revision, " time: i64 as BigInt,
        "::bigint AS time
        ), rows AS (
            INSERT INTO aggregates (collection, rank, key, revision, version, body, deleted)
            SELECT row.collection, row.rank, row.key, row.revision, row.version, row.body,
                CASE WHEN row.body IS NULL THEN fence.time END
            FROM fence, unnest(" row_collections: Vec<&'a str> as Array<Text>,
        ", " row_ranks: Vec<i32> as Array<Integer>,
        ", " row_keys: Vec<&'a str> as Array<Text>,
        ", " row_revisions: Vec<i64> as Array<BigInt>,
        ", " row_versions: Vec<i64> as Array<BigInt>,
        ", " row_bodies: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ") AS row (collection, rank, key, revision, version, body)
            ON CONFLICT (collection, rank, key) DO UPDATE SET
                revision = excluded.revision, version = excluded.version, body = excluded.body, deleted = excluded.deleted
        ), changes AS (
            INSERT INTO outbox (revision, collection, key, patch, time, metadata)
            SELECT change.revision, change.collection, change.key, change.patch, fence.time, change.metadata
            FROM fence, unnest(" change_revisions: Vec<i64> as Array<BigInt>,
        ", " change_collections: Vec<&'a str> as Array<Text>,
        ", " change_keys: Vec<&'a str> as Array<Text>,
        ", " change_patches: Vec<&'a str> as Array<Text>,
        ", " change_metadata: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ") AS change (revision, collection, key, patch, metadata)
        ), events AS (
            INSERT INTO journal (position, collection, key, version, kind, schema, body, time, metadata)
            SELECT event.position, event.collection, event.key, event.version, event.kind, event.schema, event.body,
                fence.time, event.metadata
            FROM fence, unnest(" event_positions: Vec<i64> as Array<BigInt>,
        ", " event_collections: Vec<&'a str> as Array<Text>,
        ", " event_keys: Vec<&'a str> as Array<Text>,
        ", " event_versions: Vec<i64> as Array<BigInt>,
        ", " event_kinds: Vec<&'a str> as Array<Text>,
        ", " event_schemas: Vec<i64> as Array<BigInt>,
        ", " event_bodies: Vec<&'a str> as Array<Text>,
        ", " event_metadata: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ") AS event (position, collection, key, version, kind, schema, body, metadata)
        ), answers AS (
            INSERT INTO idempotency (request, fingerprint, collection, aggregate, time, answer)
            SELECT answer.request, answer.fingerprint, answer.collection, answer.aggregate, fence.time, answer.text
            FROM fence, unnest(" requests: Vec<&'a [u8]> as Array<Binary>,
        ", " fingerprints: Vec<&'a [u8]> as Array<Binary>,
        ", " answer_collections: Vec<&'a str> as Array<Text>,
        ", " answer_aggregates: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ", " answers: Vec<&'a str> as Array<Text>,
        ") WITH ORDINALITY AS answer (request, fingerprint, collection, aggregate, text, place) ORDER BY answer.place
        ), counted AS (
            UPDATE collections SET next_key = counter.next_key, changed = counter.changed
            FROM fence, unnest(" next_keys: Vec<i64> as Array<BigInt>,
        ", " changed: Vec<i64> as Array<BigInt>,
        ", " names: Vec<&'a str> as Array<Text>,
        ") AS counter (next_key, changed, name)
            WHERE collections.name = counter.name
        ), remembered AS (
            INSERT INTO batches (token, first, last) SELECT token, " first: i64 as BigInt,
    }
    "::bigint, revision FROM fence
    ) SELECT count(*) FROM fence"
}

impl Query for WriteBatch<'_> {
    type SqlType = BigInt;
}
