//! Checks that nobody is wrong after copies of a database were put back, or went on elsewhere.
//!
//! Consumers come to any database with any cursor, tag or position of the journal that they ever had at any other. They
//! end with the exact state, or get an answer by which theirs is of another history.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::Value;
use tempfile::TempDir;

use super::model::{Write, shown};
use super::operation::writes;
use super::site::{Copied, CopyKind, Site, registry};
use super::{cases, feed};
use crate::domain::clock::Clock;
use crate::domain::collection::Registry;
use crate::domain::cursor::Cursor;
use crate::domain::feed::Feed;
use crate::domain::key::Key;
use crate::domain::revision::{Epoch, JournalPosition, Revision};
use crate::events::resume::{Position, ReplayMode, ResumeReply, ResumeRequest, resume};
use crate::events::sse::Form;
use crate::storage::page::PageLimit;
use crate::storage::retained::Retained;

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Write),
    Count(usize, u8),
    /// All change events are pruned except those of the last few revisions.
    Prune(usize, u8),
    /// All change events and tombstones are pruned.
    Forget(usize),
    Restart(usize),
    Copy(usize, CopyKind),
    /// A copy takes the place of a database.
    PutBack(usize, usize),
    /// A copy is started in another place.
    GoOn(usize),
    /// A consumer loads the state.
    Load(usize, usize),
    /// A consumer comes with its cursor, and reads some messages.
    Follow(usize, usize, usize, ReplayMode),
    /// A consumer of the journal comes with its position, and reads a page.
    ReadJournal(usize, usize),
    /// A client remembers the tag of a person.
    Tag(usize, i64),
}

struct Consumer {
    feed: Feed,
    /// The number of aggregates or events in its pages.
    limit: usize,
    state: Value,
    cursor: Option<String>,
    /// The life of the database from which the cursor is.
    life: Option<usize>,
}

/// A consumer of the journal: the events that it has, and its position.
#[derive(Default)]
struct JournalConsumer {
    entries: Vec<String>,
    cursor: Option<(Epoch, JournalPosition)>,
}

struct World {
    directory: TempDir,
    registry: Arc<Registry>,
    sites: Vec<Site>,
    copies: Vec<Copied>,
    consumers: Vec<Consumer>,
    journal: Vec<JournalConsumer>,
    /// The document that each epoch and revision named.
    named: BTreeMap<(String, i64), Value>,
    /// The person that each tag named, by epoch, revision and key.
    tags: BTreeMap<(String, i64, i64), Value>,
    counter: usize,
}

/// The most databases that are open at a time.
const SITES: usize = 3;

const CONSUMERS: usize = 4;

impl World {
    fn new(consumers: &[(u8, usize)]) -> Self {
        let (directory, registry) = (super::directory(), registry());
        let site = Site::create(&directory.path().join("0.db"), &registry);
        let consumer = |(level, limit): &(u8, usize)| Consumer {
            feed: feed(*level, &registry),
            limit: *limit,
            state: Value::Null,
            cursor: None,
            life: None,
        };
        let consumers = consumers.iter().map(consumer).collect();
        let journal = (0..2).map(|_| JournalConsumer::default()).collect();
        Self {
            directory,
            registry,
            sites: vec![site],
            copies: Vec::new(),
            consumers,
            journal,
            named: BTreeMap::new(),
            tags: BTreeMap::new(),
            counter: 0,
        }
    }

