//! Whole collections: one body shared by all its readers, or a stream if the cache has no room for it.

use actix_web::HttpResponse;
use actix_web::body::None as Nothing;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, ETAG};
use actix_web::web::Bytes;

use super::accept::takes_gzip;
use super::conditions::{GZIP, matching_etag, precondition, unexpected};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, NDJSON, state};
use super::spooled_response::{SpooledResponse, spooled};
use crate::access::permissions::Readable;
use crate::domain::key::{CollectionId, Key};
use crate::domain::precondition::Precondition;
use crate::domain::revision::Revision;
use crate::read::body_stream::BodyStream;
use crate::read::collection_cache::{BuildOutcome, CachedBody, CollectionRevision, Lookup, SizeObserver};
use crate::read::collection_writer::Form;
use crate::read::pool::LastChange;
use crate::read::shared_spools::Content;
use crate::read::thread_pool::{PoolBusy, PoolStopped};

/// Shorter bodies are not compressed, because they fit into one packet anyway; in bytes.
const MIN_COMPRESSED: usize = 1024;

/// Responds with those of some aggregates that exist.
pub(super) async fn get_keys(
    context: &RequestContext,
    collection: CollectionId,
    keys: Vec<Key>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    // Some aggregates have no entity tag of their own, so only what is malformed matters.
    precondition(context)?;
    let collections = vec![collection];
    let current = current(context, &collections).await?;
    if let Some(unchanged) = unchanged(context, form, current)? {
        return Ok(unchanged);
    }
    if context.is_head() {
        return Ok(head(context, form, current));
    }
    let content = Content { collections, keys: Some(keys.into()), form };
    let SpooledResponse { shown, mut body } = spooled(context, content, current, None).await?;
    body.name_length();
    let mut response = state(context, StatusCode::OK, shown.document, content_type(form));
    Ok(response.insert_header((ETAG, quoted(&tag(context, form, shown.changed)))).body(body))
}

/// Responds with whole collections, exact at the revision that the response names.
pub(super) async fn get_collection(
    context: &RequestContext,
    collections: Vec<CollectionId>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let current = current(context, &collections).await?;
    if let Some(unchanged) = unchanged(context, form, current)? {
        return Ok(unchanged);
    }
    let mut observer = None;
    if let (Form::Collection, [only]) = (form, &collections[..]) {
        match cached_body(context, *only, current).await? {
            Some(cached) => return shared(context, &cached).await,
            None => observer = Some(context.shared.collections.size_observer(*only)),
        }
    }
    if context.is_head() {
        return Ok(head(context, form, current));
    }
    streamed(context, Content { collections, keys: None, form }, current, observer).await
}

/// A 304, if the client has this already.
///
/// # Errors
/// A 412, if it expects another one.
fn unchanged(
    context: &RequestContext,
    form: Form,
    current: CollectionRevision,
) -> Result<Option<HttpResponse>, Problem> {
    let if_match = precondition(context)?.if_match;
    if !(Precondition { if_match, if_none_match: None }).holds(Some(current.changed)) {
        return Err(unexpected(context, Some(current.changed)).at(context.shared.epoch(), current.document));
    }
    let known = matching_etag(context, || tag(context, form, current.changed))?;
    Ok(known.map(|tag| {
        let mut response = state(context, StatusCode::NOT_MODIFIED, current.document, content_type(form));
        response.insert_header((ETAG, quoted(&tag))).finish()
    }))
}

/// The head of a body that is not made.
fn head(context: &RequestContext, form: Form, current: CollectionRevision) -> HttpResponse {
    let mut response = state(context, StatusCode::OK, current.document, content_type(form));
    response.insert_header((ETAG, quoted(&tag(context, form, current.changed)))).body(Nothing::new())
}

