//! A file for spreadsheets and scripts: CSV ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)), to which lines are
//! appended.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ProjectionError;
use super::file_id::FileId;
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
    /// What was written, whether or not it is checkpointed.
    mark: FileMark,
    /// The file after the last write.
    stamp: Stamp,
    /// Encoded lines that are not written yet.
    pending: Vec<u8>,
}

/// How much of a file is checkpointed. Nothing of a sink without a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileMark {
    /// In bytes.
    pub(crate) length: u64,
    /// The CRC-32 of these bytes. `None` if an earlier version of this program wrote the file.
    pub(crate) checksum: Option<u32>,
}

/// What changes if somebody else writes the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    id: FileId,
    length: u64,
    modified: SystemTime,
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
    /// Opens the file at `path`, or creates it. Fails if it does not have what is checkpointed.
    pub(super) fn open(connection: SqliteConnection, path: &Path, mark: FileMark) -> Result<Self, ProjectionError> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let checksum = mark.compare(path)?;
        // Lines after the last checkpoint will be written again.
        file.set_len(mark.length)?;
        let stamp = Stamp::of(&file.metadata()?)?;
        let mark = FileMark { checksum: Some(checksum), ..mark };
        Ok(Self { connection, file, mark, stamp, pending: Vec::new() })
    }

    /// Fails if somebody else has removed, replaced or changed the file, of which `mark` is checkpointed.
    pub(super) fn check(&mut self, path: &Path, mark: FileMark) -> Result<(), ProjectionError> {
        let missing = |error: io::Error| ProjectionError::new(format!("{}: {error}", path.display()));
        let now = Stamp::of(&path.metadata().map_err(missing)?)?;
        if now == self.stamp {
            return Ok(());
        }
        if now.id != self.stamp.id {
            return Err(ProjectionError::new(format!("{} was replaced", path.display())));
        }
        mark.compare(path)?;
        self.stamp = now;
        Ok(())
    }

    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    pub(super) fn set_up(&mut self, header: &[&str]) -> Result<(), ProjectionError> {
        self.connection.batch_execute("CREATE TABLE notes (key TEXT NOT NULL PRIMARY KEY, note TEXT NOT NULL)")?;
        self.line(header)
    }

    /// Writes and syncs the pending lines; returns what there is of the file then.
    pub(super) fn write_out(&mut self) -> Result<FileMark, ProjectionError> {
        use std::os::unix::fs::FileExt as _;
        if !self.pending.is_empty() {
            // At a fixed offset, so that a second attempt overwrites the first.
            self.file.write_all_at(&self.pending, self.mark.length)?;
            self.file.flush()?;
            self.file.sync_data()?;
            self.mark.length += self.pending.len() as u64;
            self.mark.checksum = self.mark.checksum.map(|checksum| checksum_after(checksum, &self.pending));
            self.stamp = Stamp::of(&self.file.metadata()?)?;
            self.pending.clear();
        }
        Ok(self.mark)
    }

    pub(super) fn discard(&mut self, mark: FileMark) {
        self.pending.clear();
        self.mark = mark;
    }
}

impl FileMark {
    /// Compares the beginning of a file with the mark, and returns its checksum. Reads all of it.
    pub(crate) fn compare(self, path: &Path) -> Result<u32, ProjectionError> {
        let Self { length, checksum } = self;
        let failed = |error: io::Error| ProjectionError::new(format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(failed)?;
        let found = file.metadata()?.len();
        if found < length {
            return Err(ProjectionError::new(format!("{} has {found} of its {length} bytes", path.display())));
        }
        let mut left = length;
        let mut actual = 0;
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact(&mut buffer[..wanted]).map_err(failed)?;
            actual = checksum_after(actual, &buffer[..wanted]);
            left -= wanted as u64;
        }
        if checksum.is_some_and(|expected| expected != actual) {
            return Err(ProjectionError::new(format!("{} was changed by something else", path.display())));
        }
        Ok(actual)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { id: FileId::of_metadata(metadata), length: metadata.len(), modified: metadata.modified()? })
    }
}

/// The checksum of some bytes and those before them.
fn checksum_after(before: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_file_is_that_of_its_pieces() {
        let whole = crc32fast::hash(b"cart,item\r\n1,apple\r\n");
        assert_eq!(checksum_after(checksum_after(0, b"cart,item\r\n"), b"1,apple\r\n"), whole);
    }
}
