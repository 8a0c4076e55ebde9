//! All that can happen next.

use std::fmt;

use crate::node::{self, Node, Phase, Stage, Statement};
use crate::record::{Batch, Fork, Request, Rows, Token};
use crate::remedies::{Remedies, Remedy};
use crate::world::{Answer, Bounds, Consumers, World};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Send { node: usize, request: Request, from: Source },
    Execute(Request),
    Commit(Request),
    Abort(Request),
    Receive(Request),
    Lose(Request),
    Lock(usize),
    Look(usize),
    Resolve(usize),
    Crash(usize),
    Register,
    Prune,
    ReadEarly,
    WriteLate,
    Copy,
    Fork(Fork),
    BeginEpoch,
    Connect,
    Follow,
    Hear(usize),
}

/// From what a node decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Cache,
    Prefetch,
}

/// All that can happen next.
pub(crate) fn next(world: &World, bounds: &Bounds, remedies: Remedies) -> Vec<(Step, World)> {
    let mut steps = Vec::new();
    of_statements(world, &mut steps);
    of_nodes(world, remedies, &mut steps);
    of_the_record(world, bounds, remedies, &mut steps);
    if bounds.consumers == Consumers::One {
        let own =
            (0..world.nodes.len()).filter(|node| world.nodes[*node].known.is_some_and(|known| known.own.is_some()));
        steps.extend([Step::Connect, Step::Follow].into_iter().chain(own.map(Step::Hear)));
    }
    let results = steps.into_iter().map(|step| (step, after(world, step, bounds, remedies)));
    results.filter(|(_, result)| result != world).collect()
}

fn of_statements(world: &World, steps: &mut Vec<Step>) {
    for Statement { batch, stage, is_awaited, .. } in &world.statements {
        let request = batch.request;
        match stage {
            Stage::Sent if world.row_is_free() => steps.push(Step::Execute(request)),
            Stage::Sent => {}
            Stage::HasRow => {
                steps.push(Step::Commit(request));
                if !is_awaited || world.left.losses > 0 {
                    steps.push(Step::Abort(request));
                }
            }
            Stage::Committed | Stage::Missed => steps.push(Step::Receive(request)),
        }
        if *is_awaited && world.left.losses > 0 {
            steps.push(Step::Lose(request));
        }
    }
}

fn of_nodes(world: &World, remedies: Remedies, steps: &mut Vec<Step>) {
    let unsent = world.answers.iter().position(|answer| *answer == Answer::Unsent);
    let unsent = unsent.map(|request| Request::try_from(request).expect("few requests"));
    // Whoever takes the row compares the identity, and begins an epoch first if it is another one.
    let may = |compares| world.row_is_free() && (!world.server.is_foreign() || !remedies.have(compares));
    let (locks, resolves) = (may(Remedy::LockedBatchComparesIdentity), may(Remedy::LookComparesIdentity));
    for (node, Node { known, phase }) in world.nodes.iter().enumerate() {
        // Of nodes that are alike, the first one acts for all.
        if world.nodes[..node].contains(&Node::NEW) && world.nodes[node] == Node::NEW {
            continue;
        }
        match phase {
            Phase::Idle => {
                if let Some(request) = unsent {
                    steps.push(Step::Send { node, request, from: Source::Prefetch });
                    steps.extend(known.map(|_| Step::Send { node, request, from: Source::Cache }));
                }
            }
            Phase::Waiting(_) => {}
            Phase::Missed(_) if locks => steps.push(Step::Lock(node)),
            Phase::Unknown(_) if !remedies.have(Remedy::RowBeforeLook) => steps.push(Step::Look(node)),
            Phase::Unknown(_) | Phase::Looked(..) if resolves => steps.push(Step::Resolve(node)),
            Phase::Missed(_) | Phase::Unknown(_) | Phase::Looked(..) => {}
        }
        if world.left.crashes > 0 && world.nodes[node] != Node::NEW {
            steps.push(Step::Crash(node));
        }
    }
}

fn of_the_record(world: &World, bounds: &Bounds, remedies: Remedies, steps: &mut Vec<Step>) {
    let left = &world.left;
    let may = world.row_is_free() && !world.server.is_foreign();
    if left.prunes > 0 && may {
        steps.push(Step::Prune);
    }
    if left.registrations > 0 && remedies.have(Remedy::MaintenanceTakesRowFirst) {
        steps.extend(may.then_some(Step::Register));
    } else if left.registrations > 0 && world.read_early.is_none() {
        steps.push(Step::ReadEarly);
    } else if left.registrations > 0 && may {
        steps.push(Step::WriteLate);
    }
    if left.forks > 0 {
        steps.push(Step::Copy);
        // A snapshot of a disk is of the same server, or it would differ.
        let is_same = world.copy.identity == world.server.identity;
        let can = |fork: &&Fork| !matches!(fork, Fork::DiskSnapshot | Fork::DiskSnapshotAndNewEpoch) || is_same;
        steps.extend(bounds.kinds.iter().filter(can).map(|fork| Step::Fork(*fork)));
    }
    if world.server.is_foreign() && world.row_is_free() {
        steps.push(Step::BeginEpoch);
    }
}

