//! The journal: what happened, as the aggregates tell it; all of it, in order, and nothing is ever pruned.

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
use super::pages::{Extent, page_limit};
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{JSON, NDJSON, SSE, answer};
use super::shared::Shared;
use crate::delivery::stream_limiter::Permit;
use crate::domain::collection::Registry;
use crate::domain::cursor::{Cursor, CursorParams};
use crate::domain::feed::push_member;
use crate::domain::key::CollectionId;
use crate::domain::revision::{Epoch, JournalPosition, Revision, Version};
use crate::events::sse::named_event;
use crate::read::pool::{ReadEvents, ReadJournal};
use crate::storage::journal::{Entries, Entry};
use crate::storage::page::PageLimit;

/// `GET /carts/0193…/journal`: the domain events of one aggregate, in pages.
pub(super) async fn aggregate(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    let query = context.query(&["after", "limit"])?;
    let (collection, key) = (context.collection_id()?, context.key()?);
    let after = query.number("after", 0..=i64::MAX.unsigned_abs())?.unwrap_or(0).cast_signed();
    let limit = Extent::of(&query)?.limit;
    let read = |after, limit| context.shared.readers.send(ReadEvents { collection, key: key.clone(), after, limit });
    // One more, to see whether there are more.
    let (revision, mut entries) = read(Version::from_raw(after), limit.cast_signed() + 1).await??;
    if entries.is_empty() && (after == 0 || read(Version::ZERO, 1).await??.1.is_empty()) {
        return Err(Problem::not_found(&context.aggregate_path()).at(&context.shared.epoch, revision));
    }
    let has_more = entries.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut body = events(&context.shared.registry, &entries);
    if let (true, Some(last)) = (has_more, entries.last()) {
        // As it was sent: the framework's own path has some of it decoded.
        let next = format!("{}?after={}&limit={limit}", context.request.uri().path(), last.version);
        body.push(',');
        push_member(&mut body, "next", &serde_json::Value::from(next).to_string());
    }
    body.push('}');
    Ok(page(&context, revision, JSON).body(body))
}

/// `GET /journal`: the domain events of everything.
pub(super) async fn everything(context: RequestContext) -> Result<HttpResponse, Problem> {
    let query = context.query(&["lastEventId", "collection", "limit", "wait"])?;
    let form = accepted(&context.request, &[SSE, JSON, NDJSON])?;
    let reading = Reading {
        shared: context.shared.clone(),
        only: context.collections(&query)?.map(Into::into),
        after: position(&context, &query).await?,
    };
    let extent = Extent::of(&query)?;
    if form == SSE { stream(&context, reading).await } else { one_page(&context, reading, extent, form).await }
}

