//! The table of erased aggregates, and what is overwritten of them in the other tables: some rows at a time, so that no
//! command waits for long.
//!
//! The first transaction closes the key, publishes `null`, and marks the first domain event. From then on nobody folds the
//! others, whether or not they are overwritten already. What is to be done next is in the table, for the next process.

use std::collections::HashSet;
use std::fmt;

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};

use super::answers;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::journal::{ERASED, Entry, NO_FIELDS};
use super::portion::Portion;
use super::schema::{aggregates, erased, journal, metadata, outbox};
use super::statement::statement;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::key::Key;
use crate::domain::revision::{JournalPosition, Revision, Version};

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Overwrite domain events, after a version.
    Events,
    /// Overwrite change events, after a revision.
    Changes,
    /// Overwrite the answers to commands with an idempotency key, after a position.
    Answers,
    /// Tell the projections, in the journal.
    Conclusion,
    /// Overwrite what the file has between its rows, and empty the write-ahead log.
    File,
    Done,
}

impl Stage {
    const ALL: [Self; 6] = [Self::Events, Self::Changes, Self::Answers, Self::Conclusion, Self::File, Self::Done];

    fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Changes => "changes",
            Self::Answers => "answers",
            Self::Conclusion => "conclusion",
            Self::File => "file",
            Self::Done => "done",
        }
    }

    fn read(name: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|stage| stage.name() == name);
        found.ok_or_else(|| StoreError::Corrupt(format!("an erasure is in the stage {name:?}")))
    }
}

/// An aggregate that was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Erasure {
    pub(crate) collection: String,
    pub(crate) key: String,
    /// The revision of its last change event, which is `null`.
    pub(crate) revision: Revision,
    /// The position of its last domain event. `None` until all others are overwritten, and for a document.
    pub(crate) position: Option<JournalPosition>,
    pub(super) stage: Stage,
    /// How far the stage is: a version, or a revision.
    reached: i64,
}

type Columns = (String, String, i64, Option<i64>, String, i64);

impl Erasure {
    fn read((collection, key, revision, position, stage, reached): Columns) -> Result<Self, StoreError> {
        Ok(Self {
            collection,
            key,
            revision: Revision::from_raw(revision),
            position: position.map(JournalPosition::from_raw),
            stage: Stage::read(&stage)?,
            reached,
        })
    }
}

impl Erasure {
    /// Whether all rows with a content are overwritten, and the journal says that the aggregate is erased.
    pub(crate) fn is_concluded(&self) -> bool {
        matches!(self.stage, Stage::File | Stage::Done)
    }
}

/// `carts/0193…`
impl fmt::Display for Erasure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.collection, self.key)
    }
}

/// The largest number that is the key of an erased aggregate; 0 without any.
pub(super) fn last_number(connection: &mut AnyConnection, collection: &str) -> Result<i64, StoreError> {
    let keys: Vec<String> =
        erased::table.filter(erased::collection.eq(collection)).select(erased::key).load(connection)?;
    let numbers = keys.iter().map(|key| Key::from_db(key)).filter(|key| key.rank() <= 15);
    Ok(numbers.filter_map(|key| key.as_str().parse().ok()).max().unwrap_or(0))
}

/// The erasure of an aggregate, if it was erased.
pub(super) fn find(connection: &mut AnyConnection, collection: &str, key: &str) -> Result<Option<Erasure>, StoreError> {
    let row: Option<Columns> = erased::table.find((collection, key)).first(connection).optional()?;
    row.map(Erasure::read).transpose()
}

/// Notes that an aggregate was erased at this revision, in the transaction in which that happens.
pub(super) fn begin(
    connection: &mut AnyConnection,
    collection: &str,
    key: &Key,
    revision: Revision,
) -> Result<(), StoreError> {
    diesel::insert_into(erased::table)
        .values((
            erased::collection.eq(collection),
            erased::key.eq(key.as_str()),
            erased::revision.eq(revision.number()),
            erased::stage.eq(Stage::Events.name()),
            erased::reached.eq(0),
        ))
        .execute(connection)?;
    // Whoever folds the aggregate sees by its first event that it was erased.
    OverwriteEvents { collection, key: key.as_str(), after: 0, to: 1 }.execute(connection)?;
    note_changed_past(connection)
}

/// That an erasure is in progress, as the index of these says it: with a bound value, no engine would see that it is the same.
fn not_done() -> SqlLiteral<Bool> {
    sql::<Bool>("stage <> 'done'")
}

/// The first erasure that is in an early stage. Those that have only the file left are finished together, after all others.
pub(super) fn next(connection: &mut AnyConnection) -> Result<Option<Erasure>, StoreError> {
    let early = not_done().and(erased::stage.ne(Stage::File.name()));
    let row: Option<Columns> = erased::table.filter(early).order(erased::revision).first(connection).optional()?;
    row.map(Erasure::read).transpose()
}