/// The durable revision, usually without a question to the database.
async fn current(context: &RequestContext, collections: &[CollectionId]) -> Result<CollectionRevision, Problem> {
    let committed = &context.shared.committed;
    let [only] = collections else {
        let document = committed.get();
        return Ok(CollectionRevision { document, changed: document });
    };
    match committed.of(*only) {
        Some((document, changed)) => Ok(CollectionRevision { document, changed }),
        None => Ok(context.shared.readers.send(LastChange(*only)).await??),
    }
}

fn content_type(form: Form) -> &'static str {
    if form == Form::Lines { NDJSON } else { JSON }
}

/// The entity tag for this revision of the last change, without quotes.
fn tag(context: &RequestContext, form: Form, changed: Revision) -> String {
    let tag = format!("{}.{changed}", context.shared.history.epoch_of(changed));
    match (form, context.caller().readable()) {
        (Form::Lines, _) => tag + "-ndjson",
        // Another caller may get other collections of the same revision.
        (Form::Document, Readable::These { tag: scopes, .. }) => format!("{tag}-{scopes}"),
        (Form::Document | Form::Collection, _) => tag,
    }
}

fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// The shared body of a collection; `None` if there is no room for it.
async fn cached_body(
    context: &RequestContext,
    collection: CollectionId,
    current: CollectionRevision,
) -> Result<Option<CachedBody>, Problem> {
    let (cache, scanners) = (&context.shared.collections, &context.shared.scanners);
    loop {
        let build = match cache.lookup(collection, current) {
            Lookup::Cached(cached) => return Ok(Some(cached)),
            Lookup::Rejected => return Ok(None),
            Lookup::Pending(build) => build,
        };
        // If this client disconnects while it runs, another one that waits starts it again.
        let run = || async {
            let building = scanners.try_send(cache.build_job(collection))?;
            Ok::<_, PoolBusy>(building.await.unwrap_or(BuildOutcome::Failed))
        };
        match build.get_or_try_init(run).await? {
            BuildOutcome::Built(cached) if cached.revision >= current.document => return Ok(Some(cached.clone())),
            // It began before that revision was written; the next build includes it.
            BuildOutcome::Built(_) => {}
            BuildOutcome::Rejected => return Ok(None),
            BuildOutcome::Failed => return Err(unreadable()),
        }
    }
}

fn unreadable() -> Problem {
    Problem::new(Kind::Internal, "the collection cannot be read")
}

async fn shared(context: &RequestContext, cached: &CachedBody) -> Result<HttpResponse, Problem> {
    let mut response = state(context, StatusCode::OK, cached.revision, JSON);
    let tag = tag(context, Form::Collection, cached.changed());
    if cached.length() >= MIN_COMPRESSED
        && takes_gzip(&context.request)
        && let Some(gzip) = compressed(context, cached).await
    {
        response.insert_header((CONTENT_ENCODING, "gzip")).insert_header((ETAG, quoted(&format!("{tag}{GZIP}"))));
        return Ok(response.body(BodyStream::new(gzip)));
    }
    Ok(response.insert_header((ETAG, quoted(&tag))).body(BodyStream::new(cached.text())))
}

/// The compressed text of a body, which is made for the first request; `None` if there is no room for it.
async fn compressed(context: &RequestContext, cached: &CachedBody) -> Option<Bytes> {
    let job = || async {
        let compressing = context.shared.scanners.try_send(context.shared.collections.compress_job(cached));
        compressing.map_err(|_| PoolStopped)?.await
    };
    // If it fails, this response is sent uncompressed, and the next request tries again.
    cached.gzip().get_or_try_init(job).await.ok().cloned().flatten()
}

/// A body that is made while it is sent, by one thread for all who ask for it at the same time.
async fn streamed(
    context: &RequestContext,
    content: Content,
    current: CollectionRevision,
    observer: Option<SizeObserver>,
) -> Result<HttpResponse, Problem> {
    let form = content.form;
    let SpooledResponse { shown, body } = spooled(context, content, current, observer).await?;
    let mut response = state(context, StatusCode::OK, shown.document, content_type(form));
    Ok(response.insert_header((ETAG, quoted(&tag(context, form, shown.changed)))).body(body))
}
