//! The record: what is committed in the tables of a `PostgreSQL` server, and who the server is.
//!
//! Everything that changes the record changes its one row of `metadata`, which has the token, the epoch and the identity.
//! So whoever has the row is alone, and a statement that waited for the row sees all of it as it is then.

use crate::remedies::{Remedies, Remedy};

/// A request of a client, by its place in [`crate::world::Bounds::requests`].
pub(crate) type Request = u8;

/// What a client wants. Two requests with one command have the same idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Command {
    /// It makes a revision.
    Change(u8),
    /// A rule refuses it: its answer is stored, and there is no revision.
    Refusal(u8),
}

/// `metadata.token`: random bytes, new with each change of the record. Here they are named by what has set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Token {
    First,
    /// A batch that was decided from the cache.
    Batch(Request),
    /// A batch that was decided under the lock of the row.
    LockedBatch(Request),
    /// The end of an unknown outcome.
    Resolved(Request),
    Maintenance(u8),
    Epoch(u8),
}

/// What tells a table from each copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// `pg_control_system()`: each cluster that was made by `initdb` has its own.
    pub(crate) system: u8,
    /// The OID of the database.
    pub(crate) database: u8,
    /// `'metadata'::regclass::oid`.
    pub(crate) table: u8,
    /// One more with each promotion.
    pub(crate) timeline: u8,
}

/// A row of the log of epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EpochStart {
    pub(crate) epoch: u8,
    pub(crate) first_revision: u8,
}

impl Command {
    /// The last revision after it, if this was the next one before it.
    pub(crate) fn last_revision(self, next: u8) -> u8 {
        match self {
            Self::Change(_) => next,
            Self::Refusal(_) => next - 1,
        }
    }
}

/// A batch that was committed, with its one command: its rows in `batches` and, if it made a revision, in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) epoch: u8,
    /// The revision that it made. If it made none, the one that the next batch makes.
    pub(crate) first: u8,
    pub(crate) token: Token,
    pub(crate) request: Request,
    pub(crate) command: Command,
}

impl Entry {
    /// Whether the row of the batch in `batches` is not pruned. Of a batch without a revision, the last revision is one that
    /// was there before it.
    pub(crate) fn is_kept(&self, pruned: u8, remedies: Remedies) -> bool {
        let last = self.command.last_revision(self.first);
        let number = if remedies.have(Remedy::PrunedByFirstRevision) { self.first } else { last };
        number > pruned
    }
}

/// The rows that commands are decided from: the states, and the stored answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Rows {
    /// Which commands were done, a bit each.
    pub(crate) done: u8,
    /// The rule by which the states were made.
    pub(crate) rule: u8,
}

impl Rows {
    pub(crate) fn has(self, command: Command) -> bool {
        self.with(command) == self
    }

    pub(crate) fn with(self, command: Command) -> Self {
        let (Command::Change(number) | Command::Refusal(number)) = command;
        Self { done: self.done | (1 << number), ..self }
    }
}

/// All tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) token: Token,
    /// Oldest first; the last one is the current.
    pub(crate) epochs: Vec<EpochStart>,
    /// Who the server was when the current epoch began.
    pub(crate) begun_on: Identity,
    pub(crate) revision: u8,
    pub(crate) batches: Vec<Entry>,
    pub(crate) rows: Rows,
    /// The registered version of the rule by which states follow from commands.
    pub(crate) rule: u8,
    /// The rows of `batches` whose first revision is at most this one are pruned.
    pub(crate) pruned: u8,
}

impl Record {
    pub(crate) fn epoch(&self) -> u8 {
        self.epochs.last().expect("a record has an epoch").epoch
    }

    /// The last revision of an epoch that belongs to this record.
    pub(crate) fn end_of(&self, epoch: u8) -> Option<u8> {
        let at = self.epochs.iter().position(|start| start.epoch == epoch)?;
        Some(self.epochs.get(at + 1).map_or(self.revision, |next| next.first_revision - 1))
    }

