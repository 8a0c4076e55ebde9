//! Feeds: change events at the three levels, as Server-Sent Events or in pages.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::HeaderValue;

use super::accept::accepted;
use super::feed_response::{EventStream, head, name_handling, not_retained, prologue, refused, too_many_streams};
use super::pages::{self, Extent, PAGE_PARAMS};
use super::preferences::Handling;
use super::problem::{Kind, Problem};
use super::query::least_count;
use super::request::{Query, RequestContext};
use super::respond::{JSON, NDJSON, SSE, X_EPOCH, X_REVISION};
use super::stream_permission::StreamPermission;
use crate::access::tickets::TICKET;
use crate::delivery::filtered_feeds::BYTES_PER_KEY;
use crate::delivery::hub::LiveSubscribers;
use crate::delivery::send_queue::SendQueue;
use crate::delivery::session::{Session, SessionConfig, State, Subscription};
use crate::domain::cursor::CursorParams;
use crate::domain::feed::Feed;
use crate::domain::selection::Selection;
use crate::events::resume::{Position, REPLAY_THRESHOLD, ReplayMode, ResumeReply};
use crate::events::sse::Form;
use crate::memory::ledger::Usage;
use crate::storage::page::PageLimit;

/// The query parameters of every feed.
const FEED_PARAMS: [&str; 6] = ["lastEventId", "revision", "epoch", "strict", "compact", TICKET];

/// The most keys of one feed.
pub(super) const MAX_KEYS: usize = 1000;

/// `GET /events`
pub(super) async fn everything(context: RequestContext) -> Result<HttpResponse, Problem> {
    let (form, query) = feed_query(&context, &["collection"])?;
    let feed = Feed::Everything(context.collections(&query)?.map(Into::into));
    follow(context, form, query, feed).await
}

/// `GET /person-events`
pub(super) async fn collection(context: RequestContext) -> Result<HttpResponse, Problem> {
    // Before anything of it is decoded, and after, since names may be encoded.
    check_key_count(least_count(context.request.query_string(), "key"))?;
    let (form, query) = feed_query(&context, &["key"])?;
    check_key_count(query.count("key"))?;
    let memory = context.shared.memory.of(Usage::Filters);
    let selection = context.keys(&query)?.map(|keys| Selection::new(&keys, BYTES_PER_KEY, memory));
    let Ok(selection) = selection.transpose() else {
        return refused(&context, "the keys of all filtered feeds together take too much memory");
    };
    let feed = Feed::Collection(context.collection_id()?, selection);
    follow(context, form, query, feed).await
}

fn check_key_count(sent: usize) -> Result<(), Problem> {
    if sent <= MAX_KEYS {
        return Ok(());
    }
    let detail = format!("key: a feed takes at most {MAX_KEYS} keys, not {sent}; follow the rest by another one");
    Err(Problem::new(Kind::MalformedRequest, detail).with("parameter", "key").with("limit", MAX_KEYS))
}

/// `GET /persons/1/events`
pub(super) async fn aggregate(context: RequestContext) -> Result<HttpResponse, Problem> {
    let (form, query) = feed_query(&context, &[])?;
    let feed = Feed::Aggregate(context.collection_id()?, context.key()?);
    follow(context, form, query, feed).await
}

/// The media type of the response, and the query. `selection` has the parameters that select what is followed.
fn feed_query(context: &RequestContext, selection: &[&str]) -> Result<(&'static str, Query), Problem> {
    let form = accepted(&context.request, &[SSE, JSON, NDJSON])?;
    let known = [&FEED_PARAMS[..], selection].concat();
    let query = if form == SSE {
        context.stream_query(&known, &PAGE_PARAMS)
    } else {
        context.query(&[&known[..], &PAGE_PARAMS].concat())
    };
    Ok((form, query?))
}

/// Answers with a stream or a page, as the client prefers.
async fn follow(
    context: RequestContext,
    form: &'static str,
    query: Query,
    feed: Feed,
) -> Result<HttpResponse, Problem> {
    let position = position(&context, &query, form)?;
    let subscription = subscription(&context, &query, feed, position)?;
    if form == SSE {
        stream(context, subscription, &query.remarks).await
    } else {
        pages::page(&context, Extent::of(&query)?, subscription, form).await
    }
}

