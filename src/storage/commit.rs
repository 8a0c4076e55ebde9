//! The one transaction: all changes of a batch of commands to states, journal, outbox and counters, or none of them.
//!
//! Deciding has no side effects. So a batch is staged in memory, where a command sees the results of the commands before
//! it, and a command that is rejected or panics stages nothing. Afterwards each changed row is written once.

use std::sync::Arc;
use std::vec;

use super::aggregates::{self, Row, SavedRow};
use super::answer_room::{self, AnswerLimit, StoredAnswers};
use super::answers::{self, Answer, ExecutedCommand, NewAnswer, Outcome, Repeated};
use super::batch_memory::BatchMemory;
use super::commit_outcome::{CommitOutcome, Committable, KeptAnswers, Written};
use super::counters::Counters;
use super::engine::AnyConnection;
use super::erasure;
use super::error::{ReadError, StoreError};
use super::execute_error::{ExecuteError, reject_corrupt};
use super::fence::Fence;
use super::hot_states::{HotStates, Place};
use super::inline_projections;
use super::journal::{self, Entry};
use super::outbox::{self, Change};
use super::source::Source;
use super::staged_answers::StagedAnswers;
use super::staged_rows::{Slot, StagedRow, StagedRows};
use super::state_change::{NULL, PatchedState, StateChange, check_numbers, patched};
use crate::domain::body::{Body, CorruptState};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Journaled, Keys, Registry};
use crate::domain::command::{
    Change as Wanted, Command, CommandContext, Decision, Idempotency, Oversize, RecordedEvent, Rejection, catch_panic,
};
use crate::domain::idempotency::{Given, KeptRejection};
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::{Metadata, StoredMetadata};
use crate::domain::revision::{Epoch, Revision, Version};
use crate::memory::budget::MemoryBudget;
use crate::read_model::spec::ProjectionSpec;

/// What commands are executed with.
#[derive(Clone, Copy)]
pub(super) struct CommitContext<'a> {
    pub(super) registry: &'a Registry,
    pub(super) inline: &'a [ProjectionSpec],
    pub(super) fence: &'a Fence,
    /// The largest state that a command may result in, in bytes of JSON text.
    pub(super) max_aggregate: usize,
    pub(super) answer_limit: AnswerLimit,
    /// Answers that are stored before the batch.
    pub(super) stored: StoredAnswers,
    /// Of which a batch takes a part.
    pub(super) memory: &'a Arc<MemoryBudget>,
    pub(super) now: Timestamp,
}

/// A batch of commands that is to be executed.
pub(super) struct Batch<'a> {
    pub(super) context: CommitContext<'a>,
    pub(super) states: &'a mut HotStates,
    /// Those that are left when the batch has taken enough memory are not executed.
    pub(super) commands: &'a mut vec::IntoIter<Command>,
}

impl Batch<'_> {
    /// Executes commands within a transaction that follows on these counters, until there are no more or they have taken
    /// enough memory.
    pub(super) fn commit(self, connection: &mut AnyConnection, before: &Counters) -> Result<Committable, StoreError> {
        let mut staged = StagedBatch::new(self.context, before, self.states);
        staged.decide(&mut Source::Transaction(connection), self.commands)?;
        staged.write(connection, self.context)?;
        Ok(staged.into_committable())
    }

    /// Takes the commands that were executed, if that was done with copies of them.
    #[cfg(feature = "postgres")]
    pub(super) fn take_executed(&mut self, committable: Committable) -> Committable {
        self.commands.by_ref().take(committable.outcome.answers.len()).for_each(drop);
        committable
    }
}

/// The results of a batch so far.
pub(super) struct StagedBatch<'a> {
    pub(super) registry: &'a Registry,
    inline: &'a [ProjectionSpec],
    max_aggregate: usize,
    pub(super) now: Timestamp,
    /// Those on which the batch follows.
    pub(super) before: &'a Counters,
    pub(super) counters: Counters,
    pub(super) rows: StagedRows<'a>,
    pub(super) events: Vec<Entry>,
    pub(super) changes: Vec<Change>,
    /// One answer for each command that was executed.
    given: Vec<Result<Written, Rejection>>,
    pub(super) answers: StagedAnswers,
    kept: KeptAnswers,
    /// With the answers of the batch.
    pub(super) stored: StoredAnswers,
    answer_limit: AnswerLimit,
    /// The epoch in which this process writes.
    epoch: &'a Epoch,
    /// The aggregates that the batch erases, and the revisions.
    erased: Vec<(Place, Revision)>,
    memory: BatchMemory,
}

