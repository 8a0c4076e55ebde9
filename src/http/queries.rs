//! Reads of the current state.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use tokio::sync::oneshot;

use super::accept::accepted;
use super::problem::{Kind, Problem};
use super::request::Call;
use super::{JSON, NDJSON, answer};
use crate::collection::CollectionId;
use crate::cursor::Revision;
use crate::feed::push_member;
use crate::key::Key;
use crate::readers::{Form, ReadAggregates, ReadCollections};
use crate::spool::spool;

/// `GET /aggregates`: the whole document.
pub(super) async fn document(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &[JSON])?;
    let query = call.query(&["collection"])?;
    let collections = call.collections(&query)?.unwrap_or_else(|| call.shared.registry.ids().collect());
    whole(&call, collections, Form::Document, JSON).await
}

/// `GET /persons`
pub(super) async fn collection(call: Call) -> Result<HttpResponse, Problem> {
    let form = accepted(&call.request, &[JSON, NDJSON])?;
    let query = call.query(&["key"])?;
    let id = call.collection_id()?;
    match call.keys(&query)? {
        Some(keys) => some(&call, id, keys, form).await,
        None => whole(&call, vec![id], if form == NDJSON { Form::Lines } else { Form::Collection }, form).await,
    }
}

/// `GET /persons/1`
pub(super) async fn aggregate(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &[JSON])?;
    call.query(&[])?;
    let read = ReadAggregates { collection: call.collection_id()?, keys: vec![call.key()?] };
    let (revision, mut rows) = call.shared.readers.send(read).await??;
    match rows.pop() {
        Some((_, body)) => Ok(state(&call, revision, JSON).body(body.as_str().to_owned())),
        None => Err(Problem::not_found(call.request.path()).at(&call.shared.epoch, revision)),
    }
}

/// Streamed, exact at the revision that it names.
async fn whole(
    call: &Call,
    collections: Vec<CollectionId>,
    form: Form,
    content_type: &'static str,
) -> Result<HttpResponse, Problem> {
    if call.is_head() {
        return Ok(state(call, call.shared.committed.get(), content_type).body(actix_web::body::None::new()));
    }
    let (spool, body) = spool(&call.shared.spool_directory);
    let (shown, revision) = oneshot::channel();
    call.shared.scanners.do_send(ReadCollections { collections, form, revision: shown, body: spool });
    let revision = revision.await.map_err(|_| Problem::new(Kind::Internal, "the collection cannot be read"))?;
    Ok(state(call, revision, content_type).body(body))
}

/// Those of the keys that are there.
async fn some(
    call: &Call,
    collection: CollectionId,
    keys: Vec<Key>,
    form: &'static str,
) -> Result<HttpResponse, Problem> {
    let (revision, rows) = call.shared.readers.send(ReadAggregates { collection, keys }).await??;
    let mut body = String::new();
    for (key, aggregate) in &rows {
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
    Ok(state(call, revision, form).body(body))
}

fn state(call: &Call, revision: Revision, content_type: &'static str) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, &call.shared.epoch, revision);
    response
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "Accept, Accept-Encoding"));
    response
}
