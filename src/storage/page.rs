//! How much one read transaction reads.

use crate::domain::revision::Revision;

/// The limits of a page. A revision is never split: the last one is read as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    /// Revisions, domain events, or aggregates of a catch-up.
    pub(crate) items: usize,
    /// Bytes of keys and JSON text, approximately.
    pub(crate) bytes: usize,
}

impl PageLimit {
    /// A page of a stream.
    pub(crate) const PAGE: Self = Self { items: usize::MAX, bytes: 128 * 1024 };
}

/// Whether who reads row by row wants more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    More,
    Enough,
}

/// A range of revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The revision before the first one.
    pub(crate) after: Revision,
    /// The last revision.
    pub(crate) to: Revision,
}

/// The result of one step of a longer task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do.
    More,
    /// Everything is done.
    Done,
}
