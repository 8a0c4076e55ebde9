//! The epochs in which the kept events were copied, and how much of them belongs to the history of the database.

use diesel::connection::DefaultLoadingMode;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use crate::domain::history::History;
use crate::domain::revision::{Epoch, Revision};
use crate::read_model::error::ProjectionError;

diesel::table! {
    /// In the order in which they were recorded. Those of abandoned histories stay.
    epochs (number) {
        number -> BigInt,
        collection -> Text,
        epoch -> Text,
        first_revision -> BigInt,
    }
}

pub(super) const TABLE: &str = "\
    CREATE TABLE IF NOT EXISTS epochs (number INTEGER NOT NULL PRIMARY KEY, collection TEXT NOT NULL, \
        epoch TEXT NOT NULL, first_revision BIGINT NOT NULL);";

/// Records that events of a collection are copied in the current epoch. To be called in the transaction that copies them.
pub(super) fn record(
    connection: &mut SqliteConnection,
    collection: &str,
    history: &History,
) -> Result<(), ProjectionError> {
    let of_collection = epochs::table.filter(epochs::collection.eq(collection));
    let last: Option<String> =
        of_collection.order(epochs::number.desc()).select(epochs::epoch).first(connection).optional()?;
    if last.as_deref() != Some(history.epoch().as_str()) {
        diesel::insert_into(epochs::table)
            .values((
                epochs::collection.eq(collection),
                epochs::epoch.eq(history.epoch().as_str()),
                epochs::first_revision.eq(history.first_revision().number()),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// The last revision up to which the kept events of a collection are those of the database. `None` if they were copied in
/// epochs that the database does not know.
pub(super) fn common(
    connection: &mut SqliteConnection,
    collection: &str,
    history: &History,
) -> Result<Option<Revision>, ProjectionError> {
    let newest_first = epochs::table
        .filter(epochs::collection.eq(collection))
        .order(epochs::number.desc())
        .select((epochs::epoch, epochs::first_revision));
    let mut end = Revision::MAX;
    // Almost always the first row is the answer.
    for row in newest_first.load_iter::<(String, i64), DefaultLoadingMode>(connection)? {
        let (epoch, first_revision) = row?;
        let epoch: Epoch =
            epoch.parse().map_err(|_| ProjectionError::new(format!("the history has the epoch {epoch:?}")))?;
        if let Some(good) = history.end_of(&epoch) {
            return Ok(Some(end.min(good)));
        }
        end = end.min(Revision::from_raw(first_revision).previous());
    }
    Ok(None)
}

/// Forgets the epochs of a collection, of which no events are kept.
pub(super) fn forget(connection: &mut SqliteConnection, collection: &str) -> QueryResult<usize> {
    diesel::delete(epochs::table.filter(epochs::collection.eq(collection))).execute(connection)
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection as _;

    use super::*;
    use crate::domain::history::EpochStart;
    use crate::domain::revision::JournalPosition;

    fn history(epochs: &[(&str, i64)]) -> History {
        let mut starts: Vec<_> = epochs
            .iter()
            .map(|(epoch, first_revision)| EpochStart {
                epoch: epoch.parse().unwrap(),
                first_revision: Revision::from_raw(*first_revision),
                first_position: JournalPosition::from_raw(1),
            })
            .collect();
        let current = starts.pop().unwrap();
        History::new(starts, current)
    }

    /// The number of the last common revision, if the database has these epochs.
    fn common_with(connection: &mut SqliteConnection, epochs: &[(&str, i64)]) -> Option<i64> {
        common(connection, "cities", &history(epochs)).unwrap().map(Revision::number)
    }

    #[test]
    fn kept_events_are_common_up_to_where_the_histories_part() {
        let mut connection = SqliteConnection::establish(":memory:").unwrap();
        connection.batch_execute(TABLE).unwrap();
        assert_eq!(common_with(&mut connection, &[("00000001", 1)]), None, "nothing is recorded");
        let original = [("00000001", 1), ("00000002", 51), ("00000003", 81)];
        for length in 1..=original.len() {
            record(&mut connection, "cities", &history(&original[..length])).unwrap();
        }
        for (epochs, expected) in [
            (&original[..], Some(Revision::MAX.number())),
            // Put back within the first epoch.
            (&[("00000001", 1), ("00000009", 41)], Some(40)),
            // A copy whose first epoch went on longer.
            (&[("00000001", 1), ("00000009", 61)], Some(50)),
            (&[("00000001", 1), ("00000002", 51), ("00000009", 71)], Some(70)),
            // Another database.
            (&[("00000009", 1)], None),
        ] {
            assert_eq!(common_with(&mut connection, epochs), expected, "{epochs:?}");
        }
        // After it was put back to 40, what was abandoned does not count again.
        record(&mut connection, "cities", &history(&[("00000001", 1), ("00000009", 41)])).unwrap();
        assert_eq!(common_with(&mut connection, &original), Some(40));
    }
}
