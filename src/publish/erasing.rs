//! What a stream still has about aggregates that were erased goes, one after the other. How far that is is not stored
//! anywhere: whoever finds a stream goes through all erasures again, and most of them have nothing left there.

use std::time::Instant;

use super::carrier::{Carrier, Keep, Past, Removal};
use super::error::{PublishError, answered, pause};
use super::source::Source;
use super::status::Status;
use crate::domain::key::Key;
use crate::domain::revision::Revision;
use crate::storage::error::StoreError;
use crate::storage::page::Progress;

/// How far the removal is.
#[derive(Default)]
pub(super) struct Erasing {
    /// Nothing is left of what was erased up to this revision.
    done: Revision,
    /// The carrier removes nothing.
    is_unsupported: bool,
    /// The number of failures in a row, and when the next attempt is due.
    attempts: u32,
    retry_at: Option<Instant>,
}

/// The stream from which messages are removed.
pub(super) struct ErasingContext<'a, C, S: Source> {
    pub(super) carrier: &'a mut C,
    pub(super) source: &'a mut S,
    pub(super) status: &'a Status,
    pub(super) place: &'a S::Place,
    pub(super) keep: Keep,
}

impl Erasing {
    /// The stream may be another one, or may have again what was removed.
    pub(super) fn restart(&mut self) {
        self.done = Revision::ZERO;
    }

    /// Removes the next messages. A failure is tried again later, because nothing else has to wait for it; in a catch-up, it
    /// is the last attempt, because the stream loses everything of before in any case.
    pub(super) async fn step<C: Carrier, S: Source>(
        &mut self,
        context: ErasingContext<'_, C, S>,
    ) -> Result<Progress, StoreError> {
        let ErasingContext { carrier, source, status, place, keep } = context;
        let is_waiting = keep == Keep::Last && self.retry_at.is_some_and(|at| at > Instant::now());
        if self.is_unsupported || is_waiting {
            return Ok(Progress::Done);
        }
        let erasures = source.erasures(place, self.done)?;
        let progress = if erasures.is_empty() { Progress::Done } else { Progress::More };
        for erasure in erasures {
            let past = Past { collection: erasure.collection, key: Key::from_db(&erasure.key), keep };
            match answered(carrier.erase(&past)).await {
                Ok(Removal::Done) => self.done = erasure.revision,
                Ok(Removal::More) => return Ok(Progress::More),
                Ok(Removal::Unsupported) => {
                    self.is_unsupported = true;
                    status.does_not_erase();
                    return Ok(Progress::Done);
                }
                Err(error) => {
                    self.failed(&error, status);
                    return Ok(Progress::Done);
                }
            }
        }
        (self.attempts, self.retry_at) = (0, None);
        if keep == Keep::Last {
            status.erased(self.done);
        }
        Ok(progress)
    }

    fn failed(&mut self, error: &PublishError, status: &Status) {
        self.retry_at = Some(Instant::now() + pause(self.attempts));
        self.attempts += 1;
        status.cannot_erase(error);
    }
}
