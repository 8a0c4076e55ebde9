//! The log of epochs: each start for writing begins one.

use diesel::prelude::*;

use super::engine::AnyConnection;
use super::error::StoreError;
use super::schema::{epochs, metadata};
use super::{counters, journal};
use crate::domain::history::{EpochStart, History};
use crate::domain::revision::{Epoch, JournalPosition, Revision};

/// The number of epochs that are kept. A service that crashes again and again must not push out what clients remember.
const KEPT: i64 = 100_000;

/// Begins an epoch after everything that is in the database, and returns it with those before it.
pub(super) fn begin(connection: &mut AnyConnection) -> Result<History, StoreError> {
    let earlier = load(connection)?;
    let last: Option<i64> = epochs::table.select(diesel::dsl::max(epochs::number)).get_result(connection)?;
    let number = last.unwrap_or(0) + 1;
    let current = EpochStart {
        epoch: Epoch::mint().map_err(StoreError::Epoch)?,
        first_revision: counters::horizon(connection)?.current.next(),
        first_position: journal::current(connection)?.next(),
    };
    diesel::insert_into(epochs::table)
        .values((
            epochs::number.eq(number),
            epochs::epoch.eq(current.epoch.as_str()),
            epochs::first_revision.eq(current.first_revision.number()),
            epochs::first_position.eq(current.first_position.number()),
        ))
        .execute(connection)?;
    diesel::delete(epochs::table.filter(epochs::number.le(number - KEPT))).execute(connection)?;
    diesel::update(metadata::table).set(metadata::epoch.eq(current.epoch.as_str())).execute(connection)?;
    Ok(History::new(earlier, current))
}

/// The epochs of a database that another process may be writing.
pub(super) fn history(connection: &mut AnyConnection) -> Result<History, StoreError> {
    let mut epochs = load(connection)?;
    let current = epochs.pop().ok_or_else(|| StoreError::Corrupt("there is no epoch".to_owned()))?;
    Ok(History::new(epochs, current))
}

/// The epochs of the database, oldest first.
fn load(connection: &mut AnyConnection) -> Result<Vec<EpochStart>, StoreError> {
    let columns = (epochs::epoch, epochs::first_revision, epochs::first_position);
    let rows: Vec<(String, i64, i64)> = epochs::table.order(epochs::number).select(columns).load(connection)?;
    let start = |(epoch, first_revision, first_position): (String, i64, i64)| {
        Ok(EpochStart {
            epoch: epoch.parse().map_err(|_| StoreError::Corrupt(format!("the epoch {epoch:?}")))?,
            first_revision: Revision::from_raw(first_revision),
            first_position: JournalPosition::from_raw(first_position),
        })
    };
    rows.into_iter().map(start).collect()
}
