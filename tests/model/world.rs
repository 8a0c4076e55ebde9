//! Everything together.

use crate::consumer::Consumer;
use crate::node::{self, Node, Phase, Stage, Statement};
use crate::record::{Command, Entry, Fork, Rows, Server};
use crate::remedies::Remedies;

/// What a client gets for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Unsent,
    Pending,
    Done,
    NotDone,
    /// A 500, or no answer at all.
    Unknown,
}

/// How much can happen. The search is over all orders of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) nodes: usize,
    /// The command of each request. They come in this order, each to any node.
    pub(crate) requests: &'static [Command],
    /// How often a connection is lost, or a server ends a transaction.
    pub(crate) losses: u8,
    pub(crate) crashes: u8,
    pub(crate) registrations: u8,
    pub(crate) prunes: u8,
    /// How many forks there are, of these kinds.
    pub(crate) forks: u8,
    pub(crate) kinds: &'static [Fork],
    pub(crate) consumers: Consumers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consumers {
    None,
    One,
}

/// What is left of the bounds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) losses: u8,
    pub(crate) crashes: u8,
    pub(crate) registrations: u8,
    pub(crate) prunes: u8,
    pub(crate) forks: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The server at the address that the nodes have.
    pub(crate) server: Server,
    /// A standby, a dump, a template: how the record was when it was made.
    pub(crate) copy: Server,
    /// In the order of the requests.
    pub(crate) statements: Vec<Statement>,
    pub(crate) nodes: Vec<Node>,
    /// For each request.
    pub(crate) answers: Vec<Answer>,
    pub(crate) consumer: Consumer,
    /// What was committed, and is not in the record any more after a fork.
    pub(crate) lost: Vec<Entry>,
    /// Without [`Remedy::MaintenanceTakesRowFirst`]: what maintenance has read, and is going to write.
    pub(crate) read_early: Option<Rows>,
    pub(crate) left: Left,
}

impl World {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let Bounds { nodes, requests, losses, crashes, registrations, prunes, forks, .. } = *bounds;
        Self {
            server: Server::new(),
            copy: Server::new(),
            statements: Vec::new(),
            nodes: vec![Node::NEW; nodes],
            answers: vec![Answer::Unsent; requests.len()],
            consumer: Consumer::new(),
            lost: Vec::new(),
            read_early: None,
            left: Left { losses, crashes, registrations, prunes, forks },
        }
    }

    pub(crate) fn row_is_free(&self) -> bool {
        self.statements.iter().all(|statement| statement.stage != Stage::HasRow)
    }

    /// The number of the next epoch, of the next server: one more than there ever were.
    pub(crate) fn next_number(&self, bounds: &Bounds) -> u8 {
        2 + bounds.forks - self.left.forks
    }

    /// Statements that are over, and of which nobody will have the answer.
    pub(crate) fn forget_unawaited(&mut self) {
        let is_over = |statement: &Statement| matches!(statement.stage, Stage::Committed | Stage::Missed);
        self.statements.retain(|statement| statement.is_awaited || !is_over(statement));
    }

    pub(crate) fn crash(&mut self, node: usize) {
        let request = match self.nodes[node].phase {
            Phase::Idle => None,
            Phase::Waiting(request) | Phase::Missed(request) => Some(request),
            Phase::Unknown(batch) | Phase::Looked(batch, _) => Some(batch.request),
        };
        if let Some(request) = request {
            self.answers[usize::from(request)] = Answer::Unknown;
        }
        self.nodes[node] = Node::NEW;
        for statement in self.statements.iter_mut().filter(|statement| usize::from(statement.node) == node) {
            statement.is_awaited = false;
        }
        self.forget_unawaited();
    }

    /// Another server takes the place of this one. What has the row there ends with it; what is on its way arrives at the new
    /// one, as through a pooler, or at a standby whose sessions live on.
    pub(crate) fn fork(&mut self, fork: Fork, number: u8, remedies: Remedies) {
        while let Some(at) = self.statements.iter().position(|statement| statement.stage == Stage::HasRow) {
            node::abort(self, at);
        }
        let server = self.server.replaced_by(&self.copy, fork, number);
        let gone = self.server.record.batches.iter().filter(|entry| !server.record.batches.contains(entry));
        self.lost.extend(gone);
        self.lost.sort_unstable();
        self.lost.dedup();
        self.server = server;
        if fork == Fork::DiskSnapshotAndNewEpoch {
            self.server.begin_epoch(number, remedies);
        }
    }
}
