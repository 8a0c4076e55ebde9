//! At start: converts documents that an earlier version of the program has stored, in steps that each are a transaction.
//!
//! A step is a write like any other, with a revision and change events. How far an upgrade is stands in the database, so that
//! the next start goes on with it. The service serves nothing before the last step.

use std::time::{Duration, Instant};

use diesel::prelude::*;

use super::aggregates::{self, Row};
use super::counters::horizon;
use super::drop_command::drop_command;
use super::engine::AnyConnection;
use super::error::StoreError;
use super::event_kinds;
use super::maintained::{Effect, Maintained};
use super::outbox;
use super::page::{PageLimit, Progress};
use super::record::Record;
use super::registration::{Recomputed, Registration};
use super::schema::{collections, upgrades};
use super::shapes;
use super::transaction::WriteError;
use crate::domain::body::{Body, patch};
use crate::domain::collection::{Collection, Evolution, Registry};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;

/// The documents that one step converts: a client gets their events as one message.
const STEP_DOCUMENTS: usize = 1000;

/// Their bytes, as JSON text: a step is in memory as a whole.
const STEP_BYTES: usize = 4 * 1024 * 1024;

/// How often a step waits in vain for another service, before the start fails: that one makes no step either.
const MAX_ATTEMPTS: usize = 10;

/// How often the log says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

const STEP: PageLimit = PageLimit { items: STEP_DOCUMENTS, bytes: STEP_BYTES };

/// An upgrade that is to be finished.
#[derive(Queryable)]
pub(super) struct Upgrade {
    collection: String,
    from_version: i64,
    to_version: i64,
    /// The last revision before it.
    after: i64,
    /// The last key that is done; empty before the first.
    place: String,
    /// Whether the rows are done.
    converted: i32,
}

impl Upgrade {
    /// The last key that is done.
    fn done(&self) -> Option<Key> {
        (!self.place.is_empty()).then(|| Key::from_db(&self.place))
    }

    /// The documents that are not converted yet.
    fn rest(&self) -> Rest {
        Rest { from: self.from_version, after: self.done() }
    }
}

/// The version of what a database has of a collection. Before documents had one, it was 0, which is the first.
pub(super) fn stored_version(collection: &dyn Collection, number: i64) -> i64 {
    if collection.evolution().is_some() { number.max(1) } else { number }
}

/// Fails if a stored document is not one of the type.
pub(super) fn require_fit(
    connection: &mut AnyConnection,
    collection: &str,
    evolution: &dyn Evolution,
) -> Result<(), StoreError> {
    aggregates::scan(connection, collection, |key, _, body| {
        evolution.fit(&Body::from_db(body.to_owned())).map_err(|problem| StoreError::Unfit {
            collection: collection.to_owned(),
            key: key.to_owned(),
            problem: problem.to_string(),
            next: evolution.version() + 1,
        })
    })
}

/// Fails if a stored document of an earlier version cannot be converted. Returns how many there are.
fn require_upgradable(
    connection: &mut AnyConnection,
    collection: &str,
    evolution: &dyn Evolution,
    Rest { from, after }: Rest,
) -> Result<usize, StoreError> {
    let mut number = 0;
    aggregates::scan(connection, collection, |key, _, body| {
        let key = Key::from_db(key);
        if after.as_ref().is_some_and(|after| key <= *after) {
            return Ok(());
        }
        number += 1;
        convert(evolution, collection, &key, &Body::from_db(body.to_owned()), from).map(|_| ())
    })?;
    Ok(number)
}

/// The documents that are still of a version: those after a key, or all.
struct Rest {
    from: i64,
    after: Option<Key>,
}

fn convert(evolution: &dyn Evolution, collection: &str, key: &Key, body: &Body, from: i64) -> Result<Body, StoreError> {
    evolution.upgrade(from, body).map_err(|problem| StoreError::NotUpgraded {
        collection: collection.to_owned(),
        key: key.as_str().to_owned(),
        from,
        to: evolution.version(),
        problem: problem.to_string(),
    })
}

/// What the next start would convert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Preview {
    pub(crate) collection: &'static str,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) documents: usize,
    /// How long it took to convert them without writing anything.
    pub(crate) took: Duration,
}

/// Finds out what the next start would convert, and fails as it would. Changes nothing.
pub(super) fn preview(
    connection: &mut AnyConnection,
    registry: &Registry,
    tables: Tables,
) -> Result<Vec<Preview>, StoreError> {
    let mut previews = Vec::new();
    for collection in registry.ids().map(|id| registry.get(id)) {
        let name = collection.name();
        let row = collections::table.find(name).select(collections::version);
        let Some(number) = row.first::<i64>(connection).optional()? else { continue };
        let stored = Stored { version: stored_version(collection, number), tables };
        if let Some(evolution) = collection.evolution() {
            previews.extend(stored.preview(connection, name, evolution)?);
        }
        if let (Some(journaled), Tables::Current) = (collection.journaled(), tables) {
            event_kinds::examine(connection, name, journaled)?;
        }
    }
    Ok(previews)
}

