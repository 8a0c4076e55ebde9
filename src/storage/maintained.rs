//! What a step of maintenance has come to: on a server, only one that has changed something makes what others know out of date.

/// The result of a step.
#[derive(Debug)]
pub(super) struct Maintained<T> {
    pub(super) done: T,
    pub(super) effect: Effect,
}

/// Whether a step has changed anything in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Changed,
    Nothing,
}

impl<T> Maintained<T> {
    pub(super) fn changed(done: T) -> Self {
        Self { done, effect: Effect::Changed }
    }
}
