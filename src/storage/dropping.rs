//! Collections that are dropped: one write that takes the collection out of the document, and then the removal of all that is
//! left of it, in steps that each are a transaction.
//!
//! Only a program that does not register the collection does this, so nobody reads what is being removed. The database has how
//! far that is, so the next task or the next start goes on with it.

use std::path::Path;

use diesel::prelude::*;

use super::counters::{horizon, save_revision};
use super::drop_command::drop_command;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::page::Progress;
use super::schema::{collections, dropped, metadata, upgrades};
use super::{aggregates, answers, erasure, journal, outbox};
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::revision::Revision;

/// What becomes of the domain events of a collection that is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeptJournal {
    /// All of them stay. A program that registers the collection again gets its aggregates back.
    Kept,
    /// They keep their places, without a content.
    Erased,
}

/// What is to be removed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The change events up to the last one of the collection, those of others as well: none is missing between two that are there.
    Changes,
    /// The content of the domain events, after a position.
    Journal,
    /// The content of the answers to commands with an idempotency key, after a position.
    Answers,
    /// The aggregates, with their tombstones.
    Aggregates,
    Done,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Changes, Self::Journal, Self::Answers, Self::Aggregates, Self::Done];

    fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Journal => "journal",
            Self::Answers => "answers",
            Self::Aggregates => "aggregates",
            Self::Done => "done",
        }
    }

    fn read(name: &str) -> Result<Self, StoreError> {
        let found = Self::ALL.into_iter().find(|stage| stage.name() == name);
        found.ok_or_else(|| StoreError::Corrupt(format!("a collection that is dropped is in the stage {name:?}")))
    }

    fn next(self) -> Self {
        match self {
            Self::Changes => Self::Journal,
            Self::Journal => Self::Answers,
            Self::Answers => Self::Aggregates,
            Self::Aggregates | Self::Done => Self::Done,
        }
    }
}

/// A collection that was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub(crate) struct Dropped {
    pub(crate) collection: String,
    /// That of its change event.
    revision: i64,
    next_key: i64,
    keeps_journal: i32,
    stage: String,
    reached: i64,
}

impl Dropped {
    /// The revision that took it out of the document.
    pub(crate) fn revision(&self) -> Revision {
        Revision::from_raw(self.revision)
    }

    pub(crate) fn journal(&self) -> KeptJournal {
        if self.keeps_journal == 0 { KeptJournal::Erased } else { KeptJournal::Kept }
    }
}

/// What is to be dropped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) collection: &'a str,
    pub(crate) journal: KeptJournal,
}

/// Takes a collection out of the document, as one revision. One that is dropped already stays as it is.
///
/// # Errors
/// There is no such collection.
pub(super) fn begin(
    connection: &mut AnyConnection,
    Wanted { collection, journal }: Wanted<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let row = collections::table.find(collection);
    let Some(next_key) = row.select(collections::next_key).first::<i64>(connection).optional()? else {
        return match find(connection, collection)? {
            Some(_) => Ok(()),
            None => Err(no_collection(connection, collection)?),
        };
    };
    let revision = horizon(connection)?.current.next();
    let last = outbox::last_of(connection, collection)?;
    save_revision(connection, revision)?;
    outbox::append_end(connection, collection, revision, now)?;
    diesel::delete(row).execute(connection)?;
    diesel::delete(upgrades::table.find(collection)).execute(connection)?;
    // The document is another one, so no tag of it from before may hold. They follow from these.
    diesel::update(collections::table).set(collections::changed.eq(revision.number())).execute(connection)?;
    let begun = (
        dropped::collection.eq(collection),
        (dropped::revision.eq(revision.number()), dropped::next_key.eq(next_key)),
        dropped::keeps_journal.eq(i32::from(journal == KeptJournal::Kept)),
        (dropped::stage.eq(Stage::Changes.name()), dropped::reached.eq(last.number())),
    );
    diesel::insert_into(dropped::table).values(begun).execute(connection)?;
    Ok(())
}

