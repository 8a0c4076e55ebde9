//! Batches that are decided from what is known of the record, and written by one statement if that is still true.
//!
//! Neither a transaction nor a lock is open while a batch is decided, unless others have written meanwhile: then it is done
//! again beside nobody else. What it reads beyond what is known is fetched by one statement, and it is decided again: so the
//! number of statements does not depend on the number of commands.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::batch::{self, Fenced, Tokens};
use super::prefetch::{self, Prefetched};
use super::schema::metadata;
use super::token::Token;
use crate::domain::collection::Registry;
use crate::domain::command::Command;
use crate::domain::history::History;
use crate::memory::budget::MemoryBudget;
use crate::storage::answer_room::StoredAnswers;
use crate::storage::commit::{Batch, CommitContext, StagedBatch};
use crate::storage::commit_outcome::Committable;
use crate::storage::counters::Counters;
use crate::storage::database::Place;
use crate::storage::error::StoreError;
use crate::storage::fetched::{Fetched, Missing};
use crate::storage::hot_states;
use crate::storage::row_cache::Aggregate;
use crate::storage::source::Source;

/// How often a batch is decided before it is left to a transaction. Three times are enough, unless the record changes
/// meanwhile: without the aggregates with new numbers, without those that are derived, and with all.
const DECISIONS: usize = 5;

/// The record as of one token.
pub(super) struct Known {
    pub(super) token: Token,
    pub(super) counters: Counters,
    pub(super) stored: StoredAnswers,
}

/// What is known of the record.
pub(super) struct FencedRecord {
    place: Arc<Place>,
    history: Arc<History>,
    /// `None` if nothing is known: then what was fetched before is forgotten when something is fetched.
    known: Option<Known>,
    fetched: Fetched,
    /// The derived aggregates that the last attempt has read, if it missed: they are going to be read again.
    again: Vec<hot_states::Place>,
}

/// What became of a batch.
pub(super) enum Attempt {
    Done(Committable),
    /// Nothing was written, and the commands are as they were: the batch needs a transaction, or the record has changed.
    Refused,
    /// It is to be asked for, by the token that the batch would leave. The commands are as they were.
    Unknown {
        token: Token,
        committable: Committable,
        cause: StoreError,
    },
}

/// Since when what a batch was decided from is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// It was read after the batch began.
    Fresh,
    /// Of a batch before.
    Old,
}

impl FencedRecord {
    pub(super) fn new(place: &Arc<Place>, history: &Arc<History>, memory: &Arc<MemoryBudget>) -> Self {
        let (place, history) = (Arc::clone(place), Arc::clone(history));
        Self { place, history, known: None, fetched: Fetched::new(memory), again: Vec::new() }
    }

    /// The record has changed, or may have.
    pub(super) fn forget(&mut self) {
        self.known = None;
        self.fetched.forget();
    }

    /// Nothing but this is known: the record as a transaction has left it.
    pub(super) fn know(&mut self, known: Known) {
        self.fetched.forget();
        self.known = Some(known);
    }

    /// The token of the record, if that is known.
    pub(super) fn token(&self) -> Option<Token> {
        self.known.as_ref().map(|known| known.token)
    }

    /// Decides a batch, and writes it if nothing has changed since. Its commands are taken only if that is done.
    pub(super) fn commit(
        &mut self,
        connection: &mut PgConnection,
        batch: &mut Batch<'_>,
    ) -> Result<Attempt, StoreError> {
        let registry = batch.context.registry;
        let mut known = self.known.take();
        let mut knowledge = Knowledge::Old;
        self.fetched.begin(batch.commands.as_slice(), self.again.drain(..));
        for _ in 0..DECISIONS {
            let record = match known.take() {
                Some(record) if self.fetched.missing.is_empty() => record,
                before => {
                    knowledge = Knowledge::Fresh;
                    self.fetch(connection, registry, before)?
                }
            };
            let Some(commands) = copies(batch.commands.as_slice(), registry) else { break };
            let context = CommitContext { stored: record.stored, ..batch.context };
            let mut staged = StagedBatch::new(context, &record.counters, batch.states);
            let source = &mut Source::Fetched(&mut self.fetched);
            let decided = catch_unwind(AssertUnwindSafe(|| staged.decide(source, commands.into_iter())));
            decided.unwrap_or(Err(StoreError::Panicked))?;
            match self.fetched.missing {
                Missing { needs_transaction: true, .. } => break,
                ref missing if !missing.is_empty() => known = Some(record),
                _ => {
                    let attempt = self.write(connection, staged, &record, knowledge)?;
                    return Ok(self.finish(attempt, record, batch));
                }
            }
        }
        Ok(Attempt::Refused)
    }

