//! The only writer of the main database. The aggregator owns it.

use std::sync::Arc;
use std::vec;

use diesel::connection::SimpleConnection as _;

use super::answer_room::{AnswerLimit, StoredAnswers};
use super::commit::{Batch, CommitContext};
use super::commit_outcome::{CommitOutcome, Committable};
use super::connection::IfMissing;
use super::counters::Counters;
use super::database::Database;
use super::database_file::MainConnection;
use super::engine::AnyConnection;
use super::erasing::{Erasing, ErasingContext, ErasingStep, Extent};
use super::error::StoreError;
use super::fence::Fence;
use super::file_record::Patience;
use super::hot_states::HotStates;
use super::log_check::reject_foreign_log;
use super::maintained::Maintained;
use super::page::Progress;
use super::record::Record;
use super::registration::Registration;
use super::retained::Retained;
use super::transaction::WriteError;
use super::{aggregates, answers, drop_collection, erasure, inline_projections, journal, migrations, outbox, upgrade};
use crate::domain::clock::Timestamp;
use crate::domain::collection::Registry;
use crate::domain::command::Command;
use crate::domain::error_chain::ErrorChain;
use crate::domain::history::History;
use crate::domain::revision::{JournalPosition, Revision};
use crate::memory::budget::MemoryBudget;
use crate::metrics::Counter;
use crate::read_model::spec::ProjectionSpec;

/// What a writer executes commands with.
#[derive(Clone)]
pub(crate) struct WriterConfig {
    pub(crate) registry: Arc<Registry>,
    pub(crate) inline: Arc<[ProjectionSpec]>,
    /// The largest state that a command may result in, in bytes of JSON text.
    pub(crate) max_aggregate: usize,
    /// What the stored answers to commands with an idempotency key may take.
    pub(crate) answer_limit: AnswerLimit,
    /// The memory for decoded states, in a batch and between batches, and for what is known of the rows of a server.
    pub(crate) hot_states: Arc<MemoryBudget>,
    /// The memory for commands, of which a batch takes a part for what it reads and makes.
    pub(crate) batches: Arc<MemoryBudget>,
}

impl WriterConfig {
    /// Aggregates and answers have no limit, and no decoded state is kept.
    pub(crate) fn new(registry: &Arc<Registry>, inline: &Arc<[ProjectionSpec]>) -> Self {
        Self {
            registry: Arc::clone(registry),
            inline: Arc::clone(inline),
            max_aggregate: usize::MAX,
            answer_limit: AnswerLimit::NONE,
            hot_states: MemoryBudget::new(0),
            batches: MemoryBudget::new(usize::MAX),
        }
    }
}

/// How often a start is tried whose connection is lost.
const ATTEMPTS: usize = 3;

/// The only writer of the main database.
pub(crate) struct Writer {
    connection: MainConnection,
    config: WriterConfig,
    history: Arc<History>,
    fence: Fence,
    record: Record,
    /// The counters as they are in the database.
    counters: Counters,
    states: HotStates,
    /// The stored answers to commands with an idempotency key.
    answers: StoredAnswers,
    erasing: Erasing,
    /// The number of erasures that are in progress.
    erasures: i64,
}

impl Writer {
    /// Opens the database, migrates its tables, and writes the consequences of new or changed registrations.
    ///
    /// A server ends a connection on which a transaction does not go on in time. A start goes on with what the one before has
    /// committed, so it begins again then.
    pub(crate) fn open(database: &Database, config: WriterConfig, now: Timestamp) -> Result<Self, StoreError> {
        for _ in 1..ATTEMPTS {
            match Self::try_open(database, config.clone(), now) {
                Err(error) if error.is_lost_connection() => {
                    log::warn!("the start begins again: {}", ErrorChain(&error));
                }
                outcome => return outcome,
            }
        }
        Self::try_open(database, config, now)
    }

    fn try_open(database: &Database, config: WriterConfig, now: Timestamp) -> Result<Self, StoreError> {
        if let Some(file) = database.file() {
            reject_foreign_log(file)?;
        }
        let mut connection = database.open_for_writing(IfMissing::Create)?;
        match database.last_life() {
            None => migrations::migrate(&mut connection)?,
            Some(_) => migrations::require_current(&mut connection)?,
        }
        let name = database.name();
        let registration = Registration { registry: &config.registry, inline: &config.inline, database: &name, now };
        let mut record = Record::open(database, &mut connection, registration, &config.hot_states)?;
        upgrade::finish(&mut record, &mut connection, registration)?;
        drop_collection::finish(&mut record, &mut connection)?;
        Self::load(connection, config, record, database)
    }

