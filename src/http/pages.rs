//! Feeds without a stream: the same messages as finite pages, as JSON or a line each.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::rt::time::timeout;

use super::caching::Caching;
use super::feed_response::{name_handling, not_retained};
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{NDJSON, answer};
use super::spooled_response::whole;
use crate::delivery::hub::{Added, LiveSubscribers};
use crate::delivery::send_queue::{QueueItem, SendQueue};
use crate::delivery::session::Subscription;
use crate::domain::feed::Feed;
use crate::domain::revision::Revision;
use crate::events::resume::{Page, ResumeReply};
use crate::events::sse::Form;
use crate::storage::page::PageLimit;

/// The query parameters of pages.
pub(super) const PAGE_PARAMS: [&str; 2] = ["limit", "wait"];

/// Messages in a page: by default, and at most.
const LIMIT: (u64, u64) = (1000, MAX_LIMIT);

/// The most messages of a page.
pub(super) const MAX_LIMIT: u64 = 10_000;

/// The longest wait for something to happen, in seconds.
pub(super) const MAX_WAIT_SECONDS: u64 = 300;

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
        let shared = &context.shared;
        let reading = shared.page_readers().try_send(subscription.next_request(), shared.committed.get())?;
        let page = match reading.await?? {
            ResumeReply::Page(page) => page,
            ResumeReply::Gone(horizon) => return Err(not_retained(context, &horizon)),
        };
        // The frame of a state from nothing is no news.
        let has_news = page.messages.has_news;
        let left = deadline.saturating_duration_since(Instant::now());
        if has_news || (page.is_last() && left.is_zero()) {
            return answered(context, &page, form).await;
        }
        let change = || wait_for_change(&subscription.subscribers, &subscription.feed, page.current, left);
        if page.is_last() && context.while_permitted(change()).await? == Wakeup::Shutdown {
            return answered(context, &page, form).await;
        }
        // Who starts from nothing goes on doing so, to be given the frame.
        if page.messages.text.is_empty() {
            subscription.position = page.position;
        } else if !page.is_last() {
            return answered(context, &page, form).await;
        }
    }
}

/// What ended a wait.
#[derive(PartialEq, Eq)]
pub(super) enum Wakeup {
    /// There is a new event, or the time is over: the database shows which.
    Changed,
    /// The service stops.
    Shutdown,
}

/// Waits, as a live stream that has everything up to a revision would, until there is a new event or the time is over.
pub(super) async fn wait_for_change(
    subscribers: &Rc<RefCell<LiveSubscribers>>,
    feed: &Feed,
    after: Revision,
    left: Duration,
) -> Wakeup {
    let waiter = Waiter(SendQueue::new(1));
    waiter.0.advance_to(after);
    match subscribers.borrow_mut().add(feed.clone(), &waiter.0, None) {
        Added::Live => {}
        Added::Behind => return Wakeup::Changed,
        Added::Stopping => return Wakeup::Shutdown,
    }
    match timeout(left, poll_fn(|context| waiter.0.poll_next(context))).await {
        Ok(QueueItem::End) => Wakeup::Shutdown,
        _ => Wakeup::Changed,
    }
}

/// A queue of which only the first item is wanted.
struct Waiter(Rc<SendQueue>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn answered(context: &RequestContext, page: &Page, form: &'static str) -> Result<HttpResponse, Problem> {
    let Some(cursor) = page.position.id(context.shared.epoch()) else {
        return Err(Problem::new(Kind::Internal, "a page ends nowhere"));
    };
    let text = &page.messages.text;
    let body = if form == NDJSON {
        format!("{text}{{\"cursor\":\"{cursor}\"}}\n")
    } else {
        format!("{{\"events\":[{text}],\"cursor\":\"{cursor}\"}}")
    };
    let mut response = answer(StatusCode::OK, context.shared.epoch(), page.current);
    name_handling(context, &mut response);
    response.insert_header((CONTENT_TYPE, form));
    Caching::PAGE.insert(&mut response, None);
    whole(context, response, body).await
}
