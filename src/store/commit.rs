//! The one transaction: what a batch of commands changes of state, outbox and counters, together or not at all.
//!
//! Deciding is pure, so a batch is staged in memory, where a later command sees what an earlier one did. A command that
//! is refused or panics stages nothing. Then each changed row is written once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use diesel::sqlite::SqliteConnection;

use super::StoreError;
use super::aggregates::{self, Row};
use super::metadata::Counters;
use super::outbox::{self, Change};
use crate::clock::Timestamp;
use crate::collection::{Body, CollectionId, Command, Refusal, Registry, guarded, patch};
use crate::cursor::Revision;
use crate::key::Key;

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Committed {
    /// One answer a command, in their order.
    pub(crate) answers: Vec<Result<Written, Refusal>>,
    /// The last revision, which is durable now.
    pub(crate) revision: Revision,
}

/// What became of a command.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) key: Key,
    /// The aggregate after it; `None` when it was deleted.
    pub(crate) body: Option<Body>,
    /// The revision that it made; the last one if it changed nothing.
    pub(crate) revision: Revision,
}

/// Does a batch, and gives the counters that it leaves.
pub(super) fn commit(
    connection: &mut SqliteConnection,
    registry: &Registry,
    counters: &Counters,
    commands: Vec<Command>,
    now: Timestamp,
) -> Result<(Committed, Counters), StoreError> {
    connection.immediate_transaction(|connection| {
        let mut batch = Batch::new(registry, counters.clone());
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            answers.push(batch.execute(connection, command)?);
        }
        batch.write(connection, counters, now)?;
        Ok((Committed { answers, revision: batch.counters.revision }, batch.counters))
    })
}

/// What a batch has decided so far.
pub(super) struct Batch<'a> {
    registry: &'a Registry,
    counters: Counters,
    rows: HashMap<(CollectionId, Key), Staged>,
    changes: Vec<Change>,
}

/// A row that the batch read, and perhaps changed.
struct Staged {
    row: Row,
    changed: bool,
}

/// The state of one aggregate before and after a command.
struct Step {
    collection: CollectionId,
    key: Key,
    before: Option<Body>,
    after: Option<Body>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(registry: &'a Registry, counters: Counters) -> Self {
        Self { registry, counters, rows: HashMap::new(), changes: Vec::new() }
    }

    /// Decides one command and stages its outcome. The outer error is the database's, the inner one the command's.
    fn execute(
        &mut self,
        connection: &mut SqliteConnection,
        command: Command,
    ) -> Result<Result<Written, Refusal>, StoreError> {
        let Command { collection, key, change } = command;
        let key = key.unwrap_or_else(|| self.counters.number(collection));
        let before = self.body(connection, collection, &key)?;
        let source = self.registry.get(collection);
        let after = match guarded(|| source.decide(before.as_ref(), &change)) {
            Ok(after) => after,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let source = Step { collection, key: key.clone(), before, after: after.clone() };
        let steps = match self.derive(connection, source)? {
            Ok(steps) => steps,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(self.stage(steps).map(|()| Written { key, body: after, revision: self.counters.revision }))
    }

    /// The change of a source, and what follows from it in the collections derived from it.
    fn derive(
        &mut self,
        connection: &mut SqliteConnection,
        source: Step,
    ) -> Result<Result<Vec<Step>, Refusal>, StoreError> {
        let registry = self.registry;
        let (before, after) = (source.before.clone(), source.after.clone());
        let mut steps = vec![source];
        for &collection in registry.derived_from(steps[0].collection) {
            let Some(derivation) = registry.get(collection).derivation() else { continue };
            let touched = match guarded(|| Ok(derivation.touched(before.as_ref(), after.as_ref())?)) {
                Ok(touched) => touched,
                Err(refusal) => return Ok(Err(refusal)),
            };
            for key in touched {
                let row = self.body(connection, collection, &key)?;
                match guarded(|| Ok(derivation.derive(&key, row.as_ref(), before.as_ref(), after.as_ref())?)) {
                    Ok(derived) => steps.push(Step { collection, key, before: row, after: derived }),
                    Err(refusal) => return Ok(Err(refusal)),
                }
            }
        }
        Ok(Ok(steps))
    }

    /// Gives the steps of one command their revision, if any of them changes something.
    fn stage(&mut self, steps: Vec<Step>) -> Result<(), Refusal> {
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
            let staged = self.rows.entry((collection, key.clone())).or_insert_with(Staged::absent);
            staged.row.revision = revision;
            staged.row.body = after;
            staged.changed = true;
            self.changes.push(Change { revision, collection, key, patch });
        }
        Ok(())
    }

    /// The aggregate as the batch left it so far.
    fn body(
        &mut self,
        connection: &mut SqliteConnection,
        collection: CollectionId,
        key: &Key,
    ) -> Result<Option<Body>, StoreError> {
        Ok(match self.rows.entry((collection, key.clone())) {
            Entry::Occupied(staged) => staged.get().row.body.clone(),
            Entry::Vacant(vacant) => {
                let row = aggregates::load(connection, self.registry.get(collection).name(), key)?;
                let staged = row.map_or_else(Staged::absent, |row| Staged { row, changed: false });
                vacant.insert(staged).row.body.clone()
            }
        })
    }

    /// Writes what was staged.
    fn write(&self, connection: &mut SqliteConnection, before: &Counters, now: Timestamp) -> Result<(), StoreError> {
        for ((collection, key), staged) in self.rows.iter().filter(|(_, staged)| staged.changed) {
            aggregates::save(connection, self.registry.get(*collection).name(), key, &staged.row, now)?;
        }
        for change in &self.changes {
            outbox::append(connection, self.registry, change, now)?;
        }
        self.counters.save(before, connection, self.registry)
    }
}

impl Staged {
    fn absent() -> Self {
        Self { row: Row { revision: Revision::ZERO, version: 0, body: None }, changed: false }
    }
}
