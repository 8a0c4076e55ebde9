//! One statement that writes a batch, if nothing has changed since the token that is known.

use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
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
    let (begin, end) = (begin(batch, before, &tokens), end(batch));
    let rows: i64 = if batch.events.is_empty() && batch.answers.is_empty() {
        WriteBatch { begin, beside: (), end }.get_result(connection)?
    } else {
        WriteBatch { begin, beside: events_and_answers(batch), end }.get_result(connection)?
    };
    Ok(if rows == 1 { Fenced::Written } else { Fenced::Missed })
}

fn begin<'a>(batch: &'a StagedBatch<'_>, before: StoredAnswers, tokens: &'a Tokens) -> Begin<'a> {
    let name = |collection| batch.registry.get(collection).name();
    let rows: Vec<(&Place, &Row)> = batch
        .rows
        .iter()
        .filter(|(_, staged)| staged.must_be_written())
        .map(|(place, staged)| (place, &staged.row))
        .collect();
    let changes: &[Change] = &batch.changes;
    Begin {
        new: tokens.new.as_bytes(),
        revision: batch.counters.revision.number(),
        more: batch.stored.texts - before.texts,
        known: tokens.known.as_bytes(),
        time: batch.now.milliseconds(),
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
    }
}

fn events_and_answers<'a>(batch: &'a StagedBatch<'_>) -> EventsAndAnswers<'a> {
    let name = |collection| batch.registry.get(collection).name();
    let (events, answers): (&[Entry], Vec<&NewAnswer>) = (&batch.events, batch.answers.iter().collect());
    EventsAndAnswers {
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
    }
}

fn end<'a>(batch: &'a StagedBatch<'_>) -> End<'a> {
    let collections: Vec<_> = batch.counters.changed_collections(batch.before, batch.registry).collect();
    End {
        next_keys: collections.iter().map(|changed| changed.next_key).collect(),
        changed: collections.iter().map(|changed| changed.changed).collect(),
        names: collections.iter().map(|changed| changed.name).collect(),
        first: batch.before.revision.next().number(),
    }
}

fn text(metadata: Option<&StoredMetadata>) -> Option<&str> {
    metadata.map(StoredMetadata::as_str)
}

/// The statement. Most batches have no domain events and no answers to store: then there is nothing beside its two parts, and
/// the server has no tables to open in vain.
struct WriteBatch<'a, Beside> {
    begin: Begin<'a>,
    beside: Beside,
    end: End<'a>,
}

statement! {
    /// Whoever changes the record replaces the token in a transaction that has the row of `metadata`. So either nothing has
    /// changed since this one was known, or the first part finds no row, and then the others write nothing. The timeline of
    /// the server is asked for in the statement: a promoted standby has another one.
    ///
    /// Arrays are rows of a `SELECT` of their elements: the server keeps each array of a function in `FROM` in a store of its
    /// own, and reads it from there.
    struct Begin<'a> {
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
                CASE WHEN row.body IS NULL THEN row.time END
            FROM (SELECT time, unnest(" row_collections: Vec<&'a str> as Array<Text>,
        ") AS collection, unnest(" row_ranks: Vec<i32> as Array<Integer>,
        ") AS rank, unnest(" row_keys: Vec<&'a str> as Array<Text>,
        ") AS key, unnest(" row_revisions: Vec<i64> as Array<BigInt>,
        ") AS revision, unnest(" row_versions: Vec<i64> as Array<BigInt>,
        ") AS version, unnest(" row_bodies: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ") AS body FROM fence) AS row
            ON CONFLICT (collection, rank, key) DO UPDATE SET
                revision = excluded.revision, version = excluded.version, body = excluded.body, deleted = excluded.deleted
        ), changes AS (
            INSERT INTO outbox (time, revision, collection, key, patch, metadata)
            SELECT time, unnest(" change_revisions: Vec<i64> as Array<BigInt>,
        "), unnest(" change_collections: Vec<&'a str> as Array<Text>,
        "), unnest(" change_keys: Vec<&'a str> as Array<Text>,
        "), unnest(" change_patches: Vec<&'a str> as Array<Text>,
        "), unnest(" change_metadata: Vec<Option<&'a str>> as Array<Nullable<Text>>,
    }
    ") FROM fence
        ), "
}

statement! {
    struct EventsAndAnswers<'a> {
        "events AS (
            INSERT INTO journal (time, position, collection, key, version, kind, schema, body, metadata)
            SELECT time, unnest(" event_positions: Vec<i64> as Array<BigInt>,
        "), unnest(" event_collections: Vec<&'a str> as Array<Text>,
        "), unnest(" event_keys: Vec<&'a str> as Array<Text>,
        "), unnest(" event_versions: Vec<i64> as Array<BigInt>,
        "), unnest(" event_kinds: Vec<&'a str> as Array<Text>,
        "), unnest(" event_schemas: Vec<i64> as Array<BigInt>,
        "), unnest(" event_bodies: Vec<&'a str> as Array<Text>,
        "), unnest(" event_metadata: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ") FROM fence
        ), answers AS (
            INSERT INTO idempotency (request, fingerprint, collection, aggregate, time, answer)
            SELECT answer.request, answer.fingerprint, answer.collection, answer.aggregate, fence.time, answer.text
            FROM fence, unnest(" requests: Vec<&'a [u8]> as Array<Binary>,
        ", " fingerprints: Vec<&'a [u8]> as Array<Binary>,
        ", " answer_collections: Vec<&'a str> as Array<Text>,
        ", " answer_aggregates: Vec<Option<&'a str>> as Array<Nullable<Text>>,
        ", " answers: Vec<&'a str> as Array<Text>,
    }
    ") WITH ORDINALITY AS answer (request, fingerprint, collection, aggregate, text, place) ORDER BY answer.place
        ), "
}

statement! {
    struct End<'a> {
        "counted AS (
            UPDATE collections SET next_key = counter.next_key, changed = counter.changed
            FROM (SELECT unnest(" next_keys: Vec<i64> as Array<BigInt>,
        ") AS next_key, unnest(" changed: Vec<i64> as Array<BigInt>,
        ") AS changed, unnest(" names: Vec<&'a str> as Array<Text>,
        ") AS name FROM fence) AS counter
            WHERE collections.name = counter.name
        ), remembered AS (
            INSERT INTO batches (first, token, last) SELECT " first: i64 as BigInt,
    }
    "::bigint, token, revision FROM fence
    ) SELECT count(*) FROM fence"
}

impl<Beside: QueryFragment<Pg>> QueryFragment<Pg> for WriteBatch<'_, Beside> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.begin.walk_ast(out.reborrow())?;
        self.beside.walk_ast(out.reborrow())?;
        self.end.walk_ast(out)
    }
}

/// The text depends only on what is beside its two parts.
impl<Beside: QueryId> QueryId for WriteBatch<'_, Beside> {
    type QueryId = WriteBatch<'static, Beside::QueryId>;
    const HAS_STATIC_QUERY_ID: bool = Beside::HAS_STATIC_QUERY_ID;
}

impl<Beside> Query for WriteBatch<'_, Beside> {
    type SqlType = BigInt;
}

impl<Beside> RunQueryDsl<PgConnection> for WriteBatch<'_, Beside> {}
