//! The transaction in which an operator begins an epoch: a snapshot of the server's storage that was put back is in the same
//! place as the record before.

use diesel::pg::PgConnection;

use super::server_record::{lock, note_identity, postgres, replace_token, write};
use super::token::Token;
use crate::domain::history::History;
use crate::storage::epochs;
use crate::storage::error::StoreError;
use crate::storage::migrations;
use crate::storage::server::connect_for_writing;
use crate::storage::server::identity::Identity;
use crate::storage::transaction::WriteError;

/// Begins an epoch after everything that is in the database with this URL. Services that use it notice, and go on in it.
///
/// # Errors
/// The database cannot be written, has no record, or is one of another version of the program.
pub(in crate::storage) fn begin(url: &str) -> Result<History, StoreError> {
    let mut connection = connect_for_writing(url)?;
    migrations::require_current(&mut connection)?;
    let begun = write(&mut connection, |connection| {
        lock(postgres(connection))?;
        let history = epochs::begin(connection)?;
        settle(postgres(connection))?;
        Ok(history)
    });
    begun.map_err(WriteError::into_cause)
}

/// The epoch begins here, and what others know of the record is out of date.
fn settle(connection: &mut PgConnection) -> Result<(), StoreError> {
    let here = Identity::of(connection)?;
    note_identity(connection, &here)?;
    replace_token(connection, Token::random()?)
}