    fn act(&mut self, op: &Op) {
        let now = Clock::default().now();
        let forever = now.minus(std::time::Duration::from_secs(1 << 40));
        let count = self.next();
        let path = self.directory.path().join(format!("{count}.db"));
        let sites = self.sites.len();
        match op {
            Op::Write(site, write) => self.sites[site % sites].write(write, &self.registry),
            Op::Count(site, key) => {
                self.sites[site % sites].count(*key, i64::try_from(count).unwrap(), &self.registry);
            }
            Op::Prune(site, keep) => {
                let retained = Retained {
                    now,
                    events: forever,
                    keep: Some((*keep).into()),
                    tombstones: forever,
                    answers: forever,
                };
                self.sites[site % sites].prune(retained);
            }
            Op::Forget(site) => {
                let retained =
                    Retained { now, events: forever, keep: Some(0), tombstones: now.after_all(), answers: forever };
                self.sites[site % sites].prune(retained);
            }
            Op::Restart(site) => self.sites[site % sites].restart(&self.registry),
            Op::Copy(site, kind) => self.copies.push(self.sites[site % sites].copy(*kind, path)),
            Op::PutBack(copy, site) if !self.copies.is_empty() => {
                let copied = &self.copies[copy % self.copies.len()];
                self.sites[site % sites].put_back(copied, &self.registry, count);
            }
            Op::GoOn(copy) if !self.copies.is_empty() && sites < SITES => {
                let copied = &self.copies[copy % self.copies.len()];
                self.sites.push(Site::go_on(copied, &path, &self.registry, count));
            }
            Op::PutBack(..) | Op::GoOn(_) => {}
            Op::Load(consumer, site) => self.load(*consumer, site % sites),
            Op::Follow(consumer, site, messages, mode) => drop(self.follow(*consumer, site % sites, *messages, *mode)),
            Op::ReadJournal(consumer, site) => drop(self.read_journal(*consumer, site % sites)),
            Op::Tag(site, key) => self.remember_tag(site % sites, *key),
        }
    }

    fn next(&mut self) -> usize {
        self.counter += 1;
        self.counter
    }

    /// Checks that an epoch and a revision name the same document as ever.
    fn name(&mut self, epoch: &str, revision: i64, site: usize) {
        let document = self.sites[site].expected.document(usize::try_from(revision).unwrap());
        let named = self.named.entry((epoch.to_owned(), revision)).or_insert_with(|| document.clone());
        assert_eq!(*named, document, "{epoch}.{revision} has two contents");
    }

    fn load(&mut self, consumer: usize, site: usize) {
        let (expected, epoch) = (&self.sites[site].expected, self.sites[site].history().epoch().to_string());
        let revision = i64::try_from(expected.revision()).unwrap();
        let ours = &mut self.consumers[consumer];
        ours.state = shown(&expected.document(expected.revision()), &ours.feed, &self.registry);
        (ours.cursor, ours.life) = (Some(format!("{epoch}.{revision}")), Some(self.sites[site].life));
        self.name(&epoch, revision, site);
    }

    /// Comes to a database with the cursor, and applies up to this many messages. Returns whether the end was reached.
    fn follow(&mut self, consumer: usize, site: usize, messages: usize, mode: ReplayMode) -> bool {
        let history = Arc::clone(self.sites[site].history());
        let ours = &self.consumers[consumer];
        let beginning = Cursor::After { epoch: None, after: Revision::ZERO };
        let cursor = ours.cursor.as_ref().map_or(beginning, |text| text.parse().unwrap());
        let mut position = Position::of(&cursor, &history);
        assert!(
            ours.life != Some(self.sites[site].life) || position != Position::Unknown,
            "a restart resets nobody: {cursor:?}"
        );
        let (mut left, mut sent_initial_state) = (messages, false);
        loop {
            let ours = &self.consumers[consumer];
            let request = ResumeRequest {
                feed: ours.feed.clone(),
                position,
                mode,
                limit: PageLimit { items: ours.limit, bytes: usize::MAX },
                form: Form::Stream(history.epoch().clone()),
                sent_initial_state,
                replay_threshold: 3,
            };
            let at = &mut self.sites[site];
            let reply = at.reader.as_mut().unwrap().view(|view| resume(view, &at.replay_cache, &request)).unwrap();
            let ResumeReply::Page(page) = reply else {
                // The consumer needs every event, and cannot have them: it loads the state.
                self.load(consumer, site);
                return true;
            };
            let (is_last, text) = (page.is_last(), text(page.messages.into_pieces()));
            (position, sent_initial_state) = (page.position, true);
            for message in text.split_terminator("\n\n") {
                if left == 0 {
                    return false;
                }
                left -= 1;
                self.apply(consumer, site, message);
            }
            if is_last {
                return true;
            }
        }
    }

