//! Writes: a request becomes a command, and its outcome an answer, once it is on disk.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use actix_web::{HttpResponse, web};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::conditions::{precondition, tag, unexpected};
use super::problem::Problem;
use super::request::Call;
use super::respond::{JSON, answer};
use crate::domain::collection::{Change, Command, Refusal, Verb, guarded};
use crate::domain::key::Key;
use crate::storage::commit::Written;
use crate::write::aggregator::{ExecuteError, execute};

/// `POST /persons`, `POST /carts`
pub(super) async fn create(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::New, Verb::Create, payload).await?;
    Ok(answered(&call, &written))
}

/// `PUT /persons/1`, `PUT /carts/0193…`
pub(super) async fn replace(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::Keyed, Verb::Replace, payload).await?;
    Ok(answered(&call, &written))
}

/// `PATCH /persons/1`
pub(super) async fn patch(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::Keyed, Verb::Patch, payload).await?;
    Ok(answered(&call, &written))
}

/// `POST /carts/0193…/add-item`
pub(super) async fn command(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let name = call.command().map_err(|problem| at_present(&call, problem))?;
    let written = write(&call, Target::Keyed, Verb::Command(&name), payload).await?;
    Ok(answered(&call, &written))
}

/// `DELETE /persons/1`
pub(super) async fn delete(call: Call) -> Result<HttpResponse, Problem> {
    let outcome = async {
        call.query(&[])?;
        send(&call, Some(call.key()?), Change::Delete).await
    };
    let written = outcome.await.map_err(|problem| at_present(&call, problem))?;
    Ok(answered(&call, &written))
}

/// Every answer to a write names a revision, also one that refuses.
fn at_present(call: &Call, problem: Problem) -> Problem {
    problem.at(&call.shared.epoch, call.shared.committed.get())
}

/// Which aggregate is written.
enum Target {
    /// One that the collection gives a key.
    New,
    /// The one in the path.
    Keyed,
}

async fn write(call: &Call, target: Target, verb: Verb<'_>, payload: web::Payload) -> Result<Written, Problem> {
    let outcome = async {
        call.query(&[])?;
        let key = match target {
            Target::New => None,
            Target::Keyed => Some(call.key()?),
        };
        let json = call.json(verb, payload).await?;
        let collection = call.collection()?;
        let change = guarded(|| collection.change(verb, json).map_err(Refusal::Invalid));
        let change =
            change.map_err(|refusal| Problem::of_command(ExecuteError::Refused(refusal), call.request.path()))?;
        send(call, key, change).await
    };
    outcome.await.map_err(|problem| at_present(call, problem))
}

async fn send(call: &Call, key: Option<Key>, change: Change) -> Result<Written, Problem> {
    let (collection, precondition) = (call.collection_id()?, precondition(call)?);
    let command = Command { collection, key, precondition, change };
    execute(&call.shared.aggregator, Some(call.outcomes()?), command).await.map_err(|error| match error {
        ExecuteError::Refused(Refusal::Unexpected(actual)) => unexpected(call, actual),
        error => Problem::of_command(error, &call.aggregate_path()),
    })
}

/// The aggregate as it is now: new, or another, or gone.
fn answered(call: &Call, written: &Written) -> HttpResponse {
    let epoch = &call.shared.epoch;
    let Some(body) = &written.body else {
        return answer(StatusCode::NO_CONTENT, epoch, written.revision).finish();
    };
    let status = if written.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = answer(status, epoch, written.revision);
    response
        .insert_header((CONTENT_TYPE, JSON))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((ETAG, tag(epoch, written.changed)));
    if let (true, Ok(collection)) = (written.is_new, call.collection()) {
        let key = utf8_percent_encode(written.key.as_str(), IN_A_SEGMENT);
        response.insert_header((LOCATION, format!("/{}/{key}", collection.name())));
    }
    response.body(body.as_str().to_owned())
}

/// What is encoded in a path segment: all but the unreserved characters of RFC 3986.
const IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