/// What a step results in.
fn after(world: &World, step: Step, bounds: &Bounds, remedies: Remedies) -> World {
    let mut next = world.clone();
    let command = |request: Request| bounds.requests[usize::from(request)];
    let at = |request: Request| {
        let of_it = |statement: &Statement| statement.batch.request == request;
        world.statements.iter().position(of_it).expect("it is on its way")
    };
    match step {
        Step::Send { node, request, from } => {
            if from == Source::Prefetch {
                next.nodes[node].prefetch(&world.server.record, remedies);
            }
            node::send(&mut next, node, request, command(request));
        }
        Step::Execute(request) => node::execute(&mut next, at(request), remedies),
        Step::Commit(request) => node::commit(&mut next, at(request)),
        Step::Abort(request) => {
            if world.statements[at(request)].is_awaited {
                next.left.losses -= 1;
            }
            node::abort(&mut next, at(request));
        }
        Step::Receive(request) => node::receive(&mut next, at(request)),
        Step::Lose(request) => {
            next.left.losses -= 1;
            node::lose(&mut next, at(request));
        }
        Step::Lock(node) => {
            let Phase::Missed(request) = world.nodes[node].phase else { unreachable!("only after a miss") };
            node::decide_under_lock(&mut next, node, request, command(request));
        }
        Step::Look(node) => {
            let batch = unknown(world, node);
            next.nodes[node].phase = Phase::Looked(batch, node::look(&world.server.record, &batch, remedies));
        }
        Step::Resolve(node) => {
            let looked = if let Phase::Looked(_, answer) = world.nodes[node].phase { Some(answer) } else { None };
            node::resolve(&mut next, node, &unknown(world, node), looked, remedies);
        }
        Step::Crash(node) => {
            next.left.crashes -= 1;
            next.crash(node);
        }
        Step::Register | Step::Prune | Step::ReadEarly | Step::WriteLate => maintain(&mut next, step, remedies),
        Step::Copy => next.copy = world.server.clone(),
        Step::Fork(fork) => {
            next.left.forks -= 1;
            next.fork(fork, next.next_number(bounds), remedies);
        }
        Step::BeginEpoch => next.server.begin_epoch(world.next_number(bounds), remedies),
        Step::Connect => next.consumer.connect(&world.server.record),
        Step::Follow => next.consumer.follow(&world.server.record, remedies),
        Step::Hear(node) => next.consumer.hear(&world.nodes[node].known.expect("it has committed"), remedies),
    }
    next.statements.sort_unstable_by_key(|statement| statement.batch.request);
    next
}

fn unknown(world: &World, node: usize) -> Batch {
    match world.nodes[node].phase {
        Phase::Unknown(batch) | Phase::Looked(batch, _) => batch,
        _ => unreachable!("only an unknown outcome is looked up"),
    }
}

/// Maintenance changes rows, and neither the revision nor the position.
fn maintain(world: &mut World, step: Step, remedies: Remedies) {
    let (record, left) = (&mut world.server.record, &mut world.left);
    match step {
        // The rows are made again by a new rule.
        Step::Register => {
            record.rule += 1;
            record.rows = record.rows_made_again();
            left.registrations -= 1;
        }
        Step::ReadEarly => {
            world.read_early = Some(record.rows);
            return;
        }
        Step::WriteLate => {
            record.rule += 1;
            let read = world.read_early.take().expect("it has been read");
            record.rows = Rows { rule: record.rule, ..read };
            left.registrations -= 1;
        }
        _ => {
            record.pruned = record.revision;
            left.prunes -= 1;
        }
    }
    if remedies.have(Remedy::MaintenanceSetsToken) {
        record.token = Token::Maintenance(left.registrations * 4 + left.prunes);
    }
}

impl fmt::Display for Step {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { node, request, from: Source::Cache } => {
                write!(to, "node {node} decides request {request} from its cache, and sends the batch")
            }
            Self::Send { node, request, from: Source::Prefetch } => {
                write!(to, "node {node} reads the token and the rows, decides request {request}, and sends the batch")
            }
            Self::Execute(request) => write!(to, "the record executes the batch of request {request}"),
            Self::Commit(request) => write!(to, "the batch of request {request} commits"),
            Self::Abort(request) => write!(to, "the server ends the transaction of request {request}"),
            Self::Receive(request) => write!(to, "the node of request {request} receives the answer of the record"),
            Self::Lose(request) => write!(to, "the node of request {request} loses its connection"),
            Self::Lock(node) => write!(to, "node {node} takes the row after its miss, reads, and decides again"),
            Self::Look(node) => write!(to, "node {node} looks for its unknown batch, without the row"),
            Self::Resolve(node) => write!(to, "node {node} takes the row, and answers for its unknown batch"),
            Self::Crash(node) => write!(to, "node {node} crashes, and starts again"),
            Self::Register => to.write_str("a new rule is registered, and the rows are made again"),
            Self::Prune => to.write_str("the outbox and `batches` are pruned"),
            Self::ReadEarly => to.write_str("maintenance reads the rows, without the row of `metadata`"),
            Self::WriteLate => {
                to.write_str("maintenance takes the row of `metadata`, and writes what it has read before")
            }
            Self::Copy => to.write_str("the copy becomes as the record is"),
            Self::Fork(Fork::Promotion) => to.write_str("the server is lost, and the standby is promoted"),
            Self::Fork(fork) => write!(to, "the copy takes the place of the record: {fork:?}"),
            Self::BeginEpoch => to.write_str("a node sees a foreign identity, takes the row, and begins an epoch"),
            Self::Connect => to.write_str("the consumer connects with its cursor"),
            Self::Follow => {
                to.write_str("the consumer's node reads the record, and sends what is next or ends the stream")
            }
            Self::Hear(node) => write!(to, "node {node} sends the consumer its own commit"),
        }
    }
}
