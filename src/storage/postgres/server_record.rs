//! The transactions of a writer on a server that others write as well.
//!
//! Everything that changes the record first takes the one row of `metadata`, and replaces its token at the end. So all
//! changes have one order, revisions have no gaps, and whoever still knows the token knows that nothing has changed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager as Manager, SimpleConnection as _, TransactionManager as _};
use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::fenced::{Attempt, FencedRecord, Known};
use super::holders;
use super::prefetch;
use super::rules;
use super::schema::{batches, metadata};
use super::token::Token;
use crate::domain::collection::Registry;
use crate::domain::error_chain::ErrorChain;
use crate::domain::history::History;
use crate::domain::revision::Revision;
use crate::memory::budget::MemoryBudget;
use crate::storage::commit::Batch;
use crate::storage::commit_outcome::Committable;
use crate::storage::database::{Database, LastLife, Place};
use crate::storage::database_file::MainConnection;
use crate::storage::engine::AnyConnection;
use crate::storage::epochs;
use crate::storage::error::StoreError;
use crate::storage::fetched::Missing;
use crate::storage::maintained::{Effect, Maintained};
use crate::storage::page::Progress;
use crate::storage::registration::{DatabaseState, Registration};
use crate::storage::server::identity::Identity;
use crate::storage::server::start;
use crate::storage::server::{Purpose, Server};
use crate::storage::transaction::WriteError;

/// The record on a server, in one epoch.
pub(in crate::storage) struct ServerRecord {
    place: Arc<Place>,
    history: Arc<History>,
    registry: Arc<Registry>,
    fenced: FencedRecord,
}

/// How long a writer asks what became of a transaction whose connection broke.
const PATIENCE: Duration = Duration::from_secs(10);

/// The batches that are remembered, in revisions: whoever asks for one asks within seconds.
const REMEMBERED: i64 = 100_000;

/// The revisions whose batches one step of pruning forgets.
const FORGOTTEN_AT_ONCE: i64 = 20_000;

