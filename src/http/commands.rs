//! Writes: a request becomes a command, and its outcome an answer, once it is on disk.

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use actix_web::{HttpResponse, web};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer;
use super::problem::Problem;
use super::request::Call;
use crate::aggregator::{ExecuteError, execute};
use crate::collection::{Change, Command, Refusal, Verb, guarded};
use crate::key::Key;
use crate::store::Written;

/// `POST /persons`
pub(super) async fn create(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::New, Verb::Create, payload).await?;
    let location =
        format!("/{}/{}", call.collection()?.name(), utf8_percent_encode(written.key.as_str(), IN_A_SEGMENT));
    let mut response = aggregate(&call, StatusCode::CREATED, &written);
    if let Ok(location) = location.parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `PUT /persons/1`
pub(super) async fn replace(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::Keyed, Verb::Replace, payload).await?;
    Ok(aggregate(&call, StatusCode::OK, &written))
}

/// `PATCH /persons/1`
pub(super) async fn patch(call: Call, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let written = write(&call, Target::Keyed, Verb::Patch, payload).await?;
    Ok(aggregate(&call, StatusCode::OK, &written))
}

/// `DELETE /persons/1`
pub(super) async fn delete(call: Call) -> Result<HttpResponse, Problem> {
    let outcome = async {
        call.query(&[])?;
        send(&call, Some(call.key()?), Change::Delete).await
    };
    let written = outcome.await.map_err(|problem| at_present(&call, problem))?;
    Ok(answer(StatusCode::NO_CONTENT, &call.shared.epoch, written.revision).finish())
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

async fn write(call: &Call, target: Target, verb: Verb, payload: web::Payload) -> Result<Written, Problem> {
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
    let command = Command { collection: call.collection_id()?, key, change };
    let outcome = execute(&call.shared.aggregator, command).await;
    outcome.map_err(|error| Problem::of_command(error, call.request.path()))
}

/// The aggregate as it is now.
fn aggregate(call: &Call, status: StatusCode, written: &Written) -> HttpResponse {
    answer(status, &call.shared.epoch, written.revision)
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .body(written.body.as_ref().map_or_else(String::new, |body| body.as_str().to_owned()))
}

/// What is encoded in a path segment: all but the unreserved characters of RFC 3986.
const IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
