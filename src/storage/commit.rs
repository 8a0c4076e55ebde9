//! The one transaction: what a batch of commands changes of state, journal, outbox and counters, together or
//! not at all.
//!
//! Deciding is pure, so a batch is staged in memory, where a later command sees what an earlier one did. A command that
//! is refused or panics stages nothing. Then each changed row is written once.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use diesel::sqlite::SqliteConnection;

use super::aggregates::{self, Row};
use super::counters::Counters;
use super::error::StoreError;
use super::inline_projections;
use super::journal::{self, Entry, Folded};
use super::outbox::{self, Change};
use crate::domain::body::{Body, CorruptState, patch};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Journaled, Keys, Registry};
use crate::domain::command::{Command, CommandContext, Decision, RecordedEvent, Rejection, catch_panic};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::{JournalPosition, Revision, Version};
use crate::read_model::spec::ProjectionSpec;

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Committed {
    /// One answer a command, in their order.
    pub(crate) answers: Vec<Result<Written, Rejection>>,
    /// The last revision before it …
    pub(crate) after: Revision,
    /// … and the last revision now, which is durable.
    pub(crate) revision: Revision,
    /// The change events of the revisions between.
    pub(crate) events: Vec<Change>,
    /// The last position of the journal, which is durable now.
    pub(crate) position: JournalPosition,
    /// For each collection, the revision of its last change.
    pub(crate) changed: Vec<Revision>,
}

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: Key,
    /// The aggregate after it; `None` when it is gone.
    pub(crate) body: Option<Body>,
    /// The revision that it made; the last one if it changed nothing.
    pub(crate) revision: Revision,
    /// The revision of the aggregate's last change.
    pub(crate) changed: Revision,
    /// The number of domain events of the aggregate.
    pub(crate) version: Version,
    /// Whether the aggregate was not there before.
    pub(crate) is_new: bool,
}

/// Does a batch, and gives the counters that it leaves.
pub(super) fn commit(
    connection: &mut SqliteConnection,
    (registry, inline): (&Registry, &[ProjectionSpec]),
    counters: &Counters,
    commands: Vec<Command>,
    now: Timestamp,
) -> Result<(Committed, Counters), StoreError> {
    connection.immediate_transaction(|connection| {
        let mut batch = Batch::new(registry, inline, counters.clone(), now);
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            answers.push(batch.execute(connection, command)?);
        }
        batch.write(connection, counters)?;
        let (revision, position) = (batch.counters.revision, batch.counters.position);
        let changed = batch.counters.changed().collect();
        let (after, events) = (counters.revision, batch.changes);
        Ok((Committed { answers, after, revision, events, position, changed }, batch.counters))
    })
}

/// What a batch has decided so far.
pub(super) struct Batch<'a> {
    registry: &'a Registry,
    inline: &'a [ProjectionSpec],
    now: Timestamp,
    counters: Counters,
    rows: HashMap<(CollectionId, Key), Staged>,
    events: Vec<Entry>,
    changes: Vec<Change>,
}

/// A row that the batch read, and perhaps changed.
#[derive(Clone)]
struct Staged {
    row: Row,
    /// The state, where the row that caches it is missing.
    folded: Option<Body>,
    changed: bool,
}

/// What a batch was before a command was staged.
struct Mark {
    counters: Counters,
    rows: Vec<((CollectionId, Key), Option<Staged>)>,
    events: usize,
    changes: usize,
}

/// The state of one aggregate before and after a command, as it is published.
struct Step {
    collection: CollectionId,
    key: Key,
    before: Option<Body>,
    after: Option<Body>,
}

impl<'a> Batch<'a> {
    fn new(registry: &'a Registry, inline: &'a [ProjectionSpec], counters: Counters, now: Timestamp) -> Self {
        Self { registry, inline, now, counters, rows: HashMap::new(), events: Vec::new(), changes: Vec::new() }
    }

