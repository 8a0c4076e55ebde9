//! Feeds: change events, at the three levels, as Server-Sent Events.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use actix_web::http::{StatusCode, Version};
use actix_web::web::{self, Bytes};

use super::accept::accepted;
use super::pages::{self, Extent};
use super::problem::{Kind, Problem};
use super::request::{Call, Query};
use super::{JSON, NDJSON, SSE, Shared, answer};
use crate::admission::Ticket;
use crate::channel::{Channel, Next};
use crate::cursor::{Presented, Revision};
use crate::feed::Feed;
use crate::follow::{Answer, History, PATIENCE, Position};
use crate::frames::Form;
use crate::hub::Audience;
use crate::session::{Session, Subscription};
use crate::socket::Line;
use crate::store::{Horizon, Room};

/// What every feed knows in its query.
const KNOWN: [&str; 7] = ["lastEventId", "revision", "epoch", "strict", "compact", "limit", "wait"];

/// `GET /events`
pub(super) async fn everything(call: Call) -> Result<HttpResponse, Problem> {
    let query = call.query(&[&KNOWN[..], &["collection"]].concat())?;
    let feed = Feed::Everything(call.collections(&query)?.map(Into::into));
    follow(call, query, feed).await
}

/// `GET /person-events`
pub(super) async fn collection(call: Call) -> Result<HttpResponse, Problem> {
    let query = call.query(&[&KNOWN[..], &["key"]].concat())?;
    let feed = Feed::Collection(call.collection_id()?, call.keys(&query)?.map(Into::into));
    follow(call, query, feed).await
}

/// `GET /persons/1/events`
pub(super) async fn aggregate(call: Call) -> Result<HttpResponse, Problem> {
    let query = call.query(&KNOWN)?;
    let feed = Feed::Aggregate(call.collection_id()?, call.key()?);
    follow(call, query, feed).await
}

/// Follows a feed in the form that the client wants.
async fn follow(call: Call, query: Query, feed: Feed) -> Result<HttpResponse, Problem> {
    let form = accepted(&call.request, &[SSE, JSON, NDJSON])?;
    let subscription = subscription(&call, &query, feed)?;
    let extent = Extent::of(&query)?;
    if form == SSE { stream(call, subscription).await } else { pages::page(&call, extent, subscription, form).await }
}

/// Who follows what, from where, and how.
fn subscription(call: &Call, query: &Query, feed: Feed) -> Result<Subscription, Problem> {
    let Some(audience) = call.request.app_data::<Rc<RefCell<Audience>>>() else {
        return Err(Problem::new(Kind::Internal, "this thread has no hub"));
    };
    Ok(Subscription {
        feed,
        form: Form::Stream(call.shared.epoch.clone()),
        history: history(call, query)?,
        patience: PATIENCE,
        has_frame: false,
        room: Room::PAGE,
        position: position(call, query)?,
        channel: Channel::new(call.shared.session_buffer),
        audience: Rc::clone(audience),
    })
}

/// What the request says about where to start.
fn position(call: &Call, query: &Query) -> Result<Position, Problem> {
    let id = call.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes);
    let id_counts = id.is_some_and(|id| !id.is_empty());
    let presented = Presented {
        last_event_id: id,
        last_event_id_query: query.last("lastEventId"),
        // What does not count is not looked at either: a refusal would end an EventSource for good.
        revision: if id_counts { None } else { call.header("X-Revision")? },
        epoch: if id_counts { None } else { call.header("X-Epoch")? },
        revision_query: query.last("revision"),
        epoch_query: query.last("epoch"),
    };
    let cursor = presented.cursor().map_err(|name| {
        let form = match name {
            "lastEventId" => "a cursor as it was given, <epoch>.<revision>, such as 4f9c21aa.8",
            "X-Epoch" | "epoch" => "8 to 16 of [0-9a-z]",
            _ => "a revision, a decimal number of at most 19 digits",
        };
        Problem::new(Kind::MalformedRequest, format!("{name}: expected {form}"))
    })?;
    Ok(Position::of(&cursor, &call.shared.epoch))
}

