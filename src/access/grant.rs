//! What a valid token grants, to all requests and streams that have come with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::permissions::Permissions;
use super::scope::Scope;
use super::token_file::TokenEntry;
use crate::domain::clock::{Clock, Timestamp};

/// What the holder of a token may do, until it expires or is taken away.
pub(crate) struct Grant {
    entry: TokenEntry,
    permissions: Permissions,
    clock: Arc<Clock>,
    is_revoked: watch::Sender<bool>,
}

impl Grant {
    pub(super) fn new(entry: TokenEntry, permissions: Permissions, clock: Arc<Clock>) -> Self {
        Self { entry, permissions, clock, is_revoked: watch::Sender::new(false) }
    }

    /// The name of the token, which is no secret.
    pub(crate) fn name(&self) -> &str {
        &self.entry.name
    }

    pub(crate) fn scopes(&self) -> &[Scope] {
        &self.entry.scopes
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.entry.expires
    }

    pub(super) fn entry(&self) -> &TokenEntry {
        &self.entry
    }

    pub(super) fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// Ends it, and all streams that have it.
    pub(super) fn revoke(&self) {
        self.is_revoked.send_replace(true);
    }

    /// Whether the token has expired or was taken away.
    pub(crate) fn is_over(&self) -> bool {
        *self.is_revoked.borrow() || self.entry.is_expired(self.clock.now())
    }

    /// Waits until the token is taken away.
    pub(crate) async fn revoked(&self) {
        // The sender is a part of this.
        let _ = self.is_revoked.subscribe().wait_for(|revoked| *revoked).await;
    }

    /// How long the token is valid by the clock of the day; `None` if it does not expire.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.entry.expires?.milliseconds().saturating_sub(self.clock.now().milliseconds());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or_default()))
    }
}