/// The batch before a command was staged.
struct Savepoint {
    counters: Counters,
    rows: Vec<(Slot, StagedRow)>,
    events: usize,
    changes: usize,
}

/// What a command results in.
struct Staging {
    /// That of its aggregate.
    slot: Slot,
    /// The change of a lost row, before the others.
    restored: Option<StateChange>,
    /// That of the aggregate, and those that follow from it.
    changes: Vec<StateChange>,
    events: Vec<RecordedEvent>,
    cause: Option<StoredMetadata>,
}

/// The change that makes a lost row what the journal says.
fn restored(slot: Slot, state: &Body) -> StateChange {
    StateChange { slot, before: None, after: Some(state.clone()) }
}

impl<'a> StagedBatch<'a> {
    pub(super) fn new(context: CommitContext<'a>, before: &'a Counters, states: &'a mut HotStates) -> Self {
        let CommitContext { registry, inline, fence, max_aggregate, answer_limit, stored, memory, now } = context;
        Self {
            registry,
            inline,
            max_aggregate,
            now,
            before,
            counters: before.clone(),
            rows: StagedRows::new(registry, states),
            events: Vec::new(),
            changes: Vec::new(),
            given: Vec::new(),
            answers: StagedAnswers::default(),
            kept: KeptAnswers::default(),
            stored,
            answer_limit,
            epoch: fence.epoch(),
            erased: Vec::new(),
            memory: BatchMemory::new(memory),
        }
    }

