//! Reads of the current state.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::ETAG;
use serde::Deserialize;

use super::accept::accepted;
use super::collection_body::get_collection;
use super::conditions::{precondition, tag, unexpected};
use super::problem::{Kind, Problem};
use super::query::{Last, NoParams};
use super::request::{RequestContext, selected_keys};
use super::respond::{JSON, NDJSON, state};
use crate::domain::feed::push_member;
use crate::domain::key::{CollectionId, Key};
use crate::domain::precondition::Precondition;
use crate::domain::revision::Version;
use crate::read::collection_writer::Form;
use crate::read::pool::{FoldAggregate, ReadAggregates};

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

/// `GET /aggregates`: the whole document.
pub(super) async fn document(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    let DocumentParams { collection } = context.params()?;
    let collections = context.named_collections(collection.iter().map(String::as_str))?;
    let collections = collections.unwrap_or_else(|| context.shared.registry.ids().collect());
    get_collection(&context, collections, Form::Document).await
}

/// `GET /persons`
pub(super) async fn collection(context: RequestContext) -> Result<HttpResponse, Problem> {
    let form = accepted(&context.request, &[JSON, NDJSON])?;
    let CollectionParams { key } = context.params()?;
    let id = context.collection_id()?;
    match selected_keys(key.iter().map(String::as_str))? {
        Some(keys) => get_keys(&context, id, keys, form).await,
        None => get_collection(&context, vec![id], if form == NDJSON { Form::Lines } else { Form::Collection }).await,
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
    if let Some(version) = version.number("version", 0..=i64::MAX.unsigned_abs())? {
        return at_version(&context, collection, key, Version::from_raw(version.cast_signed())).await;
    }
    let (revision, mut rows) = context.shared.readers.send(ReadAggregates { collection, keys: vec![key] }).await??;
    let row = rows.pop().map(|(_, row)| row);
    let changed = row.as_ref().map(|row| row.revision);
    let Some(body) = row.and_then(|row| row.body) else {
        return Err(Problem::not_found(context.request.path()).at(context.shared.epoch(), revision));
    };
    let Precondition { if_match, if_none_match } = precondition(&context)?;
    let holds = |if_match, if_none_match| Precondition { if_match, if_none_match }.holds(changed);
    if !holds(if_match, None) {
        return Err(unexpected(&context, changed).at(context.shared.epoch(), revision));
    }
    let tag = changed.map(|changed| tag(&context.shared.history, changed)).unwrap_or_default();
    if !holds(None, if_none_match) {
        return Ok(state(&context, StatusCode::NOT_MODIFIED, revision, JSON).insert_header((ETAG, tag)).finish());
    }
    let mut response = state(&context, StatusCode::OK, revision, JSON);
    Ok(response.insert_header((ETAG, tag)).body(body.as_str().to_owned()))
}

/// Time travel: the state of the aggregate after its first `version` events.
async fn at_version(
    context: &RequestContext,
    collection: CollectionId,
    key: Key,
    version: Version,
) -> Result<HttpResponse, Problem> {
    let fold = FoldAggregate { collection, key, up_to: Some(version) };
    let (revision, folded) = context.shared.readers.send(fold).await??;
    match folded.body.filter(|_| folded.version == version) {
        Some(body) => Ok(state(context, StatusCode::OK, revision, JSON).body(body.as_str().to_owned())),
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

/// The selected aggregates that exist.
async fn get_keys(
    context: &RequestContext,
    collection: CollectionId,
    keys: Vec<Key>,
    form: &'static str,
) -> Result<HttpResponse, Problem> {
    let (revision, rows) = context.shared.readers.send(ReadAggregates { collection, keys }).await??;
    let mut body = String::new();
    for (key, row) in &rows {
        let Some(aggregate) = &row.body else { continue };
        if form == NDJSON {
            body.push('{');
            push_member(&mut body, "key", &serde_json::Value::from(key.as_str()).to_string());
            body.push(',');
            push_member(&mut body, "aggregate", aggregate.as_str());
            body.push_str("}\n");
        } else {
            body.push(if body.is_empty() { '{' } else { ',' });
            push_member(&mut body, key.as_str(), aggregate.as_str());
        }
    }
    if form == JSON {
        body.push_str(if body.is_empty() { "{}" } else { "}" });
    }
    Ok(state(context, StatusCode::OK, revision, form).body(body))
}