    /// The outbox: the batches that made a revision.
    pub(crate) fn outbox(&self) -> impl Iterator<Item = &Entry> {
        self.batches.iter().filter(|entry| matches!(entry.command, Command::Change(_)))
    }

    /// What the rows would be if they were made again.
    pub(crate) fn rows_made_again(&self) -> Rows {
        let none = Rows { done: 0, rule: self.rule };
        self.batches.iter().fold(none, |rows, entry| rows.with(entry.command))
    }

    /// What one statement writes, if it may.
    pub(crate) fn commit(&mut self, batch: &Batch) {
        let Batch { request, command, epoch, token, first, rows } = *batch;
        self.batches.push(Entry { epoch, first, token, request, command });
        self.revision = command.last_revision(first);
        self.rows = rows;
        self.token = token;
    }
}

/// What a batch writes, if it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub(crate) request: Request,
    pub(crate) command: Command,
    pub(crate) epoch: u8,
    pub(crate) token: Token,
    /// The revision after the one that it was decided at.
    pub(crate) first: u8,
    pub(crate) rows: Rows,
}

/// A server, or a copy of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) identity: Identity,
    pub(crate) record: Record,
}

/// How another server comes to be in the place of the record. Each differs in one part of its identity only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fork {
    /// A standby that may lack the last commits.
    Promotion,
    /// A dump, restored on another cluster.
    OtherCluster,
    /// `CREATE DATABASE … TEMPLATE`, earlier.
    OtherDatabase,
    /// `pg_restore --clean`.
    CleanRestore,
    /// A snapshot of the disk. It does not differ at all.
    DiskSnapshot,
    /// The same, and then `duality epoch new`.
    DiskSnapshotAndNewEpoch,
}

impl Server {
    pub(crate) fn new() -> Self {
        let identity = Identity { system: 1, database: 1, table: 1, timeline: 1 };
        let record = Record {
            token: Token::First,
            epochs: vec![EpochStart { epoch: 1, first_revision: 1 }],
            begun_on: identity,
            revision: 0,
            batches: Vec::new(),
            rows: Rows { done: 0, rule: 1 },
            rule: 1,
            pruned: 0,
        };
        Self { identity, record }
    }

    /// Whether the current epoch was begun on another server.
    pub(crate) fn is_foreign(&self) -> bool {
        self.identity != self.record.begun_on
    }

    /// Whether the current epoch was begun here, as far as the statement of a batch compares it.
    pub(crate) fn is_home(&self, remedies: Remedies) -> bool {
        let (here, begun_on) = (self.identity, self.record.begun_on);
        let equal = [
            (Remedy::Timeline, here.timeline == begun_on.timeline),
            (Remedy::System, here.system == begun_on.system),
            (Remedy::Database, here.database == begun_on.database),
            (Remedy::Table, here.table == begun_on.table),
        ];
        equal.into_iter().all(|(remedy, is_equal)| is_equal || !remedies.have(remedy))
    }

    /// Begins an epoch under the lock of the row: what was written after the copy was made is not a part of it.
    pub(crate) fn begin_epoch(&mut self, epoch: u8, remedies: Remedies) {
        let first_revision = self.record.revision + 1;
        self.record.epochs.push(EpochStart { epoch, first_revision });
        self.record.begun_on = self.identity;
        if remedies.have(Remedy::EpochSetsToken) {
            self.record.token = Token::Epoch(epoch);
        }
    }

    /// The server that takes the place of this one. `number`: one that no server has yet.
    pub(crate) fn replaced_by(&self, copy: &Self, fork: Fork, number: u8) -> Self {
        let here = self.identity;
        let identity = match fork {
            // It knows nothing of other promotions: two standbys of one server may get the same timeline.
            Fork::Promotion => Identity { timeline: copy.identity.timeline + 1, ..copy.identity },
            Fork::OtherCluster => Identity { system: number, ..here },
            Fork::OtherDatabase => Identity { database: number, ..here },
            Fork::CleanRestore => Identity { table: number, ..here },
            Fork::DiskSnapshot | Fork::DiskSnapshotAndNewEpoch => copy.identity,
        };
        Self { identity, record: copy.record.clone() }
    }
}
