//! The journal: the domain events of all aggregates, in order. It is never pruned.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, VARY};
use actix_web::web::{self, Bytes};
use actix_web::{HttpResponse, rt};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::accept::accepted;
use super::feed_response::{StreamAborted, StreamEnd, head, prologue, too_many_streams};
use super::pages::{Extent, PAGE_PARAMS, page_limit};
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{JSON, NDJSON, SSE, answer};
use super::shared::Shared;
use super::spooled_response::whole;
use crate::delivery::stream_limiter::Permit;
use crate::domain::collection::Registry;
use crate::domain::cursor::{Cursor, CursorParams};
use crate::domain::feed::push_member;
use crate::domain::key::CollectionId;
use crate::domain::revision::{Epoch, JournalPosition, Revision, Version};
use crate::events::line_safe::escape_separators;
use crate::events::sse::named_event;
use crate::read::pool::{ReadEvents, ReadJournal};
use crate::storage::journal::{Entries, Entry};
use crate::storage::page::PageLimit;

/// `GET /carts/0193…/journal`: the domain events of one aggregate, in pages.
pub(super) async fn aggregate(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    let query = context.query(&["after", "limit"])?;
    let collection = context.collection_id()?;
    let key = context.key()?;
    let after = query.number("after", 0..=i64::MAX.unsigned_abs())?.unwrap_or(0).cast_signed();
    let limit = Extent::of(&query)?.limit;
    let read = |after, limit| context.shared.readers.send(ReadEvents { collection, key: key.clone(), after, limit });
    // One event more than requested, to find out whether there is a next page.
    let (revision, mut entries) = read(Version::from_raw(after), limit.cast_signed() + 1).await??;
    if entries.is_empty() && (after == 0 || read(Version::ZERO, 1).await??.1.is_empty()) {
        return Err(Problem::not_found(&context.aggregate_path()).at(context.shared.epoch(), revision));
    }
    let has_more = entries.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut body = events(&context.shared.registry, &entries);
    if let (true, Some(last)) = (has_more, entries.last()) {
        // The raw path: the framework's path is partly decoded already.
        let next = format!("{}?after={}&limit={limit}", context.request.uri().path(), last.version);
        body.push(',');
        push_member(&mut body, "next", &serde_json::Value::from(next).to_string());
    }
    body.push('}');
    whole(&context, page(&context, revision, JSON), body).await
}

/// `GET /journal`: the domain events of all aggregates.
pub(super) async fn everything(context: RequestContext) -> Result<HttpResponse, Problem> {
    let form = accepted(&context.request, &[SSE, JSON, NDJSON])?;
    let query = if form == SSE {
        context.stream_query(&["lastEventId", "collection"], &PAGE_PARAMS)?
    } else {
        context.query(&["lastEventId", "collection", "limit", "wait"])?
    };
    let reading = Reading {
        shared: context.shared.clone(),
        only: context.collections(&query)?.map(Into::into),
        after: position(&context, &query, form).await?,
    };
    if form == SSE {
        return stream(&context, reading, &query.remarks).await;
    }
    one_page(&context, reading, Extent::of(&query)?, form).await
}

/// The position after which the consumer continues; the beginning, if the request does not state one.
async fn position(context: &RequestContext, query: &Query, form: &str) -> Result<JournalPosition, Problem> {
    let id = context.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes);
    let params =
        CursorParams { last_event_id: id, last_event_id_query: query.last("lastEventId"), ..CursorParams::default() };
    let cursor = if form == SSE { params.stream_cursor() } else { params.cursor() };
    let cursor = cursor.map_err(|name| {
        Problem::new(Kind::MalformedRequest, format!("{name}: expected an event id such as 4f9c21aa.8"))
    })?;
    let claimed = match cursor {
        Cursor::After { epoch, after } => {
            let after = JournalPosition::from_raw(after.number());
            let is_ours = epoch.is_none_or(|epoch| context.shared.history.has_position(&epoch, after));
            is_ours.then_some(after)
        }
        _ => None,
    };
    let mut last = context.shared.journal.borrow().last;
    if claimed.is_some_and(|after| after > last) {
        // A client can read a page before this thread is notified of its commit: the database has the last position.
        last = context
            .shared
            .readers
            .send(ReadJournal { only: None, after: last, limit: page_limit(1) })
            .await??
            .1
            .current;
    }
    claimed.filter(|after| *after <= last).ok_or_else(|| foreign(context, last))
}

/// An id of another history, or after the last position. Later events cannot undo what the consumer has processed, so this is
/// an error and not a reset.
fn foreign(context: &RequestContext, last: JournalPosition) -> Problem {
    let epoch = context.shared.epoch();
    let detail = format!(
        "the id does not belong to the history of this database, which is in epoch {epoch} at position {last}; restart from the beginning"
    );
    let problem = Problem::new(Kind::ForeignId, detail).with("current", last.number());
    problem.with("epoch", epoch.as_str()).with("bootstrap", "/journal").at(epoch, context.shared.committed.get())
}

/// A consumer of the journal, and its position.
struct Reading {
    shared: web::Data<Shared>,
    only: Option<Arc<[CollectionId]>>,
    after: JournalPosition,
}

impl Reading {
    /// Reads the next events, if there are any, and advances past them.
    async fn next(&mut self, limit: PageLimit) -> Result<(Revision, Entries), Problem> {
        let read = ReadJournal { only: self.only.clone(), after: self.after, limit };
        let (revision, entries) = self.shared.readers.send(read).await??;
        self.after = entries.to;
        Ok((revision, entries))
    }