    /// Opens the database again after a failure. It must be the same database, with everything that was committed.
    pub(crate) fn reopen(database: &Database, config: WriterConfig, committed: Revision) -> Result<Self, StoreError> {
        database.examine()?;
        let mut connection = database.open_for_writing(IfMissing::Fail)?;
        let record = Record::reopen(database, &mut connection, &config.registry, &config.hot_states)?;
        let mut writer = Self::load(connection, config, record, database)?;
        let current = writer.fence.horizon(&mut writer.connection)?.current;
        if current < committed {
            return Err(database.place().report_other_history());
        }
        Ok(writer)
    }

    fn load(
        mut connection: MainConnection,
        config: WriterConfig,
        record: Record,
        database: &Database,
    ) -> Result<Self, StoreError> {
        let position = journal::current(&mut connection)?;
        let counters = Counters::load(&mut connection, &config.registry, position)?;
        let history = Arc::clone(database.history());
        let states = HotStates::new(&config.hot_states);
        let answers = StoredAnswers::load(&mut connection)?;
        let fence = Fence::of(database);
        let (erasing, erasures) = (Erasing::default(), erasure::count_in_progress(&mut connection)?);
        Ok(Self { connection, config, history, fence, record, counters, states, answers, erasing, erasures })
    }

    /// The epochs of the database. The last one began when the database was opened.
    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    pub(crate) fn revision(&self) -> Revision {
        self.counters.revision
    }

    pub(crate) fn position(&self) -> JournalPosition {
        self.counters.position
    }

    /// The revision of the last change of each collection.
    pub(crate) fn changed(&self) -> Vec<Revision> {
        self.counters.changed().collect()
    }

    /// Executes the commands in order, in one transaction, until they have taken enough memory: at least the first one. Each
    /// of them has its own answer; those that are left are as they were. After an error, either none was executed, or it is
    /// unknown whether all were: the error tells which.
    pub(crate) fn commit(
        &mut self,
        commands: &mut vec::IntoIter<Command>,
        now: Timestamp,
    ) -> Result<CommitOutcome, WriteError> {
        let WriterConfig { registry, inline, max_aggregate, answer_limit, batches, .. } = &self.config;
        let context = CommitContext {
            registry,
            inline,
            fence: &self.fence,
            max_aggregate: *max_aggregate,
            answer_limit: *answer_limit,
            stored: self.answers,
            memory: batches,
            now,
        };
        let batch = Batch { context, states: &mut self.states, commands };
        let Committable { outcome, counters, stored, states } =
            self.record.commit(&mut self.connection, &self.counters, batch)?;
        self.counters = counters;
        states.into_iter().for_each(|(place, state)| self.states.keep(place, state));
        self.answers = stored;
        self.erasures += i64::try_from(outcome.erased).unwrap_or(i64::MAX);
        self.record.grow(outcome.rows);
        Ok(outcome)
    }

    /// The stored answers to commands with an idempotency key.
    pub(crate) fn answers(&self) -> StoredAnswers {
        self.answers
    }

    /// Deletes change events, answers and tombstones that are not retained, oldest first, up to a maximum number. Counts
    /// the tombstones.
    pub(crate) fn prune(&mut self, retained: Retained, tombstones: &Counter) -> Result<Progress, WriteError> {
        let progress = self.maintain(|connection| outbox::prune(connection, retained))?;
        self.record.grow(PRUNED_PAGES);
        if progress == Progress::More {
            return Ok(Progress::More);
        }
        if self.answers.number > 0 || !self.record.is_file() {
            let prune = |connection: &mut AnyConnection| {
                let Maintained { done, effect } = answers::prune(connection, retained)?;
                Ok(Maintained { done: (done, StoredAnswers::load(connection)?), effect })
            };
            let (progress, left) = self.maintain(prune)?;
            self.answers = left;
            if progress == Progress::More {
                return Ok(Progress::More);
            }
        }
        let pruned = self.maintain(|connection| aggregates::prune_tombstones(connection, retained))?;
        tombstones.add(pruned.number);
        if pruned.progress == Progress::More {
            return Ok(Progress::More);
        }
        self.record.prune(&mut self.connection)
    }

    /// Runs `work`, which is no command, in a transaction.
    fn maintain<T>(
        &mut self,
        work: impl FnOnce(&mut AnyConnection) -> Result<Maintained<T>, StoreError>,
    ) -> Result<T, WriteError> {
        self.record.maintain(&mut self.connection, self.counters.revision, work)
    }