/// What a database has of a collection.
struct Stored {
    version: i64,
    tables: Tables,
}

impl Stored {
    fn preview(
        &self,
        connection: &mut AnyConnection,
        name: &'static str,
        evolution: &dyn Evolution,
    ) -> Result<Option<Preview>, StoreError> {
        let own = evolution.version();
        require_known(name, evolution, self.version)?;
        let begun = match self.tables {
            Tables::Current => unfinished(connection, name, evolution)?,
            Tables::Former => None,
        };
        let rest = begun.as_ref().map_or(Rest { from: self.version, after: None }, Upgrade::rest);
        if rest.from < own {
            let (from, began) = (rest.from, Instant::now());
            let documents = require_upgradable(connection, name, evolution, rest)?;
            return Ok(Some(Preview { collection: name, from, to: own, documents, took: began.elapsed() }));
        }
        if self.tables == Tables::Former || shapes::find(connection, name)? != Some(evolution.shape()) {
            require_fit(connection, name, evolution)?;
        }
        Ok(None)
    }
}

/// Fails if the documents are of a version that this program does not know.
pub(super) fn require_known(collection: &str, evolution: &dyn Evolution, version: i64) -> Result<(), StoreError> {
    let own = evolution.version();
    if version <= own {
        return Ok(());
    }
    Err(StoreError::NewerDocuments { collection: collection.to_owned(), version, own })
}

/// Whether the tables are those of this version of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tables {
    Current,
    Former,
}

/// Begins an upgrade, of which nothing is done yet.
pub(super) fn begin(
    connection: &mut AnyConnection,
    collection: &str,
    evolution: &dyn Evolution,
    from: i64,
) -> Result<(), StoreError> {
    let number = require_upgradable(connection, collection, evolution, Rest { from, after: None })?;
    let to = evolution.version();
    log::info!("{number} documents of {collection} are converted from version {from} to version {to}");
    let row = (
        upgrades::collection.eq(collection),
        (upgrades::from_version.eq(from), upgrades::to_version.eq(to)),
        upgrades::after.eq(horizon(connection)?.current.number()),
        (upgrades::place.eq(""), upgrades::converted.eq(0)),
    );
    diesel::insert_into(upgrades::table).values(row).execute(connection)?;
    Ok(())
}

/// Whether the documents of a collection are being converted.
pub(super) fn is_in_progress(connection: &mut AnyConnection, collection: &str) -> Result<bool, StoreError> {
    Ok(find(connection, collection)?.is_some())
}

/// The upgrade of a collection that was begun and is to be finished.
///
/// # Errors
/// Another version of the program has begun it; or the type is another one since, and what is done does not fit it, or what is
/// left cannot be converted.
pub(super) fn unfinished(
    connection: &mut AnyConnection,
    collection: &str,
    evolution: &dyn Evolution,
) -> Result<Option<Upgrade>, StoreError> {
    let Some(upgrade) = find(connection, collection)? else { return Ok(None) };
    let version = upgrade.to_version;
    if version != evolution.version() {
        return Err(StoreError::HalfUpgraded { collection: collection.to_owned(), version });
    }
    if shapes::find(connection, collection)? != Some(evolution.shape()) {
        require_done(connection, &upgrade, evolution)?;
        require_upgradable(connection, collection, evolution, upgrade.rest())?;
    }
    Ok(Some(upgrade))
}

/// Fails if a document that is already converted is not one of the type.
fn require_done(
    connection: &mut AnyConnection,
    upgrade: &Upgrade,
    evolution: &dyn Evolution,
) -> Result<(), StoreError> {
    let Some(last) = upgrade.done() else { return Ok(()) };
    aggregates::scan(connection, &upgrade.collection, |key, _, body| {
        if Key::from_db(key) > last {
            return Ok(());
        }
        evolution.fit(&Body::from_db(body.to_owned())).map_err(|problem| StoreError::HalfFit {
            collection: upgrade.collection.clone(),
            key: key.to_owned(),
            version: upgrade.to_version,
            problem: problem.to_string(),
        })
    })
}

