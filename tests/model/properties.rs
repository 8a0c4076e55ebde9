//! What must be true in every state.

use std::collections::{HashMap, HashSet};

use crate::consumer::Consumer;
use crate::record::{Command, Entry, Request, Token};
use crate::remedies::Remedies;
use crate::search::Model;
use crate::steps::{self, Step};
use crate::world::{Answer, Bounds, World};

pub(crate) const DENSE: &str = "revisions are dense";
pub(crate) const STATE: &str = "the rows are what the registered rule makes of all that was committed";
pub(crate) const ONE_CONTENT: &str = "an epoch and a revision have one content, ever";
pub(crate) const EPOCHS: &str = "nothing is written in an epoch after the next one began";
pub(crate) const KEPT: &str = "what was answered as done is lost by a fork only";
pub(crate) const ONCE: &str = "nothing is done twice";
pub(crate) const NOT_DONE: &str = "what was answered as not done is never done, also not in what a fork has lost";
pub(crate) const EXACT: &str = "a consumer whose cursor is good has the state of its revision";
pub(crate) const GOES_ON: &str = "a consumer is not reset if its state is a part of the history of its epoch";
pub(crate) const CONVERGES: &str = "a consumer that reads to the end has the state of the record";
pub(crate) const ANSWERED: &str = "every request is answered in the end";

pub(crate) const ALL: &[&str] =
    &[DENSE, STATE, ONE_CONTENT, EPOCHS, KEPT, ONCE, NOT_DONE, EXACT, GOES_ON, CONVERGES, ANSWERED];

/// What must happen in some state: none of these is true in all.
pub(crate) const EVENTS: &[&str] = &[NONE_NOT_DONE, NONE_UNKNOWN, NONE_FOUND, NONE_LOCKED, NONE_LOST, NONE_RESET];

const NONE_NOT_DONE: &str = "no request is answered as not done";
const NONE_UNKNOWN: &str = "no request is answered as unknown";
const NONE_FOUND: &str = "no unknown batch is found to be done";
const NONE_LOCKED: &str = "no batch is decided under the lock";
const NONE_LOST: &str = "no fork loses anything that was answered as done";
const NONE_RESET: &str = "no consumer has what a fork has lost";

/// What is searched.
#[derive(Clone, Copy)]
pub(crate) struct Cluster<'a> {
    pub(crate) bounds: Bounds,
    pub(crate) remedies: Remedies,
    /// Those that are checked.
    pub(crate) properties: &'a [&'static str],
}

impl Model for Cluster<'_> {
    type State = World;
    type Step = Step;

    fn start(&self) -> World {
        World::new(&self.bounds)
    }

    fn next(&self, world: &World) -> Vec<(Step, World)> {
        steps::next(world, &self.bounds, self.remedies)
    }

    fn violated(&self, world: &World, is_end: bool) -> Option<&'static str> {
        let holds = |property| match property {
            DENSE => revisions_are_dense(world),
            STATE => world.server.record.rows == world.server.record.rows_made_again(),
            ONE_CONTENT => a_name_has_one_content(world),
            EPOCHS => revisions_are_of_their_epochs(world),
            KEPT => what_is_done_is_kept(world, self.bounds.requests),
            ONCE => nothing_is_done_twice(world),
            NOT_DONE => what_is_not_done_is_nowhere(world),
            EXACT => the_consumer_is_exact(world),
            GOES_ON => the_consumer_is_not_reset_in_vain(world),
            CONVERGES => the_consumer_converges(world, self.remedies),
            ANSWERED => !is_end || every_request_is_answered(world),
            NONE_NOT_DONE => requests(world, Answer::NotDone).next().is_none(),
            NONE_UNKNOWN => requests(world, Answer::Unknown).next().is_none(),
            NONE_FOUND => match world.server.record.token {
                Token::Resolved(request) => requests(world, Answer::Done).all(|done| done != request),
                _ => true,
            },
            NONE_LOCKED => ever(world).all(|entry| !matches!(entry.token, Token::LockedBatch(_))),
            NONE_LOST => requests(world, Answer::Done).all(|done| world.lost.iter().all(|lost| lost.request != done)),
            NONE_RESET => world.consumer.is_within(&world.server.record),
            _ => unreachable!("one of ALL or EVENTS"),
        };
        self.properties.iter().copied().find(|property| !holds(*property))
    }
}

