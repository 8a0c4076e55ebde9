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
use super::request::{Call, Query};
use super::respond::{NDJSON, answer};
use crate::delivery::send_queue::{Channel, Next};
use crate::delivery::session::Subscription;
use crate::events::resume::{Answer, Step};
use crate::events::sse::Form;
use crate::storage::page::Room;

/// Messages in a page: by default, and at most.
const LIMIT: (u64, u64) = (1000, 10_000);

/// The longest wait for something to happen, in seconds.
const LONGEST_WAIT: u64 = 300;

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
            wait: Duration::from_secs(query.number("wait", 0..=LONGEST_WAIT)?.unwrap_or(0)),
        })
    }
}

/// What fits into a page of so many messages.
pub(super) fn room(limit: u64) -> Room {
    Room { items: usize::try_from(limit).unwrap_or(usize::MAX), bytes: PAGE_BYTES }
}

/// The next page, at once or when there is something in it.
pub(super) async fn page(
    call: &Call,
    Extent { limit, wait }: Extent,
    mut subscription: Subscription,
    form: &'static str,
) -> Result<HttpResponse, Problem> {
    subscription.room = room(limit);
    subscription.form = if form == NDJSON { Form::Lines } else { Form::Array };
    let deadline = Instant::now() + wait;
    loop {
        let step = match call.shared.readers.send(subscription.ask()).await?? {
            Answer::Step(step) => step,
            Answer::Gone(horizon) => return Err(not_retained(call, &horizon)),
        };
        // The frame of a state from nothing is no news.
        let has_news = step.messages.has_news;
        let left = deadline.saturating_duration_since(Instant::now());
        if has_news || (step.is_last() && left.is_zero()) {
            return answered(call, &step, form);
        }
        if step.is_last() && listen(&subscription, &step, left).await == Heard::Goodbye {
            return answered(call, &step, form);
        }
        // Who starts from nothing goes on doing so, to be given the frame.
        if step.messages.text.is_empty() {
            subscription.position = step.position;
        } else if !step.is_last() {
            return answered(call, &step, form);
        }
    }
}

/// What ended a wait.
#[derive(PartialEq, Eq)]
enum Heard {
    /// Something happened, or the time is over: the database says what there is.
    Something,
    /// The service stops.
    Goodbye,
}

/// Waits as a stream would, until there is something to be read or the time is over.
async fn listen(subscription: &Subscription, step: &Step, left: Duration) -> Heard {
    let bell = Bell(Channel::new(1));
    bell.0.reach(step.current);
    subscription.audience.borrow_mut().enter(subscription.feed.clone(), Rc::clone(&bell.0));
    match timeout(left, poll_fn(|context| bell.0.poll_next(context))).await {
        Ok(Next::End) => Heard::Goodbye,
        _ => Heard::Something,
    }
}

/// A channel that is only listened to for the first sound.
struct Bell(Rc<Channel>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn answered(call: &Call, step: &Step, form: &'static str) -> Result<HttpResponse, Problem> {
    let Some(cursor) = step.position.id(&call.shared.epoch) else {
        return Err(Problem::new(Kind::Internal, "a page ends nowhere"));
    };
    let text = &step.messages.text;
    let body = if form == NDJSON {
        format!("{text}{{\"cursor\":\"{cursor}\"}}\n")
    } else {
        format!("{{\"events\":[{text}],\"cursor\":\"{cursor}\"}}")
    };
    Ok(answer(StatusCode::OK, &call.shared.epoch, step.current)
        .insert_header((CONTENT_TYPE, form))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "Accept"))
        .body(body))
}
