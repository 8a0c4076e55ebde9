//! A node: one batch at a time, decided from what it knows of the record, and answered only when its outcome is certain.
//!
//! 1. It reads the token and the rows in one statement ([`Node::known`]), or goes on from the cache as of the last token.
//! 2. It sends the batch, as one statement that does nothing if the token is another one ([`Statement`]).
//! 3. The statement did nothing: the node takes the row, reads, decides again and commits.
//! 4. The connection is lost: the outcome is unknown. See [`resolve`].

use crate::record::{Batch, Command, Entry, Record, Request, Rows, Token};
use crate::remedies::{Remedies, Remedy};
use crate::world::{Answer, World};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// The cache. `None` after a start, and when something else than expected has happened.
    pub(crate) known: Option<Known>,
    pub(crate) phase: Phase,
}

/// What was true of the record when it had this token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    token: Token,
    pub(crate) epoch: u8,
    pub(crate) revision: u8,
    rows: Rows,
    /// What this node has committed by that token.
    pub(crate) own: Option<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Idle,
    /// A statement is on its way.
    Waiting(Request),
    /// The batch has done nothing. It is decided again under the lock of the row.
    Missed(Request),
    /// The connection was lost.
    Unknown(Batch),
    /// Without [`Remedy::RowBeforeLook`]: it has looked, and is going to take the row.
    Looked(Batch, Answer),
}

/// A statement that the record may execute at any time, also when the node has lost the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Statement {
    pub(crate) node: u8,
    pub(crate) batch: Batch,
    /// The token as of which the batch was decided.
    known: Token,
    pub(crate) stage: Stage,
    /// Whether the node will have the answer.
    pub(crate) is_awaited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// On the network, or in a backend that waits for the row.
    Sent,
    /// The batch is written and has the row, and nobody sees it yet.
    HasRow,
    Committed,
    /// The token or the identity was another one. Nothing is written.
    Missed,
}

impl Node {
    pub(crate) const NEW: Self = Self { known: None, phase: Phase::Idle };

    /// Reads the token, the counters and the rows in one statement.
    pub(crate) fn prefetch(&mut self, record: &Record, remedies: Remedies) {
        let mut rows = record.rows;
        if let (Some(known), false) = (self.known, remedies.have(Remedy::OtherTokenDropsCache)) {
            rows.rule = known.rows.rule;
        }
        self.known = Some(Known::of(record, rows));
    }
}

impl Known {
    fn of(record: &Record, rows: Rows) -> Self {
        Self { token: record.token, epoch: record.epoch(), revision: record.revision, rows, own: None }
    }

    /// The batch with this command. `None` if it has been done: the first answer is given again.
    fn decide(&self, request: Request, command: Command, token: Token) -> Option<Batch> {
        let Self { epoch, rows, .. } = *self;
        let (first, after) = (self.revision + 1, rows.with(command));
        (!rows.has(command)).then_some(Batch { request, command, epoch, token, first, rows: after })
    }
}

/// Steps 1 and 2: a node decides a request, and sends the batch.
pub(crate) fn send(world: &mut World, node: usize, request: Request, command: Command) {
    let known = world.nodes[node].known.expect("it was prefetched");
    let Some(batch) = known.decide(request, command, Token::Batch(request)) else {
        world.answers[usize::from(request)] = Answer::Done;
        return;
    };
    world.answers[usize::from(request)] = Answer::Pending;
    let node_number = u8::try_from(node).expect("few nodes");
    let (known, stage) = (known.token, Stage::Sent);
    world.statements.push(Statement { node: node_number, batch, known, stage, is_awaited: true });
    world.nodes[node].phase = Phase::Waiting(request);
}

/// The record executes a statement as soon as the row is free. All that it compares is on that row.
pub(crate) fn execute(world: &mut World, at: usize, remedies: Remedies) {
    let statement = &mut world.statements[at];
    let is_current = statement.known == world.server.record.token || !remedies.have(Remedy::Token);
    let hits = is_current && world.server.is_home(remedies);
    statement.stage = if hits { Stage::HasRow } else { Stage::Missed };
    world.forget_unawaited();
}

