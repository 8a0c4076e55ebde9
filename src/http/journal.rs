//! The journal: the domain events of all aggregates, in order. It is never pruned.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::web::{self, Bytes};
use actix_web::{HttpResponse, rt};

use super::accept::accepted;
use super::caching::Caching;
use super::feed_response::{StreamAborted, StreamEnd, head, prologue, too_many_streams};
use super::pages::{Extent, PAGE_PARAMS, page_limit};
use super::problem::{Kind, Problem};
use super::request::{Query, RequestContext};
use super::respond::{JSON, NDJSON, SSE, answer};
use super::shared::Shared;
use super::spooled_response::whole;
use super::stream_permission::StreamPermission;
use crate::access::tickets::TICKET;
use crate::delivery::stream_limiter::Permit;
use crate::domain::collection::Registry;
use crate::domain::cursor::{Cursor, CursorParams};
use crate::domain::feed::push_member;
use crate::domain::key::CollectionId;
use crate::domain::revision::{JournalPosition, Revision, Version};
use crate::events::domain_event::{id, object};
use crate::events::journal_pages::Place;
use crate::read::pool::{CountErasures, ReadEvents, ReadJournal, ReadJournalPage};
use crate::storage::database::Writers;
use crate::storage::journal::{Entries, EntriesOfOne, Entry};
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
    let (revision, EntriesOfOne { entries, has_more }) = read(Version::from_raw(after), page_limit(limit)).await??;
    if entries.is_empty() && (after == 0 || read(Version::ZERO, page_limit(1)).await??.1.entries.is_empty()) {
        return Err(Problem::not_found(&context.aggregate_path()).at(context.shared.epoch(), revision));
    }
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
        context.stream_query(&["lastEventId", "collection", TICKET], &PAGE_PARAMS)?
    } else {
        context.query(&["lastEventId", "collection", TICKET, "limit", "wait"])?
    };
    // What is wrong with the request itself comes before what the service has.
    let extent = Extent::of(&query)?;
    let reading = Reading {
        shared: context.shared.clone(),
        only: context.collections(&query)?.map(Into::into),
        after: position(&context, &query, form).await?,
        stage: Stage::CatchingUp,
    };
    if form == SSE {
        return stream(&context, reading, &query.remarks).await;
    }
    one_page(&context, reading, extent, form).await
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
    stage: Stage,
}

/// What a consumer has got so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Events of the past, which may have been overwritten meanwhile.
    CatchingUp,
    /// It has had everything once.
    Live,
}

impl Reading {
    /// Reads the next events, if there are any, and advances past them.
    async fn next(&mut self, limit: PageLimit) -> Result<(Revision, Entries), Problem> {
        let read = ReadJournal { only: self.only.clone(), after: self.after, limit };
        let (revision, entries) = self.shared.readers.send(read).await??;
        self.after = entries.to;
        Ok((revision, entries))
    }

    /// The next page as streams send it, which they share, and advances past it; empty if its events are filtered out.
    async fn next_shared(&mut self) -> Result<Bytes, Problem> {
        if self.stage == Stage::CatchingUp && self.shared.database.writers() == Writers::Many {
            // Another service may have overwritten events since the last look at the database.
            let erasures = self.shared.readers.send(CountErasures).await??;
            self.shared.journal.send_if_modified(|mark| mark.note_erasures(erasures));
        }
        let overwritten = self.shared.journal.borrow().overwritten;
        let place = Place { only: self.only.clone(), overwritten, after: self.after };
        let read = ReadJournalPage { place: place.clone(), epoch: self.shared.epoch().clone() };
        let read = async { Ok::<_, Problem>(self.shared.readers.send(read).await??) };
        let page = self.shared.journal_pages.get(place, read).await?;
        self.after = page.to;
        Ok(page.text)
    }

    /// Waits for later events, but no longer than `time`.
    async fn wait(&self, time: Duration) -> Wakeup {
        let mut journal = self.shared.journal.subscribe();
        let moved = journal.wait_for(|mark| mark.is_over || mark.last > self.after);
        let time = time.min(self.shared.reach.left());
        match rt::time::timeout(time, moved).await {
            // What others have written is unknown: a stream must not look as if there were nothing.
            Err(_) if self.shared.reach.is_lost() => Wakeup::Shutdown,
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
        if left.is_zero() || !matches!(context.while_permitted(reading.wait(left)).await?, Wakeup::NewEvents) {
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
    response.insert_header((CONTENT_TYPE, form));
    Caching::PAGE.insert(&mut response, None);
    response
}

async fn stream(context: &RequestContext, reading: Reading, remarks: &[String]) -> Result<HttpResponse, Problem> {
    let current = context.shared.committed.get();
    if context.is_head() {
        return Ok(head(context, current).body(actix_web::body::None::new()));
    }
    let Some(permit) = context.shared.stream_limiter.try_acquire(context.address()) else {
        return too_many_streams(context);
    };
    let begin = prologue(remarks);
    let first: Next = Box::pin(async { Some((begin, reading)) });
    let permission = StreamPermission::of(context);
    let stream = JournalStream { next: Some(first), permission, _permit: permit, end: StreamEnd::default() };
    Ok(head(context, current).body(stream))
}

/// What comes next on a stream, and the rest; `None` if the stream ends.
type Next = Pin<Box<dyn Future<Output = Option<(Bytes, Reading)>>>>;

/// The next events, or a comment after a quiet time.
async fn follow(mut reading: Reading) -> Option<(Bytes, Reading)> {
    // Events that are filtered out do not end the idle time.
    let quiet_until = Instant::now() + reading.shared.heartbeat;
    loop {
        // Without new events there is nothing to read. They are durable before the mark moves, so none is missed.
        let mark = *reading.shared.journal.borrow();
        // A shutdown does not wait for the end of a long history.
        if mark.is_over || reading.shared.reach.is_lost() {
            return None;
        }
        if mark.last > reading.after {
            match reading.next_shared().await {
                Ok(text) if text.is_empty() => {}
                Ok(text) => return Some((text, reading)),
                Err(problem) => {
                    log::debug!("a stream of the journal ends: {problem}");
                    return None;
                }
            }
        } else {
            reading.stage = Stage::Live;
        }
        let left = quiet_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some((Bytes::from_static(b":\n"), reading));
        }
        // It is seen above what has ended the wait.
        reading.wait(left).await;
    }
}

/// The body of a stream of the journal. It ends by an aborted connection.
///
/// The next page is fetched only when the framework asks for it, so a slow client occupies the memory of two pages, which
/// others share, and blocks nothing.
struct JournalStream {
    next: Option<Next>,
    permission: StreamPermission,
    _permit: Permit,
    end: StreamEnd,
}

impl MessageBody for JournalStream {
    type Error = StreamAborted;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamAborted>>> {
        if self.permission.is_over(context) {
            self.next = None;
        }
        if let Some(next) = &mut self.next {
            if let Some((text, reading)) = ready!(next.as_mut().poll(context)) {
                self.next = Some(Box::pin(follow(reading)));
                return Poll::Ready(Some(Ok(text)));
            }
            self.next = None;
        }
        self.end.poll(context)
    }
}

/// `{"events":[…]`, without the closing brace.
fn events(registry: &Registry, entries: &[Entry]) -> String {
    let objects: Vec<_> = entries.iter().map(|entry| object(registry, entry)).collect();
    format!("{{\"events\":[{}]", objects.join(","))
}
