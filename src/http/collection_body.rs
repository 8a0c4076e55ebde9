//! Whole collections: one body shared by all its readers, or a stream if the cache has no room for it.

use actix_web::body::None as Nothing;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_ENCODING;
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};

use super::accept::{Coding, check_identity, coding};
use super::caching::{GZIP, LINES, Tag};
use super::conditions::{Verdict, verdict};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, NDJSON, state};
use super::spooled_response::{SpooledResponse, spooled};
use crate::access::permissions::Readable;
use crate::domain::key::{CollectionId, Key};
use crate::domain::revision::Revision;
use crate::read::body_stream::BodyStream;
use crate::read::collection_cache::{BuildOutcome, CachedBody, CollectionRevision, Lookup, SizeObserver};
use crate::read::collection_writer::Form;
use crate::read::shared_spools::Content;
use crate::read::thread_pool::{PoolBusy, PoolStopped};
use crate::storage::database::Writers;

/// Shorter bodies are not compressed, because they fit into one packet anyway; in bytes.
const MIN_COMPRESSED: usize = 1024;

/// Responds with those of some aggregates that exist.
pub(super) async fn get_keys(
    context: &RequestContext,
    collection: CollectionId,
    keys: Vec<Key>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    check_identity(&context.request)?;
    let collections = vec![collection];
    let current = current(context, &collections).await?;
    if let Some(unchanged) = unchanged(context, form, current)? {
        return Ok(unchanged);
    }
    let content = Content { collections, keys: Some(keys.into()), form };
    let SpooledResponse { shown, mut body } = spooled(context, content, current, None).await?;
    body.name_length();
    Ok(head(context, form, shown).body(body))
}

/// Responds with whole collections, exact at the revision that the response names.
pub(super) async fn get_collection(
    context: &RequestContext,
    collections: Vec<CollectionId>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let coding = coding(&context.request)?;
    let current = current(context, &collections).await?;
    if let Some(unchanged) = unchanged(context, form, current)? {
        return Ok(unchanged);
    }
    let mut observer = None;
    if let (Form::Collection, [only]) = (form, &collections[..]) {
        match cached_body(context, *only, current).await? {
            Some(cached) => return shared(context, &cached, coding).await,
            None => observer = Some(context.shared.collections.size_observer(*only)),
        }
    }
    check_identity(&context.request)?;
    if context.is_head() {
        return Ok(head(context, form, current).body(Nothing::new()));
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
    Ok(
        match verdict(context, &tag(context, form, current.changed))
            .map_err(|problem| problem.at(context.shared.epoch(), current.document))?
        {
            Verdict::Send => None,
            Verdict::Unchanged(known) => {
                let status = StatusCode::NOT_MODIFIED;
                Some(state(context, status, current.document, content_type(form), &known).finish())
            }
        },
    )
}

/// The head of the body of this revision.
fn head(context: &RequestContext, form: Form, shown: CollectionRevision) -> HttpResponseBuilder {
    let tag = tag(context, form, shown.changed);
    state(context, StatusCode::OK, shown.document, content_type(form), &tag)
}

/// The durable revision, usually without a question to the database, and else with one that others share.
async fn current(context: &RequestContext, collections: &[CollectionId]) -> Result<CollectionRevision, Problem> {
    match context.shared.committed.of(collections) {
        Some((document, changed)) => Ok(CollectionRevision { document, changed }),
        None => Ok(context.shared.last_changes.of(&context.shared.readers, collections).await?),
    }
}

fn content_type(form: Form) -> &'static str {
    if form == Form::Lines { NDJSON } else { JSON }
}

/// The entity tag for this revision of the last change.
fn tag(context: &RequestContext, form: Form, changed: Revision) -> Tag {
    let tag = Tag::of_revision(&context.shared.history, changed);
    match (form, context.caller().readable()) {
        (Form::Lines, _) => tag.with(LINES),
        // Another caller may get other collections of the same revision.
        (Form::Document, Readable::These { tag: scopes, .. }) => tag.with("-").with(&scopes),
        (Form::Document | Form::Collection, _) => tag,
    }
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
            BuildOutcome::Failed => return Err(unreadable(context)),
        }
    }
}

fn unreadable(context: &RequestContext) -> Problem {
    if context.shared.database.writers() == Writers::Many {
        return Problem::unavailable();
    }
    Problem::new(Kind::Internal, "the collection cannot be read")
}

async fn shared(context: &RequestContext, cached: &CachedBody, coding: Coding) -> Result<HttpResponse, Problem> {
    let tag = tag(context, Form::Collection, cached.changed());
    let is_compressed = coding == Coding::OnlyGzip || (coding == Coding::Gzip && cached.length() >= MIN_COMPRESSED);
    if is_compressed && let Some(gzip) = compressed(context, cached).await {
        let mut response = state(context, StatusCode::OK, cached.revision, JSON, &tag.with(GZIP));
        return Ok(response.insert_header((CONTENT_ENCODING, "gzip")).body(BodyStream::new(gzip)));
    }
    check_identity(&context.request)?;
    Ok(state(context, StatusCode::OK, cached.revision, JSON, &tag).body(BodyStream::new(cached.text())))
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
    Ok(head(context, form, shown).body(body))
}
