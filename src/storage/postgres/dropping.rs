//! The transactions that drop a collection of a record on a server, beside services that may still register it: they write
//! nothing any more from the first one on.

use diesel::connection::SimpleConnection as _;

use super::holders;
use super::server_record::{begin_epoch_if_moved, lock, postgres, replace_token, write};
use super::token::Token;
use crate::domain::clock::Timestamp;
use crate::storage::dropping::{self, Dropped, Wanted};
use crate::storage::engine::AnyConnection;
use crate::storage::error::StoreError;
use crate::storage::migrations;
use crate::storage::page::Progress;
use crate::storage::server::connect_for_writing;
use crate::storage::transaction::WriteError;

/// Drops a collection of the database with this URL.
///
/// # Errors
/// The database cannot be written, has no record or no such collection, or is one of a newer version of the program.
pub(in crate::storage) fn run(url: &str, wanted: Wanted<'_>, now: Timestamp) -> Result<Dropped, StoreError> {
    let mut connection = connect_for_writing(url)?;
    migrations::migrate(&mut connection)?;
    transact(&mut connection, |connection| {
        begin_epoch_if_moved(connection)?;
        dropping::begin(connection, wanted, now)
    })?;
    while transact(&mut connection, dropping::step)? == Progress::More {}
    dropping::require(&mut connection, wanted.collection)
}

fn transact<T>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let done = write(connection, |connection| {
        lock(postgres(connection))?;
        connection.batch_execute(holders::MAINTENANCE)?;
        let done = work(connection)?;
        replace_token(postgres(connection), Token::random()?)?;
        Ok(done)
    });
    done.map_err(WriteError::into_cause)
}
