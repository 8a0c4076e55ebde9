//! Drops a collection of a database that no service of this process uses: a file, or one on a server.

use std::path::Path;

use super::connection::IfMissing;
use super::counters::horizon;
use super::database::Database;
use super::dropping::{self, Dropped, Wanted};
use super::engine::AnyConnection;
use super::error::StoreError;
use super::file_record::FileRecord;
use super::location::is_url;
use super::log_check::reject_foreign_log;
use super::maintained::{Effect, Maintained};
use super::page::Progress;
#[cfg(feature = "postgres")]
use super::postgres;
use super::record::Record;
use super::transaction::WriteError;
use super::{epochs, migrations};
use crate::domain::clock::Timestamp;

/// Drops a collection of a database on a server, which services may be using. If that has begun before, it is finished.
///
/// # Errors
/// The database cannot be written, has no such collection, or is one of a newer version of the program.
pub(crate) fn on_server(
    database: &Path,
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "there are no servers then"))]
    wanted: Wanted<'_>,
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "there are no servers then"))]
    now: Timestamp,
) -> Result<Dropped, StoreError> {
    match database.to_str().filter(|database| is_url(database)) {
        #[cfg(feature = "postgres")]
        Some(url) => postgres::dropping::run(url, wanted, now),
        _ => Err(StoreError::NoPostgres),
    }
}

/// The same for a file that this process has locked.
///
/// # Errors
/// The file cannot be written, or has no such collection.
pub(crate) fn in_file(database: &Database, wanted: Wanted<'_>, now: Timestamp) -> Result<Dropped, StoreError> {
    let Some(file) = database.file() else { return Err(StoreError::NoPostgres) };
    reject_foreign_log(file)?;
    let mut connection = database.open_for_writing(IfMissing::Fail)?;
    migrations::migrate(&mut connection)?;
    let write = |connection: &mut AnyConnection| {
        let history = epochs::begin(connection)?;
        dropping::begin(connection, wanted, now)?;
        Ok(history)
    };
    let mut record = Record::File(FileRecord::open(database, file, &mut connection, write)?);
    finish(&mut record, &mut connection)?;
    let dropped = dropping::require(&mut connection, wanted.collection)?;
    record.close(connection)?;
    Ok(dropped)
}

/// Removes all that is left of the collections that were dropped.
pub(super) fn finish(record: &mut Record, connection: &mut AnyConnection) -> Result<(), StoreError> {
    while !dropping::unfinished(connection)?.is_empty() {
        let current = horizon(connection)?.current;
        // Another service that starts may have done it meanwhile.
        let step = |connection: &mut AnyConnection| {
            dropping::step(connection).map(|progress| match progress {
                Progress::More => Maintained::changed(()),
                Progress::Done => Maintained { done: (), effect: Effect::Nothing },
            })
        };
        record.maintain(connection, current, step).map_err(WriteError::into_cause)?;
        record.grow(ROWS_PER_STEP);
        if record.is_log_long(connection) {
            record.checkpoint(connection)?;
        }
    }
    Ok(())
}

/// A step counts as this many changed rows, so that the log is measured now and then.
const ROWS_PER_STEP: usize = 500;
