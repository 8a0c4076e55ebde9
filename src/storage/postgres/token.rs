//! What changes with everything that changes the record.

use crate::storage::error::StoreError;

/// Random bytes. Who knows the token of the record knows the record: nothing has changed since it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token([u8; 16]);

impl Token {
    pub(super) fn random() -> Result<Self, StoreError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(StoreError::Epoch)?;
        Ok(Self(bytes))
    }

    /// `None` if these are not the bytes of a token.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.try_into().ok()?))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
