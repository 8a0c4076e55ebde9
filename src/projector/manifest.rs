//! The files of a background projection, and the manifest that says which generation is served.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::event_page::EventId;
use crate::read_model::error::ProjectionError;

/// Which generation is served, and which is being built. It is replaced as a whole: the swap of two generations is the
/// renaming of one small file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) current: Option<i64>,
    /// The generation that was served before, for reads that are in progress.
    #[serde(default)]
    pub(crate) previous: Option<i64>,
    pub(crate) building: Option<i64>,
    /// The last offset of the source when that began: it has nothing of what was erased up to there.
    #[serde(default)]
    pub(crate) building_from: Option<i64>,
    /// Whether something was erased that may still be in the files.
    #[serde(default)]
    pub(crate) is_erasing: bool,
    /// Whether the generation that is served has something that was erased, and only another one is without it.
    #[serde(default)]
    pub(crate) is_stained: bool,
    /// The same of the generation that is being built: something was erased after it began. It is completed and served
    /// nevertheless, so that erasures which follow each other do not keep it from ever being complete. Another one follows.
    #[serde(default)]
    pub(crate) is_building_stained: bool,
    /// The highest number that a generation has had.
    pub(crate) last: i64,
    /// The events that are omitted.
    #[serde(default)]
    pub(crate) skipped: Vec<EventId>,
}

/// The files of one projection, in the directory of the projections of a database.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    directory: PathBuf,
    name: &'static str,
}

/// The number of generations before the last one whose files are removed at start, if a killed process left them.
const CLEANED_GENERATIONS: usize = 100;

impl Files {
    /// The files of the projection `name`. Creates the directory if it does not exist.
    pub(crate) fn new(database: &Path, name: &'static str) -> Result<Self, ProjectionError> {
        let files = Self { directory: directory(database), name };
        files.create_directory()?;
        Ok(files)
    }

    /// Creates the directory if it does not exist.
    pub(crate) fn create_directory(&self) -> Result<(), ProjectionError> {
        create_directory(&self.directory)
    }

    /// The same, without creating anything.
    pub(super) fn existing(database: &Path, name: &'static str) -> Self {
        Self { directory: directory(database), name }
    }

    /// The database of a generation.
    pub(crate) fn tables(&self, generation: i64) -> PathBuf {
        self.directory.join(format!("{}.{generation}.db", self.name))
    }

    /// The file of a generation, if its sink is a file.
    pub(crate) fn output(&self, generation: i64) -> PathBuf {
        self.directory.join(format!("{}.{generation}.csv", self.name))
    }

    /// The copy of the aggregates from which a generation is built.
    pub(crate) fn snapshot(&self, generation: i64) -> PathBuf {
        self.directory.join(format!("{}.{generation}.snapshot.db", self.name))
    }

    fn manifest_path(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    /// The manifest as it is; `None` if there is none. Fails if it is no manifest.
    pub(super) fn look_at_manifest(&self) -> Result<Option<Manifest>, ProjectionError> {
        let path = self.manifest_path();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| ProjectionError::new(format!("{} is no manifest: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The manifest. One that is missing or unreadable names no generation, so that the projection is built again.
    pub(crate) fn read_manifest(&self) -> Result<Manifest, ProjectionError> {
        let path = self.manifest_path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.empty_manifest(),
            text => text?,
        };
        match serde_json::from_slice(&text) {
            Ok(manifest) => Ok(manifest),
            Err(error) => {
                let (name, path) = (self.name, path.display());
                log::warn!("projection {name} is built again: {path} is no manifest: {error}");
                self.empty_manifest()
            }
        }
    }

    /// A manifest that names no generation. Files that are there already keep their numbers.
    fn empty_manifest(&self) -> Result<Manifest, ProjectionError> {
        let mut last = 0;
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let generation = name.to_str().and_then(|name| name.strip_prefix(self.name)?.strip_prefix('.'));
            let number = generation.and_then(|name| name.split('.').next()?.parse().ok());
            last = last.max(number.unwrap_or(0));
        }
        Ok(Manifest { last, ..Manifest::default() })
    }

    /// Replaces the manifest atomically and durably.
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), ProjectionError> {
        let target = self.manifest_path();
        let new = self.directory.join(format!("{}.json.new", self.name));
        let mut file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        file.write_all(serde_json::to_string(manifest)?.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &target)?;
        Ok(fs::File::open(&self.directory)?.sync_all()?)
    }

    /// Removes generations that the manifest does not name; a killed process may have left them.
    pub(crate) fn remove_unnamed(&self, manifest: &Manifest) {
        let named = [manifest.current, manifest.previous, manifest.building];
        let recent = (1..=manifest.last).rev().take(CLEANED_GENERATIONS);
        recent.filter(|number| !named.contains(&Some(*number))).for_each(|number| self.remove(number));
    }

    /// Removes a generation. A process that has its files open can still read them.
    pub(crate) fn remove(&self, generation: i64) {
        remove_database(&self.tables(generation));
        remove_database(&self.snapshot(generation));
        remove_file(&self.output(generation));
    }
}

/// The directory of the projections of a database: `duality.db.projections/`.
pub(super) fn directory(database: &Path) -> PathBuf {
    let mut directory = database.as_os_str().to_owned();
    directory.push(".projections");
    PathBuf::from(directory)
}

/// Creates a directory that only its owner can enter, if it does not exist.
pub(super) fn create_directory(directory: &Path) -> Result<(), ProjectionError> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    created
        .map_err(|error| ProjectionError::new(format!("cannot create the directory {}: {error}", directory.display())))
}

/// Removes the copies of change events that earlier versions of this program kept for each projection, permanently.
pub(super) fn remove_archives(directory: &Path) -> Result<(), ProjectionError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.to_str().is_some_and(|path| path.ends_with(".changes.db")) {
            log::info!("removing {}: projections no longer keep copies of change events", path.display());
            remove_database(&path);
        }
    }
    Ok(())
}

/// Removes a database with its write-ahead log; logs a warning if that fails.
pub(super) fn remove_database(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut file: OsString = path.into();
        file.push(suffix);
        remove_file(Path::new(&file));
    }
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}
