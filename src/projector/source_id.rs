//! What the offsets of a generation count, and in which epoch.

use std::fmt;
use std::str::FromStr;

use crate::domain::revision::{Epoch, Malformed};

/// The identity of a source in an epoch. Offsets of the same kind can be compared, whatever their epochs, as long as both
/// belong to the history of the database.
///
/// Its text form is stored with checkpoints and in manifests: `4f9c21aa` for the journal, `4f9c21aa/changes` …
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceId {
    /// The epoch in which the last events were applied.
    pub(super) epoch: Epoch,
    pub(super) kind: SourceKind,
}

/// What offsets count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// Positions of the journal.
    Journal,
    /// Revisions.
    Changes,
    /// The aggregates in a snapshot, from which a generation is being built.
    Snapshot,
    /// Sequence numbers of the history.
    History {
        /// `locations.1,persons.1`: a collection that has started over has another number.
        incarnations: String,
    },
    /// A source of another version of this program.
    Unknown(String),
}

const CHANGES: &str = "changes";
const SNAPSHOT: &str = "snapshot";
const HISTORY: &str = "history/";

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, kind } = self;
        match kind {
            SourceKind::Journal => write!(f, "{epoch}"),
            SourceKind::Changes => write!(f, "{epoch}/{CHANGES}"),
            SourceKind::Snapshot => write!(f, "{epoch}/{SNAPSHOT}"),
            SourceKind::History { incarnations } => write!(f, "{epoch}/{HISTORY}{incarnations}"),
            SourceKind::Unknown(text) => write!(f, "{epoch}/{text}"),
        }
    }
}

impl FromStr for SourceId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let Some((epoch, kind)) = text.split_once('/') else {
            return Ok(Self { epoch: text.parse()?, kind: SourceKind::Journal });
        };
        let kind = match kind {
            CHANGES => SourceKind::Changes,
            SNAPSHOT => SourceKind::Snapshot,
            _ => match kind.strip_prefix(HISTORY) {
                Some(incarnations) => SourceKind::History { incarnations: incarnations.to_owned() },
                None => SourceKind::Unknown(kind.to_owned()),
            },
        };
        Ok(Self { epoch: epoch.parse()?, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_a_round_trip_through_its_text_form() {
        let incarnations = "locations.1,persons.1".to_owned();
        for (text, kind) in [
            ("4f9c21aa", SourceKind::Journal),
            ("4f9c21aa/changes", SourceKind::Changes),
            ("4f9c21aa/snapshot", SourceKind::Snapshot),
            ("4f9c21aa/history/locations.1,persons.1", SourceKind::History { incarnations }),
            ("4f9c21aa/1", SourceKind::Unknown("1".to_owned())),
        ] {
            let id: SourceId = text.parse().unwrap();
            assert_eq!((id.kind.clone(), id.to_string().as_str()), (kind, text));
        }
        assert!("".parse::<SourceId>().is_err());
        assert!("An Epoch/changes".parse::<SourceId>().is_err());
    }
}
