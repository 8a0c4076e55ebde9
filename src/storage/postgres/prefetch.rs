//! One statement that reads all that a batch is known to read, as of one moment, however many commands it has.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, Text};

use super::rules::{self, Rule};
use super::token::Token;
use crate::domain::body::Body;
use crate::domain::collection::Registry;
use crate::domain::idempotency::RequestId;
use crate::domain::revision::{JournalPosition, Revision, Version};
use crate::storage::aggregates::Row;
use crate::storage::answer_room::StoredAnswers;
use crate::storage::answers::Found;
use crate::storage::counters::{CollectionCounters, Counters};
use crate::storage::error::StoreError;
use crate::storage::fetched::Missing;
use crate::storage::hot_states::Place;
use crate::storage::row_cache::Aggregate;
use crate::storage::statement::statement;

/// The record at one moment.
pub(super) struct Prefetched {
    pub(super) token: Token,
    pub(super) epoch: String,
    /// Whether the record is in the place in which its epoch began. The system is that of the connection, which was compared
    /// when it was opened.
    pub(super) is_in_place: bool,
    pub(super) counters: Counters,
    pub(super) stored: StoredAnswers,
    pub(super) aggregates: Vec<(Place, Aggregate)>,
    pub(super) answers: HashMap<RequestId, Option<Found>>,
}

/// Reads the counters, and what is missing.
///
/// # Errors
/// Among others: the record follows the rules of another version of this program.
pub(super) fn load(
    connection: &mut PgConnection,
    registry: &Registry,
    missing: &Missing,
) -> Result<Prefetched, StoreError> {
    let places: Vec<_> = missing.aggregates.iter().collect();
    let requests: Vec<_> = missing.answers.iter().collect();
    let statement = Prefetch {
        collections: places.iter().map(|(collection, _)| registry.get(*collection).name()).collect(),
        ranks: places.iter().map(|(_, key)| key.rank()).collect(),
        keys: places.iter().map(|(_, key)| key.as_str()).collect(),
        requests: requests.iter().map(|request| request.as_bytes()).collect(),
    };
    let wanted = Wanted { registry, places, requests };
    let mut reading =
        Reading { answers: wanted.requests.iter().map(|request| (**request, None)).collect(), ..Reading::default() };
    for line in statement.load::<Line>(connection)? {
        reading.add(line, &wanted)?;
    }
    reading.finish(registry)
}

statement! {
    /// Its rows are of four kinds: 0 for the record, 1 for a collection, 2 for an aggregate, 3 for an answer. The subqueries
    /// with a limit keep the planner from reading a table as a whole, whatever it believes about the number of keys.
    struct Prefetch<'a> {
        "SELECT 0, epoch, token, NULL::text, revision, (SELECT coalesce(max(position), 0) FROM journal), answer_bytes,
            (SELECT coalesce(max(position) - min(position) + 1, 0) FROM idempotency),
            place LIKE '%/' || tableoid || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8), NULL::boolean
        FROM metadata
        UNION ALL
        SELECT 1, name, NULL, NULL, next_key, changed, version, NULL, NULL, NULL FROM collections
        UNION ALL
        SELECT 2, NULL, NULL, row.body, row.revision, row.version, NULL, wanted.place,
            row.body IS NULL AND EXISTS (
                SELECT FROM erased WHERE erased.collection = wanted.collection AND erased.key = wanted.key),
            row.revision IS NULL AND EXISTS (
                SELECT FROM journal WHERE journal.collection = wanted.collection AND journal.key = wanted.key)
        FROM unnest("
        collections: Vec<&'a str> as Array<Text>,
        ", " ranks: Vec<i32> as Array<Integer>,
        ", " keys: Vec<&'a str> as Array<Text>,
        ") WITH ORDINALITY AS wanted (collection, rank, key, place)
        LEFT JOIN LATERAL (
            SELECT body, revision, version FROM aggregates
            WHERE aggregates.collection = wanted.collection AND aggregates.rank = wanted.rank
                AND aggregates.key = wanted.key
            LIMIT 1) AS row ON true
        UNION ALL
        SELECT 3, NULL, row.fingerprint, row.answer, NULL, NULL, NULL, wanted.place, NULL, NULL
        FROM unnest(" requests: Vec<&'a [u8]> as Array<Binary>,
    }
    ") WITH ORDINALITY AS wanted (request, place)
    JOIN LATERAL (
        SELECT fingerprint, answer FROM idempotency WHERE idempotency.request = wanted.request LIMIT 1) AS row ON true"
}

