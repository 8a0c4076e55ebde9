//! The decoded states of event-sourced aggregates that get many commands, so that a command does not read and decode all of
//! its aggregate again. They count against a budget from the command that has made them, whether its batch keeps them or
//! they wait here for the next one.
//!
//! A batch takes a state out, and it comes back when the transaction is committed. So whatever happens to a batch, a state
//! that is here is the one in the database. That is checked nevertheless: it is used only if its row still has the same
//! revision and version.

use std::sync::Arc;

use lru::LruCache;

use super::aggregates::Row;
use crate::domain::command::DecodedState;
use crate::domain::key::{CollectionId, Key};
use crate::memory::budget::{MemoryBudget, Reservation};

/// An aggregate, by its collection and key.
pub(super) type Place = (CollectionId, Key);

/// Decoded states, up to a budget. The least recently used ones go first.
pub(super) struct HotStates {
    budget: Arc<MemoryBudget>,
    states: LruCache<Place, HotState>,
}

/// The row of an aggregate, and its body as the type of its collection.
pub(super) struct HotState {
    pub(super) row: Row,
    pub(super) decoded: DecodedState,
    /// See [`HotStates::charge`].
    pub(super) charge: Reservation,
}

/// A smaller state is decoded as fast as it is found here, in bytes of JSON text.
const MIN_BYTES: usize = 4096;

/// How much memory a state and its text take, as a multiple of the text. An estimate: it is 4 for an account, and more for
/// many small values.
const BYTES_PER_BYTE: usize = 10;

impl HotStates {
    pub(super) fn new(budget: &Arc<MemoryBudget>) -> Self {
        Self { budget: Arc::clone(budget), states: LruCache::unbounded() }
    }

    /// Takes the state of an aggregate out, if it is here.
    pub(super) fn take(&mut self, place: &Place) -> Option<HotState> {
        // Most aggregates are small, and most services have no others.
        if self.states.is_empty() {
            return None;
        }
        self.states.pop(place)
    }

    /// Charges for a decoded state whose text has this number of bytes, in the place of what was charged for it before. `None`
    /// if there is no room for it. A large one takes the room of those that were not used for a while.
    pub(super) fn charge(&mut self, before: Option<Reservation>, text: usize) -> Option<Reservation> {
        let size = text.saturating_mul(BYTES_PER_BYTE);
        if size > self.budget.limit() {
            return None;
        }
        let mut charge = before.unwrap_or_else(|| self.budget.reservation());
        while charge.resize(size).is_err() {
            if text < MIN_BYTES || self.states.pop_lru().is_none() {
                return None;
            }
        }
        Some(charge)
    }

