//! The table of the answers to commands with an idempotency key: stored in the transactions of the commands, given again to
//! those that are repeated, pruned by age, overwritten if their aggregate is erased.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use serde::{Deserialize, Serialize};

use super::answer_room::{self, StoredAnswers};
use super::counters::horizon;
use super::engine::{AnyConnection, on};
use super::error::StoreError;
use super::maintained::{Effect, Maintained};
use super::page::Progress;
use super::portion::Portion;
use super::retained::Retained;
use super::schema::{idempotency, metadata};
use super::sighting::{self, Rows, Sighting};
use super::statement::statement;
use super::verified::Verified;
use crate::domain::body::Body;
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::idempotency::{Fingerprint, ProblemDocument, RequestId};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{Epoch, Revision, Version};

/// An answer, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) epoch: Epoch,
    /// The revision that the command created, or the last one if it changed nothing.
    pub(super) revision: Revision,
    pub(super) outcome: Outcome,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Executed(ExecutedCommand),
    Rejected(ProblemDocument),
}

/// A command that was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExecutedCommand {
    pub(super) key: Key,
    /// `None` if the aggregate did not exist any more.
    pub(super) body: Option<Body>,
    /// The revision of the last change of the aggregate.
    pub(super) changed: Revision,
    pub(super) version: Version,
    /// Whether the aggregate exists, and did not before.
    pub(super) is_new: bool,
}

/// What the table has about a request.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) fingerprint: Vec<u8>,
    /// `None` if the aggregate was erased.
    pub(super) answer: Option<String>,
}

/// What a request gets that was sent before.
pub(super) enum Repeated {
    Answer(Answer),
    /// The first one had another body.
    OtherBody,
    /// Its aggregate was erased.
    Erased,
}

/// A row of the table.
pub(super) struct NewAnswer {
    pub(super) request: RequestId,
    pub(super) fingerprint: Fingerprint,
    pub(super) collection: CollectionId,
    /// The aggregate that the command was for, or that it created.
    pub(super) aggregate: Option<Key>,
    /// See [`Answer::to_text`].
    pub(super) text: String,
}

impl NewAnswer {
    /// What the table is going to have about its request.
    pub(super) fn found(&self) -> Found {
        Found { fingerprint: self.fingerprint.as_bytes().to_vec(), answer: Some(self.text.clone()) }
    }
}

/// What the table has about a request, if anything.
pub(super) fn find(connection: &mut AnyConnection, request: &RequestId) -> Result<Option<Found>, StoreError> {
    let row = idempotency::table
        .filter(idempotency::request.eq(request.as_bytes()))
        .select((idempotency::fingerprint, idempotency::answer))
        .get_result(connection)
        .optional()?;
    Ok(row.map(|(fingerprint, answer)| Found { fingerprint, answer }))
}

impl Found {
    /// What a request with this fingerprint gets.
    pub(super) fn repeated(self, fingerprint: &Fingerprint) -> Result<Repeated, StoreError> {
        // An erasure takes the fingerprint as well.
        let Some(answer) = self.answer else { return Ok(Repeated::Erased) };
        if self.fingerprint != fingerprint.as_bytes() {
            return Ok(Repeated::OtherBody);
        }
        Answer::from_text(&answer).map(Repeated::Answer)
    }
}

/// Stores an answer that was given at a time.
pub(super) fn keep(
    connection: &mut AnyConnection,
    registry: &Registry,
    row: &NewAnswer,
    time: Timestamp,
) -> Result<(), StoreError> {
    let NewAnswer { request, fingerprint, collection, aggregate, text } = row;
    InsertAnswer {
        request: request.as_bytes(),
        fingerprint: fingerprint.as_bytes(),
        collection: registry.get(*collection).name(),
        aggregate: aggregate.as_ref().map(Key::as_str),
        time: time.milliseconds(),
        answer: text,
    }
    .execute(connection)?;
    Ok(())
}

