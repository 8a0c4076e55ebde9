//! How documents that an earlier version of the program has stored become those of this one.

use sha2::{Digest as _, Sha256};

use crate::domain::body::Body;
use crate::domain::json::ValidationError;

/// The stored form of a document, with its type erased.
pub(crate) trait Evolution: Send + Sync {
    /// The version of the type.
    fn version(&self) -> i64;

    /// A digest of the members of the type. Two types with the same one read the same documents.
    fn shape(&self) -> String;

    /// Fails if a stored document is not one of this type, as every later change of it would.
    fn fit(&self, body: &Body) -> Result<(), ValidationError>;

    /// A stored document of an earlier version as one of this version.
    fn upgrade(&self, from: i64, body: &Body) -> Result<Body, ValidationError>;
}

/// A digest of the schema of a type.
pub(super) fn digest(schema: &str) -> String {
    Sha256::digest(schema).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