/// The aggregates of which some events may still be there.
pub(crate) struct InProgress(HashSet<(String, String)>);

impl InProgress {
    /// Whether a domain event is one of them. It is about to be overwritten, and others before it are already.
    pub(crate) fn has(&self, registry: &Registry, entry: &Entry) -> bool {
        let place = || (registry.get(entry.collection).name().to_owned(), entry.key.as_str().to_owned());
        !self.0.is_empty() && self.0.contains(&place())
    }
}

pub(super) fn in_progress(connection: &mut AnyConnection) -> Result<InProgress, StoreError> {
    let rows = erased::table.filter(not_done()).select((erased::collection, erased::key));
    Ok(InProgress(rows.load::<(String, String)>(connection)?.into_iter().collect()))
}

/// The next erasures after a revision, in the order in which they began.
pub(super) fn after(
    connection: &mut AnyConnection,
    revision: Revision,
    limit: i64,
) -> Result<Vec<Erasure>, StoreError> {
    let later = erased::table.filter(erased::revision.gt(revision.number()));
    let rows: Vec<Columns> = later.order(erased::revision).limit(limit).load(connection)?;
    rows.into_iter().map(Erasure::read).collect()
}

/// The erasures of which only something in the file is left.
pub(super) fn in_file(connection: &mut AnyConnection) -> Result<Vec<Erasure>, StoreError> {
    let rows: Vec<Columns> = erased::table
        .filter(not_done().and(erased::stage.eq(Stage::File.name())))
        .order(erased::revision)
        .load(connection)?;
    rows.into_iter().map(Erasure::read).collect()
}

/// How much was erased, for `duality verify`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) aggregates: i64,
    pub(super) events: i64,
    pub(super) in_progress: i64,
}

pub(super) fn count(connection: &mut AnyConnection) -> Result<Counts, StoreError> {
    let aggregates = erased::table.count().get_result(connection)?;
    let events = journal::table.filter(journal::erased.ne(0)).count().get_result(connection)?;
    let in_progress = count_in_progress(connection)?;
    Ok(Counts { aggregates, events, in_progress })
}

/// Whether an erasure is still at the stage at which it was read. Another service may have gone on with it.
pub(super) fn is_at_stage(connection: &mut AnyConnection, erasure: &Erasure) -> Result<bool, StoreError> {
    let row = erased::table.find((erasure.collection.as_str(), erasure.key.as_str()));
    let stage: Option<String> = row.select(erased::stage).get_result(connection).optional()?;
    Ok(stage.as_deref() == Some(erasure.stage.name()))
}

/// The number of erasures of which something is to be done.
pub(super) fn count_in_progress(connection: &mut AnyConnection) -> Result<i64, StoreError> {
    Ok(erased::table.filter(not_done()).count().get_result(connection)?)
}

/// Domain events that are overwritten in one transaction.
const EVENTS_PER_TRANSACTION: i64 = 500;

/// Change events that are looked at in one transaction.
const CHANGES_PER_TRANSACTION: i64 = 5000;

/// Overwrites the next rows of an erasure, within the open transaction.
pub(super) fn overwrite_some(connection: &mut AnyConnection, erasure: &Erasure) -> Result<(), StoreError> {
    match erasure.stage {
        Stage::Events => overwrite_events(connection, erasure),
        Stage::Changes => overwrite_changes(connection, erasure),
        Stage::Answers => overwrite_answers(connection, erasure),
        Stage::Conclusion | Stage::File | Stage::Done => Ok(()),
    }
}

fn overwrite_events(connection: &mut AnyConnection, erasure: &Erasure) -> Result<(), StoreError> {
    let Erasure { collection, key, reached, .. } = erasure;
    let lengths = journal::table
        .filter(journal::collection.eq(collection).and(journal::key.eq(key)))
        .filter(journal::version.gt(reached))
        .order(journal::version)
        .limit(EVENTS_PER_TRANSACTION)
        .select((journal::version, sql::<BigInt>("CAST(octet_length(body) AS BIGINT)")));
    let lengths: Vec<(i64, i64)> = lengths.load(connection)?;
    let Some(Portion { last: to, .. }) = Portion::of(lengths) else {
        return set_stage(connection, erasure, Stage::Changes, 0);
    };
    OverwriteEvents { collection, key, after: *reached, to }.execute(connection)?;
    set_stage(connection, erasure, Stage::Events, to)?;
    note_changed_past(connection)
}

