//! A file for spreadsheets and scripts: CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)), to which lines are
//! appended.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ProjectionError;
use crate::domain::key::Key;

diesel::table! {
    /// What a projection knows about an aggregate until it writes a line.
    notes (key) {
        key -> Text,
        note -> Text,
    }
}

/// A CSV file to which lines are appended, and notes about aggregates that are not lines yet.
///
/// The file has every line exactly once, even if the service is killed: lines are written and synced first, then the
/// length of the file is checkpointed together with the notes; at start the file is truncated to that length.
pub struct CsvFile {
    connection: SqliteConnection,
    file: File,
    length: u64,
    /// Encoded lines that are not written yet.
    pending: Vec<u8>,
}

impl CsvFile {
    /// Appends a line; fields are quoted where necessary.
    ///
    /// # Errors
    /// The line cannot be encoded.
    pub fn line<F: AsRef<str>>(&mut self, fields: impl IntoIterator<Item = F>) -> Result<(), ProjectionError> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(fields.into_iter().map(|field| field.as_ref().as_bytes().to_vec()))?;
        let line = writer.into_inner().map_err(|error| ProjectionError::new(error.to_string()))?;
        self.pending.extend(line);
        Ok(())
    }

    /// Writes the note about an aggregate; it replaces the previous one.
    ///
    /// # Errors
    /// The note cannot be serialized or written.
    pub fn remember(&mut self, key: &Key, note: &impl Serialize) -> Result<(), ProjectionError> {
        diesel::replace_into(notes::table)
            .values((notes::key.eq(key.as_str()), notes::note.eq(serde_json::to_string(note)?)))
            .execute(&mut self.connection)?;
        Ok(())
    }

    /// The note about an aggregate, if there is one.
    ///
    /// # Errors
    /// The note cannot be read.
    pub fn recall<N: DeserializeOwned>(&mut self, key: &Key) -> Result<Option<N>, ProjectionError> {
        let note: Option<String> =
            notes::table.find(key.as_str()).select(notes::note).first(&mut self.connection).optional()?;
        Ok(note.map(|note| serde_json::from_str(&note)).transpose()?)
    }

    /// Deletes the note about an aggregate.
    ///
    /// # Errors
    /// The note cannot be deleted.
    pub fn forget(&mut self, key: &Key) -> Result<(), ProjectionError> {
        diesel::delete(notes::table.find(key.as_str())).execute(&mut self.connection)?;
        Ok(())
    }
}

impl CsvFile {
    /// Opens the file at `path`, or creates it. `length` is the number of bytes that are checkpointed.
    pub(super) fn open(connection: SqliteConnection, path: &Path, length: u64) -> Result<Self, ProjectionError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let found = file.metadata()?.len();
        if found < length {
            return Err(ProjectionError::new(format!("{} has {found} of its {length} bytes", path.display())));
        }
        // Lines after the last checkpoint will be written again.
        file.set_len(length)?;
        Ok(Self { connection, file, length, pending: Vec::new() })
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) fn set_up(&mut self, header: &[&str]) -> Result<(), ProjectionError> {
        self.connection.batch_execute("CREATE TABLE notes (key TEXT NOT NULL PRIMARY KEY, note TEXT NOT NULL)")?;
        self.line(header)
    }

    /// Writes and syncs the pending lines; returns the length of the file.
    pub(super) fn write_out(&mut self) -> Result<u64, ProjectionError> {
        use std::os::unix::fs::FileExt as _;
        if !self.pending.is_empty() {
            // At a fixed offset, so that a second attempt overwrites the first.
            self.file.write_all_at(&self.pending, self.length)?;
            self.file.flush()?;
            self.file.sync_data()?;
            self.length += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(self.length)
    }

    pub(super) fn discard(&mut self, length: u64) {
        self.pending.clear();
        self.length = length;
    }
}
