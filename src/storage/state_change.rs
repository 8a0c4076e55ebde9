//! What a command changes, and its patches.

use super::journal::Entry;
use super::outbox::Change;
use crate::domain::body::{Body, patch};
use crate::domain::command::Rejection;
use crate::domain::json::{self, ValidationError};
use crate::domain::key::{CollectionId, Key};

/// The published state of one aggregate before and after a command.
pub(super) struct StateChange {
    pub(super) collection: CollectionId,
    pub(super) key: Key,
    pub(super) before: Option<Body>,
    pub(super) after: Option<Body>,
}

/// The merge patch of an aggregate that does not exist any more.
pub(super) const NULL: &str = "null";

/// The changes that change something, each with its patch.
pub(super) fn patched(changes: Vec<StateChange>) -> Result<Vec<(StateChange, String)>, Rejection> {
    let mut patched = Vec::with_capacity(changes.len());
    for change in changes {
        if let Some(patch) = patch(change.before.as_ref(), change.after.as_ref())? {
            patched.push((change, patch));
        }
    }
    Ok(patched)
}

/// Rejects a command that would publish a number that JavaScript changes, also as the result of a fold or a derivation.
///
/// Looks at what changes only: what an earlier version of the program has stored does not keep anything else from changing.
pub(super) fn check_numbers(collection: CollectionId, changes: &[Change], events: &[Entry]) -> Result<(), Rejection> {
    for change in changes {
        json::check_numbers(&change.patch).map_err(|invalid| {
            let is_derived = change.collection != collection;
            let of = if is_derived { format!("{}.", change.key.as_str()) } else { String::new() };
            Rejection::Invalid(ValidationError { member: of + &invalid.member, ..invalid })
        })?;
    }
    for Entry { event, .. } in events {
        json::check_numbers(&event.fields).map_err(|invalid| {
            let member = format!("{}.{}", event.kind, invalid.member);
            Rejection::Invalid(ValidationError { member, ..invalid })
        })?;
    }
    Ok(())
}
