//! Idempotency keys: a command that is sent again with the same key is not executed again, and gets the first answer
//! ([draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::domain::revision::{Epoch, Revision};

/// The size of a digest, in bytes.
const DIGEST: usize = 32;

/// Identifies a request: the digest of who sent it, of what it is for, and of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId([u8; DIGEST]);

impl RequestId {
    /// The request of these parts. All of them count, and so does where each ends.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        Self(digest(parts))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The digest of what was sent with a request: a repeat has to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; DIGEST]);

impl Fingerprint {
    /// The fingerprint of these parts. All of them count, and so does where each ends.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        Self(digest(parts))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn digest(parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A problem document of RFC 9457 with its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProblemDocument {
    pub(crate) status: u16,
    /// The headers beside those that every problem has.
    pub(crate) headers: Vec<(String, String)>,
    /// Whether it is about the state of the aggregate, which not everybody may read who may write it.
    pub(crate) shows_state: bool,
    /// JSON text.
    pub(crate) body: String,
}

/// The answer to a rejected command that has a key.
#[derive(Debug)]
pub(crate) struct KeptRejection {
    pub(crate) problem: ProblemDocument,
    /// The last revision when it was rejected.
    pub(crate) revision: Revision,
    pub(crate) epoch: Epoch,
    pub(crate) given: Given,
}

/// There is no room for the answer to a command that has a key, so that it was not executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswersFull {
    /// What stored answers may take, in bytes.
    pub(crate) limit: u64,
    /// When the oldest of them is not kept any more.
    pub(crate) room_in: Duration,
}

/// How often an answer was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Given {
    /// For the first time: the command was decided just now.
    First,
    /// It was given before.
    Again,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_depends_on_every_part_and_on_where_it_ends() {
        let of = |parts: &[&str]| RequestId::of(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        assert_eq!(of(&["a", "POST", "/b"]), of(&["a", "POST", "/b"]));
        for other in [&["a", "POST", "/c"][..], &["", "aPOST", "/b"], &["a", "POST/b"], &["a", "POST", "/b", ""]] {
            assert_ne!(of(&["a", "POST", "/b"]), of(other), "{other:?}");
        }
    }
}
