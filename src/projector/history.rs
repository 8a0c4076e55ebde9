//! The change events that a projection was given, kept so that it can be built anew when the service has pruned them.
//!
//! It begins with the aggregates as they were at some revision (with nothing, if no event was pruned yet), and goes on
//! with every change event since. If pruning was faster, it begins anew.

use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::event_page::{Form, Item, Page};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{CollectionId, Registry};
use crate::domain::cursor::Revision;
use crate::domain::feed::Feed;
use crate::domain::key::Key;
use crate::read_model::projection::ProjectionError;
use crate::storage::connection::open_sidecar;
use crate::storage::outbox::Change;
use crate::storage::page::{PageLimit, Span};
use crate::storage::reader::{Part, Reader};

diesel::table! {
    /// Where the archive stands.
    archive (id) {
        id -> BigInt,
        epoch -> Text,
        life -> BigInt,
        revision -> BigInt,
    }
}

diesel::table! {
    /// The events.
    changes (place) {
        place -> BigInt,
        revision -> BigInt,
        collection -> Text,
        key -> Text,
        patch -> Text,
        time -> BigInt,
    }
}

const TABLES: &str = "\
    CREATE TABLE IF NOT EXISTS archive (id BIGINT NOT NULL PRIMARY KEY, epoch TEXT NOT NULL, life BIGINT NOT NULL, \
        revision BIGINT NOT NULL);
    CREATE TABLE IF NOT EXISTS changes (place INTEGER NOT NULL PRIMARY KEY, revision BIGINT NOT NULL, \
        collection TEXT NOT NULL, key TEXT NOT NULL, patch TEXT NOT NULL, time BIGINT NOT NULL);";

/// The archive of one projection.
pub(super) struct Archive {
    connection: SqliteConnection,
}

/// Where an archive stands.
struct Standing {
    epoch: String,
    /// How often it has begun anew.
    life: i64,
    /// Everything up to here is in it.
    revision: Revision,
}

/// Change events that are read at once.
const ROOM: PageLimit = PageLimit { items: 5000, bytes: 4 * 1024 * 1024 };

impl Archive {
    pub(super) fn open(path: &Path) -> Result<Self, ProjectionError> {
        let mut connection = open_sidecar(path)?;
        connection.batch_execute(TABLES)?;
        Ok(Self { connection })
    }

    /// Takes what is new, and gives the identity of this life of the archive.
    pub(super) fn refresh(
        &mut self,
        reader: &mut Reader,
        registry: &Registry,
        collections: &[CollectionId],
        now: Timestamp,
    ) -> Result<String, ProjectionError> {
        loop {
            let standing = self.standing()?;
            let (epoch, horizon) = reader.view(|view| Ok((view.epoch()?.to_string(), view.horizon()?)))?;
            let Some(standing) = standing.filter(|standing| {
                standing.epoch == epoch && (horizon.pruned..=horizon.current).contains(&standing.revision)
            }) else {
                self.begin(reader, registry, collections, now)?;
                continue;
            };
            if standing.revision == horizon.current {
                return Ok(format!("{}/{}", standing.epoch, standing.life));
            }
            let feed = Feed::Everything(Some(collections.into()));
            let read = reader.view(|view| {
                // Pruned since: it is noticed in the next round.
                let exists = view.horizon()?.pruned <= standing.revision;
                let read = view.changes(&feed, Span { after: standing.revision, to: horizon.current }, ROOM)?;
                Ok(exists.then_some(read))
            })?;
            let Some(read) = read else { continue };
            let standing = Standing { revision: read.to, ..standing };
            self.connection.immediate_transaction(|connection| {
                for Change { revision, collection, key, patch, time } in &read.changes {
                    // That a collection came to be is nothing that happened to an aggregate.
                    if !key.as_str().is_empty() {
                        append(connection, registry, (*revision, *collection), (key.as_str(), patch), *time)?;
                    }
                }
                stand(connection, &standing)
            })?;
        }
    }