fn overwrite_changes(connection: &mut AnyConnection, erasure: &Erasure) -> Result<(), StoreError> {
    let Erasure { collection, key, revision, reached, .. } = erasure;
    let bytes = sql::<BigInt>("CASE WHEN collection = ").bind::<Text, _>(collection).sql(" AND key = ");
    let bytes = bytes.bind::<Text, _>(key).sql(" THEN CAST(octet_length(patch) AS BIGINT) ELSE 0 END");
    // All changes count, so that no transaction looks at more than so many.
    let lengths: Vec<(i64, i64)> = outbox::table
        .filter(outbox::revision.gt(reached).and(outbox::revision.lt(revision.number())))
        .order(outbox::revision)
        .limit(CHANGES_PER_TRANSACTION)
        .select((outbox::revision, bytes))
        .load(connection)?;
    let Some(Portion { last: to, .. }) = Portion::of(lengths) else {
        return set_stage(connection, erasure, Stage::Answers, 0);
    };
    OverwriteChanges { after: *reached, to, collection, key }.execute(connection)?;
    set_stage(connection, erasure, Stage::Changes, to)?;
    note_changed_past(connection)
}

fn overwrite_answers(connection: &mut AnyConnection, erasure: &Erasure) -> Result<(), StoreError> {
    let Erasure { collection, key, reached, .. } = erasure;
    match answers::overwrite_some(connection, collection, key, *reached)? {
        Some(to) => set_stage(connection, erasure, Stage::Answers, to),
        None => set_stage(connection, erasure, Stage::Conclusion, 0),
    }
}

statement! {
    struct OverwriteEvents<'a> {
        "UPDATE journal SET body = '{}', metadata = NULL, erased = 1 WHERE collection = " collection: &'a str as Text,
        " AND key = " key: &'a str as Text,
        " AND version > " after: i64 as BigInt,
        " AND version <= " to: i64 as BigInt,
    }
}

statement! {
    /// Whoever follows them has nothing of the aggregate afterwards, wherever they began.
    struct OverwriteChanges<'a> {
        "UPDATE outbox SET patch = 'null', metadata = NULL WHERE revision > " after: i64 as BigInt,
        " AND revision <= " to: i64 as BigInt,
        " AND collection = " collection: &'a str as Text,
        " AND key = " key: &'a str as Text,
    }
    " AND (patch <> 'null' OR metadata IS NOT NULL)"
}

/// Appends the last domain event of an aggregate, if it has any, and returns its place.
pub(super) fn append_last_event(
    connection: &mut AnyConnection,
    erasure: &Erasure,
    position: JournalPosition,
    now: Timestamp,
) -> Result<Option<Version>, StoreError> {
    let Erasure { collection, key, .. } = erasure;
    let Some(last) = last_version(connection, collection, key)? else { return Ok(None) };
    let version = last.next();
    diesel::insert_into(journal::table)
        .values((
            journal::position.eq(position.number()),
            journal::collection.eq(collection),
            journal::key.eq(key),
            journal::version.eq(version.number()),
            journal::kind.eq(ERASED),
            journal::schema.eq(0),
            journal::body.eq(NO_FIELDS),
            journal::time.eq(now.milliseconds()),
            journal::erased.eq(1),
        ))
        .execute(connection)?;
    let row = aggregates::table.find((collection, Key::from_db(key).rank(), key));
    diesel::update(row).set(aggregates::version.eq(version.number())).execute(connection)?;
    diesel::update(erased::table.find((collection, key)))
        .set(erased::position.eq(position.number()))
        .execute(connection)?;
    Ok(Some(version))
}

/// The version of the last domain event of an aggregate, if it has any.
pub(super) fn last_version(
    connection: &mut AnyConnection,
    collection: &str,
    key: &str,
) -> Result<Option<Version>, StoreError> {
    let last: Option<i64> = journal::table
        .filter(journal::collection.eq(collection).and(journal::key.eq(key)))
        .order(journal::version.desc())
        .select(journal::version)
        .first(connection)
        .optional()?;
    Ok(last.map(Version::from_raw))
}

/// Notes what is to be done next.
pub(super) fn set_stage(
    connection: &mut AnyConnection,
    Erasure { collection, key, .. }: &Erasure,
    stage: Stage,
    reached: i64,
) -> Result<(), StoreError> {
    diesel::update(erased::table.find((collection, key)))
        .set((erased::stage.eq(stage.name()), erased::reached.eq(reached)))
        .execute(connection)?;
    Ok(())
}

/// Notes that something was overwritten that others may have in memory.
pub(super) fn note_changed_past(connection: &mut AnyConnection) -> Result<(), StoreError> {
    diesel::update(metadata::table).set(metadata::erasures.eq(metadata::erasures + 1)).execute(connection)?;
    Ok(())
}

/// Whether everything that was ever deleted from the file is overwritten. It is not in a file of an earlier version of this
/// program, until a `VACUUM`.
pub(super) fn is_file_overwritten(connection: &mut AnyConnection) -> Result<bool, StoreError> {
    let overwritten: i64 = metadata::table.select(metadata::overwritten).first(connection)?;
    Ok(overwritten != 0)
}

pub(super) fn note_file_overwritten(connection: &mut AnyConnection) -> Result<(), StoreError> {
    diesel::update(metadata::table).set(metadata::overwritten.eq(1)).execute(connection)?;
    Ok(())
}
