//! One background projection, step by step. Plain functions: an actor calls them while the service runs, and the command
//! line when it does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::generations::{BuildStep, Generations, ProjectorContext};
use super::status::{Status, StepError};
use crate::read_model::error::ProjectionError;
use crate::read_model::spec::ProjectionSpec;
use crate::storage::page::Progress;

/// One background projection.
pub(crate) struct ProjectionRunner {
    context: ProjectorContext,
    spec: Arc<ProjectionSpec>,
    status: Status,
    /// `None` until the first step, and after a failure that is not due to one event.
    generations: Option<Generations>,
    /// Set while the live generation fails and another one is built.
    live_retry: Option<Retry>,
    /// Set while the generation that is being built fails.
    build_retry: Option<Retry>,
    /// Set after an error that a damaged database causes, until the generations have been checked.
    is_suspicious: bool,
}

/// When a generation that failed is tried again. The other generation continues meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    attempts: u32,
    at: Instant,
}

/// The generations that apply events in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No generation is being built.
    Live,
    /// Both.
    LiveAndBuild,
    /// The live one; the build waits for its next attempt.
    LiveWhileBuildWaits,
    /// The build; the live one waits for its next attempt.
    BuildWhileLiveWaits,
}

/// The generations that wait for their next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting {
    live: bool,
    build: bool,
}

impl ProjectionRunner {
    pub(crate) fn new(context: ProjectorContext, spec: Arc<ProjectionSpec>, status: Status) -> Self {
        Self { context, spec, status, generations: None, live_retry: None, build_retry: None, is_suspicious: false }
    }

    /// Whether it gets the events of a collection.
    pub(crate) fn reads(&self, collection: &str) -> bool {
        self.spec.reads(collection)
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Applies some events. On an error, which is in the status, the caller retries later.
    pub(crate) fn step(&mut self) -> Result<Progress, ()> {
        // What it would read is not the history of this service any more.
        if self.context.database.health().is_replaced() {
            return Ok(Progress::Done);
        }
        self.try_step().map_err(|error| self.fail(error))
    }

    /// Starts to build another generation while the live one is served. Returns the status then.
    pub(crate) fn rebuild(&mut self) -> Result<Value, ProjectionError> {
        self.open()?.rebuild()?;
        let mut state = self.status.state();
        // A failure of a build that was given up does not matter any more.
        let current = state.current.as_ref().map(|current| current.generation);
        state.failure =
            state.failure.take().filter(|failure| failure.generation.is_some() && failure.generation == current);
        drop(state);
        self.build_retry = None;
        Ok(self.status.to_json(self.context.clock.now()))
    }

    /// Has the generations checked in the next step: something could not be read.
    pub(crate) fn suspect(&mut self) {
        self.is_suspicious = true;
    }

    /// Omits the event at which the projection stopped, permanently.
    pub(crate) fn skip(&mut self, at: i64) -> Result<(), ProjectionError> {
        let failed = self.status.state().failure.as_ref().and_then(|failure| failure.event.clone());
        let name = self.spec.name;
        let failed = failed.ok_or_else(|| ProjectionError::new(format!("{name} has not stopped at an event")))?;
        if failed.at != at {
            let why = format!("{name} has stopped at {}, and not at {at}", failed.at);
            return Err(ProjectionError::new(why));
        }
        self.open()?.skip(failed.id)?;
        log::warn!("projection {}: the event at {at} is skipped, as requested", self.spec.name);
        self.build_retry = None;
        Ok(())
    }

    fn open(&mut self) -> Result<&mut Generations, ProjectionError> {
        if self.generations.is_none() {
            let opened = Generations::open(&self.context, Arc::clone(&self.spec), self.status.clone())?;
            self.generations = Some(opened);
        }
        self.generations.as_mut().ok_or_else(|| ProjectionError::new("the files of the projection are not open"))
    }

    fn try_step(&mut self) -> Result<Progress, StepError> {
        let now = Instant::now();
        let is_waiting = |retry: Option<Retry>| retry.is_some_and(|retry| retry.at > now);
        let waiting = Waiting { live: is_waiting(self.live_retry), build: is_waiting(self.build_retry) };
        let is_suspicious = self.is_suspicious;
        let generations = self.open()?;
        if is_suspicious {
            generations.discard_damaged()?;
        }
        generations.prepare()?;
        self.is_suspicious = false;
        let Some(generations) = &mut self.generations else { return Ok(Progress::Done) };
        let phase = Phase::of(generations.is_building(), waiting);
        let live = if phase.advances_live() { generations.advance_live() } else { Ok(Progress::Done) };
        let build = if phase.advances_build() { generations.advance_build() } else { Ok(BuildStep::Nothing) };
        let outcome = match (live, build) {
            (live, Err(error)) => {
                self.build_retry = Some(Retry::after(self.build_retry, now));
                self.fail(error);
                live
            }
            (_, Ok(BuildStep::Swapped)) => {
                // A failure of the generation that was replaced does not matter any more.
                self.succeed();
                Ok(Progress::More)
            }
            (Err(error), Ok(BuildStep::More)) if error.event.is_some() => {
                self.build_retry = None;
                self.live_retry = Some(Retry::after(self.live_retry, now));
                self.fail(error);
                Ok(Progress::More)
            }
            (Err(error), Ok(_)) => Err(error),
            (Ok(live), Ok(build)) => {
                match phase {
                    Phase::Live | Phase::LiveAndBuild => self.succeed(),
                    Phase::BuildWhileLiveWaits => self.build_retry = None,
                    Phase::LiveWhileBuildWaits => self.live_retry = None,
                }
                Ok(if build == BuildStep::More { Progress::More } else { live })
            }
        };
        if let Some(generations) = &self.generations {
            generations.publish();
        }
        outcome
    }

    fn succeed(&mut self) {
        self.live_retry = None;
        self.build_retry = None;
        self.status.state().failure = None;
    }

    fn fail(&mut self, error: StepError) {
        // What failed may be an open file.
        if error.event.is_none() {
            self.generations = None;
            self.is_suspicious |= error.error.is_damage();
        }
        self.status.record_failure(error);
    }
}

impl Phase {
    fn of(is_building: bool, waiting: Waiting) -> Self {
        match (is_building, waiting) {
            (false, _) => Self::Live,
            (true, Waiting { build: true, .. }) => Self::LiveWhileBuildWaits,
            (true, Waiting { live: true, .. }) => Self::BuildWhileLiveWaits,
            (true, _) => Self::LiveAndBuild,
        }
    }

