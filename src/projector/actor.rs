//! The actors that keep projections in the background, one for each, on threads of their own.
//!
//! The relay wakes them when something was committed; each takes what is new at its own pace, so a slow one delays nobody.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;

use crate::read_model::projection::{Feed, Projection, ProjectionError, Sink as _};

use super::runner::{Done, Parts, Projecting, Working};
use super::trouble::back_off;
use crate::delivery::relay::NewEvents;
use crate::read_model::report::Report;

/// A background projection before it runs, its type erased.
pub(crate) trait Background: Send + Sync {
    fn name(&self) -> &'static str;

    fn version(&self) -> i64;

    fn collections(&self) -> &'static [&'static str];

    fn feed(&self) -> Feed;

    fn reports(&self) -> Vec<Report>;

    /// Whether it makes a file, which is read under its name.
    fn is_file(&self) -> bool;

    fn work(&self, parts: Parts) -> Result<Box<dyn Working>, ProjectionError>;
}

/// The erased form of a [`Projection`] in the background.
pub(crate) struct InBackground<P>(PhantomData<fn() -> P>);

impl<P> InBackground<P> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P: Projection> Background for InBackground<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> i64 {
        P::VERSION
    }

    fn collections(&self) -> &'static [&'static str] {
        P::COLLECTIONS
    }

    fn feed(&self) -> Feed {
        P::FEED
    }

    fn reports(&self) -> Vec<Report> {
        P::reports()
    }

    fn is_file(&self) -> bool {
        P::Sink::IS_FILE
    }

    fn work(&self, parts: Parts) -> Result<Box<dyn Working>, ProjectionError> {
        Ok(Box::new(Projecting::<P>::new(parts)?))
    }
}

/// Keeps one projection.
pub(crate) struct Projector {
    work: Box<dyn Working>,
    poll_interval: Duration,
    /// Whether it has told itself to go on.
    is_going: bool,
    /// Failures since it last went on, and when it tries again.
    attempts: u32,
    retry_at: Option<Instant>,
}

impl Projector {
    pub(crate) fn new(work: Box<dyn Working>, poll_interval: Duration) -> Self {
        Self { work, poll_interval, is_going: false, attempts: 0, retry_at: None }
    }

    /// Does what there is to do, in steps, between which it listens.
    fn go(&mut self, ctx: &mut Context<Self>) {
        if self.is_going || self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.is_going = true;
        ctx.notify(Go);
    }
}

impl Actor for Projector {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // One word that there is something is as good as many.
        ctx.set_mailbox_capacity(2);
        ctx.run_interval(self.poll_interval, Self::go);
        self.go(ctx);
    }
}

/// Do a step.
struct Go;

impl Message for Go {
    type Result = ();
}

impl Handler<Go> for Projector {
    type Result = ();

    fn handle(&mut self, _: Go, ctx: &mut Self::Context) {
        self.is_going = false;
        match self.work.step() {
            Ok(done) => {
                (self.attempts, self.retry_at) = (0, None);
                if done == Done::Some {
                    self.go(ctx);
                }
            }
            Err(()) => {
                let pause = back_off(self.attempts);
                self.attempts += 1;
                self.retry_at = Some(Instant::now() + pause);
                ctx.run_later(pause, Self::go);
            }
        }
    }
}

impl Handler<NewEvents> for Projector {
    type Result = ();

    fn handle(&mut self, _: NewEvents, ctx: &mut Self::Context) {
        self.go(ctx);
    }
}

/// Build the projection anew, beside the one that is read. The answer is how it is when that has begun: a moment later it
/// may have ended.
pub(crate) struct Rebuild;

impl Message for Rebuild {
    type Result = Result<Value, ProjectionError>;
}

impl Handler<Rebuild> for Projector {
    type Result = Result<Value, ProjectionError>;

    fn handle(&mut self, _: Rebuild, ctx: &mut Self::Context) -> Self::Result {
        let begun = self.work.rebuild()?;
        self.retry_at = None;
        self.go(ctx);
        Ok(begun)
    }
}

/// Leave out the event at which it stopped.
pub(crate) struct Skip(pub(crate) i64);

impl Message for Skip {
    type Result = Result<(), ProjectionError>;
}

impl Handler<Skip> for Projector {
    type Result = Result<(), ProjectionError>;

    fn handle(&mut self, Skip(at): Skip, ctx: &mut Self::Context) -> Self::Result {
        self.work.skip(at)?;
        self.retry_at = None;
        self.go(ctx);
        Ok(())
    }
}