statement! {
    struct InsertAnswer<'a> {
        "INSERT INTO idempotency (request, fingerprint, collection, aggregate, time, answer) VALUES ("
        request: &'a [u8] as Binary,
        ", " fingerprint: &'a [u8] as Binary,
        ", " collection: &'a str as Text,
        ", " aggregate: Option<&'a str> as Nullable<Text>,
        ", " time: i64 as BigInt,
        ", " answer: &'a str as Text,
    }
    ")"
}

/// The first line of a stored answer. The second is its body.
#[derive(Serialize, Deserialize)]
struct Head {
    epoch: String,
    revision: i64,
    outcome: HeadOutcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeadOutcome {
    Executed { key: String, changed: i64, version: i64, state: HeadState },
    Rejected { status: u16, headers: Vec<(String, String)>, shows_state: bool },
}

/// What a command has left behind.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeadState {
    New,
    Existing,
    Deleted,
}

impl Answer {
    /// A line of JSON, and the body.
    pub(super) fn to_text(&self) -> Result<String, StoreError> {
        let (outcome, body) = match &self.outcome {
            Outcome::Executed(ExecutedCommand { key, body, changed, version, is_new }) => {
                let state = match (body, is_new) {
                    (None, _) => HeadState::Deleted,
                    (Some(_), true) => HeadState::New,
                    (Some(_), false) => HeadState::Existing,
                };
                let key = key.as_str().to_owned();
                let head = HeadOutcome::Executed { key, changed: changed.number(), version: version.number(), state };
                (head, body.as_ref().map_or("", Body::as_str))
            }
            Outcome::Rejected(ProblemDocument { status, headers, shows_state, body }) => {
                let (headers, shows_state) = (headers.clone(), *shows_state);
                (HeadOutcome::Rejected { status: *status, headers, shows_state }, body.as_str())
            }
        };
        let head = Head { epoch: self.epoch.as_str().to_owned(), revision: self.revision.number(), outcome };
        let mut text = serde_json::to_string(&head).map_err(corrupt)?;
        text.reserve_exact(1 + body.len());
        text.push('\n');
        text.push_str(body);
        Ok(text)
    }

    fn from_text(text: &str) -> Result<Self, StoreError> {
        let (head, body) = text.split_once('\n').ok_or_else(|| corrupt("it has only one line"))?;
        let Head { epoch, revision, outcome } = serde_json::from_str(head).map_err(corrupt)?;
        let outcome = match outcome {
            HeadOutcome::Executed { key, changed, version, state } => Outcome::Executed(ExecutedCommand {
                key: Key::from_db(&key),
                body: (!matches!(state, HeadState::Deleted)).then(|| Body::from_db(body.to_owned())),
                changed: Revision::from_raw(changed),
                version: Version::from_raw(version),
                is_new: matches!(state, HeadState::New),
            }),
            HeadOutcome::Rejected { status, headers, shows_state } => {
                Outcome::Rejected(ProblemDocument { status, headers, shows_state, body: body.to_owned() })
            }
        };
        let epoch = epoch.parse().map_err(|_| corrupt(format!("the epoch {epoch:?}")))?;
        Ok(Self { epoch, revision: Revision::from_raw(revision), outcome })
    }
}

fn corrupt(why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("a stored answer: {why}"))
}

/// The maximum number of answers that one transaction looks at.
const ANSWERS_PER_TRANSACTION: i64 = 1000;

/// An answer that may be pruned.
struct Old {
    position: i64,
    /// Of its text.
    bytes: i64,
    /// The time at which it counts as written. `None` if it is from the future, and not seen before.
    written: Option<Timestamp>,
}

