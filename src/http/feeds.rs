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
use super::request::{Call, Query};
use super::respond::{JSON, NDJSON, SSE};
use crate::delivery::direct_write::Line;
use crate::delivery::hub::Audience;
use crate::delivery::send_queue::Channel;
use crate::delivery::session::Subscription;
use crate::domain::cursor::Presented;
use crate::domain::feed::Feed;
use crate::events::resume::{Answer, History, PATIENCE, Position};
use crate::events::sse::Form;
use crate::storage::page::Room;

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
