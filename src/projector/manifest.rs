//! The files of a projection in the background: its generations, and which of them counts.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::read_model::projection::ProjectionError;

/// The directory of the projections of a database, and one of them in it.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    directory: PathBuf,
    name: &'static str,
}

/// Which generation is read, and which is being built. Replaced as a whole: the swap is the renaming of one small file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    pub(crate) current: Option<i64>,
    /// The one that was read before: kept until the next swap, for those who have just begun to read it.
    #[serde(default)]
    pub(crate) previous: Option<i64>,
    pub(crate) building: Option<i64>,
    /// The last number that was given to a generation.
    pub(crate) last: i64,
    /// The events that are left out: the log, and the place in it.
    #[serde(default)]
    pub(crate) skipped: Vec<(String, i64)>,
}

/// Generations that are looked for at start, the last so many.
const LOOKED_AT: usize = 100;

impl Files {
    /// Beside the database: `duality.db.projections/`.
    pub(crate) fn beside(database: &Path, name: &'static str) -> Result<Self, ProjectionError> {
        let mut directory = database.as_os_str().to_owned();
        directory.push(".projections");
        let directory = PathBuf::from(directory);
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, name })
    }

    /// The database of a generation.
    pub(crate) fn tables(&self, generation: i64) -> PathBuf {
        self.directory.join(format!("{}.{generation}.db", self.name))
    }

    /// The file of a generation that makes one.
    pub(crate) fn output(&self, generation: i64) -> PathBuf {
        self.directory.join(format!("{}.{generation}.csv", self.name))
    }

    /// The change events that a projection was given.
    pub(crate) fn archive(&self) -> PathBuf {
        self.directory.join(format!("{}.changes.db", self.name))
    }

    fn pointer_file(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    pub(crate) fn pointer(&self) -> Result<Pointer, ProjectionError> {
        match fs::read(self.pointer_file()) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Pointer::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn point(&self, pointer: &Pointer) -> Result<(), ProjectionError> {
        let (target, beside) = (self.pointer_file(), self.directory.join(format!("{}.json.new", self.name)));
        let mut file = fs::File::create(&beside)?;
        file.write_all(serde_json::to_string(pointer)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &target)?;
        Ok(fs::File::open(&self.directory)?.sync_all()?)
    }

    /// Removes what a killed process may have left of generations that no longer count.
    pub(crate) fn keep_only(&self, pointer: &Pointer) {
        let counts = [pointer.current, pointer.previous, pointer.building];
        (1..=pointer.last).rev().take(LOOKED_AT).filter(|number| !counts.contains(&Some(*number))).for_each(|number| {
            self.remove(number);
        });
    }

    /// Removes a generation; who still reads it goes on.
    pub(crate) fn remove(&self, generation: i64) {
        let tables = self.tables(generation);
        let beside = |suffix: &str| self.directory.join(format!("{}.{generation}.db{suffix}", self.name));
        for file in [tables, beside("-wal"), beside("-shm"), self.output(generation)] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    log::warn!("{} was not removed: {error}", file.display());
                }
                _ => {}
            }
        }
    }
}
