//! How much is read at once.

/// How much is read at once; the last revision is always read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    /// Events of the log, or aggregates of a catch-up.
    pub(crate) items: usize,
    /// Of text, roughly.
    pub(crate) bytes: usize,
}

impl PageLimit {
    /// A page of a stream.
    pub(crate) const PAGE: Self = Self { items: usize::MAX, bytes: 128 * 1024 };
}

/// What one step of a longer piece of work came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is more to do.
    More,
    /// Everything is done.
    Done,
}
