//! What keeps the record whole. Each remedy can be taken out, to see what happens without it.

/// A rule of the protocol between a node and the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// A batch does nothing unless the token is the one as of which its node has decided it.
    Token,
    /// … nor unless the timeline is the one on which the epoch was begun,
    Timeline,
    /// … the cluster the same,
    System,
    /// … the database the same,
    Database,
    /// … and the table the same.
    Table,
    /// What is decided under the lock of the row compares all these, too.
    LockedBatchComparesIdentity,
    /// A change of rows that moves no revision sets a new token.
    MaintenanceSetsToken,
    /// Maintenance takes the row before it reads what it is going to change.
    MaintenanceTakesRowFirst,
    /// A node drops its cache when it reads a token that it does not know.
    OtherTokenDropsCache,
    /// A new epoch sets a new token.
    EpochSetsToken,
    /// A batch whose outcome is unknown: its node takes the row, and so waits for the old statement, before it looks.
    RowBeforeLook,
    /// It looks for the token of the batch, not for what the batch would have written.
    LookForToken,
    /// It sets a new token before it gives up the row.
    LookSetsToken,
    /// If the server is another one, it begins an epoch before it looks.
    LookComparesIdentity,
    /// It does not answer "not done" if the row of the batch may have been pruned.
    PrunedIsUnknown,
    /// The row of a batch is pruned by its first revision, since a batch may have none.
    PrunedByFirstRevision,
    /// It does not answer "not done" if another epoch has begun since.
    OtherEpochIsUnknown,
    /// A stream ends when the record, or a commit of the node, is of another epoch than the stream.
    StreamsCompareEpochs,
}

/// All remedies but one, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remedies {
    pub(crate) without: Option<Remedy>,
}

impl Remedies {
    pub(crate) fn have(self, remedy: Remedy) -> bool {
        self.without != Some(remedy)
    }
}