    /// Waits for later events, but no longer than `time`.
    async fn wait(&self, time: Duration) -> Wakeup {
        let mut journal = self.shared.journal.subscribe();
        let moved = journal.wait_for(|mark| mark.is_over || mark.last > self.after);
        match rt::time::timeout(time, moved).await {
            Err(_) => Wakeup::Timeout,
            Ok(Ok(mark)) if !mark.is_over => Wakeup::NewEvents,
            Ok(_) => Wakeup::Shutdown,
        }
    }
}

/// Why a wait ended.
enum Wakeup {
    NewEvents,
    Timeout,
    Shutdown,
}

async fn one_page(
    context: &RequestContext,
    mut reading: Reading,
    extent: Extent,
    form: &'static str,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + extent.wait;
    let (revision, entries) = loop {
        let (revision, entries) = reading.next(page_limit(extent.limit)).await?;
        if !entries.entries.is_empty() {
            break (revision, entries);
        }
        if entries.to < entries.current {
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !matches!(reading.wait(left).await, Wakeup::NewEvents) {
            break (revision, entries);
        }
    };
    let registry = &context.shared.registry;
    let cursor = id(context.shared.epoch(), entries.to);
    let body = if form == NDJSON {
        let lines = entries.entries.iter().map(|entry| object(registry, entry) + "\n");
        lines.collect::<String>() + &format!("{{\"cursor\":\"{cursor}\"}}\n")
    } else {
        events(registry, &entries.entries) + &format!(",\"cursor\":\"{cursor}\"}}")
    };
    whole(context, page(context, revision, form), body).await
}

fn page(context: &RequestContext, revision: Revision, form: &'static str) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, context.shared.epoch(), revision);
    response
        .insert_header((CONTENT_TYPE, form))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "Accept"));
    response
}

/// The number of pages that wait for a client, in addition to the one that is being sent.
const MAX_WAITING_PAGES: usize = 1;

async fn stream(context: &RequestContext, reading: Reading, remarks: &[String]) -> Result<HttpResponse, Problem> {
    let current = context.shared.committed.get();
    if context.is_head() {
        return Ok(head(context, current).body(actix_web::body::None::new()));
    }
    let address = context.request.peer_addr().map(|address| address.ip());
    let Some(permit) = context.shared.stream_limiter.try_acquire(address) else { return too_many_streams(context) };
    let (sender, receiver) = channel(MAX_WAITING_PAGES);
    rt::spawn(follow(reading, prologue(remarks), sender));
    Ok(head(context, current).body(JournalStream { receiver, _permit: permit, end: StreamEnd::default() }))
}

/// Sends the existing events, then later ones. A page is read only when the previous one is being sent, so a slow client
/// occupies the memory of two pages and blocks nothing.
async fn follow(mut reading: Reading, prologue: Bytes, sender: Sender<Bytes>) {
    let epoch = reading.shared.epoch().clone();
    let registry = Arc::clone(&reading.shared.registry);
    let mut next = prologue;
    // A shutdown does not wait for the end of a long history.
    while sender.send(next).await.is_ok() && !reading.shared.journal.borrow().is_over {
        // Events that are filtered out do not end the idle time.
        let quiet_until = Instant::now() + reading.shared.heartbeat;
        next = loop {
            let entries = match reading.next(PageLimit::PAGE).await {
                Ok((_, entries)) => entries,
                Err(problem) => return log::debug!("a stream of the journal ends: {problem}"),
            };
            if !entries.entries.is_empty() {
                break entries.entries.iter().map(|entry| frame(&registry, &epoch, entry)).collect::<String>().into();
            }
            let left = quiet_until.saturating_duration_since(Instant::now());
            let wakeup = if left.is_zero() {
                Wakeup::Timeout
            } else if entries.to < entries.current {
                Wakeup::NewEvents
            } else {
                reading.wait(left).await
            };
            match wakeup {
                Wakeup::NewEvents => {}
                Wakeup::Timeout => break Bytes::from_static(b":\n"),
                Wakeup::Shutdown => return,
            }
        };
    }
}

/// The body of a stream of the journal. It ends by an aborted connection.
struct JournalStream {
    receiver: Receiver<Bytes>,
    _permit: Permit,
    end: StreamEnd,
}

impl MessageBody for JournalStream {
    type Error = StreamAborted;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        match ready!(self.receiver.poll_recv(context)) {
            Some(chunk) => Poll::Ready(Some(Ok(chunk))),
            None => self.end.poll(context),
        }
    }
}

fn id(epoch: &Epoch, position: JournalPosition) -> String {
    format!("{epoch}.{position}")
}

fn frame(registry: &Registry, epoch: &Epoch, entry: &Entry) -> String {
    named_event(&entry.event.kind, &id(epoch, entry.position), &object(registry, entry))
}

/// `{"events":[…]`, without the closing brace.
fn events(registry: &Registry, entries: &[Entry]) -> String {
    let objects: Vec<_> = entries.iter().map(|entry| object(registry, entry)).collect();
    format!("{{\"events\":[{}]", objects.join(","))
}

/// `{"position":2,"collection":"carts","key":"…","version":2,"time":"…","kind":"ItemAdded","schema":1,"body":{…}}`
fn object(registry: &Registry, entry: &Entry) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut object = String::from("{");
    for (name, value) in [
        ("position", entry.position.to_string()),
        ("collection", text(registry.get(entry.collection).name())),
        ("key", text(entry.key.as_str())),
        ("version", entry.version.to_string()),
        ("time", text(&entry.time.to_string())),
        ("kind", text(&entry.event.kind)),
        ("schema", entry.schema.to_string()),
        ("body", entry.event.fields.clone()),
    ] {
        if object.len() > 1 {
            object.push(',');
        }
        push_member(&mut object, name, &value);
    }
    object.push('}');
    escape_separators(&mut object, 0);
    object
}
