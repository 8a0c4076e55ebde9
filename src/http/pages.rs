//! Feeds without a stream: the same messages as finite pages, as JSON or a line each.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use actix_web::rt::time::timeout;

use super::feed_response::not_retained;
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{NDJSON, answer};
use crate::delivery::send_queue::{QueueItem, SendQueue};
use crate::delivery::session::Subscription;
use crate::events::resume::{Page, ResumeReply};
use crate::events::sse::Form;
use crate::storage::page::PageLimit;

/// Messages in a page: by default, and at most.
const LIMIT: (u64, u64) = (1000, 10_000);

/// The longest wait for something to happen, in seconds.
const MAX_WAIT_SECONDS: u64 = 300;

/// JSON text in a page, in bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// How much a client wants, and how long it waits for it.
pub(super) struct Extent {
    pub(super) limit: u64,
    pub(super) wait: Duration,
}

impl Extent {
    /// What the query says.
    pub(super) fn of(query: &Query) -> Result<Self, Problem> {
        Ok(Self {
            limit: query.number("limit", 1..=LIMIT.1)?.unwrap_or(LIMIT.0),
            wait: Duration::from_secs(query.number("wait", 0..=MAX_WAIT_SECONDS)?.unwrap_or(0)),
        })
    }
}

/// What fits into a page of so many messages.
pub(super) fn page_limit(limit: u64) -> PageLimit {
    PageLimit { items: usize::try_from(limit).unwrap_or(usize::MAX), bytes: PAGE_BYTES }
}

/// The next page, at once or when there is something in it.
pub(super) async fn page(
    context: &RequestContext,
    Extent { limit, wait }: Extent,
    mut subscription: Subscription,
    form: &'static str,
) -> Result<HttpResponse, Problem> {
    subscription.limit = page_limit(limit);
    subscription.form = if form == NDJSON { Form::Lines } else { Form::Array };
    let deadline = Instant::now() + wait;
    loop {
        let step = match context.shared.readers.send(subscription.next_request()).await?? {
            ResumeReply::Page(step) => step,
            ResumeReply::Gone(horizon) => return Err(not_retained(context, &horizon)),
        };
        // The frame of a state from nothing is no news.
        let has_news = step.messages.has_news;
        let left = deadline.saturating_duration_since(Instant::now());
        if has_news || (step.is_last() && left.is_zero()) {
            return answered(context, &step, form);
        }
        if step.is_last() && listen(&subscription, &step, left).await == Wakeup::Shutdown {
            return answered(context, &step, form);
        }
        // Who starts from nothing goes on doing so, to be given the frame.
        if step.messages.text.is_empty() {
            subscription.position = step.position;
        } else if !step.is_last() {
            return answered(context, &step, form);
        }
    }
}

/// What ended a wait.
#[derive(PartialEq, Eq)]
enum Wakeup {
    /// Something happened, or the time is over: the database says what there is.
    Changed,
    /// The service stops.
    Shutdown,
}

/// Waits as a stream would, until there is something to be read or the time is over.
async fn listen(subscription: &Subscription, step: &Page, left: Duration) -> Wakeup {
    let bell = Bell(SendQueue::new(1));
    bell.0.advance_to(step.current);
    subscription.subscribers.borrow_mut().add(subscription.feed.clone(), Rc::clone(&bell.0));
    match timeout(left, poll_fn(|context| bell.0.poll_next(context))).await {
        Ok(QueueItem::End) => Wakeup::Shutdown,
        _ => Wakeup::Changed,
    }
}

/// A channel that is only listened to for the first sound.
struct Bell(Rc<SendQueue>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn answered(context: &RequestContext, step: &Page, form: &'static str) -> Result<HttpResponse, Problem> {
    let Some(cursor) = step.position.id(&context.shared.epoch) else {
        return Err(Problem::new(Kind::Internal, "a page ends nowhere"));
    };
    let text = &step.messages.text;
    let body = if form == NDJSON {
        format!("{text}{{\"cursor\":\"{cursor}\"}}\n")
    } else {
        format!("{{\"events\":[{text}],\"cursor\":\"{cursor}\"}}")
    };
    Ok(answer(StatusCode::OK, &context.shared.epoch, step.current)
        .insert_header((CONTENT_TYPE, form))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "Accept"))
        .body(body))
}