    /// Fetches what is missing, with the counters.
    fn fetch(
        &mut self,
        connection: &mut PgConnection,
        registry: &Registry,
        before: Option<Known>,
    ) -> Result<Known, StoreError> {
        let seen = prefetch::load(connection, registry, &self.fetched.missing)?;
        let Prefetched { token, epoch, is_in_place, counters, stored, aggregates, answers } = seen;
        if epoch != self.history.epoch().as_str() || !is_in_place {
            return Err(self.place.report_other_history());
        }
        if before.is_none_or(|before| before.token != token) {
            self.fetched.forget();
        }
        self.fetched.add(aggregates, answers);
        Ok(Known { token, counters, stored })
    }

    /// Writes a batch. One that changes nothing was decided from what was true when it began, or is compared with what is.
    fn write(
        &mut self,
        connection: &mut PgConnection,
        staged: StagedBatch<'_>,
        record: &Known,
        knowledge: Knowledge,
    ) -> Result<Attempt, StoreError> {
        if !staged.has_changes() {
            let is_true = knowledge == Knowledge::Fresh || is_current(connection, record.token)?;
            return Ok(if is_true { Attempt::Done(staged.into_committable()) } else { Attempt::Refused });
        }
        let tokens = Tokens { known: record.token, new: Token::random()? };
        Ok(match batch::write(connection, &staged, record.stored, tokens) {
            Ok(Fenced::Written) => {
                self.write_through(&staged);
                let committable = staged.into_committable();
                let (counters, stored) = (committable.counters.clone(), committable.stored);
                self.known = Some(Known { token: tokens.new, counters, stored });
                Attempt::Done(committable)
            }
            Ok(Fenced::Missed) => {
                let is_derived =
                    |(collection, _): &&hot_states::Place| staged.registry.get(*collection).derivation().is_some();
                self.again = staged.rows.iter().map(|(place, _)| place).filter(is_derived).cloned().collect();
                Attempt::Refused
            }
            Err(cause) => Attempt::Unknown { token: tokens.new, committable: staged.into_committable(), cause },
        })
    }

    /// Keeps the rows that a batch has written.
    fn write_through(&mut self, batch: &StagedBatch<'_>) {
        for (place, staged) in batch.rows.iter().filter(|(_, staged)| staged.is_changed) {
            // An aggregate that was never published has only events.
            let row = staged.must_be_written().then(|| staged.row.clone());
            self.fetched.keep(place.clone(), Aggregate { has_events: row.is_none(), row, is_erased: false });
        }
    }

    /// Takes the commands of a batch that is done.
    fn finish(&mut self, attempt: Attempt, record: Known, batch: &mut Batch<'_>) -> Attempt {
        let Attempt::Done(committable) = attempt else { return attempt };
        if self.known.is_none() {
            // It has changed nothing.
            self.known = Some(record);
        }
        Attempt::Done(batch.take_executed(committable))
    }
}

/// Whether the record still has this token.
fn is_current(connection: &mut PgConnection, token: Token) -> Result<bool, StoreError> {
    let rows: i64 = metadata::table.filter(metadata::token.eq(token.as_bytes())).count().get_result(connection)?;
    Ok(rows == 1)
}

/// Copies of commands, to be decided. `None` if one of them cannot be copied.
fn copies(commands: &[Command], registry: &Registry) -> Option<Vec<Command>> {
    let copy = |command: &Command| command.copy(|typed| registry.get(command.collection).copy(typed));
    commands.iter().map(copy).collect()
}
