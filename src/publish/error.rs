//! Why nothing can be published.

use std::time::Duration;

use super::carrier::CarrierError;
use crate::storage::error::StoreError;

/// How long a broker may take for one answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    #[error("cannot read what is to be published")]
    Store(#[from] StoreError),
    #[error("the broker has not answered for {} seconds", ANSWER_TIMEOUT.as_secs())]
    NoAnswer,
}
