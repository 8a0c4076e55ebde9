//! `duality epoch new`

use crate::service::settings::Settings;
use crate::service::task::{TaskError, TaskOutcome, print_line};
use crate::storage::new_epoch;

/// Begins an epoch, and prints it.
pub(super) fn begin(settings: &Settings) -> Result<TaskOutcome, TaskError> {
    let history = new_epoch::begin(&settings.database)?;
    let (epoch, after) = (history.epoch(), history.first_revision().previous());
    print_line(&format!("epoch {epoch} begins after revision {after}; services that run go on in it"));
    Ok(TaskOutcome::Success)
}