    /// Does the next step of the erasures that are in progress, also of those that another process has begun.
    pub(crate) fn continue_erasing(&mut self, now: Timestamp, extent: Extent) -> Result<ErasingStep, WriteError> {
        let Self { connection, config, record, counters, erasing, .. } = self;
        let WriterConfig { registry, inline, .. } = config;
        let context = ErasingContext { connection, record, registry, inline, counters, now };
        let step = erasing.step(context, extent)?;
        if matches!(step, ErasingStep::Finished(_) | ErasingStep::Nothing) {
            // Another service may have begun or finished some.
            self.erasures = erasure::count_in_progress(&mut self.connection)?;
        }
        if matches!(step, ErasingStep::More) {
            self.answers = StoredAnswers::load(&mut self.connection)?;
        }
        Ok(step)
    }

    /// The number of erasures that are in progress.
    pub(crate) fn erasures(&self) -> i64 {
        self.erasures
    }

    /// Whether the write-ahead log is so long that it has to be moved into the database file.
    pub(crate) fn is_log_long(&mut self) -> bool {
        self.record.is_log_long(&mut self.connection)
    }

    /// Moves the write-ahead log into the database file, as far as nobody reads from it. To be called when nobody waits.
    ///
    /// # Errors
    /// The log cannot be moved: it keeps everything, and grows until it can. Or the database file is another one.
    pub(crate) fn checkpoint(&mut self) -> Result<Progress, StoreError> {
        self.record.checkpoint(&mut self.connection)
    }

    /// Rebuilds an inline projection, in one transaction.
    pub(crate) fn rebuild(&mut self, name: &str, now: Timestamp) -> Result<(), WriteError> {
        let Self { connection, config, record, counters, .. } = self;
        let Some(projection) = config.inline.iter().find(|projection| projection.name == name) else {
            return Ok(());
        };
        record.maintain(connection, counters.revision, |connection| {
            inline_projections::build(connection, &config.registry, projection, now).map(Maintained::changed)
        })
    }

    /// Writes a page that stays as it is, to find out whether a transaction can be committed again.
    pub(crate) fn probe(&mut self) -> Result<(), WriteError> {
        self.maintain(|connection| Ok(Maintained::changed(connection.batch_execute(PROBE)?)))
    }

    /// Changes how long this connection waits for the lock of another process.
    pub(crate) fn wait_for_lock(&mut self, patience: Patience) -> Result<(), StoreError> {
        self.record.wait_for_lock(&mut self.connection, patience)
    }

    /// Closes the database. If all other connections to a file are closed, all of its data is in one file then.
    pub(crate) fn close(self) -> Result<(), StoreError> {
        self.record.close(self.connection)
    }
}

/// Two statements, because SQLite does not write a row that is the same afterwards.
const PROBE: &str = "UPDATE metadata SET pruned = pruned + 1; UPDATE metadata SET pruned = pruned - 1";