fn revisions_are_dense(world: &World) -> bool {
    let record = &world.server.record;
    record.outbox().map(|entry| entry.first).eq(1..=record.revision)
}

/// All that was ever committed, in the record and in what forks have lost.
fn ever(world: &World) -> impl Iterator<Item = &Entry> {
    world.lost.iter().chain(&world.server.record.batches)
}

/// A consumer may have seen it as soon as it was committed.
fn a_name_has_one_content(world: &World) -> bool {
    let mut contents = HashMap::new();
    let mut revisions = ever(world).filter(|entry| matches!(entry.command, Command::Change(_)));
    revisions.all(|entry| *contents.entry((entry.epoch, entry.first)).or_insert(entry.request) == entry.request)
}

fn revisions_are_of_their_epochs(world: &World) -> bool {
    let record = &world.server.record;
    record.outbox().all(|entry| {
        let begun = record.epochs.iter().rfind(|start| start.first_revision <= entry.first);
        begun.is_some_and(|start| start.epoch == entry.epoch)
    })
}

fn what_is_done_is_kept(world: &World, commands: &[Command]) -> bool {
    let mut done = requests(world, Answer::Done);
    done.all(|request| ever(world).any(|entry| entry.command == commands[usize::from(request)]))
}

fn nothing_is_done_twice(world: &World) -> bool {
    let mut commands = HashSet::new();
    world.server.record.batches.iter().all(|entry| commands.insert(entry.command))
}

fn what_is_not_done_is_nowhere(world: &World) -> bool {
    let mut not_done = requests(world, Answer::NotDone);
    not_done.all(|request| ever(world).all(|entry| entry.request != request))
}

fn requests(world: &World, answer: Answer) -> impl Iterator<Item = Request> {
    let answers = world.answers.iter().zip(0..);
    answers.filter(move |(given, _)| **given == answer).map(|(_, request)| request)
}

fn state(world: &World) -> impl Iterator<Item = Request> {
    world.server.record.outbox().map(|entry| entry.request)
}

/// Whether the state of the consumer is one that the record had.
fn is_in_the_history(world: &World) -> bool {
    let Consumer { state: applied, revision, .. } = &world.consumer;
    applied.iter().copied().eq(state(world).take(usize::from(*revision)))
}

fn the_consumer_is_exact(world: &World) -> bool {
    !world.consumer.is_within(&world.server.record) || is_in_the_history(world)
}

/// An epoch that the record does not have any more cannot be compared with it: then the consumer has to start again.
fn the_consumer_is_not_reset_in_vain(world: &World) -> bool {
    let (consumer, record) = (&world.consumer, &world.server.record);
    let is_known = record.end_of(consumer.epoch).is_some();
    !is_known || !is_in_the_history(world) || consumer.is_within(record)
}

fn the_consumer_converges(world: &World, remedies: Remedies) -> bool {
    let (mut consumer, mut server) = (world.consumer.clone(), world.server.clone());
    if server.is_foreign() {
        server.begin_epoch(u8::MAX, remedies);
    }
    for _ in 0..server.record.revision + 3 {
        consumer.follow(&server.record, remedies);
        if consumer.stream.is_none() {
            consumer.connect(&server.record);
        }
    }
    consumer.revision == server.record.revision && consumer.state.into_iter().eq(state(world))
}

fn every_request_is_answered(world: &World) -> bool {
    world.answers.iter().all(|answer| matches!(answer, Answer::Done | Answer::NotDone | Answer::Unknown))
}