fn no_collection(connection: &mut AnyConnection, name: &str) -> Result<StoreError, StoreError> {
    let known: Vec<String> = collections::table.select(collections::name).order(collections::name).load(connection)?;
    Ok(StoreError::NoCollection { name: name.to_owned(), known: known.join(", ") })
}

/// Does the next step of what is left to be removed of any collection.
pub(super) fn step(connection: &mut AnyConnection) -> Result<Progress, StoreError> {
    let Some(dropped) = unfinished(connection)?.into_iter().next() else { return Ok(Progress::Done) };
    let Dropped { collection, revision, reached, .. } = &dropped;
    let stage = Stage::read(&dropped.stage)?;
    let after = match stage {
        Stage::Changes => match outbox::prune_until(connection, *reached)? {
            Progress::More => Some(*reached),
            Progress::Done => None,
        },
        Stage::Journal if dropped.journal() == KeptJournal::Kept => None,
        Stage::Journal => journal::empty_some(connection, collection, *reached)?,
        Stage::Answers => answers::overwrite_some_of(connection, collection, *reached)?,
        Stage::Aggregates => match aggregates::delete_some(connection, collection)? {
            Progress::More => Some(0),
            Progress::Done => None,
        },
        Stage::Done => None,
    };
    let (stage, reached) = after.map_or((stage.next(), 0), |reached| (stage, reached));
    diesel::update(dropped::table.find(collection))
        .set((dropped::stage.eq(stage.name()), dropped::reached.eq(reached)))
        .execute(connection)?;
    if stage == Stage::Done {
        // Others may have some of it in memory.
        erasure::note_changed_past(connection)?;
        log::info!("nothing is left of {collection}, which was dropped at revision {revision}");
    }
    Ok(Progress::More)
}

/// Makes room for a collection that is registered, and may have been dropped before. Returns the number of its next key. Whoever
/// has a cursor from before that has to start over: its copy may have aggregates of the former collection.
pub(super) fn take_back(connection: &mut AnyConnection, collection: &str, database: &Path) -> Result<i64, StoreError> {
    let Some(Dropped { revision, next_key, stage, .. }) = find(connection, collection)? else { return Ok(1) };
    if Stage::read(&stage)? != Stage::Done {
        let command = drop_command(collection, database);
        return Err(StoreError::HalfDropped { name: collection.to_owned(), command });
    }
    diesel::delete(dropped::table.find(collection)).execute(connection)?;
    while outbox::prune_until(connection, revision)? == Progress::More {}
    let before = metadata::table.filter(metadata::forgotten.lt(revision));
    diesel::update(before).set(metadata::forgotten.eq(revision)).execute(connection)?;
    Ok(next_key)
}

/// A collection that was dropped.
///
/// # Errors
/// It was not, or is registered again.
pub(super) fn require(connection: &mut AnyConnection, collection: &str) -> Result<Dropped, StoreError> {
    match find(connection, collection)? {
        Some(dropped) => Ok(dropped),
        None => Err(no_collection(connection, collection)?),
    }
}

pub(super) fn find(connection: &mut AnyConnection, collection: &str) -> Result<Option<Dropped>, StoreError> {
    Ok(dropped::table.find(collection).first(connection).optional()?)
}

/// The collections of which something is left.
pub(super) fn unfinished(connection: &mut AnyConnection) -> Result<Vec<Dropped>, StoreError> {
    let unfinished = dropped::table.filter(dropped::stage.ne(Stage::Done.name()));
    Ok(unfinished.order(dropped::collection).load(connection)?)
}

/// Fails if a collection of this program was dropped.
pub(super) fn reject_dropped(connection: &mut AnyConnection, registry: &Registry) -> Result<(), StoreError> {
    match after(connection, Revision::ZERO)?.into_iter().find(|name| registry.id(name).is_some()) {
        Some(name) => Err(StoreError::DroppedCollection { name }),
        None => Ok(()),
    }
}

/// The names of the collections that were dropped after a revision.
pub(super) fn after(connection: &mut AnyConnection, revision: Revision) -> Result<Vec<String>, StoreError> {
    let later = dropped::table.filter(dropped::revision.gt(revision.number()));
    Ok(later.order(dropped::collection).select(dropped::collection).load(connection)?)
}