impl Query for Prefetch<'_> {
    type SqlType = (
        Integer,
        Nullable<Text>,
        Nullable<Binary>,
        Nullable<Text>,
        Nullable<BigInt>,
        Nullable<BigInt>,
        Nullable<BigInt>,
        Nullable<BigInt>,
        Nullable<Bool>,
        Nullable<Bool>,
    );
}

/// A row of the statement. Which columns have a value depends on its kind.
#[derive(Queryable)]
struct Line {
    kind: i32,
    name: Option<String>,
    bytes: Option<Vec<u8>>,
    text: Option<String>,
    /// A revision, or the next key of a collection.
    first: Option<i64>,
    /// A version, a position of the journal, or the revision of the last change of a collection.
    second: Option<i64>,
    /// The bytes of all answers, or the version of the rule of a collection.
    third: Option<i64>,
    /// The number of all answers, or the place in the list of what was asked for: 1, 2, 3 …
    fourth: Option<i64>,
    /// Whether the record is in its place, or the aggregate was erased.
    flag: Option<bool>,
    has_events: Option<bool>,
}

/// What is asked for.
struct Wanted<'a> {
    registry: &'a Registry,
    places: Vec<&'a Place>,
    requests: Vec<&'a RequestId>,
}

/// What was read so far.
#[derive(Default)]
struct Reading {
    record: Option<Line>,
    collections: HashMap<String, CollectionCounters>,
    aggregates: Vec<(Place, Aggregate)>,
    answers: HashMap<RequestId, Option<Found>>,
}

impl Reading {
    fn add(&mut self, line: Line, wanted: &Wanted<'_>) -> Result<(), StoreError> {
        let Wanted { registry, places, requests } = wanted;
        let asked = line.fourth.and_then(|place| usize::try_from(place - 1).ok());
        match line.kind {
            0 => self.record = Some(line),
            1 => {
                let rule = Rule { collection: required(line.name)?, version: required(line.third)? };
                rules::require_own(registry, &rule)?;
                let counters = CollectionCounters::new(required(line.first)?, required(line.second)?);
                self.collections.insert(rule.collection, counters);
            }
            2 => {
                let place = required(asked.and_then(|place| places.get(place)))?;
                self.aggregates.push(((*place).clone(), aggregate(line)?));
            }
            _ => {
                let request = required(asked.and_then(|place| requests.get(place)))?;
                let found = Found { fingerprint: required(line.bytes)?, answer: line.text };
                self.answers.insert(**request, Some(found));
            }
        }
        Ok(())
    }

    fn finish(self, registry: &Registry) -> Result<Prefetched, StoreError> {
        let Self { record, collections, aggregates, answers } = self;
        let record = required(record)?;
        let (revision, position) = (required(record.first)?, required(record.second)?);
        let (revision, position) = (Revision::from_raw(revision), JournalPosition::from_raw(position));
        let of = |name: &str| {
            collections.get(name).cloned().ok_or_else(|| StoreError::DroppedCollection { name: name.to_owned() })
        };
        let counters = Counters::of_collections(registry, revision, position, of)?;
        Ok(Prefetched {
            token: required(record.bytes.as_deref().and_then(Token::read))?,
            epoch: required(record.name)?,
            is_in_place: required(record.flag)?,
            counters,
            stored: StoredAnswers { number: required(record.fourth)?, texts: required(record.third)? },
            aggregates,
            answers,
        })
    }
}

fn aggregate(line: Line) -> Result<Aggregate, StoreError> {
    let row = match line.first {
        Some(revision) => Some(Row {
            revision: Revision::from_raw(revision),
            version: Version::from_raw(required(line.second)?),
            body: line.text.map(Body::from_db),
        }),
        None => None,
    };
    Ok(Aggregate { row, is_erased: required(line.flag)?, has_events: required(line.has_events)? })
}

/// A value that the statement returns with every row of its kind.
fn required<T>(value: Option<T>) -> Result<T, StoreError> {
    value.ok_or_else(|| StoreError::Corrupt("the record lacks its row".to_owned()))
}
