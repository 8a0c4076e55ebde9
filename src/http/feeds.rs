//! Feeds: change events as Server-Sent Events.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use actix::Addr;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, VARY};
use actix_web::web::{self, Bytes};

use super::accept::accepted;
use super::problem::{Kind, Problem};
use super::request::Call;
use super::{Shared, answer};
use crate::channel::{Channel, Next};
use crate::cursor::{Cursor, Presented, Revision};
use crate::feed::Feed;
use crate::hub::Audience;
use crate::readers::{Events, ReadEvents};
use crate::session::{ReadOn, Session};

/// `GET /person-events`
pub(super) async fn collection(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &["text/event-stream"])?;
    let feed = Feed { collection: call.collection };
    let after = start(&call, presented(&call)?);
    let events = call.shared.readers.send(ReadEvents { feed, after }).await??;
    let current = match &events {
        Events::Read { current, .. } => *current,
        Events::Outside { oldest, current } => return Err(not_retained(&call, *oldest, *current)),
    };
    let mut response = answer(StatusCode::OK, &call.shared.epoch, current);
    response
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header((VARY, "Accept"))
        .insert_header(("X-Accel-Buffering", "no"));
    if call.is_head() {
        return Ok(response.finish());
    }
    let channel = Channel::new(after);
    channel.push(prologue(), after);
    let Some(audience) = call.request.app_data::<Rc<RefCell<Audience>>>() else {
        return Err(Problem::new(Kind::Internal, "this thread has no hub"));
    };
    let readers = call.shared.readers.clone();
    let session = Session::start(feed, Rc::clone(&channel), events, Rc::clone(audience), readers);
    Ok(response.body(EventStream::new(channel, session, call.shared)))
}

/// What the request says about where to start.
fn presented(call: &Call) -> Result<Cursor, Problem> {
    let query = call.query(&["lastEventId", "revision", "epoch"])?;
    let last = |wanted: &str| query.iter().rev().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let presented = Presented {
        last_event_id: call.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes),
        last_event_id_query: last("lastEventId"),
        revision: call.header("X-Revision")?,
        epoch: call.header("X-Epoch")?,
        revision_query: last("revision"),
        epoch_query: last("epoch"),
    };
    presented.cursor().map_err(|name| {
        let form = if name.ends_with("poch") { "8 to 16 of [0-9a-z]" } else { "a decimal number of at most 19 digits" };
        Problem::new(Kind::MalformedRequest, format!("{name}: expected {form}"))
    })
}

/// The revision after which to start, if the cursor can be one of ours.
fn start(call: &Call, cursor: Cursor) -> Revision {
    match cursor {
        Cursor::After { epoch, after } if epoch.as_ref().is_none_or(|epoch| *epoch == call.shared.epoch) => after,
        // After everything there can be, so that it is answered with what there is.
        _ => Revision::stored(i64::MAX),
    }
}

fn not_retained(call: &Call, oldest: Revision, current: Revision) -> Problem {
    let bootstrap = format!("/{}", call.collection().name());
    let detail = format!(
        "the cursor is not within epoch {} and the revisions {oldest} to {current}; load {bootstrap} and go on from there",
        call.shared.epoch
    );
    Problem::new(Kind::NotRetained, detail)
        .with("oldest", oldest.number())
        .with("current", current.number())
        .with("epoch", call.shared.epoch.as_str())
        .with("bootstrap", bootstrap)
        .at(&call.shared.epoch, current)
}

/// What goes out at once: a comment, so that proxies and clients see the stream begin, and how long to wait before
/// coming back, spread so that not all come back at the same moment.
fn prologue() -> Bytes {
    let spread = getrandom::u32().unwrap_or_default() % 2000;
    Bytes::from(format!(":\nretry: {}\n", 1000 + spread))
}

/// The body of a stream. When it is dropped, the client has gone: the last address of its session goes with it.
struct EventStream {
    channel: Rc<Channel>,
    session: Addr<Session>,
    shared: web::Data<Shared>,
    flushed: bool,
}

impl EventStream {
    fn new(channel: Rc<Channel>, session: Addr<Session>, shared: web::Data<Shared>) -> Self {
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        Self { channel, session, shared, flushed: false }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.channel.close();
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MessageBody for EventStream {
    type Error = Cut;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        loop {
            match self.channel.poll_next(context) {
                Poll::Ready(Next::Chunk(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Poll::Ready(Next::Room) => self.session.do_send(ReadOn),
                Poll::Ready(Next::End) if self.flushed => return Poll::Ready(Some(Err(Cut))),
                Poll::Ready(Next::End) => {
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
struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was cut on purpose")
    }
}

impl std::error::Error for Cut {}
