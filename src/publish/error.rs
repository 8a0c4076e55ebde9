//! Why nothing can be published.

use std::future::Future;
use std::time::Duration;

use actix::clock::timeout;

use super::carrier::CarrierError;
use crate::projector::runner::back_off;
use crate::storage::error::StoreError;

/// How long a broker may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest pause after an error: a broker that is back gets what it has missed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long to wait before the next attempt, after this many failed attempts before the last one.
pub(super) fn pause(attempts: u32) -> Duration {
    back_off(attempts).min(LONGEST_PAUSE)
}

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

/// What a broker answers, in time.
pub(super) async fn answered<T>(answer: impl Future<Output = Result<T, CarrierError>>) -> Result<T, PublishError> {
    Ok(timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| PublishError::NoAnswer)??)
}