    /// Decides commands in their order, until there are no more or they have taken enough memory.
    pub(super) fn decide(
        &mut self,
        source: &mut Source<'_>,
        commands: impl Iterator<Item = Command>,
    ) -> Result<(), StoreError> {
        let expected = commands.size_hint().0;
        self.given.reserve(expected);
        self.rows.reserve(expected);
        for command in commands {
            match self.answer(source, command) {
                Ok(written) => self.given.push(Ok(written)),
                Err(ExecuteError::Rejected(rejection)) => self.given.push(Err(rejection)),
                Err(ExecuteError::Store(error)) => return Err(error),
                // The commands after it may miss more.
                #[cfg(feature = "postgres")]
                Err(ExecuteError::Missing) => {}
            }
            if self.memory.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is anything to write.
    #[cfg(feature = "postgres")]
    pub(super) fn has_changes(&self) -> bool {
        self.counters != *self.before || self.kept.kept > 0
    }

    /// What is true once the batch is committed.
    pub(super) fn into_committable(mut self) -> Committable {
        let outcome = CommitOutcome {
            answers: std::mem::take(&mut self.given),
            after: self.before.revision,
            revision: self.counters.revision,
            rows: self.rows.len() + self.events.len() + self.changes.len() + self.kept.kept,
            kept: self.kept,
            #[cfg(feature = "postgres")]
            has_changes: self.has_changes(),
            erased: self.erased.len(),
            position: self.counters.position,
            changed: self.counters.changed().collect(),
            charge: self.memory.keep(self.changes.iter().map(Change::weight).sum()),
            events: std::mem::take(&mut self.changes),
        };
        let stored = self.stored;
        Committable { outcome, counters: self.counters, stored, states: self.rows.into_states() }
    }

    /// Executes one command, unless it was answered before. Its answer is stored if it has an idempotency key.
    fn answer(&mut self, source: &mut Source<'_>, mut command: Command) -> Result<Written, ExecuteError> {
        let Some(idempotency) = command.idempotency.take() else { return self.execute(source, command) };
        if let Some(found) = self.answers.find(source, &idempotency.request)? {
            return self
                .repeat(found.repeated(&idempotency.fingerprint).map_err(|error| reject_corrupt(error.into()))?);
        }
        if !self.stored.has_room(self.answer_limit) {
            self.kept.without_room += 1;
            let full = answer_room::full(source.transaction()?, self.answer_limit, self.now)?;
            return Err(Rejection::AnswersFull(full).into());
        }
        let (collection, chosen) = (command.collection, command.key.clone());
        let executed = self.execute(source, command);
        let Idempotency { request, fingerprint, describe } = *idempotency;
        let (outcome, answer) = match executed {
            Ok(written) => (Outcome::Executed(written.stored()), Ok(written)),
            Err(ExecuteError::Rejected(rejection)) => {
                let problem = catch_panic(|| describe(rejection))?;
                (Outcome::Rejected(problem.clone()), Err(problem))
            }
            Err(error) => return Err(error),
        };
        let (epoch, revision) = (self.epoch.clone(), self.counters.revision);
        let aggregate = answer.as_ref().map_or(chosen, |written| Some(written.key.clone()));
        let text = Answer { epoch: epoch.clone(), revision, outcome }.to_text()?;
        self.stored.add(text.len());
        self.memory.hold(text.len());
        self.answers.add(NewAnswer { request, fingerprint, collection, aggregate, text });
        self.kept.kept += 1;
        answer.map_err(|problem| {
            let kept = KeptRejection { problem, revision, epoch, given: Given::First };
            Rejection::Kept(Box::new(kept)).into()
        })
    }

    /// The answer to a command that was sent before.
    fn repeat(&mut self, repeated: Repeated) -> Result<Written, ExecuteError> {
        let Answer { epoch, revision, outcome } = match repeated {
            Repeated::Answer(answer) => answer,
            Repeated::OtherBody => {
                self.kept.refused += 1;
                return Err(Rejection::KeyReused.into());
            }
            Repeated::Erased => return Err(Rejection::AnswerErased.into()),
        };
        self.kept.repeated += 1;
        match outcome {
            Outcome::Executed(ExecutedCommand { key, body, changed, version, is_new }) => {
                let charge = self.memory.answer(body.as_ref().map_or(0, Body::size));
                Ok(Written { key, body, revision, changed, version, is_new, repeats: Some(epoch), charge })
            }
            Outcome::Rejected(problem) => {
                let kept = KeptRejection { problem, revision, epoch, given: Given::Again };
                Err(Rejection::Kept(Box::new(kept)).into())
            }
        }
    }

    /// Decides one command, and stages its result.
    fn execute(&mut self, source: &mut Source<'_>, command: Command) -> Result<Written, ExecuteError> {
        let Command { collection: id, key, precondition, change, metadata, idempotency: _ } = command;
        let collection = self.registry.get(id);
        let now = self.now;
        if let (Some(key), Wanted::Erase) = (&key, &change) {
            return self.erase(source, id, key, &metadata);
        }
        let is_minted = key.is_none();
        let is_numbered = is_minted && collection.keys() == Keys::Sequence;
        let key = key.unwrap_or_else(|| if is_numbered { self.counters.next_key(id) } else { Key::uuid(now) });
        let is_unused = if is_numbered { collection.journaled().is_none() } else { is_minted };
        let place = (id, key.clone());
        let slot = if is_unused {
            // The database is not asked. This does not hold for numbers of a collection with a journal, which may have had
            // other keys in an earlier version of the program.
            self.rows.unused(place)
        } else {
            self.rows.load(source, &mut self.memory, place).map_err(reject_corrupt)?
        };
        let staged = &self.rows[slot];
        if staged.is_erased {
            return Err(Rejection::Erased.into());
        }
        let (state, is_lost) = (staged.state().cloned(), staged.folded.is_some());
        let (state, version) = (state.as_ref(), staged.row.version);
        if state.is_none() && change.creates() && !is_minted {
            collection.keys().check(&key).map_err(Rejection::Invalid)?;
        }
        let current = state.map(|_| staged.row.revision);
        if (current.is_some() || change.creates()) && !precondition.holds(current) {
            return Err(Rejection::PreconditionFailed(current).into());
        }
        let at = CommandContext { key: &key, version, now, metadata: &metadata, new_id: &|| Key::uuid(now) };
        let Decision { after, events } = self.decide_one(slot, at, state, change)?;
        // One that is gone already has no place to look at.
        let is_new = state.is_none() && after.is_some();
        let changes = self.with_derived(source, StateChange { slot, before: state.cloned(), after })?;
        // A lost row is restored by a revision of its own, so that the change of the command is exact for all clients:
        // for those that had seen the aggregate, and for those that had not.
        let restored = state.filter(|_| is_lost).map(|lost| restored(slot, lost));
        self.stage(source, Staging { slot, restored, changes, events, cause: metadata.stored() })?;
        if is_numbered {
            self.counters.use_key(id);
        }
        let Row { revision: changed, version, ref body } = self.rows[slot].row;
        let (body, revision) = (body.clone(), self.counters.revision);
        let charge = self.memory.answer(body.as_ref().map_or(0, Body::size));
        Ok(Written { key, body, revision, changed, version, is_new, repeats: None, charge })
    }

    /// Has one command decided. A state that is known as its type is not decoded again.
    fn decide_one(
        &mut self,
        slot: Slot,
        at: CommandContext<'_>,
        state: Option<&Body>,
        change: Wanted,
    ) -> Result<Decision, Rejection> {
        let id = self.rows.place(slot).0;
        let collection = self.registry.get(id);
        let (mut decoded, charge) = self.rows.take_decoded(slot, state).unzip();
        let decision = catch_panic(|| collection.decide(at, state, &mut decoded, change));
        let current = decision.as_ref().map_or(state, |decision| decision.after.as_ref());
        if let (Some(body), Some(state)) = (current, decoded) {
            self.rows.put_decoded(slot, body, state, charge);
        }
        let decision = decision?;
        self.check_size(id, state, decision.after.as_ref())?;
        Ok(decision)
    }

    /// Begins to erase an aggregate, also one whose state or events cannot be read: it does not exist any more, and nothing
    /// can create it again. What is left of it is overwritten by later transactions.
    ///
    /// Of a key without a row or events, the outbox, a stored answer or the history of a projection may still have something.
    /// So it is erased like any other, unless it is a number that was never given out: another aggregate will get that.
    fn erase(
        &mut self,
        source: &mut Source<'_>,
        id: CollectionId,
        key: &Key,
        metadata: &Metadata,
    ) -> Result<Written, ExecuteError> {
        let collection = self.registry.get(id);
        if collection.derivation().is_some() {
            return Err(Rejection::Derived.into());
        }
        let place = (id, key.clone());
        let connection = source.transaction()?;
        if let Some(known) = erasure::find(connection, collection.name(), key.as_str())?
            .map(|known| known.revision)
            .or_else(|| self.erased.iter().find(|(erased, _)| *erased == place).map(|(_, revision)| *revision))
        {
            return Ok(self.erased_at(key, known));
        }
        let known = self.rows.find(&place);
        let row = match known {
            Some(slot) => Some(self.rows[slot].row.clone()),
            None => aggregates::load(connection, collection.name(), key)?,
        };
        let version = erasure::last_version(connection, collection.name(), key.as_str())?;
        let row = row.filter(|row| row.revision != Revision::ZERO || row.version != Version::ZERO);
        let is_new = row.is_none() && version.is_none();
        // Numbers are the smallest keys, in their order.
        if is_new && collection.keys() == Keys::Sequence && *key >= self.counters.next_key(id) {
            return Err(Rejection::NotFound.into());
        }
        let version = version.unwrap_or(Version::ZERO);
        let row = row.unwrap_or_else(|| Row { version, ..StagedRow::absent().row });
        let slot = self.rows.unread(place);
        self.erase_row(source, slot, row, metadata).inspect_err(|_| {
            if known.is_none() {
                self.rows.forget(slot);
            }
        })?;
        Ok(Written { is_new, ..self.erased_at(key, self.counters.revision) })
    }

    /// Stages the erasure of an aggregate with this row.
    fn erase_row(
        &mut self,
        source: &mut Source<'_>,
        slot: Slot,
        row: Row,
        metadata: &Metadata,
    ) -> Result<(), ExecuteError> {
        let change = StateChange { slot, before: row.body.clone(), after: None };
        let changes = self.with_derived(source, change)?;
        let savepoint = self.savepoint(&changes);
        let mut patched = patched(changes)?;
        if patched.first().is_none_or(|first| first.slot != slot) {
            // Who has missed the deletion, or counts on the tombstone, gets it again.
            patched.insert(0, PatchedState { slot, after: None, patch: NULL.to_owned() });
        }
        self.rows[slot].row = row;
        self.stage_patched(patched, metadata.stored().as_ref());
        self.rows[slot].is_erased = true;
        // The projections of the aggregate itself follow when its past is overwritten.
        let derived = Savepoint { changes: savepoint.changes + 1, ..savepoint };
        if let Err(error) = self.project(source, &derived) {
            self.roll_back(Savepoint { changes: derived.changes - 1, ..derived });
            return Err(error);
        }
        self.rows.forget_state(slot);
        self.erased.push((self.rows.place(slot).clone(), self.counters.revision));
        Ok(())
    }

    fn erased_at(&mut self, key: &Key, revision: Revision) -> Written {
        let charge = self.memory.answer(0);
        let version = Version::ZERO;
        Written {
            key: key.clone(),
            body: None,
            revision,
            changed: revision,
            version,
            is_new: false,
            repeats: None,
            charge,
        }
    }

    /// A state may be too large if it is no larger than it was: it has to be possible to make one smaller step by step.
    fn check_size(
        &self,
        collection: CollectionId,
        before: Option<&Body>,
        after: Option<&Body>,
    ) -> Result<(), Rejection> {
        let size = |body: Option<&Body>| body.map_or(0, Body::size);
        let limit = self.max_aggregate;
        if size(after) <= limit.max(size(before)) {
            return Ok(());
        }
        let remedy = self.registry.get(collection).remedy();
        Err(Rejection::TooLarge(Oversize { size: size(after), limit, remedy }))
    }

    /// The change of a source, and the changes that follow from it in its derived collections.
    fn with_derived(
        &mut self,
        source: &mut Source<'_>,
        decided: StateChange,
    ) -> Result<Vec<StateChange>, ExecuteError> {
        let registry = self.registry;
        let derived = registry.derived_from(self.rows.place(decided.slot).0);
        if derived.is_empty() {
            return Ok(vec![decided]);
        }
        let mut changes = Vec::with_capacity(1 + derived.len());
        let (before, after) = (decided.before.clone(), decided.after.clone());
        changes.push(decided);
        for &collection in derived {
            let Some(derivation) = registry.get(collection).derivation() else { continue };
            let change = catch_panic(|| Ok(derivation.follow(before.as_ref(), after.as_ref())?))?;
            for key in change.touched() {
                let slot = match self.rows.load(source, &mut self.memory, (collection, key.clone())) {
                    Ok(slot) => slot,
                    Err(ReadError::Store(error)) => return Err(error.into()),
                    // The commands after this one have to see its change, so that all that is missing gets known at once.
                    #[cfg(feature = "postgres")]
                    Err(ReadError::Missing) => continue,
                };
                let before = self.rows[slot].row.body.clone();
                let after = catch_panic(|| Ok(change.derive(&key, before.as_ref())?))?;
                self.memory.hold(after.as_ref().map_or(0, Body::size));
                changes.push(StateChange { slot, before, after });
            }
        }
        Ok(changes)
    }

    /// Stages what a command results in, if all of it can be published: the changes as one revision, unless they change
    /// nothing.
    fn stage(&mut self, source: &mut Source<'_>, staging: Staging) -> Result<(), ExecuteError> {
        let Staging { slot, restored, changes, events, cause } = staging;
        // Nothing but an inline projection fails after something is staged.
        let savepoint = (!self.inline.is_empty()).then(|| self.savepoint(&changes));
        let restored = restored.map(|change| patched(vec![change])).transpose()?;
        let patched = patched(changes)?;
        check_numbers(&self.rows, slot, &patched, &events)?;
        for revision in restored.into_iter().chain([patched]) {
            if !revision.is_empty() {
                self.stage_patched(revision, cause.as_ref());
            }
        }
        self.stage_events(slot, events, cause.as_ref());
        let Some(savepoint) = savepoint else { return Ok(()) };
        self.project(source, &savepoint).inspect_err(|_| self.roll_back(savepoint))
    }

    /// Stages changes with their patches as one revision. What follows in derived collections has no metadata of its own,
    /// so that none is left when the aggregate is erased from which it follows.
    fn stage_patched(&mut self, patched: Vec<PatchedState>, metadata: Option<&StoredMetadata>) {
        let revision = self.counters.next_revision();
        for PatchedState { slot, after, patch } in patched {
            let staged = &mut self.rows[slot];
            staged.row.revision = revision;
            staged.row.body = after;
            staged.folded = None;
            staged.is_changed = true;
            let (collection, key) = self.rows.place(slot).clone();
            self.counters.change(collection);
            let metadata = metadata.filter(|_| self.registry.get(collection).derivation().is_none()).cloned();
            let change = Change { revision, collection, key, patch, time: self.now, metadata };
            self.memory.hold(change.weight());
            self.changes.push(change);
        }
    }

    /// Stages the domain events of one command, with their versions and positions.
    fn stage_events(&mut self, slot: Slot, events: Vec<RecordedEvent>, metadata: Option<&StoredMetadata>) {
        if events.is_empty() {
            return;
        }
        let (collection, key) = self.rows.place(slot).clone();
        let schema = self.registry.get(collection).journaled().map_or(0, Journaled::schema);
        let staged = &mut self.rows[slot];
        for event in events {
            let position = self.counters.next_position();
            let version = staged.row.version.next();
            staged.row.version = version;
            staged.is_changed = true;
            let (key, time, metadata) = (key.clone(), self.now, metadata.cloned());
            let entry = Entry { position, collection, key, version, schema, event, time, metadata, is_erased: false };
            self.memory.hold(entry.weight());
            self.events.push(entry);
        }
    }

    /// Applies what was staged since a savepoint to the inline projections.
    fn project(&self, source: &mut Source<'_>, since: &Savepoint) -> Result<(), ExecuteError> {
        if self.inline.is_empty() {
            return Ok(());
        }
        let connection = source.transaction()?;
        let events = &self.events[since.events..];
        let changes = &self.changes[since.changes..];
        inline_projections::project(connection, self.registry, self.inline, events, changes).map_err(|error| {
            // With a full disk or an I/O error, SQLite may have rolled back the whole transaction, and every command of
            // the batch would fail in the same way.
            match inline_projections::failure_of_batch(connection, &error) {
                Some(error) => ExecuteError::Store(error),
                None => Rejection::Corrupt(CorruptState::new(error.to_string())).into(),
            }
        })
    }

    /// Remembers the batch before the changes of a command are staged.
    fn savepoint(&self, changes: &[StateChange]) -> Savepoint {
        Savepoint {
            counters: self.counters.clone(),
            rows: changes.iter().map(|change| (change.slot, self.rows[change.slot].clone())).collect(),
            events: self.events.len(),
            changes: self.changes.len(),
        }
    }

    /// Removes what was staged since a savepoint.
    fn roll_back(&mut self, savepoint: Savepoint) {
        self.counters = savepoint.counters;
        self.events.truncate(savepoint.events);
        self.changes.truncate(savepoint.changes);
        for (slot, staged) in savepoint.rows {
            self.rows[slot] = staged;
        }
    }

    /// Writes what was staged.
    fn write(&self, connection: &mut AnyConnection, context: CommitContext<'_>) -> Result<(), StoreError> {
        let changed = self.rows.iter().filter(|(_, staged)| staged.must_be_written());
        let saved = changed.map(|((collection, key), StagedRow { row, is_unused, .. })| SavedRow {
            collection: self.registry.get(*collection).name(),
            key,
            row,
            is_unused: *is_unused,
        });
        aggregates::save(connection, saved, self.now)?;
        journal::append(connection, self.registry, &self.events)?;
        outbox::append(connection, self.registry, &self.changes)?;
        for ((collection, key), revision) in &self.erased {
            erasure::begin(connection, self.registry.get(*collection).name(), key, *revision)?;
        }
        for answer in self.answers.iter() {
            answers::keep(connection, self.registry, answer, self.now)?;
        }
        if self.kept.kept > 0 {
            answer_room::note_texts(connection, self.stored.texts - context.stored.texts)?;
        }
        context.fence.save(connection, self.before, &self.counters)?;
        self.counters.save_collections(self.before, connection, self.registry)
    }
}
