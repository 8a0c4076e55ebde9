//! A database with what it should contain, and copies of its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use diesel::connection::SimpleConnection as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{Model, Write};
use super::replay_cache;
use crate::aggregates::{Location, Person};
use crate::domain::clock::Clock;
use crate::domain::collection::{BusinessRule, EventSourced, Keys, Registry, Root, handle};
use crate::domain::command::{Change, Command};
use crate::domain::history::History;
use crate::domain::key::Key;
use crate::domain::metadata::Metadata;
use crate::domain::precondition::Precondition;
use crate::events::replay_cache::ReplayCache;
use crate::metrics::Counter;
use crate::storage::connection::open_read_only;
use crate::storage::database::{Database, with_suffix};
use crate::storage::page::Progress;
use crate::storage::reader::Reader;
use crate::storage::retained::Retained;
use crate::storage::writer::{Writer, WriterConfig};

/// An aggregate with a journal. Every event is another one, so that histories can be told apart.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Tally {
    count: i64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Count {
    Open { by: i64 },
}

#[derive(Serialize, Deserialize, JsonSchema)]
enum Counted {
    Counted { by: i64 },
}

#[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
enum NoRule {}

impl BusinessRule for NoRule {}

impl EventSourced for Tally {
    type Command = Count;
    type Event = Counted;
    type Error = NoRule;
    const NAME: &'static str = "tallies";
    const KEYS: Keys = Keys::Text;

    fn handle(root: &mut Root<'_, Self>, Count::Open { by }: Count) -> Result<(), NoRule> {
        root.record(Counted::Counted { by });
        Ok(())
    }

    fn apply(state: Option<Self>, Counted::Counted { by }: &Counted) -> Option<Self> {
        Some(Self { count: state.map_or(0, |tally| tally.count) + by })
    }
}

/// The collections of every site.
pub(super) fn registry() -> Arc<Registry> {
    let mut registry = Registry::default();
    registry.document::<Person>();
    registry.derived::<Location>();
    registry.event_sourced::<Tally>();
    Arc::new(registry)
}

/// What a database should contain at each revision and at each position of the journal.
#[derive(Clone)]
pub(super) struct Expected {
    states: Vec<ExpectedState>,
    pub(super) entries: Vec<String>,
}

#[derive(Clone, Default)]
struct ExpectedState {
    model: Model,
    tallies: BTreeMap<String, i64>,
}

impl Expected {
    fn nothing() -> Self {
        Self { states: vec![ExpectedState::default()], entries: Vec::new() }
    }

    /// The document at a revision.
    pub(super) fn document(&self, revision: usize) -> Value {
        let ExpectedState { model, tallies } = &self.states[revision];
        let mut document = model.document();
        document["tallies"] = tallies.iter().map(|(key, count)| (key.clone(), json!({ "count": count }))).collect();
        document
    }

    pub(super) fn revision(&self) -> usize {
        self.states.len() - 1
    }

    fn last(&self) -> &ExpectedState {
        self.states.last().unwrap()
    }
}

/// How the files of a database are copied while it is open.
#[derive(Debug, Clone, Copy)]
pub(super) enum CopyKind {
    /// Without the write-ahead log: the state of the last checkpoint.
    FileAlone,
    WithLog,
    /// By SQLite, in one transaction.
    Online,
}

/// A copy of a database, and what may be in it.
pub(super) struct Copied {
    path: PathBuf,
    expected: Expected,
}

/// A database that is open for writing.
pub(super) struct Site {
    database: Arc<Database>,
    writer: Option<Writer>,
    pub(super) reader: Option<Reader>,
    pub(super) replay_cache: ReplayCache,
    pub(super) expected: Expected,
    /// Another number after each replacement of its files.
    pub(super) life: usize,
}

impl Site {
    /// A new database.
    pub(super) fn create(path: &Path, registry: &Arc<Registry>) -> Self {
        Self::open(path, registry, Expected::nothing(), 0)
    }

    fn open(path: &Path, registry: &Arc<Registry>, mut expected: Expected, life: usize) -> Self {
        let database = Arc::new(Database::open(path).unwrap());
        let writer = Writer::open(&database, WriterConfig::new(registry, &[].into()), Clock::default().now()).unwrap();
        let reader = Some(Reader::open(&database, Arc::clone(registry)).unwrap());
        // A copy can have less than the original when it was made.
        expected.states.truncate(usize::try_from(writer.revision().number()).unwrap() + 1);
        expected.entries.truncate(usize::try_from(writer.position().number()).unwrap());
        Self { database, writer: Some(writer), reader, replay_cache: replay_cache(), expected, life }
    }

