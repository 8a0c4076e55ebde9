//! Feeds: change events, at the three levels, as Server-Sent Events.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use actix_web::HttpResponse;
use actix_web::http::Version;
use actix_web::http::header::HeaderValue;

use super::accept::accepted;
use super::feed_response::{EventStream, Follower, head, not_retained, prologue, refused};
use super::pages::{self, Extent};
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{JSON, NDJSON, SSE};
use crate::delivery::direct_write::DirectWriter;
use crate::delivery::hub::LiveSubscribers;
use crate::delivery::send_queue::SendQueue;
use crate::delivery::session::Subscription;
use crate::domain::cursor::CursorParams;
use crate::domain::feed::Feed;
use crate::events::resume::{Position, REPLAY_THRESHOLD, ReplayMode, ResumeReply};
use crate::events::sse::Form;
use crate::storage::page::PageLimit;

/// What every feed knows in its query.
const FEED_PARAMS: [&str; 7] = ["lastEventId", "revision", "epoch", "strict", "compact", "limit", "wait"];

/// `GET /events`
pub(super) async fn everything(context: RequestContext) -> Result<HttpResponse, Problem> {
    let query = context.query(&[&FEED_PARAMS[..], &["collection"]].concat())?;
    let feed = Feed::Everything(context.collections(&query)?.map(Into::into));
    follow(context, query, feed).await
}

/// `GET /person-events`
pub(super) async fn collection(context: RequestContext) -> Result<HttpResponse, Problem> {
    let query = context.query(&[&FEED_PARAMS[..], &["key"]].concat())?;
    let feed = Feed::Collection(context.collection_id()?, context.keys(&query)?.map(Into::into));
    follow(context, query, feed).await
}

/// `GET /persons/1/events`
pub(super) async fn aggregate(context: RequestContext) -> Result<HttpResponse, Problem> {
    let query = context.query(&FEED_PARAMS)?;
    let feed = Feed::Aggregate(context.collection_id()?, context.key()?);
    follow(context, query, feed).await
}

/// Follows a feed in the form that the client wants.
async fn follow(context: RequestContext, query: Query, feed: Feed) -> Result<HttpResponse, Problem> {
    let form = accepted(&context.request, &[SSE, JSON, NDJSON])?;
    let subscription = subscription(&context, &query, feed)?;
    let extent = Extent::of(&query)?;
    if form == SSE {
        stream(context, subscription).await
    } else {
        pages::page(&context, extent, subscription, form).await
    }
}

/// Who follows what, from where, and how.
fn subscription(context: &RequestContext, query: &Query, feed: Feed) -> Result<Subscription, Problem> {
    let Some(subscribers) = context.request.app_data::<Rc<RefCell<LiveSubscribers>>>() else {
        return Err(Problem::new(Kind::Internal, "this thread has no hub"));
    };
    Ok(Subscription {
        feed,
        form: Form::Stream(context.shared.epoch.clone()),
        mode: history(context, query)?,
        replay_threshold: REPLAY_THRESHOLD,
        sent_initial_state: false,
        limit: PageLimit::PAGE,
        position: position(context, query)?,
        channel: SendQueue::new(context.shared.session_buffer),
        subscribers: Rc::clone(subscribers),
    })
}

/// What the request says about where to start.
fn position(context: &RequestContext, query: &Query) -> Result<Position, Problem> {
    let id = context.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes);
    let id_counts = id.is_some_and(|id| !id.is_empty());
    let presented = CursorParams {
        last_event_id: id,
        last_event_id_query: query.last("lastEventId"),
        // What does not count is not looked at either: a refusal would end an EventSource for good.
        revision: if id_counts { None } else { context.header("X-Revision")? },
        epoch: if id_counts { None } else { context.header("X-Epoch")? },
        revision_query: query.last("revision"),
        epoch_query: query.last("epoch"),
    };
    let cursor = presented.cursor().map_err(|name| {
        let form = match name {
            "lastEventId" => "a cursor as it was given, <epoch>.<revision>, such as 4f9c21aa.8",
            "X-Epoch" | "epoch" => "8 to 16 of [0-9a-z]",
            _ => "a revision, a decimal number of at max 19 digits",
        };
        Problem::new(Kind::MalformedRequest, format!("{name}: expected {form}"))
    })?;
    Ok(Position::of(&cursor, &context.shared.epoch))
}

/// Whether the client wants every event: `Prefer: handling=strict`
/// ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240#section-4.4)) or the query says so.
fn history(context: &RequestContext, query: &Query) -> Result<ReplayMode, Problem> {
    let preferred = context.request.headers().get_all("Prefer").filter_map(|value| value.to_str().ok());
    let mut preferred = preferred.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches('"')))
    });
    let strict = query.is_set("strict")?
        || preferred.any(|(name, value)| name.eq_ignore_ascii_case("handling") && value.eq_ignore_ascii_case("strict"));
    Ok(match (strict, query.is_set("compact")?) {
        (true, _) => ReplayMode::Strict,
        (false, true) => ReplayMode::Compact,
        (false, false) => ReplayMode::Auto,
    })
}

async fn stream(context: RequestContext, mut subscription: Subscription) -> Result<HttpResponse, Problem> {
    if context.is_head() {
        return Ok(head(&context, context.shared.committed.get()).body(actix_web::body::None::new()));
    }
    let address = context.request.peer_addr().map(|address| address.ip());
    let Some(permit) = context.shared.stream_limiter.try_acquire(address) else { return refused(&context) };
    let first = context.shared.readers.send(subscription.next_request()).await??;
    let current = match &first {
        ResumeReply::Page(step) => step.current,
        ResumeReply::Gone(horizon) => return Err(not_retained(&context, horizon)),
    };
    let channel = Rc::clone(&subscription.channel);
    channel.push(prologue());
    channel.connect(direct_writer(&context));
    subscription.take(first);
    let follower = Follower { subscription: Rc::new(RefCell::new(subscription)), shared: context.shared.clone() };
    Ok(head(&context, current).body(EventStream {
        channel,
        follower: Some(follower),
        _permit: Some(permit),
        flushed: false,
    }))
}

/// Where a hub may write, for a client that understands chunks.
fn direct_writer(context: &RequestContext) -> Option<Rc<DirectWriter>> {
    let writer = context.request.conn_data::<Weak<DirectWriter>>().and_then(Weak::upgrade);
    writer.filter(|_| context.request.version() == Version::HTTP_11)
}