/// Whether the client wants every event: `Prefer: handling=strict`
/// ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240#section-4.4)) or the query says so.
fn history(call: &Call, query: &Query) -> Result<History, Problem> {
    let preferred = call.request.headers().get_all("Prefer").filter_map(|value| value.to_str().ok());
    let mut preferred = preferred.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches('"')))
    });
    let strict = query.is_set("strict")?
        || preferred.any(|(name, value)| name.eq_ignore_ascii_case("handling") && value.eq_ignore_ascii_case("strict"));
    Ok(match (strict, query.is_set("compact")?) {
        (true, _) => History::EveryEvent,
        (false, true) => History::Compact,
        (false, false) => History::Any,
    })
}

async fn stream(call: Call, mut subscription: Subscription) -> Result<HttpResponse, Problem> {
    if call.is_head() {
        return Ok(head(&call, call.shared.committed.get()).body(actix_web::body::None::new()));
    }
    let address = call.request.peer_addr().map(|address| address.ip());
    let Some(ticket) = call.shared.admission.admit(address) else { return refused(&call) };
    let first = call.shared.readers.send(subscription.ask()).await??;
    let current = match &first {
        Answer::Step(step) => step.current,
        Answer::Gone(horizon) => return Err(not_retained(&call, horizon)),
    };
    let channel = Rc::clone(&subscription.channel);
    channel.push(prologue());
    channel.connect(line(&call));
    subscription.take(first);
    let follower = Follower { subscription: Rc::new(RefCell::new(subscription)), shared: call.shared.clone() };
    Ok(head(&call, current).body(EventStream {
        channel,
        follower: Some(follower),
        _ticket: Some(ticket),
        flushed: false,
    }))
}

/// Where a hub may write, for a client that understands chunks.
fn line(call: &Call) -> Option<Rc<Line>> {
    let line = call.request.conn_data::<Weak<Line>>().and_then(Weak::upgrade);
    line.filter(|_| call.request.version() == Version::HTTP_11)
}

/// Too many streams: one that reconnects by itself is told when, in the only way that does not end it for good.
pub(super) fn refused(call: &Call) -> Result<HttpResponse, Problem> {
    let accepts = call.request.headers().get_all(ACCEPT).filter_map(|accept| accept.to_str().ok());
    if !accepts.into_iter().any(|accept| accept.contains(SSE)) {
        let problem = Problem::new(Kind::Busy, "too many streams are open");
        return Err(problem.header(RETRY_AFTER.as_str(), "5"));
    }
    let channel = Channel::new(1);
    channel.push(prologue());
    channel.end();
    let body = EventStream { channel, follower: None, _ticket: None, flushed: false };
    Ok(head(call, call.shared.committed.get()).body(body))
}

pub(super) fn head(call: &Call, current: Revision) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, &call.shared.epoch, current);
    response
        .insert_header((CONTENT_TYPE, SSE))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header((VARY, "Accept"))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

/// Not every event since the cursor is here, and the client wants every one.
pub(super) fn not_retained(call: &Call, horizon: &Horizon) -> Problem {
    let bootstrap = call.bootstrap();
    let (oldest, current) = (horizon.pruned.next(), horizon.current);
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
pub(super) fn prologue() -> Bytes {
    let spread = getrandom::u32().unwrap_or_default() % 2000;
    Bytes::from(format!(":\nretry: {}\n", 1000 + spread))
}

/// Who follows, and where more can be read.
struct Follower {
    subscription: Rc<RefCell<Subscription>>,
    shared: web::Data<Shared>,
}

/// The body of a stream. When it is dropped, the client has gone.
struct EventStream {
    channel: Rc<Channel>,
    follower: Option<Follower>,
    _ticket: Option<Ticket>,
    flushed: bool,
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.channel.close();
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
                Poll::Ready(Next::Room) => {
                    if let Some(Follower { subscription, shared }) = &self.follower {
                        Session::read_on(subscription, &shared.readers);
                    }
                }
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
pub(super) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream was cut on purpose")
    }
}

impl std::error::Error for Cut {}
