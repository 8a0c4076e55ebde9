//! Erasures as the aggregator does them: in steps, between which it executes commands. What a killed process has left is
//! finished at the next start.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::aggregator::{Aggregator, AwaitedErasure, ExecuteError};
use super::refusal::Refusal;
use crate::domain::command::{Change, Command};
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::domain::revision::Revision;
use crate::storage::erasing::ErasingStep;
use crate::storage::erasure::Erasure;

/// The pause while a reader needs what is to be overwritten.
const PAUSE_FOR_READERS: Duration = Duration::from_millis(100);

/// The pause after an error, which is in the log.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

/// Erases an aggregate. The answer comes when nothing is left of it in the database: its revision.
pub(crate) struct Erase {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) metadata: Metadata,
}

impl Message for Erase {
    type Result = Result<Revision, ExecuteError>;
}

impl Handler<Erase> for Aggregator {
    type Result = ResponseFuture<Result<Revision, ExecuteError>>;

    fn handle(&mut self, Erase { collection, key, metadata }: Erase, ctx: &mut Self::Context) -> Self::Result {
        let (change, precondition) = (Change::Erase, Precondition::default());
        let command = Command { collection, key: Some(key.clone()), precondition, change, metadata, idempotency: None };
        let begun = match self.execute_now(command) {
            Ok(begun) => begun,
            Err(error) => return Box::pin(async { Err(error) }),
        };
        let (reply_to, finished) = oneshot::channel();
        self.erasing.push(AwaitedErasure { collection: self.collection_name(collection), key, reply_to });
        self.continue_erasing(ctx);
        Box::pin(async move {
            let is_finished = finished.await.is_ok();
            if is_finished { Ok(begun.revision) } else { Err(ExecuteError::NotDone(Refusal::Stopping)) }
        })
    }
}

/// Do the next step.
pub(super) struct ContinueErasing;

impl Message for ContinueErasing {
    type Result = ();
}

impl Handler<ContinueErasing> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: ContinueErasing, ctx: &mut Self::Context) {
        self.is_erasing = false;
        self.flush();
        let now = self.clock.now();
        let step = self.with_writer(|writer| writer.continue_erasing(now));
        self.note_overwritten();
        match step {
            Ok(ErasingStep::More) => self.continue_erasing(ctx),
            Ok(ErasingStep::Finished(erasures)) => {
                erasures.iter().for_each(|erasure| self.finish_erasure(erasure));
                self.continue_erasing(ctx);
            }
            // Whoever waits for one that was finished before.
            Ok(ErasingStep::Nothing) => self.erasing.drain(..).for_each(|waiting| {
                let _ = waiting.reply_to.send(());
            }),
            Ok(ErasingStep::Hindered) => self.continue_erasing_after(PAUSE_FOR_READERS, ctx),
            Err(_) => self.continue_erasing_after(PAUSE_AFTER_ERROR, ctx),
        }
    }
}

impl Aggregator {
    /// Does the next step when no command waits.
    pub(super) fn continue_erasing(&mut self, ctx: &mut Context<Self>) {
        if !self.is_erasing {
            self.is_erasing = true;
            ctx.notify(ContinueErasing);
        }
    }

    fn continue_erasing_after(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if !self.is_erasing {
            self.is_erasing = true;
            ctx.notify_later(ContinueErasing, pause);
        }
    }

    fn finish_erasure(&mut self, erasure: &Erasure) {
        log::info!("{erasure} is erased from the database");
        let (finished, others) = self.erasing.drain(..).partition(|waiting| waiting.is_for(erasure));
        self.erasing = others;
        let finished: Vec<AwaitedErasure> = finished;
        for waiting in finished {
            // Who waited for it may be gone.
            let _ = waiting.reply_to.send(());
        }
    }
}
