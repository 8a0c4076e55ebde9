//! Reads of the current state.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::Deserialize;

use super::accept::{accepted, accepted_type};
use super::awaited_revision::await_revision;
use super::caching::Tag;
use super::collection_body::{get_collection, get_keys};
use super::conditions::{precondition, unexpected};
use super::problem::{Kind, Problem};
use super::query::{Last, NoParams};
use super::request::RequestContext;
use super::respond::{JSON, NDJSON, state};
use super::spooled_response::whole;
use super::text_response::text_response;
use crate::domain::key::{CollectionId, Key};
use crate::domain::precondition::Precondition;
use crate::domain::revision::Version;
use crate::read::collection_writer::Form;
use crate::read::pool::{FoldAggregate, ReadAggregate, ReadErasure};

#[derive(Default, Deserialize)]
#[serde(default)]
struct DocumentParams {
    collection: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CollectionParams {
    key: Vec<String>,
}

/// The parameters of an event-sourced aggregate; others have none.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AggregateParams {
    version: Last,
}

/// Folding so many events takes no longer than a page.
const FEW_EVENTS: i64 = 100;

/// `GET /aggregates`: the whole document.
pub(super) async fn document(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    let DocumentParams { collection } = context.params()?;
    let collections = context.named_collections(collection.iter().map(String::as_str))?;
    await_revision(&context).await?;
    let collections = collections.unwrap_or_else(|| context.shared.registry.ids().collect());
    get_collection(&context, collections, Form::Document).await
}

/// `GET /persons`
pub(super) async fn collection(context: RequestContext) -> Result<HttpResponse, Problem> {
    let form = accepted_type(&context.request, &[JSON, NDJSON])?;
    let CollectionParams { key } = context.params()?;
    let id = context.collection_id()?;
    let form = if form == NDJSON { Form::Lines } else { Form::Collection };
    let keys = context.selected_keys(key.iter().map(String::as_str))?;
    await_revision(&context).await?;
    match keys {
        Some(keys) => get_keys(&context, id, keys, form).await,
        None => get_collection(&context, vec![id], form).await,
    }
}

/// `GET /persons/1`, `GET /carts/0193…?version=3`
pub(super) async fn aggregate(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    let version = match context.collection()?.journaled() {
        Some(_) => context.params::<AggregateParams>()?.version,
        None => context.params().map(|NoParams {}| Last::default())?,
    };
    let collection = context.collection_id()?;
    let key = context.key()?;
    let Precondition { if_match, if_none_match } = precondition(&context)?;
    await_revision(&context).await?;
    if let Some(version) = version.number("version", 0..=i64::MAX.unsigned_abs())? {
        return at_version(&context, collection, key, Version::from_raw(version.cast_signed())).await;
    }
    let read = ReadAggregate { collection, key: key.clone() };
    let (revision, row) = context.shared.readers.send(read).await??;
    let Some((changed, body)) = row.and_then(|row| Some((row.revision, row.body?))) else {
        return Err(not_there(&context, collection, key).await?.at(context.shared.epoch(), revision));
    };
    let holds = |if_match, if_none_match| Precondition { if_match, if_none_match }.holds(Some(changed));
    if !holds(if_match, None) {
        return Err(unexpected(&context, Some(changed)).at(context.shared.epoch(), revision));
    }
    let tag = Tag::of_revision(&context.shared.history, changed);
    if !holds(None, if_none_match) {
        return Ok(state(&context, StatusCode::NOT_MODIFIED, revision, JSON, &tag).finish());
    }
    whole(&context, state(&context, StatusCode::OK, revision, JSON, &tag), body.as_str().to_owned()).await
}

/// The problem of an aggregate that does not exist, or not any more.
async fn not_there(context: &RequestContext, collection: CollectionId, key: Key) -> Result<Problem, Problem> {
    let path = context.request.path();
    let erasure = context.shared.readers.send(ReadErasure { collection, key }).await??;
    Ok(erasure.map_or_else(|| Problem::not_found(path), |_| Problem::no_longer_found(path)))
}

/// Time travel: the state of the aggregate after its first `version` events.
async fn at_version(
    context: &RequestContext,
    collection: CollectionId,
    key: Key,
    version: Version,
) -> Result<HttpResponse, Problem> {
    let fold = FoldAggregate { collection, key, up_to: Some(version) };
    // The number of events says how long it takes.
    let shared = &context.shared;
    let pool = if version.number() <= FEW_EVENTS { &shared.readers } else { &shared.scanners };
    let (revision, folded) = pool.try_send(fold)?.await??;
    match folded.body.filter(|_| folded.version == version) {
        Some(body) => text_response(context, revision, body.as_str().to_owned()).await,
        None if folded.is_erased => {
            Err(Problem::no_longer_found(context.request.path()).at(context.shared.epoch(), revision))
        }
        None if folded.version < version => {
            let detail =
                format!("{} has no version {version}; its last version is {}", context.request.path(), folded.version);
            Err(Problem::new(Kind::NotFound, detail).at(context.shared.epoch(), revision))
        }
        None => {
            let detail = format!("{} does not exist at version {version}", context.request.path());
            Err(Problem::new(Kind::NotFound, detail).at(context.shared.epoch(), revision))
        }
    }
}