/// Deletes the oldest answers that are not retained, as many as one transaction takes.
pub(super) fn prune(connection: &mut AnyConnection, retained: Retained) -> Result<Maintained<Progress>, StoreError> {
    connection.transaction(|connection| {
        let oldest = oldest(connection, retained.now)?;
        let is_due = |answer: &&Old| answer.written.is_some_and(|written| written < retained.answers);
        let due: Vec<_> = oldest.iter().take_while(is_due).map(|answer| (answer.position, answer.bytes)).collect();
        let mut effect = Effect::Nothing;
        if oldest.get(due.len()).is_some_and(|retained| retained.written.is_none()) {
            sighting::save(connection, Rows::Answers, retained.now)?;
            effect = Effect::Changed;
        }
        let number = due.len();
        let Some(Portion { rows, last, bytes }) = Portion::of(due) else {
            return Ok(Maintained { done: Progress::Done, effect });
        };
        // A server sees by the first one that it needs the index.
        let first = oldest.first().map_or(last, |answer| answer.position);
        diesel::delete(idempotency::table.filter(idempotency::position.ge(first).and(idempotency::position.le(last))))
            .execute(connection)?;
        answer_room::note_texts(connection, -bytes)?;
        if StoredAnswers::load(connection)?.number == 0 {
            // SQLite begins with the first position again.
            diesel::update(metadata::table).set(metadata::future_answers_position.eq(0)).execute(connection)?;
        }
        let has_more = rows < number || i64::try_from(number).is_ok_and(|number| number == ANSWERS_PER_TRANSACTION);
        Ok(Maintained::changed(if has_more { Progress::More } else { Progress::Done }))
    })
}

fn oldest(connection: &mut AnyConnection, now: Timestamp) -> Result<Vec<Old>, StoreError> {
    let sighting = Sighting::load(connection, Rows::Answers)?;
    let bytes = sql::<BigInt>("CAST(coalesce(octet_length(answer), 0) AS BIGINT)");
    let rows: Vec<(i64, i64, i64)> = idempotency::table
        .order(idempotency::position)
        .select((idempotency::position, idempotency::time, bytes))
        .limit(ANSWERS_PER_TRANSACTION)
        .load(connection)?;
    let old = rows.into_iter().map(|(position, time, bytes)| {
        let written = sighting.written(position, Timestamp::from_milliseconds(time), now);
        Old { position, bytes, written }
    });
    Ok(old.collect())
}

/// The maximum number of answers at which one transaction of an erasure looks.
const LOOKED_AT_PER_TRANSACTION: i64 = 5000;

/// Overwrites the answers about an aggregate, as many as one transaction takes, beginning after a position. Whoever repeats
/// one of these commands gets to know that the aggregate was erased. Returns the position to begin after the next time;
/// `None` if there are no more.
pub(super) fn overwrite_some(
    connection: &mut AnyConnection,
    collection: &str,
    key: &str,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let bytes = sql::<BigInt>("CASE WHEN collection = ").bind::<Text, _>(collection).sql(" AND aggregate = ");
    let bytes = bytes.bind::<Text, _>(key).sql(" THEN CAST(coalesce(octet_length(answer), 0) AS BIGINT) ELSE 0 END");
    let next: Vec<(i64, i64)> = idempotency::table
        .filter(idempotency::position.gt(after))
        .order(idempotency::position)
        .select((idempotency::position, bytes))
        .limit(LOOKED_AT_PER_TRANSACTION)
        .load(connection)?;
    let Some(Portion { last, bytes, .. }) = Portion::of(next) else { return Ok(None) };
    OverwriteAnswers { nothing: &[], after, to: last, collection, key }.execute(connection)?;
    answer_room::note_texts(connection, -bytes)?;
    Ok(Some(last))
}