pub(crate) fn commit(world: &mut World, at: usize) {
    let statement = &mut world.statements[at];
    statement.stage = Stage::Committed;
    world.server.record.commit(&statement.batch);
    world.forget_unawaited();
}

/// The server ends whoever has the row: a crash, a timeout, a node that saw it stuck.
pub(crate) fn abort(world: &mut World, at: usize) {
    let Statement { node, batch, is_awaited, .. } = world.statements.remove(at);
    if is_awaited {
        world.nodes[usize::from(node)].become_unsure(batch);
    }
}

/// The connection is lost, and with it the answer. The statement may still be executed.
pub(crate) fn lose(world: &mut World, at: usize) {
    let statement = &mut world.statements[at];
    statement.is_awaited = false;
    let Statement { node, batch, .. } = *statement;
    world.nodes[usize::from(node)].become_unsure(batch);
    world.forget_unawaited();
}

/// The answer of the record arrives.
pub(crate) fn receive(world: &mut World, at: usize) {
    let Statement { node, batch, stage, .. } = world.statements.remove(at);
    let node = &mut world.nodes[usize::from(node)];
    let Batch { request, command, epoch, token, first, rows } = batch;
    if stage == Stage::Missed {
        *node = Node { known: None, phase: Phase::Missed(request) };
    } else {
        // What was written is written through to the cache.
        let own = matches!(command, Command::Change(_)).then_some(request);
        let revision = command.last_revision(first);
        let known = Known { token, epoch, revision, rows, own };
        *node = Node { known: Some(known), phase: Phase::Idle };
        world.answers[usize::from(request)] = Answer::Done;
    }
}

/// Step 3: takes the row, reads all that the batch needs, and decides again. Nobody else can change it until the commit.
pub(crate) fn decide_under_lock(world: &mut World, node: usize, request: Request, command: Command) {
    let record = &world.server.record;
    let known = Known::of(record, record.rows);
    let Some(batch) = known.decide(request, command, Token::LockedBatch(request)) else {
        world.nodes[node] = Node { known: Some(known), phase: Phase::Idle };
        world.answers[usize::from(request)] = Answer::Done;
        return;
    };
    let node_number = u8::try_from(node).expect("few nodes");
    let (known, stage) = (known.token, Stage::HasRow);
    world.statements.push(Statement { node: node_number, batch, known, stage, is_awaited: true });
    world.nodes[node].phase = Phase::Waiting(request);
}

/// Whether a batch was done, as the rows say that are visible now.
pub(crate) fn look(record: &Record, batch: &Batch, remedies: Remedies) -> Answer {
    let is_ours = |entry: &Entry| {
        if remedies.have(Remedy::LookForToken) {
            entry.token == batch.token && entry.is_kept(record.pruned, remedies)
        } else {
            // The patches of equal commands are equal.
            entry.first == batch.first
        }
    };
    let may_be_pruned = batch.first <= record.pruned && remedies.have(Remedy::PrunedIsUnknown);
    let is_other_history = record.epoch() != batch.epoch && remedies.have(Remedy::OtherEpochIsUnknown);
    if record.batches.iter().any(is_ours) {
        Answer::Done
    } else if may_be_pruned || is_other_history {
        Answer::Unknown
    } else {
        Answer::NotDone
    }
}

/// Step 4: takes the row (which waits for a backend that has it), looks, and sets a new token, so that the old statement does
/// nothing if it comes later. Only then is the request answered.
pub(crate) fn resolve(world: &mut World, node: usize, batch: &Batch, looked: Option<Answer>, remedies: Remedies) {
    let answer = looked.unwrap_or_else(|| look(&world.server.record, batch, remedies));
    if remedies.have(Remedy::LookSetsToken) {
        world.server.record.token = Token::Resolved(batch.request);
    }
    world.answers[usize::from(batch.request)] = answer;
    world.nodes[node] = Node::NEW;
}

impl Node {
    fn become_unsure(&mut self, batch: Batch) {
        *self = Self { known: None, phase: Phase::Unknown(batch) };
    }
}
