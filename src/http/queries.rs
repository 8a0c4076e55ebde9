//! Reads of the current state.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::ETAG;

use super::accept::accepted;
use super::collection_body::whole;
use super::conditions::{precondition, tag, unexpected};
use super::problem::{Kind, Problem};
use super::request::Call;
use super::respond::{JSON, NDJSON, state};
use crate::domain::collection::CollectionId;
use crate::domain::cursor::Version;
use crate::domain::feed::push_member;
use crate::domain::key::Key;
use crate::domain::precondition::Precondition;
use crate::read::pool::{FoldAggregate, Form, ReadAggregates};

/// `GET /aggregates`: the whole document.
pub(super) async fn document(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &[JSON])?;
    let query = call.query(&["collection"])?;
    let collections = call.collections(&query)?.unwrap_or_else(|| call.shared.registry.ids().collect());
    whole(&call, collections, Form::Document).await
}

/// `GET /persons`
pub(super) async fn collection(call: Call) -> Result<HttpResponse, Problem> {
    let form = accepted(&call.request, &[JSON, NDJSON])?;
    let query = call.query(&["key"])?;
    let id = call.collection_id()?;
    match call.keys(&query)? {
        Some(keys) => some(&call, id, keys, form).await,
        None => whole(&call, vec![id], if form == NDJSON { Form::Lines } else { Form::Collection }).await,
    }
}

/// `GET /persons/1`, `GET /carts/0193…?version=3`
pub(super) async fn aggregate(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &[JSON])?;
    let is_journaled = call.collection()?.journaled().is_some();
    let query = call.query(if is_journaled { &["version"] } else { &[] })?;
    let (collection, key) = (call.collection_id()?, call.key()?);
    if let Some(version) = query.number("version", 0..=i64::MAX.unsigned_abs())? {
        return at_version(&call, collection, key, Version::stored(version.cast_signed())).await;
    }
    let (revision, mut rows) = call.shared.readers.send(ReadAggregates { collection, keys: vec![key] }).await??;
    let row = rows.pop().map(|(_, row)| row);
    let changed = row.as_ref().map(|row| row.revision);
    let Some(body) = row.and_then(|row| row.body) else {
        return Err(Problem::not_found(call.request.path()).at(&call.shared.epoch, revision));
    };
    let Precondition { if_match, if_none_match } = precondition(&call)?;
    let holds = |if_match, if_none_match| Precondition { if_match, if_none_match }.holds(changed);
    if !holds(if_match, None) {
        return Err(unexpected(&call, changed).at(&call.shared.epoch, revision));
    }
    let tag = changed.map(|changed| tag(&call.shared.epoch, changed)).unwrap_or_default();
    if !holds(None, if_none_match) {
        return Ok(state(&call, StatusCode::NOT_MODIFIED, revision, JSON).insert_header((ETAG, tag)).finish());
    }
    let mut response = state(&call, StatusCode::OK, revision, JSON);
    Ok(response.insert_header((ETAG, tag)).body(body.as_str().to_owned()))
}

/// Time travel: the aggregate as its first events say.
async fn at_version(
    call: &Call,
    collection: CollectionId,
    key: Key,
    version: Version,
) -> Result<HttpResponse, Problem> {
    let fold = FoldAggregate { collection, key, up_to: Some(version) };
    let (revision, folded) = call.shared.readers.send(fold).await??;
    match folded.body.filter(|_| folded.version == version) {
        Some(body) => Ok(state(call, StatusCode::OK, revision, JSON).body(body.as_str().to_owned())),
        None if folded.version < version => {
            let detail = format!("{} has {} events, and no version {version}", call.request.path(), folded.version);
            Err(Problem::new(Kind::NotFound, detail).at(&call.shared.epoch, revision))
        }
        None => {
            let detail = format!("{} is not there at version {version}", call.request.path());
            Err(Problem::new(Kind::NotFound, detail).at(&call.shared.epoch, revision))
        }
    }
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
    Ok(state(call, StatusCode::OK, revision, form).body(body))
}