    pub(super) fn close(&mut self) {
        self.reader = None;
        self.writer.take().unwrap().close().unwrap();
        self.database.release();
    }

    pub(super) fn restart(&mut self, registry: &Arc<Registry>) {
        self.close();
        *self = Self::open(self.database.path(), registry, self.expected.clone(), self.life);
    }

    /// Stops it, puts the files of a copy in the place of its own, and starts it again.
    pub(super) fn put_back(&mut self, copied: &Copied, registry: &Arc<Registry>, life: usize) {
        self.close();
        let path = self.database.path().to_owned();
        copied.place(&path);
        *self = Self::open(&path, registry, copied.expected.clone(), life);
    }

    /// Starts a copy in another place.
    pub(super) fn go_on(copied: &Copied, path: &Path, registry: &Arc<Registry>, life: usize) -> Self {
        copied.place(path);
        Self::open(path, registry, copied.expected.clone(), life)
    }

    pub(super) fn copy(&self, kind: CopyKind, path: PathBuf) -> Copied {
        let original = self.database.path();
        match kind {
            CopyKind::Online => {
                let vacuum = format!("VACUUM INTO '{}'", path.display());
                open_read_only(original).unwrap().batch_execute(&vacuum).unwrap();
            }
            CopyKind::FileAlone | CopyKind::WithLog => drop(std::fs::copy(original, &path).unwrap()),
        }
        if matches!(kind, CopyKind::WithLog) {
            std::fs::copy(with_suffix(original, "-wal"), with_suffix(&path, "-wal")).unwrap();
        }
        Copied { path, expected: self.expected.clone() }
    }

    pub(super) fn history(&self) -> &Arc<History> {
        self.database.history()
    }

    /// Executes a write of a person.
    pub(super) fn write(&mut self, write: &Write, registry: &Registry) {
        let collection = registry.id("persons").unwrap();
        let mut state = self.expected.last().clone();
        let (key, body) = state.model.write(write);
        let change = match body {
            Some((verb, body)) => registry.get(collection).change(verb, body).unwrap(),
            None => Change::Delete,
        };
        let key = key.map(Key::of_number);
        let (precondition, metadata) = (Precondition::default(), Metadata::new());
        self.commit(Command { collection, key, precondition, idempotency: None, change, metadata }, state);
    }

    /// Adds to a tally, by a number that was never used.
    pub(super) fn count(&mut self, key: u8, by: i64, registry: &Registry) {
        let collection = registry.id("tallies").unwrap();
        let mut state = self.expected.last().clone();
        let key = format!("t{}", key % 3);
        *state.tallies.entry(key.clone()).or_default() += by;
        let change = handle::<Tally>(Count::Open { by }).unwrap();
        let (precondition, metadata) = (Precondition::default(), Metadata::new());
        let command = Command {
            collection,
            key: Some(Key::parse(&key).unwrap()),
            precondition,
            idempotency: None,
            change,
            metadata,
        };
        self.expected.entries.push(format!("{key} {}", json!({ "by": by })));
        self.commit(command, state);
    }

    fn commit(&mut self, command: Command, state: ExpectedState) {
        let committed = self.writer().commit(&mut vec![command].into_iter(), Clock::default().now()).unwrap();
        let before = self.expected.revision();
        if state.model.document() != self.expected.last().model.document()
            || state.tallies != self.expected.last().tallies
        {
            self.expected.states.push(state);
        }
        assert_eq!(committed.revision.number(), i64::try_from(self.expected.revision()).unwrap(), "after {before}");
    }

    pub(super) fn prune(&mut self, retained: Retained) {
        while self.writer().prune(retained, &Counter::default()).unwrap() == Progress::More {}
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }
}

impl Copied {
    /// Copies the files to a place where no service runs.
    fn place(&self, path: &Path) {
        for suffix in ["-wal", "-shm", ""] {
            let (from, to) = (with_suffix(&self.path, suffix), with_suffix(path, suffix));
            let _ = std::fs::remove_file(&to);
            if from.exists() {
                std::fs::copy(from, to).unwrap();
            }
        }
    }
}
