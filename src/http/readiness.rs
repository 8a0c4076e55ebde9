//! Why the service does not do all of its work, and what of it means that others should get the requests.

use std::time::Duration;

use serde::Serialize;

use super::shared::Shared;
use crate::storage::health::Part;

/// The relay may be behind for this many polls: each of them would have published everything.
const MAX_POLLS_BEHIND: u32 = 5;

/// The relay may be behind for this long, however often it polls: under load, events wait for their turn.
const MIN_TIME_BEHIND: Duration = Duration::from_secs(5);

/// Why the service does not do all of its work.
#[derive(Debug, Serialize)]
pub(super) struct Reason {
    part: &'static str,
    reason: String,
    #[serde(skip)]
    prevents_readiness: bool,
}

impl Reason {
    /// For people.
    pub(super) fn sentence(&self) -> &str {
        &self.reason
    }

    /// The same for those who need no token. A reason may have paths, addresses, and a part of what is stored.
    pub(super) fn without_details(mut self) -> Self {
        self.reason = format!("{}: the reason is for those with the scope operate", self.part);
        self
    }
}

/// What keeps the service from being ready for requests.
pub(super) fn obstacles(shared: &Shared) -> Vec<Reason> {
    let mut reasons = reasons(shared);
    reasons.retain(|reason| reason.prevents_readiness);
    reasons
}

/// All reasons why the service does not do all of its work.
pub(super) fn reasons(shared: &Shared) -> Vec<Reason> {
    let parts = shared.database.health().reasons().into_iter();
    let mut reasons: Vec<_> = parts
        .map(|(part, reason)| Reason { part: part.name(), reason, prevents_readiness: part.prevents_readiness() })
        .collect();
    if shared.reach.is_lost() {
        let reason = "the database server has not answered for too long, so that the streams are cut".to_owned();
        reasons.push(Reason { part: Part::Relay.name(), reason, prevents_readiness: true });
    }
    let lag = shared.relay.lag(shared.committed.get());
    if lag.revisions > 0 && lag.time > MIN_TIME_BEHIND.max(shared.poll_interval * MAX_POLLS_BEHIND) {
        let reason = "committed events are not published to the streams".to_owned();
        reasons.push(Reason { part: Part::Relay.name(), reason, prevents_readiness: true });
    }
    // Writes and feeds continue without them.
    let failing = shared.projections.running.iter().filter(|running| running.status.state().failure.is_some());
    reasons.extend(failing.map(|running| Reason {
        part: "projection",
        reason: format!("the projection {} is failing", running.name),
        prevents_readiness: false,
    }));
    reasons.extend(stale_tokens(shared));
    reasons.extend(shared.outputs.iter().filter_map(|output| {
        let output = output.state();
        let reason = format!("{}: {} events behind: {}", output.name(), output.lag_events(), output.error()?);
        Some(Reason { part: "publish", reason, prevents_readiness: false })
    }));
    reasons.extend(shared.outputs.iter().filter_map(|output| {
        let output = output.state();
        let reason = format!("{}: erased aggregates are not removed: {}", output.name(), output.erasing_error()?);
        Some(Reason { part: "publish", reason, prevents_readiness: false })
    }));
    reasons
}

/// What is read from files again and could not be, so that what was read before is still in use. None of these prevents
/// readiness, and none is named by its path: everybody can read this.
pub(super) fn stale_files(shared: &Shared) -> Vec<Reason> {
    let is_stale = shared.database.health().is_failing(Part::Certificate);
    let certificate = is_stale.then(|| Reason {
        part: Part::Certificate.name(),
        reason: "the certificate cannot be read again; the log has the cause, and the one before stays in use"
            .to_owned(),
        prevents_readiness: false,
    });
    stale_tokens(shared).into_iter().chain(certificate).collect()
}

/// The file of the tokens cannot be read. Those of before stay in force, so the service gets requests all the same: if a
/// mistake in the file ended that, it would end that of all services that read it. The file is not named: everybody can
/// read this.
fn stale_tokens(shared: &Shared) -> Option<Reason> {
    shared.tokens.as_ref()?.failure()?;
    let reason = "the token file cannot be read; the log has the cause, and the tokens of before stay in force";
    Some(Reason { part: "tokens", reason: reason.to_owned(), prevents_readiness: false })
}
