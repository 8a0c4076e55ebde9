//! Erasures as the aggregator does them: in steps, between which it executes commands. What a killed process has left is
//! finished at the next start.

use std::time::{Duration, Instant};

use actix::prelude::*;
use tokio::sync::oneshot;

use super::aggregator::{Aggregator, AwaitedErasure, ExecuteError};
use crate::domain::command::{Change, Command};
use crate::domain::error_chain::ErrorChain;
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::domain::revision::Revision;
use crate::storage::erasing::ErasingStep;
use crate::storage::erasure::Erasure;
use crate::storage::error::StoreError;
use crate::storage::health::Part;
use crate::storage::writer::Writer;

/// The pause while a reader needs what is to be overwritten.
const PAUSE_FOR_READERS: Duration = Duration::from_millis(100);

/// The pause while there is no room for writing the file again. To look for room costs nothing.
const PAUSE_FOR_ROOM: Duration = Duration::from_secs(5);

/// Begins to erase an aggregate.
pub(crate) struct Erase {
    pub(crate) collection: CollectionId,
    pub(crate) key: Key,
    pub(crate) metadata: Metadata,
}

/// An aggregate that does not exist any more, and of which the database may still have something.
pub(crate) struct BegunErasure {
    /// That of its last change event.
    pub(crate) revision: Revision,
    /// Whether the database had a row or events of it. Otherwise its key may be a mistake.
    pub(crate) was_known: bool,
    /// Comes when nothing is left in the database. Ends without it if that fails for now: it is tried again.
    pub(crate) finished: oneshot::Receiver<()>,
}

impl Message for Erase {
    type Result = Result<BegunErasure, ExecuteError>;
}

impl Handler<Erase> for Aggregator {
    type Result = Result<BegunErasure, ExecuteError>;

    fn handle(&mut self, Erase { collection, key, metadata }: Erase, ctx: &mut Self::Context) -> Self::Result {
        let (change, precondition) = (Change::Erase, Precondition::default());
        let command = Command { collection, key: Some(key.clone()), precondition, change, metadata, idempotency: None };
        let begun = self.execute_now(command)?;
        let (reply_to, finished) = oneshot::channel();
        self.erasing.push(AwaitedErasure { collection: self.collection_name(collection), key, reply_to });
        self.continue_erasing(ctx);
        Ok(BegunErasure { revision: begun.revision, was_known: !begun.is_new, finished })
    }
}

/// Do the next step.
struct ContinueErasing;

impl Message for ContinueErasing {
    type Result = ();
}

impl Handler<ContinueErasing> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: ContinueErasing, ctx: &mut Self::Context) {
        self.retry.is_in_mailbox = false;
        self.flush();
        let now = self.clock.now();
        let extent = self.retry.extent(Instant::now());
        let step = self.use_writer(|writer| writer.continue_erasing(now, extent));
        self.note_overwritten();
        if self.writer.as_mut().is_some_and(Writer::is_log_long) {
            self.checkpoint();
        }
        match step {
            Ok(ErasingStep::More) => self.continue_erasing(ctx),
            Ok(ErasingStep::Finished(erasures)) => {
                self.recover_erasing();
                erasures.iter().for_each(|erasure| self.finish_erasure(erasure));
                self.continue_erasing(ctx);
            }
            Ok(ErasingStep::Nothing) => {
                self.recover_erasing();
                // Whoever waits for one that was finished before.
                self.erasing.drain(..).for_each(AwaitedErasure::finish);
            }
            Ok(ErasingStep::Hindered) => self.continue_erasing_after(PAUSE_FOR_READERS, ctx),
            Ok(ErasingStep::Postponed) => {
                self.erasing.clear();
                self.continue_erasing_after(self.retry.pause(Instant::now()), ctx);
            }
            Ok(ErasingStep::NoRoom(why)) => {
                self.database.health().fail(Part::Erasure, &why);
                self.postpone_erasing(PAUSE_FOR_ROOM, ctx);
            }
            Err(error) => self.fail_erasing(error.cause(), ctx),
        }
    }
}

/// The pause is over.
struct RetryErasing;

impl Message for RetryErasing {
    type Result = ();
}

impl Handler<RetryErasing> for Aggregator {
    type Result = ();

    fn handle(&mut self, _: RetryErasing, ctx: &mut Self::Context) {
        self.retry.is_scheduled = false;
        self.continue_erasing(ctx);
    }
}

impl Aggregator {
    /// Does the next step when no command waits.
    pub(super) fn continue_erasing(&mut self, ctx: &mut Context<Self>) {
        if !self.retry.is_in_mailbox {
            self.retry.is_in_mailbox = true;
            ctx.notify(ContinueErasing);
        }
    }

    fn continue_erasing_after(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        if !self.retry.is_scheduled {
            self.retry.is_scheduled = true;
            ctx.notify_later(RetryErasing, pause);
        }
    }

    /// Each failure is in the log, because its reason has its number.
    fn fail_erasing(&mut self, error: &StoreError, ctx: &mut Context<Self>) {
        let pause = self.retry.fail();
        // It is in the health of the file.
        if !matches!(error, StoreError::Replaced { .. }) {
            let (path, failures, seconds) = (self.database.path().display(), self.retry.failures, pause.as_secs());
            let cause = ErrorChain(error);
            let reason = format!("{path}: {cause}; that was attempt {failures}, and the next one is in {seconds} s");
            self.database.health().fail(Part::Erasure, &reason);
        }
        self.postpone_erasing(pause, ctx);
    }

    /// Nobody waits for that long.
    fn postpone_erasing(&mut self, pause: Duration, ctx: &mut Context<Self>) {
        self.erasing.clear();
        self.retry.at = Some(Instant::now() + pause);
        self.continue_erasing_after(pause, ctx);
    }

    fn recover_erasing(&mut self) {
        self.retry.recover();
        self.database.health().recover(Part::Erasure);
    }

    fn finish_erasure(&mut self, erasure: &Erasure) {
        log::info!("{erasure} is erased from the database");
        let (finished, others) = self.erasing.drain(..).partition(|waiting| waiting.is_for(erasure));
        self.erasing = others;
        let finished: Vec<AwaitedErasure> = finished;
        finished.into_iter().for_each(AwaitedErasure::finish);
    }
}