    /// Decides one command and stages its outcome. The outer error is the database's, the inner one the command's.
    fn execute(
        &mut self,
        connection: &mut SqliteConnection,
        command: Command,
    ) -> Result<Result<Written, Rejection>, StoreError> {
        let Command { collection: id, key, precondition, change } = command;
        let (collection, now) = (self.registry.get(id), self.now);
        let is_numbered = key.is_none() && collection.keys() == Keys::Sequence;
        if let (Some(chosen), true) = (&key, change.creates())
            && let Err(invalid) = collection.keys().check(chosen)
        {
            return Ok(Err(Rejection::Invalid(invalid)));
        }
        let key = key.unwrap_or_else(|| if is_numbered { self.counters.next_key(id) } else { Key::uuid(now) });
        // A collection of events may have had keys of another kind before.
        let is_first = is_numbered && collection.journaled().is_none();
        let loaded = if is_first { Ok(self.first(id, &key)) } else { self.load(connection, id, &key) };
        let Staged { row, folded, .. } = match loaded {
            // One aggregate that cannot be read is not the end of the batch.
            Err(StoreError::Corrupt(why)) => return Ok(Err(Rejection::Corrupt(CorruptState::new(why)))),
            loaded => loaded?,
        };
        let state = row.body.as_ref().or(folded.as_ref());
        let current = state.map(|_| row.revision);
        if (current.is_some() || change.creates()) && !precondition.holds(current) {
            return Ok(Err(Rejection::PreconditionFailed(current)));
        }
        let context = CommandContext { key: &key, version: row.version, now, new_id: &|| Key::uuid(now) };
        let Decision { after, events } = match catch_panic(|| collection.decide(context, state, change)) {
            Ok(decision) => decision,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let is_new = state.is_none();
        let step = Step { collection: id, key: key.clone(), before: state.cloned(), after };
        let steps = match self.derive(connection, step)? {
            Ok(steps) => steps,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // A lost row comes back as a revision of its own: its change is exact for who saw the aggregate and who did not.
        let lost =
            folded.map(|after| vec![Step { collection: id, key: key.clone(), before: None, after: Some(after) }]);
        let mark = self.mark(&steps);
        let staged = lost.into_iter().chain([steps]).try_for_each(|steps| self.stage(steps));
        let projected = staged.and_then(|()| {
            self.record(id, &key, events);
            self.project(connection, &mark)
        });
        if let Err(refusal) = projected {
            self.undo(mark);
            return Ok(Err(refusal));
        }
        if is_numbered {
            self.counters.use_key(id);
        }
        let Staged { row, .. } = self.load(connection, id, &key)?;
        let (revision, changed) = (self.counters.revision, row.revision);
        Ok(Ok(Written { key, body: row.body, revision, changed, version: row.version, is_new }))
    }

    /// The change of a source, and what follows from it in the collections derived from it.
    fn derive(
        &mut self,
        connection: &mut SqliteConnection,
        source: Step,
    ) -> Result<Result<Vec<Step>, Rejection>, StoreError> {
        let registry = self.registry;
        let (before, after) = (source.before.clone(), source.after.clone());
        let mut steps = vec![source];
        for &collection in registry.derived_from(steps[0].collection) {
            let Some(derivation) = registry.get(collection).derivation() else { continue };
            let touched = match catch_panic(|| Ok(derivation.touched(before.as_ref(), after.as_ref())?)) {
                Ok(touched) => touched,
                Err(refusal) => return Ok(Err(refusal)),
            };
            for key in touched {
                let row = self.load(connection, collection, &key)?.row.body;
                match catch_panic(|| Ok(derivation.derive(&key, row.as_ref(), before.as_ref(), after.as_ref())?)) {
                    Ok(derived) => steps.push(Step { collection, key, before: row, after: derived }),
                    Err(refusal) => return Ok(Err(refusal)),
                }
            }
        }
        Ok(Ok(steps))
    }

    /// Gives the steps of one command their revision, if any of them changes something.
    fn stage(&mut self, steps: Vec<Step>) -> Result<(), Rejection> {
        let mut changes = Vec::with_capacity(steps.len());
        for step in steps {
            if let Some(patch) = patch(step.before.as_ref(), step.after.as_ref())? {
                changes.push((step, patch));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let revision = self.counters.revise();
        for (Step { collection, key, after, .. }, patch) in changes {
            self.counters.change(collection);
            let staged = self.rows.entry((collection, key.clone())).or_insert_with(Staged::absent);
            staged.row.revision = revision;
            staged.row.body = after;
            staged.folded = None;
            staged.changed = true;
            self.changes.push(Change { revision, collection, key, patch, time: self.now });
        }
        Ok(())
    }

    /// Gives the domain events of one command their versions and their positions.
    fn record(&mut self, collection: CollectionId, key: &Key, events: Vec<RecordedEvent>) {
        let schema = self.registry.get(collection).journaled().map_or(0, Journaled::schema);
        let staged = self.rows.entry((collection, key.clone())).or_insert_with(Staged::absent);
        for event in events {
            let (position, version) = (self.counters.place(), staged.row.version.next());
            staged.row.version = version;
            staged.changed = true;
            self.events.push(Entry { position, collection, key: key.clone(), version, schema, event, time: self.now });
        }
    }

    /// Where the batch stands, before the steps of a command are staged.
    fn mark(&self, steps: &[Step]) -> Mark {
        let place = |step: &Step| (step.collection, step.key.clone());
        Mark {
            counters: self.counters.clone(),
            rows: steps.iter().map(|step| (place(step), self.rows.get(&place(step)).cloned())).collect(),
            events: self.events.len(),
            changes: self.changes.len(),
        }
    }

    /// Has the inline projections take what was staged since, in a savepoint.
    fn project(&self, connection: &mut SqliteConnection, since: &Mark) -> Result<(), Rejection> {
        if self.inline.is_empty() {
            return Ok(());
        }
        let (events, changes) = (&self.events[since.events..], &self.changes[since.changes..]);
        inline_projections::project(connection, self.registry, self.inline, events, changes)
            .map_err(|error| Rejection::Corrupt(CorruptState::new(error.to_string())))
    }

    /// Forgets what was staged since.
    fn undo(&mut self, mark: Mark) {
        self.counters = mark.counters;
        self.events.truncate(mark.events);
        self.changes.truncate(mark.changes);
        for (place, staged) in mark.rows {
            match staged {
                Some(staged) => drop(self.rows.insert(place, staged)),
                None => drop(self.rows.remove(&place)),
            }
        }
    }

    /// An aggregate under a number that was never given before: nothing is looked for.
    fn first(&mut self, id: CollectionId, key: &Key) -> Staged {
        self.rows.entry((id, key.clone())).or_insert_with(Staged::absent).clone()
    }

    /// The aggregate as the batch left it so far.
    fn load(&mut self, connection: &mut SqliteConnection, id: CollectionId, key: &Key) -> Result<Staged, StoreError> {
        let vacant = match self.rows.entry((id, key.clone())) {
            Place::Occupied(staged) => return Ok(staged.get().clone()),
            Place::Vacant(vacant) => vacant,
        };
        let collection = self.registry.get(id);
        let mut staged = Staged::absent();
        if let Some(row) = aggregates::load(connection, collection.name(), key)? {
            staged.row = row;
        } else if let Some(journaled) = collection.journaled() {
            // The row is a cache: of one that never was, or was deleted so long ago that it is forgotten, or was lost.
            let Folded { body, version, .. } = journal::fold(connection, (collection.name(), journaled), key, None)?;
            (staged.row.version, staged.folded) = (version, body);
        }
        Ok(vacant.insert(staged).clone())
    }

    /// Writes what was staged.
    fn write(&self, connection: &mut SqliteConnection, before: &Counters) -> Result<(), StoreError> {
        for ((collection, key), staged) in self.rows.iter().filter(|(_, staged)| staged.is_to_be_written()) {
            aggregates::save(connection, self.registry.get(*collection).name(), key, &staged.row, self.now)?;
        }
        for event in &self.events {
            journal::append(connection, self.registry, event)?;
        }
        for change in &self.changes {
            outbox::append(connection, self.registry, change)?;
        }
        self.counters.save(before, connection, self.registry)
    }
}

impl Staged {
    fn absent() -> Self {
        let row = Row { revision: Revision::ZERO, version: Version::ZERO, body: None };
        Self { row, folded: None, changed: false }
    }

    /// One that was never published has no row, whatever happened to it.
    fn is_to_be_written(&self) -> bool {
        self.changed && self.row.revision != Revision::ZERO
    }
}
