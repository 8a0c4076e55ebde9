//! Whole collections: one body for all who read it, or streamed where there is no room for one.

use actix_web::HttpResponse;
use actix_web::body::None as Nothing;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, ETAG};
use tokio::sync::oneshot;

use super::accept::takes_gzip;
use super::conditions::{GZIP, matching_etag, precondition, unexpected};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, NDJSON, state};
use crate::domain::key::CollectionId;
use crate::domain::precondition::Precondition;
use crate::domain::revision::Revision;
use crate::read::collection_cache::{Asked, Measure, Sending, Shown, Text, Zipped};
use crate::read::pool::{Form, LastChange, ReadCollections};
use crate::read::spooled_body::spool;

/// Bodies that are shorter than this, in bytes, are not compressed: one packet holds them as they are.
const WORTH_COMPRESSING: usize = 1024;

/// Exact at the revision that it names.
pub(super) async fn get_collection(
    context: &RequestContext,
    collections: Vec<CollectionId>,
    form: Form,
) -> Result<HttpResponse, Problem> {
    let committed = &context.shared.committed;
    let (revision, changed) = match &collections[..] {
        [only] => match committed.of(*only) {
            Some(known) => known,
            None => context.shared.readers.send(LastChange(*only)).await??,
        },
        _ => {
            let revision = committed.get();
            (revision, revision)
        }
    };
    let if_match = precondition(context)?.if_match;
    if !(Precondition { if_match, if_none_match: None }).holds(Some(changed)) {
        return Err(unexpected(context, Some(changed)).at(&context.shared.epoch, revision));
    }
    if let Some(tag) = matching_etag(context, || tag(context, form, changed))? {
        let mut response = state(context, StatusCode::NOT_MODIFIED, revision, content_type(form));
        return Ok(response.insert_header((ETAG, quoted(&tag))).finish());
    }
    let mut measure = None;
    if let (Form::Collection, [only]) = (form, &collections[..]) {
        match shown(context, *only, (revision, changed)).await? {
            Some(shown) => return shared(context, shown).await,
            None => measure = Some(context.shared.bodies.measure(*only)),
        }
    }
    if context.is_head() {
        let mut response = state(context, StatusCode::OK, revision, content_type(form));
        return Ok(response.insert_header((ETAG, quoted(&tag(context, form, changed)))).body(Nothing::new()));
    }
    streamed(context, collections, form, measure).await
}

fn content_type(form: Form) -> &'static str {
    if form == Form::Lines { NDJSON } else { JSON }
}

/// The tag of what last changed at this revision, without quotes.
fn tag(context: &RequestContext, form: Form, changed: Revision) -> String {
    let suffix = if form == Form::Lines { "-ndjson" } else { "" };
    format!("{}.{changed}{suffix}", context.shared.epoch)
}

fn quoted(tag: &str) -> String {
    format!("\"{tag}\"")
}

/// The body of a collection for all who read it; `None` when there is no room for one.
async fn shown(
    context: &RequestContext,
    collection: CollectionId,
    (revision, changed): (Revision, Revision),
) -> Result<Option<Shown>, Problem> {
    match context.shared.bodies.ask(collection, (revision, changed)) {
        Asked::Here(shown) => Ok(Some(shown)),
        Asked::TooLarge => Ok(None),
        Asked::Pending { answer, make } => {
            if let Some(make) = make {
                context.shared.scanners.do_send(make);
            }
            answer.await.map_err(|_| unreadable())
        }
    }
}

fn unreadable() -> Problem {
    Problem::new(Kind::Internal, "the collection cannot be read")
}

async fn shared(context: &RequestContext, Shown { body, revision }: Shown) -> Result<HttpResponse, Problem> {
    let mut response = state(context, StatusCode::OK, revision, JSON);
    let tag = tag(context, Form::Collection, body.changed());
    if body.size() >= WORTH_COMPRESSING && takes_gzip(&context.request) {
        let gzip = match context.shared.bodies.zipped(&body) {
            Zipped::Here(gzip) => Some(gzip),
            Zipped::Plain => None,
            Zipped::Pending { answer, zip } => {
                if let Some(zip) = zip {
                    context.shared.scanners.do_send(zip);
                }
                // One that does not come can be done without.
                answer.await.ok()
            }
        };
        if let Some(gzip) = gzip {
            response.insert_header((CONTENT_ENCODING, "gzip")).insert_header((ETAG, quoted(&format!("{tag}{GZIP}"))));
            return Ok(response.body(Sending::new(Text::Gzip(gzip))));
        }
    }
    Ok(response.insert_header((ETAG, quoted(&tag))).body(Sending::new(Text::Plain(body))))
}

async fn streamed(
    context: &RequestContext,
    collections: Vec<CollectionId>,
    form: Form,
    measure: Option<Measure>,
) -> Result<HttpResponse, Problem> {
    let (spool, body) = spool(&context.shared.spool_directory);
    let (shown, reading) = oneshot::channel();
    context.shared.scanners.do_send(ReadCollections { collections, form, shown, body: spool, measure });
    let (revision, changed) = reading.await.map_err(|_| unreadable())?;
    let mut response = state(context, StatusCode::OK, revision, content_type(form));
    Ok(response.insert_header((ETAG, quoted(&tag(context, form, changed)))).body(body))
}