/// What was read before the row was taken could be out of date: each statement sees what is committed when it begins.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl ServerRecord {
    /// Writes the consequences of new or changed registrations. Begins an epoch only in a new database, or if the database
    /// is not where its epoch began.
    pub(in crate::storage) fn open(
        database: &Database,
        server: &Server,
        connection: &mut AnyConnection,
        registration: Registration<'_>,
        memory: &Arc<MemoryBudget>,
    ) -> Result<Self, StoreError> {
        let history = write(connection, |connection| {
            connection.batch_execute(holders::MAINTENANCE)?;
            start::take_turn(postgres(connection))?;
            start::require_whole(postgres(connection))?;
            let here = Identity::of(postgres(connection))?;
            let state = initialize(postgres(connection), &here, database.last_life())?;
            let seen = lock(postgres(connection))?;
            let has_moved = seen.identity != here || database.last_life().is_some_and(|last| seen.is_behind(last));
            let history = if state == DatabaseState::New || has_moved {
                let history = epochs::begin(connection)?;
                note_identity(postgres(connection), &here)?;
                history
            } else {
                epochs::history(connection)?
            };
            rules::reject_newer(postgres(connection), registration.registry)?;
            if database.last_life().is_some() {
                rules::reject_dropped(postgres(connection), registration.registry)?;
            }
            registration.write_collections(connection, state)?;
            replace_token(postgres(connection), Token::random()?)?;
            server.set_identity(here);
            Ok(history)
        })
        .map_err(WriteError::into_cause)?;
        database.set_history(history);
        Ok(Self::reopen(database, registration.registry, memory))
    }

    /// Continues after the writer had to open the database again.
    pub(in crate::storage) fn reopen(
        database: &Database,
        registry: &Arc<Registry>,
        memory: &Arc<MemoryBudget>,
    ) -> Self {
        let (place, history) = (Arc::clone(database.place()), Arc::clone(database.history()));
        let fenced = FencedRecord::new(&place, &history, memory);
        Self { place, history, registry: Arc::clone(registry), fenced }
    }

    /// Runs `work` in a transaction that follows on whatever others have written.
    pub(in crate::storage) fn maintain<T>(
        &mut self,
        connection: &mut AnyConnection,
        work: impl FnOnce(&mut AnyConnection) -> Result<Maintained<T>, StoreError>,
    ) -> Result<T, WriteError> {
        let maintained = write(connection, |connection| {
            self.take(connection)?;
            connection.batch_execute(holders::MAINTENANCE)?;
            rules::require_all_own(postgres(connection), &self.registry)?;
            let maintained = work(connection)?;
            if maintained.effect == Effect::Changed {
                replace_token(postgres(connection), Token::random()?)?;
            }
            Ok(maintained)
        });
        // What is known stays true of a record in which nothing has changed.
        if !matches!(maintained, Ok(Maintained { effect: Effect::Nothing, .. })) {
            self.fenced.forget();
        }
        maintained.map(|maintained| maintained.done)
    }

    /// Executes a batch of commands, which follows on whatever others have written: by one statement if nobody has written
    /// anything since what is known, otherwise in a transaction that nobody else writes beside.
    pub(in crate::storage) fn commit(
        &mut self,
        connection: &mut AnyConnection,
        mut batch: Batch<'_>,
    ) -> Result<Committable, WriteError> {
        match self.fenced.commit(postgres(connection), &mut batch)? {
            Attempt::Done(committable) => Ok(committable),
            Attempt::Refused => self.commit_locked(connection, batch),
            Attempt::Unknown { token, committable, cause } => {
                match is_committed(postgres(connection), token, committable.outcome.after) {
                    Ok(true) => Ok(batch.take_executed(committable)),
                    // The same connection answers, so its statement is over, and did nothing: perhaps it waited in vain.
                    Ok(false) => {
                        log::warn!("a batch was not written, and is executed again: {}", ErrorChain(&cause));
                        holders::make_way(postgres(connection))?;
                        self.commit_locked(connection, batch)
                    }
                    Err(_) => {
                        let committable = batch.take_executed(committable);
                        self.find_out(connection, token, committable, cause)
                    }
                }
            }
        }
    }

    /// Executes a batch of commands in a transaction, beside which nobody changes anything: by the same statements, which
    /// cannot miss there, or row by row if it reads what is never fetched.
    fn commit_locked(
        &mut self,
        connection: &mut AnyConnection,
        mut batch: Batch<'_>,
    ) -> Result<Committable, WriteError> {
        self.fenced.forget();
        let mut decided = None;
        let written = write(connection, |connection| {
            self.take(connection)?;
            decided = Some(match self.fenced.commit(postgres(connection), &mut batch)? {
                Attempt::Done(committable) => committable,
                Attempt::Refused => self.commit_by_row(connection, batch)?,
                // What becomes of it is what becomes of the transaction.
                Attempt::Unknown { cause, .. } => return Err(cause),
            });
            Ok(())
        });
        let Err(error) = written else { return decided.ok_or_else(|| StoreError::Panicked.into()) };
        let token = self.fenced.token();
        self.fenced.forget();
        match (error, decided, token) {
            (WriteError::Unknown(cause), Some(committable), Some(token)) => {
                self.find_out(connection, token, committable, cause)
            }
            (error, ..) => Err(error),
        }
    }

    /// Executes a batch in the transaction that has the row of `metadata`.
    fn commit_by_row(
        &mut self,
        connection: &mut AnyConnection,
        mut batch: Batch<'_>,
    ) -> Result<Committable, StoreError> {
        let seen = prefetch::load(postgres(connection), batch.context.registry, &Missing::default())?;
        batch.context.stored = seen.stored;
        let committable = batch.commit(connection, &seen.counters)?;
        let mut token = seen.token;
        if committable.outcome.has_changes {
            token = Token::random()?;
            replace_token(postgres(connection), token)?;
            let (first, last) = (committable.outcome.after.next().number(), committable.outcome.revision.number());
            let row = (batches::token.eq(token.as_bytes()), batches::first.eq(first), batches::last.eq(last));
            diesel::insert_into(batches::table).values(row).execute(postgres(connection))?;
        }
        let (counters, stored) = (committable.counters.clone(), committable.stored);
        self.fenced.know(Known { token, counters, stored });
        Ok(committable)
    }

    /// Asks what became of a batch whose transaction ended with an error, over a new connection. Until then, nothing is
    /// said about it: the old connection may still wait for its turn on the server.
    fn find_out(
        &self,
        connection: &mut AnyConnection,
        token: Token,
        committable: Committable,
        cause: StoreError,
    ) -> Result<Committable, WriteError> {
        log::warn!("the end of a transaction is not known, and is asked for: {}", ErrorChain(&cause));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.outcome_of(token, committable.outcome.after) {
                Ok((outcome, again)) => {
                    *connection = again;
                    return match outcome {
                        Outcome::Committed => Ok(committable),
                        Outcome::NotCommitted => Err(WriteError::NotDone(cause)),
                        Outcome::Forgotten => Err(WriteError::Unknown(cause)),
                    };
                }
                Err(error @ StoreError::Replaced { .. }) => return Err(WriteError::Unknown(error)),
                Err(error) if Instant::now() > deadline || self.is_replaced() => {
                    return Err(WriteError::Unknown(error));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Whether a batch was committed. Whatever its old connection does later, it does nothing: the token is another one.
    fn outcome_of(&self, token: Token, after: Revision) -> Result<(Outcome, AnyConnection), StoreError> {
        let Place::Server(server) = &*self.place else { return Err(self.place.report_other_history()) };
        let mut connection = server.connect(Purpose::Write)?;
        let outcome = write(&mut connection, |connection| {
            // Waits for the old connection, if that has the row.
            let seen = self.take(connection)?;
            let is_committed = is_committed(postgres(connection), token, after)?;
            replace_token(postgres(connection), Token::random()?)?;
            Ok(match is_committed {
                true => Outcome::Committed,
                false if seen.batches_forgotten > after.number() => Outcome::Forgotten,
                false => Outcome::NotCommitted,
            })
        });
        Ok((outcome.map_err(WriteError::into_cause)?, connection))
    }

    /// Takes the row that everything takes which changes the record. Fails if the record is not in the epoch and in the place
    /// of this process.
    fn take(&self, connection: &mut AnyConnection) -> Result<Seen, StoreError> {
        let connection = postgres(connection);
        let seen = match lock(connection) {
            Ok(seen) => seen,
            Err(cause) => lock_again(connection, cause)?,
        };
        if seen.epoch == self.history.epoch().as_str() && seen.identity == Identity::of(connection)? {
            return Ok(seen);
        }
        Err(self.place.report_other_history())
    }

    /// Whether somebody else of this process has found the record in another place.
    fn is_replaced(&self) -> bool {
        matches!(&*self.place, Place::Server(server) if server.is_the_same().is_err())
    }

    /// Ends the connection.
    ///
    /// # Errors
    /// The record has another epoch, or is in another place, than when it was opened.
    pub(in crate::storage) fn close(self, connection: MainConnection) -> Result<(), StoreError> {
        drop(connection);
        match &*self.place {
            Place::Server(server) => server.is_the_same(),
            Place::File(_) => Ok(()),
        }
    }

    /// Forgets batches for which nobody asks any more, those of a number of revisions at a time.
    pub(in crate::storage) fn prune(&mut self, connection: &mut AnyConnection) -> Result<Progress, WriteError> {
        self.maintain(connection, |connection| {
            let connection = postgres(connection);
            let columns = (metadata::batches_forgotten, metadata::revision - REMEMBERED);
            let (before, all): (i64, i64) = metadata::table.select(columns).get_result(connection)?;
            let until = all.min(before + FORGOTTEN_AT_ONCE);
            let progress = if until < all { Progress::More } else { Progress::Done };
            // Without the first condition, the server could read all batches.
            let old = batches::table.filter(batches::first.gt(before).and(batches::first.le(until)));
            if diesel::delete(old).execute(connection)? == 0 && progress == Progress::Done {
                return Ok(Maintained { done: progress, effect: Effect::Nothing });
            }
            diesel::update(metadata::table).set(metadata::batches_forgotten.eq(until)).execute(connection)?;
            Ok(Maintained::changed(progress))
        })
    }
}

/// What became of a batch.
enum Outcome {
    Committed,
    NotCommitted,
    /// The batches of its time are forgotten.
    Forgotten,
}

/// The row of `metadata`.
pub(super) struct Seen {
    epoch: String,
    revision: i64,
    batches_forgotten: i64,
    identity: Identity,
}

impl Seen {
    /// Whether the record has lost what was in it, and no epoch says so: a snapshot of the server's storage was put back.
    fn is_behind(&self, last: &LastLife) -> bool {
        self.epoch == last.epoch.as_str() && self.revision < last.revision.number()
    }
}

/// Takes the row of `metadata` until the end of the transaction. What is read after it is what all transactions before it left.
pub(super) fn lock(connection: &mut PgConnection) -> Result<Seen, StoreError> {
    let columns = (metadata::epoch, metadata::revision, metadata::batches_forgotten, metadata::place);
    let row = metadata::table.select(columns).for_update().get_result(connection)?;
    let (epoch, revision, batches_forgotten, place) = row;
    Ok(Seen { epoch, revision, batches_forgotten, identity: Identity { place } })
}

/// Begins the transaction again, and takes the row, unless another connection has it for a good reason.
///
/// # Errors
/// [`StoreError::Busy`]; the cause if the row could not be taken because of something else.
fn lock_again(connection: &mut PgConnection, cause: StoreError) -> Result<Seen, StoreError> {
    if Manager::rollback_transaction(connection).is_err() {
        return Err(cause);
    }
    holders::make_way(connection)?;
    Manager::begin_transaction_sql(connection, BEGIN)?;
    lock(connection)
}

/// Begins an epoch if the record is not where its epoch began.
pub(super) fn begin_epoch_if_moved(connection: &mut AnyConnection) -> Result<(), StoreError> {
    let here = Identity::of(postgres(connection))?;
    if lock(postgres(connection))?.identity != here {
        epochs::begin(connection)?;
        note_identity(postgres(connection), &here)?;
    }
    Ok(())
}

/// Whether a batch with this token was committed, which follows on this revision, as this transaction sees it.
fn is_committed(connection: &mut PgConnection, token: Token, after: Revision) -> Result<bool, StoreError> {
    let place = (after.next().number(), token.as_bytes());
    let found: i64 = batches::table.find(place).count().get_result(connection)?;
    Ok(found == 1)
}

/// Gives a new database its row. Where a service has been before, there is one.
fn initialize(
    connection: &mut PgConnection,
    here: &Identity,
    last_life: Option<&LastLife>,
) -> Result<DatabaseState, StoreError> {
    if metadata::table.count().get_result::<i64>(connection)? > 0 {
        return Ok(DatabaseState::Existing);
    }
    if last_life.is_some() {
        return Err(StoreError::Incomplete { part: "row of metadata".to_owned() });
    }
    diesel::insert_into(metadata::table)
        .values((
            metadata::id.eq(1),
            metadata::epoch.eq(""),
            (metadata::revision.eq(0), metadata::pruned.eq(0), metadata::forgotten.eq(0)),
            metadata::token.eq(Token::random()?.as_bytes()),
            metadata::place.eq(&here.place),
        ))
        .execute(connection)?;
    Ok(DatabaseState::New)
}

pub(super) fn note_identity(connection: &mut PgConnection, here: &Identity) -> Result<(), StoreError> {
    diesel::update(metadata::table).set(metadata::place.eq(&here.place)).execute(connection)?;
    Ok(())
}

pub(super) fn replace_token(connection: &mut PgConnection, token: Token) -> Result<(), StoreError> {
    diesel::update(metadata::table).set(metadata::token.eq(token.as_bytes())).execute(connection)?;
    Ok(())
}

/// Runs `work` in a transaction. It is certain that nothing was written unless `COMMIT` was sent.
pub(super) fn write<T>(
    connection: &mut AnyConnection,
    work: impl FnOnce(&mut AnyConnection) -> Result<T, StoreError>,
) -> Result<T, WriteError> {
    Manager::begin_transaction_sql(postgres(connection), BEGIN).map_err(StoreError::from)?;
    // A panic here is as certain as an error. Anywhere else it could be one after `COMMIT`.
    let worked = catch_unwind(AssertUnwindSafe(|| work(connection))).unwrap_or(Err(StoreError::Panicked));
    match worked {
        Ok(done) => match Manager::commit_transaction(postgres(connection)) {
            Ok(()) => Ok(done),
            Err(error) => Err(WriteError::Unknown(error.into())),
        },
        Err(cause) => {
            let _ = Manager::rollback_transaction(postgres(connection));
            Err(WriteError::NotDone(cause))
        }
    }
}

/// The connection to the server.
pub(super) fn postgres(connection: &mut AnyConnection) -> &mut PgConnection {
    match connection {
        AnyConnection::Postgres(connection) => connection,
        AnyConnection::Sqlite(_) => unreachable!("a record on a server is written over a connection to it"),
    }
}
