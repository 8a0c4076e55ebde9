//! How much is read at once.

/// How much is read at once; the last revision is always read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Events of the log, or aggregates of a catch-up.
    pub(crate) items: usize,
    /// Of text, roughly.
    pub(crate) bytes: usize,
}

impl Room {
    /// A page of a stream.
    pub(crate) const PAGE: Self = Self { items: usize::MAX, bytes: 128 * 1024 };
}
