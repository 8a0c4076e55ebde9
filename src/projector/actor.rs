//! The actors that run background projections, one for each, on threads of their own.
//!
//! The relay notifies them after a commit; each applies new events at its own pace, so a slow one delays nothing else.

use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;

use super::runner::{ProjectionRunner, back_off};
use crate::delivery::interest::NewEvents;
use crate::read_model::error::ProjectionError;
use crate::storage::page::Progress;

/// Runs one projection.
pub(crate) struct ProjectorActor {
    runner: ProjectionRunner,
    poll_interval: Duration,
    /// Whether a `RunStep` is in the mailbox.
    is_scheduled: bool,
    /// The number of failures in a row, and when the next attempt is due.
    attempts: u32,
    retry_at: Option<Instant>,
}

impl ProjectorActor {
    pub(crate) fn new(runner: ProjectionRunner, poll_interval: Duration) -> Self {
        Self { runner, poll_interval, is_scheduled: false, attempts: 0, retry_at: None }
    }

    /// Applies new events, in steps between which it handles other messages.
    fn run(&mut self, ctx: &mut Context<Self>) {
        if self.is_scheduled || self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.is_scheduled = true;
        ctx.notify(RunStep);
    }
}

impl Actor for ProjectorActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Further notifications would be redundant.
        ctx.set_mailbox_capacity(2);
        ctx.run_interval(self.poll_interval, Self::run);
        self.run(ctx);
    }
}

/// Run one step.
struct RunStep;

impl Message for RunStep {
    type Result = ();
}

impl Handler<RunStep> for ProjectorActor {
    type Result = ();

    fn handle(&mut self, _: RunStep, ctx: &mut Self::Context) {
        self.is_scheduled = false;
        match self.runner.step() {
            Ok(progress) => {
                self.attempts = 0;
                self.retry_at = None;
                if progress == Progress::More {
                    self.run(ctx);
                }
            }
            Err(()) => {
                let pause = back_off(self.attempts);
                self.attempts += 1;
                self.retry_at = Some(Instant::now() + pause);
                ctx.run_later(pause, Self::run);
            }
        }
    }
}

impl Handler<NewEvents> for ProjectorActor {
    type Result = ();

    fn handle(&mut self, _: NewEvents, ctx: &mut Self::Context) {
        self.run(ctx);
    }
}

/// A report could not open the generation that is served. Build another one if it is damaged.
pub(crate) struct CheckFiles;

impl Message for CheckFiles {
    type Result = ();
}

impl Handler<CheckFiles> for ProjectorActor {
    type Result = ();

    fn handle(&mut self, _: CheckFiles, ctx: &mut Self::Context) {
        self.runner.suspect();
        self.run(ctx);
    }
}

/// Rebuild the projection while the current generation is served. Returns the status when the build has started.
pub(crate) struct Rebuild;

impl Message for Rebuild {
    type Result = Result<Value, ProjectionError>;
}

impl Handler<Rebuild> for ProjectorActor {
    type Result = Result<Value, ProjectionError>;

    fn handle(&mut self, _: Rebuild, ctx: &mut Self::Context) -> Self::Result {
        let status = self.runner.rebuild()?;
        self.retry_at = None;
        self.run(ctx);
        Ok(status)
    }
}

/// Skip the event at this position or revision, at which the projection stopped.
pub(crate) struct Skip(pub(crate) i64);

impl Message for Skip {
    type Result = Result<(), ProjectionError>;
}

impl Handler<Skip> for ProjectorActor {
    type Result = Result<(), ProjectionError>;

    fn handle(&mut self, Skip(at): Skip, ctx: &mut Self::Context) -> Self::Result {
        self.runner.skip(at)?;
        self.retry_at = None;
        self.run(ctx);
        Ok(())
    }
}
