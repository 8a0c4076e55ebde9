//! What a command changes, and its patches.

use super::staged_rows::{Slot, StagedRows};
use crate::domain::body::{Body, patch};
use crate::domain::command::{RecordedEvent, Rejection};
use crate::domain::json::{self, ValidationError};

/// The published state of one aggregate before and after a command.
pub(super) struct StateChange {
    pub(super) slot: Slot,
    pub(super) before: Option<Body>,
    pub(super) after: Option<Body>,
}

/// A change that changes something.
pub(super) struct PatchedState {
    pub(super) slot: Slot,
    pub(super) after: Option<Body>,
    pub(super) patch: String,
}

/// The merge patch of an aggregate that does not exist any more.
pub(super) const NULL: &str = "null";

/// The changes that change something, each with its patch.
pub(super) fn patched(changes: Vec<StateChange>) -> Result<Vec<PatchedState>, Rejection> {
    let mut patched = Vec::with_capacity(changes.len());
    for StateChange { slot, before, after } in changes {
        if let Some(patch) = patch(before.as_ref(), after.as_ref())? {
            patched.push(PatchedState { slot, after, patch });
        }
    }
    Ok(patched)
}

/// Rejects a command for an aggregate that would publish a number that JavaScript changes, also as the result of a fold or a
/// derivation.
///
/// Looks at what changes only: what an earlier version of the program has stored does not keep anything else from changing.
pub(super) fn check_numbers(
    rows: &StagedRows<'_>,
    of_command: Slot,
    changes: &[PatchedState],
    events: &[RecordedEvent],
) -> Result<(), Rejection> {
    for PatchedState { slot, patch, .. } in changes {
        json::check_numbers(patch).map_err(|invalid| {
            let is_derived = *slot != of_command;
            let of = if is_derived { format!("{}.", rows.place(*slot).1.as_str()) } else { String::new() };
            Rejection::Invalid(ValidationError { member: of + &invalid.member, ..invalid })
        })?;
    }
    for event in events {
        json::check_numbers(&event.fields).map_err(|invalid| {
            let member = format!("{}.{}", event.kind, invalid.member);
            Rejection::Invalid(ValidationError { member, ..invalid })
        })?;
    }
    Ok(())
}