/// Does all that is left of the upgrades of a database.
pub(super) fn finish(
    record: &mut Record,
    connection: &mut AnyConnection,
    registration: Registration<'_>,
) -> Result<(), StoreError> {
    let mut report = Report { converted: 0, said: Instant::now() };
    let (mut reached, mut attempts) = (String::new(), 0);
    while let Some(upgrade) = next(connection)? {
        let current = horizon(connection)?.current;
        // Another service that starts may have done it meanwhile, so the step looks again what is next.
        let step = |connection: &mut AnyConnection| match next(connection)? {
            Some(upgrade) => Step::of(registration, &upgrade)?.run(connection).map(Maintained::changed),
            None => Ok(Maintained { done: 0, effect: Effect::Nothing }),
        };
        if upgrade.place != reached {
            (reached, attempts) = (upgrade.place, 0);
        }
        attempts += 1;
        match record.maintain(connection, current, step).map_err(WriteError::into_cause) {
            Ok(converted) => {
                record.grow(converted);
                report.add(converted);
                // Nobody else moves it before the service runs.
                if record.is_log_long(connection) {
                    record.checkpoint(connection)?;
                }
            }
            // That service does the same, step by step.
            Err(StoreError::Busy) if attempts < MAX_ATTEMPTS => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The first upgrade that is to be finished.
fn next(connection: &mut AnyConnection) -> Result<Option<Upgrade>, StoreError> {
    Ok(upgrades::table.order(upgrades::collection).first(connection).optional()?)
}

fn find(connection: &mut AnyConnection, collection: &str) -> Result<Option<Upgrade>, StoreError> {
    Ok(upgrades::table.find(collection).first(connection).optional()?)
}

/// What one transaction does for an upgrade.
struct Step<'a> {
    registration: Registration<'a>,
    id: CollectionId,
    upgrade: &'a Upgrade,
}

impl<'a> Step<'a> {
    fn of(registration: Registration<'a>, upgrade: &'a Upgrade) -> Result<Self, StoreError> {
        match registration.registry.id(&upgrade.collection) {
            Some(id) => Ok(Self { registration, id, upgrade }),
            None => {
                let command = drop_command(&upgrade.collection, registration.database);
                Err(StoreError::UnregisteredCollection { name: upgrade.collection.clone(), command })
            }
        }
    }

    /// Returns how many documents it has converted.
    fn run(self, connection: &mut AnyConnection) -> Result<usize, StoreError> {
        if self.upgrade.converted == 0 {
            return self.convert(connection);
        }
        // What is older than the upgrade has the former members.
        if outbox::prune_until(connection, self.upgrade.after)? == Progress::Done {
            self.conclude(connection)?;
        }
        Ok(0)
    }

    /// Converts the next documents, as one revision.
    fn convert(&self, connection: &mut AnyConnection) -> Result<usize, StoreError> {
        let Upgrade { collection, from_version, .. } = self.upgrade;
        let evolution = evolution_of(self.registration.registry, self.id);
        let rows = aggregates::next(connection, collection, self.upgrade.done().as_ref(), STEP)?;
        let this = diesel::update(upgrades::table.find(collection));
        let Some((last, _)) = rows.last() else {
            this.set(upgrades::converted.eq(1)).execute(connection)?;
            return Ok(0);
        };
        this.set(upgrades::place.eq(last.as_str())).execute(connection)?;
        let mut changed = Vec::new();
        for (key, row) in &rows {
            let Row { body: Some(before), .. } = row else { continue };
            let after = convert(evolution, collection, key, before, *from_version)?;
            if let Some(patch) = patch(Some(before), Some(&after))? {
                changed.push(Recomputed { key: key.clone(), version: Version::ZERO, body: Some(after), patch });
            }
        }
        self.registration.write_revision(connection, self.id, &changed)?;
        Ok(rows.len())
    }

    /// Derives again what follows from the documents, now that all have the new members.
    fn conclude(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        let registry = self.registration.registry;
        for id in registry.derived_from(self.id) {
            if let Some(derivation) = registry.get(*id).derivation() {
                self.registration.rederive(connection, *id, derivation)?;
            }
        }
        let Upgrade { collection, to_version, .. } = self.upgrade;
        diesel::delete(upgrades::table.find(collection)).execute(connection)?;
        log::info!("all documents of {collection} are of version {to_version}");
        Ok(())
    }
}

fn evolution_of(registry: &Registry, id: CollectionId) -> &dyn Evolution {
    registry.get(id).evolution().expect("only documents are upgraded")
}

/// Says how far the upgrades of a start are.
struct Report {
    converted: usize,
    said: Instant,
}

impl Report {
    fn add(&mut self, converted: usize) {
        self.converted += converted;
        if self.said.elapsed() >= REPORT_INTERVAL {
            self.said = Instant::now();
            log::info!("{} documents are converted so far", self.converted);
        }
    }
}