/// The same for all aggregates of a collection.
pub(super) fn overwrite_some_of(
    connection: &mut AnyConnection,
    collection: &str,
    after: i64,
) -> Result<Option<i64>, StoreError> {
    let bytes = sql::<BigInt>("CASE WHEN collection = ").bind::<Text, _>(collection);
    let bytes = bytes.sql(" THEN CAST(coalesce(octet_length(answer), 0) AS BIGINT) ELSE 0 END");
    let next: Vec<(i64, i64)> = idempotency::table
        .filter(idempotency::position.gt(after))
        .order(idempotency::position)
        .select((idempotency::position, bytes))
        .limit(LOOKED_AT_PER_TRANSACTION)
        .load(connection)?;
    let Some(Portion { last, bytes, .. }) = Portion::of(next) else { return Ok(None) };
    let some = idempotency::table.filter(idempotency::position.gt(after).and(idempotency::position.le(last)));
    diesel::update(some.filter(idempotency::collection.eq(collection)))
        .set((idempotency::answer.eq(None::<String>), idempotency::fingerprint.eq(&[][..] as &[u8])))
        .execute(connection)?;
    answer_room::note_texts(connection, -bytes)?;
    Ok(Some(last))
}

statement! {
    /// The fingerprint of a small body would tell the body to whoever tries some.
    struct OverwriteAnswers<'a> {
        "UPDATE idempotency SET answer = NULL, fingerprint = " nothing: &'a [u8] as Binary,
        " WHERE position > " after: i64 as BigInt,
        " AND position <= " to: i64 as BigInt,
        " AND collection = " collection: &'a str as Text,
        " AND aggregate = " key: &'a str as Text,
    }
}

/// Reads every answer.
pub(super) fn verify(connection: &mut AnyConnection) -> Result<Verified, StoreError> {
    let mut verified = Verified::new("answers");
    let current = horizon(connection)?.current;
    let query = idempotency::table.order(idempotency::position).select((idempotency::position, idempotency::answer));
    let counted: i64 = metadata::table.select(metadata::answer_bytes).first(connection)?;
    let (mut number, mut bytes) = (0_u64, 0);
    let mut look = |row: QueryResult<(i64, Option<String>)>| {
        let (position, answer) = row?;
        number += 1;
        bytes += answer.as_deref().map_or(0, str::len);
        match answer.as_deref().map(Answer::from_text) {
            None => {}
            Some(Err(error)) => verified.add(format!("{position}: {error}")),
            Some(Ok(Answer { revision, .. })) if revision > current => {
                verified.add(format!("{position}: it is of revision {revision}, which is after the last one"));
            }
            Some(Ok(_)) => {}
        }
        Ok::<_, StoreError>(())
    };
    on!(connection, |engine, Mode| query.load_iter::<_, Mode>(engine)?.try_for_each(&mut look))?;
    if i64::try_from(bytes) != Ok(counted) {
        verified.add(format!("they have {bytes} bytes, but {counted} are counted"));
    }
    verified.looked_at = format!("{number} of commands with an idempotency key");
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_after_it_was_stored() {
        let executed = |body: Option<&str>, is_new| {
            Outcome::Executed(ExecutedCommand {
                key: Key::from_db("a \"b\""),
                body: body.map(|body| Body::from_db(body.to_owned())),
                changed: Revision::from_raw(6),
                version: Version::from_raw(3),
                is_new,
            })
        };
        let rejected = |headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let body = "{\"type\":\"x\"}".to_owned();
            Outcome::Rejected(ProblemDocument { status: 409, headers, shows_state: !body.is_empty(), body })
        };
        for outcome in [
            executed(Some("{\"text\":\"two\\nlines\"}"), true),
            executed(Some("{}"), false),
            executed(None, false),
            rejected(&[]),
            rejected(&[("etag", "\"4f9c21aa.8\"")]),
        ] {
            let answer = Answer { epoch: "4f9c21aa".parse().unwrap(), revision: Revision::from_raw(7), outcome };
            assert_eq!(Answer::from_text(&answer.to_text().unwrap()).unwrap(), answer);
        }
    }

    #[test]
    fn a_damaged_answer_is_an_error() {
        for text in [
            "",
            "{}",
            "{}\n{}",
            "{\"epoch\":\"?\",\"revision\":1,\"outcome\":{\"rejected\":{\"status\":409,\"headers\":[]}}}\n",
        ] {
            assert!(matches!(Answer::from_text(text), Err(StoreError::Corrupt(_))), "{text}");
        }
    }
}
