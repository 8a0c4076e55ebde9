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
use super::maintained::{Effect, Maintained};
use super::outbox;
use super::page::{PageLimit, Progress};
use super::record::Record;
use super::registration::{Recomputed, Registration};
use super::schema::{collections, upgrades};
use super::transaction::WriteError;
use crate::domain::body::{Body, patch};
use crate::domain::collection::{Evolution, Registry};
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Version;

/// What one step converts: an event must fit into memory.
const STEP: PageLimit = PageLimit { items: 1000, bytes: 4 * 1024 * 1024 };

/// How often the log says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);

/// An upgrade that is to be finished.
#[derive(Queryable)]
struct Upgrade {
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
    let after = after.map(|place| Key::from_db(&place));
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
    after: Option<String>,
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
        let Some(evolution) = collection.evolution() else { continue };
        let row = collections::table.find(collection.name());
        let version: Option<i64> = row.select(collections::version).first(connection).optional()?;
        // In former tables, documents have no version.
        let Some(version) = version.map(|version| version.max(1)) else { continue };
        let (name, own) = (collection.name(), evolution.version());
        if version > own {
            return Err(StoreError::NewerDocuments { collection: name.to_owned(), version, own });
        }
        let begun = match tables {
            Tables::Current => find(connection, name)?,
            Tables::Former => None,
        };
        let from = begun.as_ref().map_or(version, |upgrade| upgrade.from_version);
        if from < own {
            let (began, after) = (Instant::now(), begun.map(|upgrade| upgrade.place).filter(|place| !place.is_empty()));
            let documents = require_upgradable(connection, name, evolution, Rest { from, after })?;
            previews.push(Preview { collection: name, from, to: own, documents, took: began.elapsed() });
            continue;
        }
        let shape: Option<String> = match tables {
            Tables::Current => row.select(collections::shape).first(connection)?,
            Tables::Former => None,
        };
        if shape.is_none_or(|shape| shape != evolution.shape()) {
            require_fit(connection, name, evolution)?;
        }
    }
    Ok(previews)
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

/// Whether the documents of a collection are being converted. Fails if that is by another version of the program.
pub(super) fn is_in_progress(
    connection: &mut AnyConnection,
    collection: &str,
    own: Option<i64>,
) -> Result<bool, StoreError> {
    match (find(connection, collection)?, own) {
        (None, _) => Ok(false),
        (Some(Upgrade { to_version: version, .. }), Some(own)) if own != version => {
            Err(StoreError::HalfUpgraded { collection: collection.to_owned(), version })
        }
        (Some(_), _) => Ok(true),
    }
}

/// Does all that is left of the upgrades of a database.
pub(super) fn finish(
    record: &mut Record,
    connection: &mut AnyConnection,
    registration: Registration<'_>,
) -> Result<(), StoreError> {
    let mut report = Report { converted: 0, said: Instant::now() };
    while next(connection)?.is_some() {
        let current = horizon(connection)?.current;
        // Another service that starts may have done it meanwhile, so the step looks again what is next.
        let step = |connection: &mut AnyConnection| match next(connection)? {
            Some(upgrade) => Step::of(registration, &upgrade)?.run(connection).map(Maintained::changed),
            None => Ok(Maintained { done: 0, effect: Effect::Nothing }),
        };
        let converted = record.maintain(connection, current, step).map_err(WriteError::into_cause)?;
        record.grow(converted);
        report.add(converted);
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
        let Upgrade { collection, from_version, place, .. } = self.upgrade;
        let evolution = evolution_of(self.registration.registry, self.id);
        let after = (!place.is_empty()).then(|| Key::from_db(place));
        let rows = aggregates::next(connection, collection, after.as_ref(), STEP)?;
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