    fn apply(&mut self, consumer: usize, site: usize, message: &str) {
        let field = |name| message.lines().find_map(|line| line.strip_prefix(name));
        let life = self.sites[site].life;
        let ours = &mut self.consumers[consumer];
        json_patch::merge(&mut ours.state, &serde_json::from_str(field("data: ").unwrap()).unwrap());
        let Some(id) = field("id: ") else { return };
        (ours.cursor, ours.life) = (Some(id.to_owned()), Some(life));
        let (epoch, rest) = id.split_once('.').unwrap();
        if let Ok(revision) = rest.parse() {
            self.name(epoch, revision, site);
            let ours = &self.consumers[consumer];
            let document = &self.named[&(epoch.to_owned(), revision)];
            assert_eq!(ours.state, shown(document, &ours.feed, &self.registry), "at {id} of {:?}", ours.feed);
        }
    }

    /// Reads a page of the journal. Returns whether it was the last.
    fn read_journal(&mut self, consumer: usize, site: usize) -> bool {
        let site = &mut self.sites[site];
        let history = Arc::clone(site.history());
        let ours = &mut self.journal[consumer];
        let last = JournalPosition::from_raw(i64::try_from(site.expected.entries.len()).unwrap());
        let known = ours.cursor.take().filter(|(epoch, after)| history.has_position(epoch, *after) && *after <= last);
        let after = known.map_or(JournalPosition::ZERO, |(_, after)| after);
        if after == JournalPosition::ZERO {
            // Its position is of another history, so it starts over.
            ours.entries.clear();
        }
        let limit = PageLimit { items: 2, bytes: usize::MAX };
        let read = site.reader.as_mut().unwrap().view(|view| view.journal(None, after, limit)).unwrap();
        let text = |entry: &crate::storage::journal::Entry| format!("{} {}", entry.key.as_str(), entry.event.fields);
        ours.entries.extend(read.entries.iter().map(text));
        ours.cursor = Some((history.epoch().clone(), read.to));
        assert_eq!(ours.entries, site.expected.entries[..ours.entries.len()], "after {after}");
        ours.entries.len() == site.expected.entries.len()
    }

    fn remember_tag(&mut self, site: usize, key: i64) {
        let history = Arc::clone(self.sites[site].history());
        if let Some((changed, body)) = self.person(site, key) {
            self.tags.insert((history.epoch_of(changed).to_string(), changed.number(), key), body);
        }
    }

    fn person(&mut self, site: usize, key: i64) -> Option<(Revision, Value)> {
        let persons = self.registry.id("persons").unwrap();
        let reader = self.sites[site].reader.as_mut().unwrap();
        let row = reader.aggregate(persons, &Key::of_number(key)).unwrap().1?;
        Some((row.revision, serde_json::from_str(row.body.unwrap().as_str()).unwrap()))
    }

    /// Every consumer comes to every database, and every tag and name is compared with what is there.
    fn converge(&mut self) {
        for site in 0..self.sites.len() {
            for consumer in 0..self.consumers.len() {
                assert!(self.follow(consumer, site, usize::MAX, ReplayMode::Auto));
                let expected = &self.sites[site].expected;
                let ours = &self.consumers[consumer];
                let now = shown(&expected.document(expected.revision()), &ours.feed, &self.registry);
                assert_eq!(ours.state, now, "{:?} at {site}", ours.feed);
            }
            for consumer in 0..self.journal.len() {
                while !self.read_journal(consumer, site) {}
            }
            self.compare_names(site);
            self.compare_tags(site);
        }
    }