    /// Begins with the aggregates as they are.
    fn begin(
        &mut self,
        reader: &mut Reader,
        registry: &Registry,
        collections: &[CollectionId],
        now: Timestamp,
    ) -> Result<(), ProjectionError> {
        let life = self.standing()?.map_or(1, |standing| standing.life + 1);
        let (epoch, horizon) = reader.view(|view| Ok((view.epoch()?.to_string(), view.horizon()?)))?;
        self.connection.immediate_transaction(|connection| {
            diesel::delete(changes::table).execute(connection)?;
            let mut revision = Revision::ZERO;
            if horizon.pruned > Revision::ZERO {
                let mut of = None;
                reader.collections::<ProjectionError>(
                    collections,
                    |shown, _| revision = shown,
                    |part| {
                        match part {
                            Part::Collection { id, .. } => of = Some(id),
                            Part::Aggregate { key, body, .. } => {
                                let Some(id) = of else { return Ok(()) };
                                append(connection, registry, (horizon.pruned, id), (key, body), now)?;
                            }
                            _ => {}
                        }
                        Ok(())
                    },
                )?;
            }
            stand(connection, &Standing { epoch, life, revision })
        })
    }

    pub(super) fn page(&mut self, registry: &Registry, after: i64, limit: usize) -> Result<Page, ProjectionError> {
        let end = self.last()?;
        let rows: Vec<(i64, i64, String, String, String, i64)> = changes::table
            .filter(changes::place.gt(after))
            .order(changes::place)
            .limit(i64::try_from(limit).unwrap_or(i64::MAX))
            .load(&mut self.connection)?;
        let full = rows.len() == limit;
        let to = rows.last().filter(|_| full).map_or(end, |row| row.0);
        let item = |(place, at, collection, key, patch, time): (i64, i64, String, String, String, i64)| {
            let collection = registry.get(registry.id(&collection)?).name();
            let (key, time) = (Key::from_db(&key), Timestamp::from_milliseconds(time));
            Some(Item { place, at, time, collection, key, form: Form::Change { patch } })
        };
        Ok(Page { items: rows.into_iter().filter_map(item).collect(), to, last: end })
    }

    /// The last place there is.
    pub(super) fn last(&mut self) -> Result<i64, ProjectionError> {
        let last: Option<i64> = changes::table
            .select(changes::place)
            .order(changes::place.desc())
            .first(&mut self.connection)
            .optional()?;
        Ok(last.unwrap_or(0))
    }

    fn standing(&mut self) -> Result<Option<Standing>, ProjectionError> {
        let row: Option<(String, i64, i64)> = archive::table
            .select((archive::epoch, archive::life, archive::revision))
            .first(&mut self.connection)
            .optional()?;
        Ok(row.map(|(epoch, life, revision)| Standing { epoch, life, revision: Revision::from_raw(revision) }))
    }
}

fn stand(connection: &mut SqliteConnection, standing: &Standing) -> Result<(), ProjectionError> {
    diesel::replace_into(archive::table)
        .values((
            archive::id.eq(1),
            archive::epoch.eq(&standing.epoch),
            archive::life.eq(standing.life),
            archive::revision.eq(standing.revision.number()),
        ))
        .execute(connection)?;
    Ok(())
}

fn append(
    connection: &mut SqliteConnection,
    registry: &Registry,
    (revision, collection): (Revision, CollectionId),
    (key, patch): (&str, &str),
    time: Timestamp,
) -> Result<(), ProjectionError> {
    diesel::insert_into(changes::table)
        .values((
            changes::revision.eq(revision.number()),
            changes::collection.eq(registry.get(collection).name()),
            changes::key.eq(key),
            changes::patch.eq(patch),
            changes::time.eq(time.milliseconds()),
        ))
        .execute(connection)?;
    Ok(())
}
