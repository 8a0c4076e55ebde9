//! Reads that name the least revision that they want to show: that of a write which the client knows of.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::RETRY_AFTER;

use super::conditions::precondition;
use super::pages::{Wakeup, wait_for_change};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{X_EPOCH, X_REVISION};
use crate::delivery::hub::LiveSubscribers;
use crate::domain::feed::Feed;
use crate::domain::revision::{Epoch, Revision};

/// How long a read waits for a revision.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits until the service shows the revision in `X-Revision`, if the request has it.
///
/// # Errors
/// A 503, if the service does not show it in time. A 410, if it never will: the epoch in `X-Epoch` is not one of this
/// database, or ended before the revision. A 400, if a header is malformed.
pub(super) async fn await_revision(context: &RequestContext) -> Result<(), Problem> {
    match wanted(context)? {
        // Apart, because most requests have no such header and need no room for this.
        Some(wanted) => Box::pin(wait_for(context, wanted)).await,
        None => Ok(()),
    }
}

async fn wait_for(context: &RequestContext, wanted: Revision) -> Result<(), Problem> {
    // What is wrong with the request itself comes before what the service has.
    precondition(context)?;
    let deadline = Instant::now() + PATIENCE;
    let _following = context.shared.attention.follow();
    loop {
        let current = context.shared.committed.get();
        if current >= wanted {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(behind(context, wanted, current));
        }
        let Some(subscribers) = context.request.app_data::<Rc<RefCell<LiveSubscribers>>>() else {
            return Err(Problem::new(Kind::Internal, "this worker thread has no hub"));
        };
        let change = wait_for_change(subscribers, &Feed::Everything(None), current, left);
        if context.while_permitted(change).await? == Wakeup::Shutdown {
            let problem = Problem::new(Kind::Unavailable, "the service is stopping, or does not reach its database");
            return Err(problem.header(RETRY_AFTER.as_str(), "5"));
        }
    }
}

/// The revision that the request wants to be shown.
fn wanted(context: &RequestContext) -> Result<Option<Revision>, Problem> {
    let Some(text) = context.header(&X_REVISION, "X-Revision")?.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let wanted: Revision = text.parse().map_err(|_| {
        let detail = "X-Revision: expected a revision, a decimal number of at most 19 digits";
        Problem::new(Kind::MalformedRequest, detail)
    })?;
    let epoch = context.header(&X_EPOCH, "X-Epoch")?.filter(|text| !text.is_empty());
    let Some(text) = epoch else { return Ok(Some(wanted)) };
    let epoch: Epoch =
        text.parse().map_err(|_| Problem::new(Kind::MalformedRequest, "X-Epoch: expected 8 to 16 of [0-9a-z]"))?;
    // The revisions to come are those of the current epoch.
    if context.shared.history.has_revision(&epoch, wanted) {
        Ok(Some(wanted))
    } else {
        Err(foreign(context, &epoch, wanted))
    }
}

fn behind(context: &RequestContext, wanted: Revision, current: Revision) -> Problem {
    let seconds = PATIENCE.as_secs();
    let detail =
        format!("X-Revision: the service is at revision {current}, and did not reach {wanted} within {seconds} s");
    Problem::new(Kind::Behind, detail)
        .with("expected", wanted.number())
        .with("current", current.number())
        .header(RETRY_AFTER.as_str(), "1")
        .at(context.shared.epoch(), current)
}

/// The revision belongs to a history that was abandoned or went on elsewhere, so waiting for it is of no use.
fn foreign(context: &RequestContext, epoch: &Epoch, wanted: Revision) -> Problem {
    let (ours, current) = (context.shared.epoch(), context.shared.committed.get());
    let detail = format!(
        "X-Epoch: revision {wanted} of epoch {epoch} does not belong to the history of this database, which is in epoch {ours} at \
         revision {current}; read without X-Revision, and start over from there"
    );
    Problem::new(Kind::ForeignId, detail)
        .with("current", current.number())
        .with("epoch", ours.as_str())
        .with("bootstrap", context.request.uri().path())
        .at(ours, current)
}