/// Where the consumer stands; at the beginning, if it does not say.
async fn position(context: &RequestContext, query: &Query) -> Result<JournalPosition, Problem> {
    let id = context.request.headers().get("Last-Event-ID").map(HeaderValue::as_bytes);
    let presented =
        CursorParams { last_event_id: id, last_event_id_query: query.last("lastEventId"), ..CursorParams::default() };
    let cursor = presented.cursor().map_err(|name| {
        Problem::new(Kind::MalformedRequest, format!("{name}: expected an id as it was given, such as 4f9c21aa.8"))
    })?;
    let claimed = match cursor {
        Cursor::After { epoch, after } if epoch.as_ref().is_none_or(|epoch| *epoch == context.shared.epoch) => {
            Some(JournalPosition::from_raw(after.number()))
        }
        _ => None,
    };
    let mut last = context.shared.journal.borrow().last;
    if claimed.is_some_and(|after| after > last) {
        // Who reads a page may be faster than who tells of the commit: only the database knows.
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

/// What happened elsewhere cannot be taken back by anything that comes after it.
fn foreign(context: &RequestContext, last: JournalPosition) -> Problem {
    let epoch = &context.shared.epoch;
    let detail = format!("the id is none of epoch {epoch}, up to position {last}; begin anew");
    let problem = Problem::new(Kind::ForeignId, detail).with("current", last.number());
    problem.with("epoch", epoch.as_str()).with("bootstrap", "/journal").at(epoch, context.shared.committed.get())
}

/// A consumer of the journal, and where it stands.
struct Reading {
    shared: web::Data<Shared>,
    only: Option<Arc<[CollectionId]>>,
    after: JournalPosition,
}

impl Reading {
    /// The next events, if there are any; moves on past them.
    async fn next(&mut self, limit: PageLimit) -> Result<(Revision, Entries), Problem> {
        let read = ReadJournal { only: self.only.clone(), after: self.after, limit };
        let (revision, entries) = self.shared.readers.send(read).await??;
        self.after = entries.to;
        Ok((revision, entries))
    }

    /// Waits until there is more, but no longer than this.
    async fn wait(&self, time: Duration) -> Waited {
        let mut journal = self.shared.journal.subscribe();
        let moved = journal.wait_for(|mark| mark.is_over || mark.last > self.after);
        match rt::time::timeout(time, moved).await {
            Err(_) => Waited::InVain,
            Ok(Ok(mark)) if !mark.is_over => Waited::ForMore,
            Ok(_) => Waited::ForTheEnd,
        }
    }
}

/// What a wait came to.
enum Waited {
    ForMore,
    InVain,
    /// The service stops.
    ForTheEnd,
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
        if left.is_zero() || !matches!(reading.wait(left).await, Waited::ForMore) {
            break (revision, entries);
        }
    };
    let (registry, cursor) = (&context.shared.registry, id(&context.shared.epoch, entries.to));
    let body = if form == NDJSON {
        let lines = entries.entries.iter().map(|entry| object(registry, entry) + "\n");
        lines.collect::<String>() + &format!("{{\"cursor\":\"{cursor}\"}}\n")
    } else {
        events(registry, &entries.entries) + &format!(",\"cursor\":\"{cursor}\"}}")
    };
    Ok(page(context, revision, form).body(body))
}

fn page(context: &RequestContext, revision: Revision, form: &'static str) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, &context.shared.epoch, revision);
    response
        .insert_header((CONTENT_TYPE, form))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((VARY, "Accept"));
    response
}

/// Pages that wait for a client, beside the one that is sent.
const WAITING: usize = 1;

async fn stream(context: &RequestContext, reading: Reading) -> Result<HttpResponse, Problem> {
    let current = context.shared.committed.get();
    if context.is_head() {
        return Ok(head(context, current).body(actix_web::body::None::new()));
    }
    let address = context.request.peer_addr().map(|address| address.ip());
    let Some(permit) = context.shared.stream_limiter.try_acquire(address) else { return too_many_streams(context) };
    let (sender, receiver) = channel(WAITING);
    rt::spawn(follow(reading, sender));
    Ok(head(context, current).body(JournalStream { receiver, _permit: permit, end: StreamEnd::default() }))
}

/// Sends what there is, then what comes. Each page is read when the one before is on its way, so a slow client costs two
/// of them and nobody's time.
async fn follow(mut reading: Reading, sender: Sender<Bytes>) {
    let (epoch, registry) = (reading.shared.epoch.clone(), Arc::clone(&reading.shared.registry));
    let mut next = prologue();
    // A stop does not wait until a long history is told.
    while sender.send(next).await.is_ok() && !reading.shared.journal.borrow().is_over {
        // What is filtered out is quiet, too.
        let quiet_until = Instant::now() + reading.shared.heartbeat;
        next = loop {
            let entries = match reading.next(PageLimit::PAGE).await {
                Ok((_, entries)) => entries,
                Err(problem) => return log::error!("a stream of the journal ends: {problem}"),
            };
            if !entries.entries.is_empty() {
                break entries.entries.iter().map(|entry| frame(&registry, &epoch, entry)).collect::<String>().into();
            }
            let left = quiet_until.saturating_duration_since(Instant::now());
            let waited = if left.is_zero() {
                Waited::InVain
            } else if entries.to < entries.current {
                Waited::ForMore
            } else {
                reading.wait(left).await
            };
            match waited {
                Waited::ForMore => {}
                Waited::InVain => break Bytes::from_static(b":\n"),
                Waited::ForTheEnd => return,
            }
        };
    }
}

/// The body of a stream of the journal; when its events end, it is cut.
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

/// `{"events":[…]`, to be closed.
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
    object
}