/// What the client follows, from where, and how.
fn subscription(
    context: &RequestContext,
    query: &Query,
    feed: Feed,
    position: Position,
) -> Result<Subscription, Problem> {
    let Some(subscribers) = context.request.app_data::<Rc<RefCell<LiveSubscribers>>>() else {
        return Err(Problem::new(Kind::Internal, "this worker thread has no hub"));
    };
    Ok(Subscription {
        feed,
        form: Form::Stream(context.shared.epoch().clone()),
        mode: replay_mode(context, query)?,
        replay_threshold: REPLAY_THRESHOLD,
        sent_initial_state: false,
        limit: PageLimit::PAGE,
        position,
        state: State::CatchingUp,
        queue: SendQueue::charged(context.shared.session_buffer, context.shared.streams.share(context.address())),
        subscribers: Rc::clone(subscribers),
        _following: context.shared.attention.follow(),
    })
}

/// Where the request asks to start.
fn position(context: &RequestContext, query: &Query, form: &str) -> Result<Position, Problem> {
    let id = context.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes);
    let id_counts = id.is_some_and(|id| !id.is_empty());
    let params = CursorParams {
        last_event_id: id,
        last_event_id_query: query.last("lastEventId"),
        // Headers that do not count are not parsed: a rejection would end an EventSource permanently.
        revision: if id_counts { None } else { context.header(&X_REVISION, "X-Revision")? },
        epoch: if id_counts { None } else { context.header(&X_EPOCH, "X-Epoch")? },
        revision_query: query.last("revision"),
        epoch_query: query.last("epoch"),
    };
    let cursor = if form == SSE { params.stream_cursor() } else { params.cursor() };
    let cursor = cursor.map_err(|name| {
        let form = match name {
            "lastEventId" => "a cursor from this service, <epoch>.<revision>, such as 4f9c21aa.8",
            "X-Epoch" | "epoch" => "8 to 16 of [0-9a-z]",
            _ => "a revision, a decimal number of at most 19 digits",
        };
        Problem::new(Kind::MalformedRequest, format!("{name}: expected {form}"))
    })?;
    Ok(Position::of(&cursor, &context.shared.history))
}

/// Whether the client needs every event, by `Prefer: handling=strict`
/// ([RFC 7240](https://www.rfc-editor.org/rfc/rfc7240#section-4.4)) or by the query, or prefers a catch-up.
fn replay_mode(context: &RequestContext, query: &Query) -> Result<ReplayMode, Problem> {
    let strict = query.is_set("strict")? || context.preferences().handling == Some(Handling::Strict);
    Ok(match (strict, query.is_set("compact")?) {
        (true, _) => ReplayMode::Strict,
        (false, true) => ReplayMode::Compact,
        (false, false) => ReplayMode::Auto,
    })
}

/// Starts the session of an SSE client, and answers with a body that takes what the session and the hub send.
async fn stream(
    context: RequestContext,
    subscription: Subscription,
    remarks: &[String],
) -> Result<HttpResponse, Problem> {
    let shared = &context.shared;
    // A HEAD is answered as the GET would be, and takes no place.
    let permit = if context.is_head() { None } else { shared.stream_limiter.try_acquire(context.address()) };
    if permit.is_none() && !context.is_head() {
        return too_many_streams(&context);
    }
    let first = shared.page_readers().send(subscription.next_request(), shared.committed.get()).await??;
    let current = match &first {
        ResumeReply::Page(page) => page.current,
        ResumeReply::Gone(horizon) => return Err(not_retained(&context, horizon)),
    };
    let mut response = head(&context, current);
    name_handling(&context, &mut response);
    let Some(permit) = permit else { return Ok(response.body(actix_web::body::None::new())) };
    let queue = Rc::clone(&subscription.queue);
    // A stream works without it.
    let _ = queue.push(prologue(remarks));
    #[cfg(feature = "direct-write")]
    queue.connect(direct_writer(&context));
    let (running, parked) = (Arc::clone(&shared.sessions), Arc::clone(&shared.parked));
    let (readers, committed) = (shared.page_readers(), Arc::clone(&shared.committed));
    let config = SessionConfig { readers, committed, permit, running, parked };
    let session = Session::start(subscription, first, config);
    Ok(response.body(EventStream::new(queue, Some(session), StreamPermission::of(&context))))
}

/// Where a hub may write, for a client that understands chunks.
#[cfg(feature = "direct-write")]
fn direct_writer(context: &RequestContext) -> Option<Rc<crate::delivery::direct_write::DirectWriter>> {
    context.connection().filter(|_| context.request.version() == actix_web::http::Version::HTTP_11)
}
