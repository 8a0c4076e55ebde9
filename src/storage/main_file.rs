//! The database file without its log: what its own bytes say.
//!
//! SQLite leaves 32 bits of the header to applications (`PRAGMA user_version`). Here they are a tag: the first transaction
//! of each log sets a new one, so the tag of the file tells up to which log it has everything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::SystemTime;

/// Marks the log from which the database file has its last changes. Zero in a file that no service has opened yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(pub(super) i32);

impl Tag {
    pub(super) const NONE: Self = Self(0);

    /// A new one, by chance.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(getrandom::u32()?.cast_signed() | 1))
    }
}

/// The first bytes of the file (<https://www.sqlite.org/fileformat2.html#the_database_header>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u8; 100]);

impl Header {
    /// `None` for a file that is too short.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; 100];
        match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Some(Self(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn tag(&self) -> Tag {
        Tag(self.number(60).cast_signed())
    }

    /// It grows with each change of the schema, and `VACUUM` counts as one.
    pub(super) fn schema_version(&self) -> u32 {
        self.number(40)
    }

    /// It grows with each transaction that changes the first page.
    pub(super) fn change_counter(&self) -> u32 {
        self.number(24)
    }

    /// In bytes.
    pub(super) fn page_size(&self) -> u64 {
        match u16::from_be_bytes([self.0[16], self.0[17]]) {
            1 => 65_536,
            size => u64::from(size),
        }
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }
}

/// Parts of the file, at a time when it had everything and the log nothing.
#[derive(Debug, Clone)]
pub(super) struct Fingerprint {
    pub(super) header: Header,
    /// The page with the counters, which every revision changes.
    pub(super) counters: Vec<u8>,
    /// In bytes. It does not become shorter as long as the header is the same.
    pub(super) length: u64,
    /// When it was last written.
    pub(super) modified: SystemTime,
}

impl Fingerprint {
    /// `counters` is the number of that page. `None` if the file is too short.
    pub(super) fn read(file: &File, counters: u64) -> io::Result<Option<Self>> {
        let Some(header) = Header::read(file)? else { return Ok(None) };
        let size = header.page_size();
        let mut page = vec![0; usize::try_from(size).unwrap_or_default()];
        match file.read_exact_at(&mut page, counters.saturating_sub(1) * size) {
            Ok(()) => {
                let metadata = file.metadata()?;
                let modified = metadata.modified()?;
                Ok(Some(Self { header, counters: page, length: metadata.len(), modified }))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}
