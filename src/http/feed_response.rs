//! What the responses of all feeds have in common: the head, the first lines, the body, and the end.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix::Addr;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};

use super::caching::Caching;
use super::preferences::{APPLIED, Handling};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{SSE, answer};
use super::stream_permission::StreamPermission;
use crate::delivery::send_queue::{QueueItem, SendQueue};
use crate::delivery::session::{Disconnected, Drained, Session};
use crate::domain::revision::Revision;
use crate::storage::counters::Horizon;

/// The head of every stream.
pub(super) fn head(context: &RequestContext, current: Revision) -> HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, context.shared.epoch(), current);
    response.insert_header((CONTENT_TYPE, SSE)).insert_header(("X-Accel-Buffering", "no"));
    Caching::STREAM.insert(&mut response, None);
    response
}

/// Says that a feed follows `Prefer: handling=strict`, if the client has sent that.
pub(super) fn name_handling(context: &RequestContext, response: &mut HttpResponseBuilder) {
    if context.preferences().handling == Some(Handling::Strict) {
        response.insert_header((APPLIED, "handling=strict"));
    }
}

/// The first lines of every stream: a comment, so that proxies and clients see that the stream has begun, and the time
/// before a reconnection, spread so that clients do not all reconnect at the same moment. Each remark on the query is a
/// comment.
pub(super) fn prologue(remarks: &[String]) -> Bytes {
    let spread = getrandom::u32().unwrap_or_default() % 2000;
    let mut lines = format!(":\nretry: {}\n", 1000 + spread);
    lines.extend(remarks.iter().flat_map(|remark| [": ", remark, "\n"]));
    Bytes::from(lines)
}

/// The body of a stream. The client has disconnected when it is dropped.
pub(super) struct EventStream {
    queue: Rc<SendQueue>,
    session: Option<Addr<Session>>,
    permission: StreamPermission,
    end: StreamEnd,
}

impl EventStream {
    /// `session` is `None` for a stream that ends after what is queued.
    pub(super) fn new(queue: Rc<SendQueue>, session: Option<Addr<Session>>, permission: StreamPermission) -> Self {
        Self { queue, session, permission, end: StreamEnd::default() }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(session) = &self.session {
            session.do_send(Disconnected);
        }
    }
}

impl MessageBody for EventStream {
    type Error = StreamAborted;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        if self.permission.is_over(context) {
            // From now on, the hub adds nothing.
            self.queue.close();
            return self.end.poll(context);
        }
        loop {
            match self.queue.poll_next(context) {
                Poll::Ready(QueueItem::Chunk(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Poll::Ready(QueueItem::Drained) => {
                    if let Some(session) = &self.session {
                        session.do_send(Drained);
                    }
                }
                Poll::Ready(QueueItem::End) => return self.end.poll(context),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Cuts a stream once everything has been written. A clean end would make some clients stop for good.
#[derive(Debug, Default)]
pub(super) struct StreamEnd {
    flushed: bool,
}

impl StreamEnd {
    /// The framework writes what it has when a body is pending, and discards it when a body fails: first the one, then the
    /// other.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        if std::mem::replace(&mut self.flushed, true) {
            return Poll::Ready(Some(Err(StreamAborted)));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The end of a stream: the connection is closed without a final chunk.
#[derive(Debug)]
pub(super) struct StreamAborted;

impl fmt::Display for StreamAborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was closed on purpose")
    }
}

impl std::error::Error for StreamAborted {}

/// The response to a stream above the limits. A client that does not reconnect by itself gets the `reason`. One that does
/// gets a stream that ends at once, because any status but 200 would stop it for good. Both lose their connection: there may
/// be too few of them for others.
pub(super) fn refused(context: &RequestContext, reason: &str) -> Result<HttpResponse, Problem> {
    let mut accepts = context.request.headers().get_all(ACCEPT).filter_map(|accept| accept.to_str().ok());
    if !accepts.any(|accept| accept.contains(SSE)) {
        let problem = Problem::new(Kind::Busy, reason);
        return Err(problem.header(RETRY_AFTER.as_str(), "5").and_close());
    }
    let queue = SendQueue::new(1);
    let _ = queue.push(prologue(&[]));
    queue.end();
    Ok(head(context, context.shared.committed.get()).body(EventStream::new(queue, None, StreamPermission::of(context))))
}

/// The response to a stream beyond the number that may be open.
pub(super) fn too_many_streams(context: &RequestContext) -> Result<HttpResponse, Problem> {
    refused(context, "too many streams are open")
}

/// The response to a strict client whose cursor is older than the oldest event, or foreign.
pub(super) fn not_retained(context: &RequestContext, horizon: &Horizon) -> Problem {
    let bootstrap = context.bootstrap();
    let oldest = horizon.pruned.next();
    let current = horizon.current;
    let detail = format!(
        "the cursor is not within epoch {} and the revisions {oldest} to {current}; load {bootstrap} and follow from there",
        context.shared.epoch()
    );
    Problem::new(Kind::NotRetained, detail)
        .with("oldest", oldest.number())
        .with("current", current.number())
        .with("epoch", context.shared.epoch().as_str())
        .with("bootstrap", bootstrap)
        .at(context.shared.epoch(), current)
}
