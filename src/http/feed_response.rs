//! What the answers of all feeds have in common: the head, the first lines, the body, and the end.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY};
use actix_web::web::{self, Bytes};

use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{SSE, answer};
use super::shared::Shared;
use crate::delivery::send_queue::{QueueItem, SendQueue};
use crate::delivery::session::{Session, Subscription};
use crate::delivery::stream_limiter::Permit;
use crate::domain::revision::Revision;
use crate::storage::counters::Horizon;

/// Too many streams: one that reconnects by itself is told when, in the only way that does not end it for good.
pub(super) fn refused(context: &RequestContext) -> Result<HttpResponse, Problem> {
    let accepts = context.request.headers().get_all(ACCEPT).filter_map(|accept| accept.to_str().ok());
    if !accepts.into_iter().any(|accept| accept.contains(SSE)) {
        let problem = Problem::new(Kind::Busy, "too many streams are open");
        return Err(problem.header(RETRY_AFTER.as_str(), "5"));
    }
    let channel = SendQueue::new(1);
    channel.push(prologue());
    channel.end();
    let body = EventStream { channel, follower: None, _permit: None, flushed: false };
    Ok(head(context, context.shared.committed.get()).body(body))
}

pub(super) fn head(context: &RequestContext, current: Revision) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, &context.shared.epoch, current);
    response
        .insert_header((CONTENT_TYPE, SSE))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header((VARY, "Accept"))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// Not every event since the cursor is here, and the client wants every one.
pub(super) fn not_retained(context: &RequestContext, horizon: &Horizon) -> Problem {
    let bootstrap = context.bootstrap();
    let (oldest, current) = (horizon.pruned.next(), horizon.current);
    let detail = format!(
        "the cursor is not within epoch {} and the revisions {oldest} to {current}; load {bootstrap} and go on from there",
        context.shared.epoch
    );
    Problem::new(Kind::NotRetained, detail)
        .with("oldest", oldest.number())
        .with("current", current.number())
        .with("epoch", context.shared.epoch.as_str())
        .with("bootstrap", bootstrap)
        .at(&context.shared.epoch, current)
}

/// What goes out at once: a comment, so that proxies and clients see the stream begin, and how long to wait before
/// coming back, spread so that not all come back at the same moment.
pub(super) fn prologue() -> Bytes {
    let spread = getrandom::u32().unwrap_or_default() % 2000;
    Bytes::from(format!(":\nretry: {}\n", 1000 + spread))
}

/// Who follows, and where more can be read.
pub(super) struct Follower {
    pub(super) subscription: Rc<RefCell<Subscription>>,
    pub(super) shared: web::Data<Shared>,
}

/// The body of a stream. When it is dropped, the client has gone.
pub(super) struct EventStream {
    pub(super) channel: Rc<SendQueue>,
    pub(super) follower: Option<Follower>,
    pub(super) _permit: Option<Permit>,
    pub(super) flushed: bool,
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.channel.close();
    }
}

impl MessageBody for EventStream {
    type Error = StreamAborted;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        loop {
            match self.channel.poll_next(context) {
                Poll::Ready(QueueItem::Chunk(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Poll::Ready(QueueItem::Room) => {
                    if let Some(Follower { subscription, shared }) = &self.follower {
                        Session::read_on(subscription, &shared.readers);
                    }
                }
                Poll::Ready(QueueItem::End) if self.flushed => return Poll::Ready(Some(Err(StreamAborted))),
                Poll::Ready(QueueItem::End) => {
                    // The framework writes what it has when a body is not ready, and drops it when a body fails.
                    self.flushed = true;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The end of a stream. A clean end would make some clients stop for good, so the connection is cut.
#[derive(Debug)]
pub(super) struct StreamAborted;

impl fmt::Display for StreamAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was cut on purpose")
    }
}

impl std::error::Error for StreamAborted {}
