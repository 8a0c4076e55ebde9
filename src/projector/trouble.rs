//! What keeps a projection from going on, and for how long.

use std::time::Duration;

use super::status::{Failure, Status};
use crate::read_model::projection::ProjectionError;

/// Why a step was not done.
pub(super) struct Trouble {
    /// The place of the event that cannot be taken, if it is one, and its position or revision.
    pub(super) event: Option<(i64, i64)>,
    /// The generation that cannot take it.
    pub(super) generation: Option<i64>,
    pub(super) error: ProjectionError,
}

impl<E: Into<ProjectionError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self { event: None, generation: None, error: error.into() }
    }
}

/// The shortest and the longest time between two attempts.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long to wait after so many failures in a row.
pub(super) fn back_off(attempts: u32) -> Duration {
    BACK_OFF.0.saturating_mul(1 << attempts.min(16)).min(BACK_OFF.1)
}

/// Says of a projection that it does not go on.
pub(super) fn note(status: &Status, Trouble { event, generation, error }: Trouble) {
    let mut state = status.state();
    let known = state.failure.as_ref().filter(|known| (known.event, known.generation) == (event, generation));
    let attempts = known.map_or(0, |known| known.attempts) + 1;
    log::error!("projection {} does not go on: {error}", state.name);
    state.failure = Some(Failure { event, generation, error: error.0, attempts });
}
