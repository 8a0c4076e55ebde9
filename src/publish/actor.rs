//! The actors that publish, one for each output, woken by the relay as projections are.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::carrier::Carrier;
use super::error::pause;
use super::publisher::{Publisher, Step};
use super::source::Source;
use crate::delivery::interest::NewEvents;
use crate::storage::page::Progress;

/// Publishes one output, in steps between which it handles messages.
pub(super) struct PublisherActor<C: Carrier, S: Source> {
    /// `None` during a step.
    publisher: Option<Box<Publisher<C, S>>>,
    poll_interval: Duration,
    /// There were new events during a step.
    is_behind: bool,
    /// The number of failures in a row, and when the next attempt is due.
    attempts: u32,
    retry_at: Option<Instant>,
}

impl<C: Carrier + 'static, S: Source + 'static> PublisherActor<C, S> {
    pub(super) fn new(publisher: Publisher<C, S>, poll_interval: Duration) -> Self {
        Self { publisher: Some(Box::new(publisher)), poll_interval, is_behind: false, attempts: 0, retry_at: None }
    }

    fn run(&mut self, ctx: &mut Context<Self>) {
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let Some(mut publisher) = self.publisher.take() else {
            self.is_behind = true;
            return;
        };
        self.is_behind = false;
        let step = async move {
            let outcome = publisher.step().await;
            (publisher, outcome)
        };
        ctx.spawn(step.into_actor(self).map(|(publisher, outcome), actor, ctx| {
            actor.publisher = Some(publisher);
            actor.stepped(outcome, ctx);
        }));
    }

    fn stepped(&mut self, outcome: Step, ctx: &mut Context<Self>) {
        match outcome {
            Step::Published(progress) => {
                self.attempts = 0;
                self.retry_at = None;
                if progress == Progress::More || self.is_behind {
                    self.run(ctx);
                }
            }
            // Its commits are no reason to ask the other one more often.
            Step::LeftToOthers => {
                self.attempts = 0;
                self.retry_at = Some(Instant::now() + self.poll_interval);
            }
            Step::Failed => {
                let pause = pause(self.attempts);
                self.attempts += 1;
                self.retry_at = Some(Instant::now() + pause);
                ctx.run_later(pause, Self::run);
            }
        }
    }
}

impl<C: Carrier + 'static, S: Source + 'static> Actor for PublisherActor<C, S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Further notifications would be redundant.
        ctx.set_mailbox_capacity(2);
        ctx.run_interval(self.poll_interval, Self::run);
        self.run(ctx);
    }
}

impl<C: Carrier + 'static, S: Source + 'static> Handler<NewEvents> for PublisherActor<C, S> {
    type Result = ();

    fn handle(&mut self, _: NewEvents, ctx: &mut Self::Context) {
        self.run(ctx);
    }
}