/// A step of pruning counts as this many changed rows: it deletes rows that lie together.
const PRUNED_PAGES: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use diesel::connection::InstrumentationEvent;
    use diesel::prelude::*;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::domain::clock::Clock;
    use crate::domain::collection::Document;
    use crate::domain::command::{Idempotency, Verb};
    use crate::domain::idempotency::{Fingerprint, RequestId};
    use crate::domain::key::Key;
    use crate::domain::metadata::Metadata;
    use crate::domain::precondition::Precondition;

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const NAME: &'static str = "notes";
    }

    /// What makes a command one that is executed once.
    fn once(key: &str) -> Option<Box<Idempotency>> {
        let (request, fingerprint) = (RequestId::of(&[key.as_bytes()]), Fingerprint::of(&[]));
        Some(Box::new(Idempotency { request, fingerprint, describe: Arc::new(Err) }))
    }

    /// A database with one collection.
    struct Notes {
        registry: Arc<Registry>,
        now: Timestamp,
        writer: Writer,
        _database: Database,
        // It is removed last.
        _directory: tempfile::TempDir,
    }

    impl Notes {
        fn open() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let database = Database::open(&directory.path().join("test.db")).unwrap();
            let mut registry = Registry::default();
            registry.document::<Note>();
            let (registry, now) = (Arc::new(registry), Clock::default().now());
            let writer = Writer::open(&database, WriterConfig::new(&registry, &[].into()), now).unwrap();
            Self { registry, now, writer, _database: database, _directory: directory }
        }
    }

    /// No client can send two of them at once, see [`crate::write::in_flight`]; it does not depend on that.
    #[test]
    fn a_command_gets_the_answer_of_the_same_one_before_it_in_its_batch() {
        let Notes { registry, writer, now, .. } = &mut Notes::open();
        let collection = registry.id("notes").unwrap();
        let commands = ["1", "2", "1"].map(|key| {
            let change = registry.get(collection).change(Verb::Create, serde_json::json!({"text": key})).unwrap();
            let (precondition, metadata) = (Precondition::default(), Metadata::new());
            Command { collection, key: None, precondition, idempotency: once(key), change, metadata }
        });
        let outcome = writer.commit(&mut Vec::from(commands).into_iter(), *now).unwrap();
        let written: Vec<_> = outcome.answers.into_iter().map(Result::unwrap).collect();
        let keys: Vec<_> = written.iter().map(|written| written.key.as_str()).collect();
        assert_eq!(keys, ["1", "2", "1"]);
        let repeats: Vec<_> = written.iter().map(|written| written.repeats.is_some()).collect();
        assert_eq!((repeats, writer.answers().number), (vec![false, false, true], 2));
    }

    #[test]
    fn a_step_of_pruning_deletes_no_more_than_some_megabytes_of_answers() {
        const MIB: usize = 1024 * 1024;
        let Notes { registry, writer, now, .. } = &mut Notes::open();
        let collection = registry.id("notes").unwrap();
        for key in ["1", "2", "3", "4", "5", "6"] {
            let text = "x".repeat(MIB);
            let change = registry.get(collection).change(Verb::Create, serde_json::json!({ "text": text })).unwrap();
            let (precondition, metadata) = (Precondition::default(), Metadata::new());
            let command = Command { collection, key: None, precondition, idempotency: once(key), change, metadata };
            writer.commit(&mut vec![command].into_iter(), *now).unwrap();
        }
        let later = Timestamp::from_milliseconds(now.milliseconds() + 1);
        let retained = Retained { now: later, events: *now, keep: None, tombstones: *now, answers: later };
        let steps = [(); 2].map(|()| {
            let progress = writer.prune(retained, &Counter::default()).unwrap();
            (progress, writer.answers().number, writer.answers().bytes() / 1_000_000)
        });
        assert_eq!(steps, [(Progress::More, 2, 2), (Progress::Done, 0, 0)]);
    }

    #[derive(Default)]
    struct Statements {
        executed: Vec<String>,
        cached: Vec<String>,
    }

    /// Diesel reports a statement as cached when it prepares it, and never again on the same connection.
    #[test]
    fn every_statement_of_a_write_is_prepared_once() {
        let Notes { registry, writer, now, .. } = &mut Notes::open();
        let statements = Arc::new(Mutex::new(Statements::default()));
        let seen = Arc::clone(&statements);
        writer.connection.set_instrumentation(move |event: InstrumentationEvent<'_>| match event {
            InstrumentationEvent::StartQuery { query, .. } => seen.lock().unwrap().executed.push(query.to_string()),
            InstrumentationEvent::CacheQuery { sql, .. } => seen.lock().unwrap().cached.push(sql.to_owned()),
            _ => {}
        });
        let notes = registry.id("notes").unwrap();
        let mut write = |key: Option<Key>, verb, idempotency: Option<Box<Idempotency>>| {
            let text = format!("{verb:?}");
            let change = registry.get(notes).change(verb, serde_json::json!({ "text": text })).unwrap();
            let (precondition, metadata) = (Precondition::default(), Metadata::new());
            let command = Command { collection: notes, key, precondition, idempotency, change, metadata };
            writer.commit(&mut vec![command].into_iter(), *now).unwrap().answers.remove(0).unwrap().key
        };
        for _ in 0..3 {
            let key = write(None, Verb::Create, None);
            write(Some(key), Verb::Replace, None);
        }
        let of_answers = |statements: &Statements| {
            let executed = statements.executed.iter();
            executed.filter(|query| query.contains("idempotency")).count()
        };
        assert_eq!(of_answers(&statements.lock().unwrap()), 0, "a write without a key costs nothing");
        for key in ["1", "2", "3"] {
            write(None, Verb::Create, once(key));
        }
        assert_eq!(of_answers(&statements.lock().unwrap()), 3 * 2, "one look, and one answer to keep");
        let Statements { executed, cached } = &*statements.lock().unwrap();
        let of_rows: Vec<_> = executed
            .iter()
            .map(|query| query.split(" -- binds").next().unwrap().trim())
            .filter(|query| ["SELECT", "INSERT", "UPDATE", "DELETE"].iter().any(|word| query.starts_with(word)))
            .collect();
        assert!(of_rows.len() >= 3 * 6, "{executed:?}");
        for query in of_rows {
            let times = cached.iter().filter(|sql| sql.trim() == query).count();
            assert_eq!(times, 1, "{query} in {cached:?}");
        }
    }
}
