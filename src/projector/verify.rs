//! Checks the files of background projections: `duality verify`.

use std::path::Path;

use super::generation::{Checkpoint, Position, read_checkpoint};
use super::history_check::verify_history;
use super::manifest::{Files, Manifest};
use super::registry::ProjectionSet;
use super::source_id::SourceKind;
use crate::domain::collection::Registry;
use crate::domain::revision::{JournalPosition, Revision};
use crate::read_model::error::ProjectionError;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::error::StoreError;
use crate::storage::location::files_of;
use crate::storage::verified::Verified;
use crate::storage::verify::{self, End, check_sidecar};

/// Verifies a database with its projections, whose files begin with the name `files` if the database is on a server. A
/// service may be using them. Changes nothing.
///
/// # Errors
/// The database cannot be read at all, or belongs to another program or to another version of this one.
pub(crate) fn verify(
    database: &Path,
    files: &Path,
    registry: &Registry,
    projections: &ProjectionSet,
) -> Result<Vec<Verified>, StoreError> {
    let files = files_of(database, files);
    let mut results = verify::verify(database, registry)?;
    if projections.background.iter().any(|spec| spec.has_history()) {
        results.push(verify_history(database, files)?);
    }
    for spec in &projections.background {
        results.push(verify_projection(database, files, spec)?);
    }
    Ok(results)
}

/// How often a projection is looked at again whose generation a running service has replaced meanwhile.
const MAX_ATTEMPTS: usize = 10;

fn verify_projection(database: &Path, files: &Path, spec: &ProjectionSpec) -> Result<Verified, StoreError> {
    let files = Files::existing(files, spec.name);
    let mut attempts = 0;
    loop {
        let manifest = files.look_at_manifest();
        let known = manifest.as_ref().ok().cloned();
        let verified = look(database, spec, &files, manifest)?;
        attempts += 1;
        if verified.is_sound() || attempts == MAX_ATTEMPTS || files.look_at_manifest().ok() == known {
            return Ok(verified);
        }
    }
}

fn look(
    database: &Path,
    spec: &ProjectionSpec,
    files: &Files,
    manifest: Result<Option<Manifest>, ProjectionError>,
) -> Result<Verified, StoreError> {
    let mut verified = Verified::new(format!("projection {}", spec.name));
    let manifest = match manifest {
        Ok(manifest) => manifest.unwrap_or_default(),
        Err(error) => {
            "its manifest".clone_into(&mut verified.looked_at);
            verified.add(format!("its manifest cannot be read: {error}"));
            return Ok(verified);
        }
    };
    let Some(generation) = manifest.current else {
        "nothing is built yet".clone_into(&mut verified.looked_at);
        return Ok(verified);
    };
    verified.looked_at = format!("the files of generation {generation} and its checkpoint");
    let tables = files.tables(generation);
    if !tables.is_file() {
        verified.add(format!("{} is missing", tables.display()));
        return Ok(verified);
    }
    let checkpoint = check_sidecar(&tables, &mut verified, read_checkpoint);
    // Read after the checkpoint, which moves while a service runs.
    let end = verify::end(database)?;
    match checkpoint {
        Ok(checkpoint) => verify_checkpoint(spec, &checkpoint, &end, &files.output(generation), &mut verified),
        Err(error) if error.to_string().contains("no such column") => {
            verified.looked_at.push_str(", which is of an earlier version");
        }
        Err(error) => verified.add(error.to_string()),
    }
    Ok(verified)
}

/// Compares a checkpoint with the end of its source and with the file that it describes.
fn verify_checkpoint(
    spec: &ProjectionSpec,
    checkpoint: &Checkpoint,
    end: &End,
    output: &Path,
    verified: &mut Verified,
) {
    let Position { source, offset, reached } = &checkpoint.position;
    let reached = reached.unwrap_or(0);
    let (last, is_known) = match source.kind {
        SourceKind::Journal => {
            (end.position, end.history.has_position(&source.epoch, JournalPosition::from_raw(reached)))
        }
        _ => (end.revision, end.history.has_revision(&source.epoch, Revision::from_raw(reached))),
    };
    let counts_numbers = matches!(source.kind, SourceKind::Journal | SourceKind::Changes);
    if source.epoch == *end.history.epoch() && counts_numbers && *offset > last {
        verified.add(format!("it has applied events up to {offset}, but the last one is {last}"));
    } else if !is_known {
        verified.looked_at.push_str(", which is of another history, so the next start builds it again");
    }
    if spec.is_file()
        && let Err(error) = checkpoint.file.compare(output)
    {
        verified.add(error.to_string());
    }
}
