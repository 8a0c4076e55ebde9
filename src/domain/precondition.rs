//! Conditional writes: the state that a client expects
//! ([RFC 9110, section 13.1](https://www.rfc-editor.org/rfc/rfc9110#section-13.1)).

use crate::domain::revision::Revision;

/// The states of an aggregate that a header names; the revision of the last change identifies a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tags {
    /// Any existing state: `*`.
    Any,
    /// One of these. Tags of another history are left out, because they match no state of this one.
    These(Vec<Revision>),
}

impl Tags {
    fn include(&self, current: Option<Revision>) -> bool {
        match self {
            Self::Any => current.is_some(),
            Self::These(revisions) => current.is_some_and(|current| revisions.contains(&current)),
        }
    }
}

/// The conditions of a request; without any, every state is accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Precondition {
    pub(crate) if_match: Option<Tags>,
    pub(crate) if_none_match: Option<Tags>,
}

impl Precondition {
    /// Whether the conditions hold, given the revision of the last change; `None` if the aggregate does not exist.
    pub(crate) fn holds(&self, current: Option<Revision>) -> bool {
        self.if_match.as_ref().is_none_or(|tags| tags.include(current))
            && !self.if_none_match.as_ref().is_some_and(|tags| tags.include(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_compares_the_revision_of_the_last_change() {
        let revision = |number| Revision::from_raw(number);
        let these = |numbers: &[i64]| Some(Tags::These(numbers.iter().copied().map(revision).collect()));
        let when = |if_match, if_none_match| Precondition { if_match, if_none_match };
        for (condition, absent, at_7) in [
            (when(None, None), true, true),
            (when(these(&[7]), None), false, true),
            (when(these(&[3, 7]), None), false, true),
            (when(these(&[3]), None), false, false),
            (when(these(&[]), None), false, false),
            (when(Some(Tags::Any), None), false, true),
            (when(None, Some(Tags::Any)), true, false),
            (when(None, these(&[7])), true, false),
            (when(None, these(&[3])), true, true),
            (when(these(&[7]), these(&[7])), false, false),
        ] {
            assert_eq!((condition.holds(None), condition.holds(Some(revision(7)))), (absent, at_7), "{condition:?}");
        }
    }
}
