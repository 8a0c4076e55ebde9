//! A file for spreadsheets and scripts: CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)), to which lines are added.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::projection::{ProjectionError, Sink};
use crate::domain::key::Key;

diesel::table! {
    /// What a projection remembers until it writes a line.
    notes (key) {
        key -> Text,
        note -> Text,
    }
}

/// A CSV file that grows by lines, and notes about what is not a line yet.
///
/// A line is there exactly once, whenever the service is killed: lines are written and synced, then their length is
/// checkpointed together with the notes; at start the file is cut there.
pub struct CsvFile {
    connection: SqliteConnection,
    file: File,
    length: u64,
    /// Lines that are not written yet.
    pending: Vec<u8>,
}

impl CsvFile {
    /// Adds a line; quotes what needs it.
    ///
    /// # Errors
    /// A field that cannot be written.
    pub fn line<F: AsRef<str>>(&mut self, fields: impl IntoIterator<Item = F>) -> Result<(), ProjectionError> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        writer.write_record(fields.into_iter().map(|field| field.as_ref().as_bytes().to_vec()))?;
        let line = writer.into_inner().map_err(|error| ProjectionError::new(error.to_string()))?;
        self.pending.extend(line);
        Ok(())
    }

    /// Remembers something of an aggregate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn remember(&mut self, key: &Key, note: &impl Serialize) -> Result<(), ProjectionError> {
        diesel::replace_into(notes::table)
            .values((notes::key.eq(key.as_str()), notes::note.eq(serde_json::to_string(note)?)))
            .execute(&mut self.connection)?;
        Ok(())
    }

    /// What was remembered of an aggregate.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn recall<N: DeserializeOwned>(&mut self, key: &Key) -> Result<Option<N>, ProjectionError> {
        let note: Option<String> =
            notes::table.find(key.as_str()).select(notes::note).first(&mut self.connection).optional()?;
        Ok(note.map(|note| serde_json::from_str(&note)).transpose()?)
    }

    /// Forgets what was remembered of an aggregate.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn forget(&mut self, key: &Key) -> Result<(), ProjectionError> {
        diesel::delete(notes::table.find(key.as_str())).execute(&mut self.connection)?;
        Ok(())
    }
}

impl Sink for CsvFile {
    const IS_FILE: bool = true;

    type Setup = &'static [&'static str];

    fn open(connection: SqliteConnection, path: &Path, length: u64) -> Result<Self, ProjectionError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        let found = file.metadata()?.len();
        if found < length {
            return Err(ProjectionError::new(format!("{} has {found} of its {length} bytes", path.display())));
        }
        // What was written after the last checkpoint comes again.
        file.set_len(length)?;
        Ok(Self { connection, file, length, pending: Vec::new() })
    }

    fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    fn set_up(&mut self, header: &'static [&'static str]) -> Result<(), ProjectionError> {
        self.connection.batch_execute("CREATE TABLE notes (key TEXT NOT NULL PRIMARY KEY, note TEXT NOT NULL)")?;
        self.line(header)
    }

    fn write_out(&mut self) -> Result<u64, ProjectionError> {
        use std::os::unix::fs::FileExt as _;
        if !self.pending.is_empty() {
            // At its place, so that a second attempt overwrites the first.
            self.file.write_all_at(&self.pending, self.length)?;
            self.file.flush()?;
            self.file.sync_data()?;
            self.length += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(self.length)
    }

    fn discard(&mut self, length: u64) {
        self.pending.clear();
        self.length = length;
    }
}