    fn advances_live(self) -> bool {
        self != Self::BuildWhileLiveWaits
    }

    fn advances_build(self) -> bool {
        matches!(self, Self::LiveAndBuild | Self::BuildWhileLiveWaits)
    }
}

impl Retry {
    /// The next attempt after another failure.
    fn after(before: Option<Self>, now: Instant) -> Self {
        let attempts = before.map_or(0, |before| before.attempts);
        Self { attempts: attempts + 1, at: now + back_off(attempts) }
    }
}

const SHORTEST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How long to wait before the next attempt, after this many failed attempts before the last one.
pub(crate) fn back_off(attempts: u32) -> Duration {
    SHORTEST_BACK_OFF.saturating_mul(1 << attempts.min(16)).min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_up_to_its_limit() {
        for (attempts, milliseconds) in [(0, 100), (1, 200), (2, 400), (8, 25_600), (9, 30_000), (u32::MAX, 30_000)] {
            assert_eq!(back_off(attempts), Duration::from_millis(milliseconds), "{attempts}");
        }
    }

    #[test]
    fn a_generation_that_waits_does_not_delay_the_other() {
        let waits = |live, build| Waiting { live, build };
        for (is_building, waiting, expected) in [
            (false, waits(false, false), Phase::Live),
            (false, waits(true, false), Phase::Live),
            (false, waits(true, true), Phase::Live),
            (true, waits(false, false), Phase::LiveAndBuild),
            (true, waits(false, true), Phase::LiveWhileBuildWaits),
            (true, waits(true, false), Phase::BuildWhileLiveWaits),
            // The live generation is tried again when both wait: the actor itself waits between failures of the live one.
            (true, waits(true, true), Phase::LiveWhileBuildWaits),
        ] {
            assert_eq!(Phase::of(is_building, waiting), expected, "{is_building} {waiting:?}");
        }
    }
}