    fn compare_names(&self, site: usize) {
        let site = &self.sites[site];
        for ((epoch, revision), document) in &self.named {
            let number = usize::try_from(*revision).unwrap();
            let is_ours = site.history().has_revision(&epoch.parse().unwrap(), Revision::from_raw(*revision));
            if is_ours && number <= site.expected.revision() {
                assert_eq!(*document, site.expected.document(number), "{epoch}.{revision} has two contents");
            }
        }
    }

    fn compare_tags(&mut self, site: usize) {
        let history = Arc::clone(self.sites[site].history());
        for ((epoch, revision, key), body) in self.tags.clone() {
            let is_ours = history.has_revision(&epoch.parse().unwrap(), Revision::from_raw(revision));
            if let Some((changed, now)) = self.person(site, key).filter(|(changed, _)| changed.number() == revision)
                && is_ours
            {
                assert_eq!(body, now, "{epoch}.{changed} tags two states of {key}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.sites.iter_mut().for_each(Site::close);
    }
}

fn text(pieces: impl Iterator<Item = actix_web::web::Bytes>) -> String {
    pieces.map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect()
}

fn ops() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(CopyKind::FileAlone), Just(CopyKind::WithLog), Just(CopyKind::Online)];
    let mode = prop_oneof![4 => Just(ReplayMode::Auto), 1 => Just(ReplayMode::Compact), 1 => Just(ReplayMode::Strict)];
    let site = || 0..SITES;
    prop_oneof![
        10 => (site(), writes()).prop_map(|(site, write)| Op::Write(site, write)),
        3 => (site(), any::<u8>()).prop_map(|(site, key)| Op::Count(site, key)),
        2 => (site(), 0..4_u8).prop_map(|(site, keep)| Op::Prune(site, keep)),
        1 => site().prop_map(Op::Forget),
        2 => site().prop_map(Op::Restart),
        3 => (site(), kind).prop_map(|(site, kind)| Op::Copy(site, kind)),
        2 => (0..8_usize, site()).prop_map(|(copy, site)| Op::PutBack(copy, site)),
        2 => (0..8_usize).prop_map(Op::GoOn),
        2 => (0..CONSUMERS, site()).prop_map(|(consumer, site)| Op::Load(consumer, site)),
        9 => (0..CONSUMERS, site(), 1..5_usize, mode)
            .prop_map(|(consumer, site, messages, mode)| Op::Follow(consumer, site, messages, mode)),
        2 => (0..2_usize, site()).prop_map(|(consumer, site)| Op::ReadJournal(consumer, site)),
        2 => (site(), 1..6_i64).prop_map(|(site, key)| Op::Tag(site, key)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, rng_seed: RngSeed::Fixed(2026), max_shrink_time: 60_000, ..ProptestConfig::default() })]
    #[test]
    fn nobody_is_wrong_whatever_is_copied_put_back_or_goes_on_elsewhere(
        consumers in prop::collection::vec((0..7_u8, 1..3_usize), CONSUMERS),
        ops in prop::collection::vec(ops(), 1..60),
    ) {
        let mut world = World::new(&consumers);
        for op in &ops {
            world.act(op);
        }
        world.converge();
    }
}

#[test]
fn the_null_of_a_page_that_was_abandoned_is_noticed() {
    let mut world = World::new(&[(2, 1); CONSUMERS]);
    world.act(&Op::Write(0, Write::Create(None)));
    world.act(&Op::Write(0, Write::Create(None)));
    world.act(&Op::Prune(0, 0));
    // The empty collection, and the first person: its null and its state.
    assert!(!world.follow(0, 0, 3, ReplayMode::Auto));
    world.act(&Op::Copy(0, CopyKind::Online));
    // The first person comes again in the next page, of which the consumer only gets the null.
    world.act(&Op::Write(0, Write::Move(1, Some(0))));
    world.consumers[0].limit = 2;
    assert!(!world.follow(0, 0, 1, ReplayMode::Auto));
    assert_eq!(world.consumers[0].state, serde_json::json!({}));
    // In the copy, the first person has not changed since the consumer got it.
    world.act(&Op::PutBack(0, 0));
    world.converge();
}