    /// Keeps a state that is in the database, if it is worth it.
    pub(super) fn keep(&mut self, place: Place, state: HotState) {
        if state.row.body.as_ref().is_some_and(|body| body.as_str().len() >= MIN_BYTES) {
            self.states.put(place, state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use diesel::connection::SimpleConnection as _;
    use diesel::prelude::*;
    use diesel::sql_types::Text;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use tempfile::TempDir;

    use super::*;
    use crate::domain::body::Body;
    use crate::domain::clock::Timestamp;
    use crate::domain::collection::{BusinessRule, EventSourced, Keys, Registry, Root};
    use crate::domain::command::{Command, Verb};
    use crate::domain::key::Key;
    use crate::domain::metadata::Metadata;
    use crate::domain::precondition::Precondition;
    use crate::domain::revision::{Revision, Version};
    use crate::storage::database::Database;
    use crate::storage::writer::{Writer, WriterConfig};

    /// A pile of texts, which is large from the beginning.
    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    struct Pile {
        ballast: String,
        texts: Vec<String>,
    }

    #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
    enum Do {
        Open,
        Add {
            text: String,
        },
        /// Fails after it has recorded an event.
        AddMore {
            text: String,
            limit: usize,
        },
        /// Panics after it has recorded an event.
        Drop,
        Look,
        /// Records no event.
        Pass,
        Burn,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    enum Done {
        Opened,
        Added { text: String },
        LookedAt,
        Burnt,
    }

    #[derive(Debug, Serialize, JsonSchema, thiserror::Error)]
    enum Rule {
        #[error("{texts} texts")]
        Full { texts: usize },
    }

    impl BusinessRule for Rule {}

    impl EventSourced for Pile {
        const NAME: &'static str = "piles";
        const KEYS: Keys = Keys::Text;

        type Command = Do;
        type Event = Done;
        type Error = Rule;

        fn handle(root: &mut Root<'_, Self>, command: Do) -> Result<(), Rule> {
            match command {
                Do::Open if root.state().is_some() => return Err(Rule::Full { texts: 0 }),
                Do::Open => root.record(Done::Opened),
                Do::Add { text } => root.record(Done::Added { text }),
                Do::AddMore { text, limit } => {
                    root.record(Done::Added { text });
                    let texts = root.state().map_or(0, |pile| pile.texts.len());
                    if texts > limit {
                        return Err(Rule::Full { texts });
                    }
                }
                Do::Drop => {
                    root.record(Done::Added { text: "dropped".to_owned() });
                    unreachable!("a bug in a rule");
                }
                Do::Look => root.record(Done::LookedAt),
                Do::Pass => {}
                Do::Burn => root.record(Done::Burnt),
            }
            Ok(())
        }

        fn apply(state: Option<Self>, event: &Done) -> Option<Self> {
            let mut pile = state.unwrap_or_else(|| Self { ballast: "x".repeat(MIN_BYTES), texts: Vec::new() });
            match event {
                Done::Opened | Done::LookedAt => {}
                Done::Added { text } => pile.texts.push(text.clone()),
                Done::Burnt => return None,
            }
            Some(pile)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Commit(Vec<(u8, Do)>),
        /// The database fails in the middle of the transaction.
        Fail(Vec<(u8, Do)>),
        Reopen,
        /// A row is deleted by somebody else.
        LoseRow(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let text = || "[ab]{1,3}";
        let command = prop_oneof![
            3 => Just(Do::Open),
            6 => text().prop_map(|text| Do::Add { text }),
            3 => (text(), 0..6_usize).prop_map(|(text, limit)| Do::AddMore { text, limit }),
            1 => Just(Do::Drop),
            2 => Just(Do::Look),
            1 => Just(Do::Pass),
            1 => Just(Do::Burn),
        ];
        let commands = || prop::collection::vec((0..3_u8, command.clone()), 1..6);
        let step = prop_oneof![
            8 => commands().prop_map(Step::Commit),
            2 => commands().prop_map(Step::Fail),
            1 => Just(Step::Reopen),
            1 => (0..3_u8).prop_map(Step::LoseRow),
        ];
        prop::collection::vec(step, 1..25)
    }

    struct Site {
        _directory: TempDir,
        database: Database,
        config: WriterConfig,
        writer: Writer,
        /// A connection beside that of the writer.
        other: SqliteConnection,
    }

    const NOW: Timestamp = Timestamp::from_milliseconds(1_000_000);

    impl Site {
        fn new(budget: usize) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("test.db");
            let database = Database::open(&path).unwrap();
            let mut registry = Registry::default();
            registry.event_sourced::<Pile>();
            let mut config = WriterConfig::new(&Arc::new(registry), &[].into());
            config.hot_states = MemoryBudget::new(budget);
            // Two or three texts fit.
            config.max_aggregate = MIN_BYTES + 40;
            let writer = Writer::open(&database, config.clone(), NOW).unwrap();
            let other = connect(&path);
            Self { _directory: directory, database, config, writer, other }
        }

        /// Everything that the step answers and leaves.
        fn run(&mut self, step: &Step) -> Vec<String> {
            let mut seen = Vec::new();
            match step {
                Step::Commit(commands) => seen.push(self.commit(commands)),
                Step::Fail(commands) => {
                    self.other.batch_execute(FAIL).unwrap();
                    seen.push(self.commit(commands));
                    self.other.batch_execute("DROP TRIGGER fail").unwrap();
                }
                Step::Reopen => {
                    let revision = self.writer.revision();
                    self.writer = Writer::reopen(&self.database, self.config.clone(), revision).unwrap();
                }
                Step::LoseRow(key) => {
                    let delete = diesel::sql_query("DELETE FROM aggregates WHERE key = ?");
                    delete.bind::<Text, _>(format!("k{key}")).execute(&mut self.other).unwrap();
                }
            }
            seen.extend(ROWS.iter().flat_map(|query| self.rows(query)));
            seen
        }

        fn commit(&mut self, commands: &[(u8, Do)]) -> String {
            let registry = &self.config.registry;
            let collection = registry.id("piles").unwrap();
            let commands = commands.iter().map(|(key, command)| {
                let json = serde_json::to_value(command).unwrap();
                let (verb, json) = match json {
                    serde_json::Value::Object(variant) => {
                        let (name, fields) = variant.into_iter().next().unwrap();
                        (name, fields)
                    }
                    name => (name.as_str().unwrap().to_owned(), serde_json::json!({})),
                };
                let verb = crate::domain::json::kebab_case(&verb);
                let verb = if verb == "open" { Verb::Replace } else { Verb::Command(&verb) };
                let change = registry.get(collection).change(verb, json).unwrap();
                let key = Some(Key::parse(&format!("k{key}")).unwrap());
                let (precondition, metadata) = (Precondition::default(), Metadata::default());
                Command { collection, key, precondition, idempotency: None, change, metadata }
            });
            let mut commands = commands.collect::<Vec<_>>().into_iter();
            format!("{:?}", self.writer.commit(&mut commands, NOW))
        }

        fn rows(&mut self, query: &str) -> Vec<String> {
            #[derive(QueryableByName)]
            struct Line {
                #[diesel(sql_type = Text)]
                line: String,
            }
            let lines: Vec<Line> = diesel::sql_query(query).load(&mut self.other).unwrap();
            lines.into_iter().map(|Line { line }| line).collect()
        }
    }

    fn connect(path: &Path) -> SqliteConnection {
        SqliteConnection::establish(path.to_str().unwrap()).unwrap()
    }

    const FAIL: &str = "CREATE TRIGGER fail BEFORE INSERT ON journal WHEN NEW.kind = 'Added' \
                        BEGIN SELECT RAISE(ABORT, 'a disk that fails'); END";

    const ROWS: [&str; 3] = [
        "SELECT 'row ' || key || ' ' || revision || ' ' || version || ' ' || ifnull(body, 'null') AS line FROM aggregates",
        "SELECT 'event ' || position || ' ' || key || ' ' || version || ' ' || kind || ' ' || body AS line FROM journal",
        "SELECT 'change ' || revision || ' ' || key || ' ' || patch AS line FROM outbox",
    ];

    fn cases() -> u32 {
        std::env::var("DUALITY_CASES").map_or(20, |cases| cases.parse::<u32>().unwrap() / 5)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), ..ProptestConfig::default() })]

        #[test]
        fn with_and_without_kept_states_the_same_happens(steps in steps()) {
            // None, one or two, and all.
            let mut sites = [0, 2 * BYTES_PER_BYTE * (MIN_BYTES + 100), 1 << 20].map(Site::new);
            for step in &steps {
                let [without, few, all] = sites.each_mut().map(|site| site.run(step));
                prop_assert_eq!(&without, &few, "{:?}", step);
                prop_assert_eq!(&without, &all, "{:?}", step);
            }
        }
    }

    fn kept(states: &mut HotStates, place: &Place) -> bool {
        let state = states.take(place);
        let is_kept = state.is_some();
        state.into_iter().for_each(|state| states.keep(place.clone(), state));
        is_kept
    }

    #[test]
    fn what_was_used_last_is_kept_within_the_budget() {
        let mut registry = Registry::default();
        registry.event_sourced::<Pile>();
        let collection = registry.id("piles").unwrap();
        let budget = MemoryBudget::new(2 * BYTES_PER_BYTE * MIN_BYTES);
        let mut states = HotStates::new(&budget);
        let place = |number| (collection, Key::of_number(number));
        let keep = |states: &mut HotStates, number, bytes: usize| {
            let Some(charge) = states.charge(None, bytes) else { return };
            let body = Some(Body::from_db("x".repeat(bytes)));
            let row = Row { revision: Revision::ZERO, version: Version::ZERO, body };
            states.keep(place(number), HotState { row, decoded: Box::new(()), charge });
        };
        keep(&mut states, 1, MIN_BYTES - 1);
        keep(&mut states, 1, 2 * MIN_BYTES + 1);
        assert_eq!((kept(&mut states, &place(1)), budget.used()), (false, 0), "too small, or too large for the budget");
        for number in [1, 2] {
            keep(&mut states, number, MIN_BYTES);
        }
        keep(&mut states, 3, MIN_BYTES - 1);
        assert!(kept(&mut states, &place(1)));
        keep(&mut states, 3, MIN_BYTES);
        let is_kept = [1, 2, 3].map(|number| kept(&mut states, &place(number)));
        assert_eq!((is_kept, budget.free()), ([true, false, true], 0));
        keep(&mut states, 3, 2 * MIN_BYTES);
        let is_kept = [1, 2, 3].map(|number| kept(&mut states, &place(number)));
        assert_eq!((is_kept, budget.free()), ([false, false, true], 0));
        drop(states);
        assert_eq!(budget.used(), 0);
    }
}
