//! The status of background projections from their files, while no service runs. Changes nothing.

use std::path::Path;
use std::sync::Arc;

use super::generation::{Checkpoint, read_checkpoint};
use super::history;
use super::manifest::Files;
use super::source::{Compatibility, SourceState};
use super::source_id::SourceKind;
use super::status::{Behind, Current, Mode, Status};
use crate::domain::clock::Timestamp;
use crate::read_model::error::ProjectionError;
use crate::read_model::projection::Feed;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::at_rest::read_undisturbed;
use crate::storage::backlog::{self, Backlog};
use crate::storage::verify::{self, End};

/// The status of a projection of a database of this version. A generation that cannot be read counts as none, because the
/// next start builds another one.
///
/// # Errors
/// The database cannot be read.
pub(crate) fn status(place: Place<'_>, spec: &ProjectionSpec, now: Timestamp) -> Result<Status, ProjectionError> {
    let status = Status::new(spec.name, spec.version, Mode::Background);
    match current(&Files::existing(place.files, spec.name)) {
        Ok(Some((current, checkpoint))) => {
            let unseen = unseen(place, spec, &checkpoint)?.filter(|unseen| unseen.events > 0);
            let behind = unseen.map(|Backlog { events, since }| Behind { events, since: since.unwrap_or(now) });
            let mut state = status.state();
            (state.current, state.behind) = (Some(current), behind);
        }
        Ok(None) => {}
        Err(error) => log::warn!("the next start builds the projection {} again: {error}", spec.name),
    }
    Ok(status)
}

/// Where the events and the files of projections are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) database: &'a Path,
    /// The name with which the files begin.
    pub(crate) files: &'a Path,
}

/// The generation that is served.
fn current(files: &Files) -> Result<Option<(Current, Checkpoint)>, ProjectionError> {
    let manifest = files.look_at_manifest()?.unwrap_or_default();
    let Some(generation) = manifest.current else { return Ok(None) };
    let (tables, output) = (files.tables(generation), files.output(generation));
    let checkpoint = read_undisturbed(&tables, |connection| Ok(read_checkpoint(connection.file())))??;
    let (version, offset) = (checkpoint.version, checkpoint.position.offset);
    Ok(Some((Current { generation, version, offset, tables, output }, checkpoint)))
}

/// The events that a generation has not applied; `None` if it will apply none, because another one is built.
fn unseen(
    Place { database, files }: Place<'_>,
    spec: &ProjectionSpec,
    checkpoint: &Checkpoint,
) -> Result<Option<Backlog>, ProjectionError> {
    let End { history, revision, position, pruned } = verify::end(database)?;
    let (epochs, offset) = (Arc::new(history), checkpoint.position.offset);
    let is_current = |kind, first, last| {
        SourceState { epochs, kind, first, last, erasures: 0 }.compatibility(checkpoint, spec.version)
            == Compatibility::Current
    };
    match spec.feed {
        Feed::Journal => {
            let since = backlog::first_event(database, spec.collections, offset)?;
            let backlog = Backlog { events: position - offset, since };
            Ok(is_current(SourceKind::Journal, 0, position).then_some(backlog))
        }
        Feed::Changes if spec.has_history() => {
            let Some(kept) = history::look(files, spec.collections, offset)? else { return Ok(None) };
            let newer = backlog::changes(database, spec.collections, kept.revision)?;
            let backlog = Backlog { events: kept.last - offset + newer.events, since: kept.first_time.or(newer.since) };
            let kind = SourceKind::History { incarnations: kept.incarnations };
            Ok(is_current(kind, 0, kept.last).then_some(backlog))
        }
        Feed::Changes => {
            let Backlog { since, .. } = backlog::changes(database, spec.collections, offset)?;
            let backlog = Backlog { events: revision - offset, since };
            Ok(is_current(SourceKind::Changes, pruned, revision).then_some(backlog))
        }
    }
}
