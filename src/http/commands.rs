//! Writes: a request becomes a command; the response follows when its outcome is on disk.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, LOCATION};
use actix_web::{HttpResponse, web};
use actix_web_lab::extract::LocalData;
use percent_encoding::utf8_percent_encode;

use super::caching::{Caching, Tag};
use super::conditions::{precondition, unexpected};
use super::idempotency::{enter, fingerprint, idempotency, kept_problem, mark_replayed, request_id, without_state};
use super::last_request::no_response;
use super::metadata::metadata;
use super::preferences::{APPLIED, Returned};
use super::problem::Problem;
use super::query::NoParams;
use super::request::RequestContext;
use super::request_body::{ParsedBody, RequestBody, charge_change};
use super::respond::{JSON, answer};
use super::spooled_response::whole;
use crate::access::need::PATH_SEGMENT;
use crate::domain::command::{Change, Command, Rejection, Verb, catch_panic};
use crate::domain::idempotency::{Fingerprint, RequestId};
use crate::domain::key::Key;
use crate::memory::fair_shares::Share;
use crate::storage::commit_outcome::Written;
use crate::write::aggregator::{CommandReplies, ExecuteError, Submission, execute};

/// `POST /persons`, `POST /carts`
pub(super) async fn create(
    context: RequestContext,
    replies: LocalData<CommandReplies>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    write(&context, &replies, Target::New, Verb::Create, payload).await
}

/// `PUT /persons/1`, `PUT /carts/0193…`
pub(super) async fn put(
    context: RequestContext,
    replies: LocalData<CommandReplies>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    write(&context, &replies, Target::Keyed, Verb::Replace, payload).await
}

/// `PATCH /persons/1`
pub(super) async fn patch(
    context: RequestContext,
    replies: LocalData<CommandReplies>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    write(&context, &replies, Target::Keyed, Verb::Patch, payload).await
}

/// `POST /carts/0193…/add-item`
pub(super) async fn command(
    context: RequestContext,
    replies: LocalData<CommandReplies>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let name = context.command()?;
    write(&context, &replies, Target::Keyed, Verb::Command(&name), payload).await
}

/// `DELETE /persons/1`
pub(super) async fn delete(
    context: RequestContext,
    replies: LocalData<CommandReplies>,
) -> Result<HttpResponse, Problem> {
    let NoParams {} = context.params()?;
    let once = request_id(&context)?.map(|request| Once { request, fingerprint: fingerprint(&context, &[]) });
    let key = Some(context.key()?);
    Box::pin(send(&context, &replies, Prepared { key, change: Change::Delete, once, charge: None })).await
}

/// The aggregate that a request writes.
enum Target {
    /// A new one, whose key the collection assigns.
    New,
    /// The one in the path.
    Keyed,
}

/// What a request asks for.
struct Prepared {
    key: Option<Key>,
    change: Change,
    /// For a request with an idempotency key.
    once: Option<Once>,
    /// The memory of its body; `None` without one.
    charge: Option<Share>,
}

/// Which request it is, and what was sent with it.
struct Once {
    request: RequestId,
    fingerprint: Fingerprint,
}

async fn write(
    context: &RequestContext,
    replies: &CommandReplies,
    target: Target,
    verb: Verb<'_>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let NoParams {} = context.params()?;
    let key = match target {
        Target::New => None,
        Target::Keyed => Some(context.key()?),
    };
    let request = request_id(context)?;
    let mut body = context.body(payload).await?;
    let once = request.map(|request| Once { request, fingerprint: fingerprint(context, body.bytes()) });
    context.admit(&mut body)?;
    let (change, charge) = change(context, verb, body)?;
    Box::pin(send(context, replies, Prepared { key, change, once, charge: Some(charge) })).await
}

/// What a body asks for, and what that takes. In one pass if nothing about it is unusual; otherwise the strict reader says what
/// it is.
fn change(context: &RequestContext, verb: Verb<'_>, body: RequestBody) -> Result<(Change, Share), Problem> {
    let collection = context.collection()?;
    let rejected = |rejection| Problem::of_command(ExecuteError::Rejected(rejection), context.request.path());
    let (change, mut charge) = match catch_panic(|| Ok(collection.read(verb, body.bytes()))).map_err(rejected)? {
        Some(change) => (change, body.into_charge()),
        None => {
            let ParsedBody { json, charge } = context.json(body)?;
            let change = catch_panic(|| collection.change(verb, json).map_err(Rejection::Invalid)).map_err(rejected)?;
            (change, charge)
        }
    };
    charge_change(&mut charge, &change);
    Ok((change, charge))
}

/// Sends a command, and answers with its outcome. To be boxed: this future and the one that waits for it are then small enough for
/// the blocks that the allocator has at hand.
async fn send(context: &RequestContext, replies: &CommandReplies, prepared: Prepared) -> Result<HttpResponse, Problem> {
    let Prepared { key, change, once, charge } = prepared;
    let collection = context.collection_id()?;
    let precondition = precondition(context)?;
    let sight = Sight::of(context, key.as_ref())?;
    let in_flight = once.as_ref().map(|once| enter(context, once.request)).transpose()?;
    let idempotency = once.map(|Once { request, fingerprint }| idempotency(context, request, fingerprint));
    let command = Command { collection, key, precondition, idempotency, change, metadata: metadata(context)? };
    let waiting = context.shared.writes.wait(context.announced_length());
    let submission = Submission { command, replies: Some(replies), waiting, in_flight, charge };
    let error = match execute(&context.shared.aggregator, submission).await {
        Ok(written) => return Ok(response(context, written).await),
        Err(error) => error,
    };
    match (error, sight) {
        (ExecuteError::Rejected(Rejection::Kept(kept)), Sight::Full) => Ok(kept_problem(*kept)),
        (ExecuteError::Rejected(Rejection::Kept(kept)), Sight::None) => Ok(kept_problem(without_state(*kept))),
        (ExecuteError::Rejected(Rejection::PreconditionFailed(actual)), Sight::Full) => {
            Err(unexpected(context, actual))
        }
        (error, Sight::Full) => Err(Problem::of_command(error, &context.aggregate_path())),
        (error, Sight::None) => Err(Problem::of_command(error, &context.aggregate_path()).without_state()),
    }
}

/// What of an aggregate the response to a write may show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Full,
    /// The caller may write it, but not read it.
    None,
}

impl Sight {
    /// Without a key, of an aggregate that is to be created.
    fn of(context: &RequestContext, key: Option<&Key>) -> Result<Self, Problem> {
        let (caller, collection) = (context.caller(), context.collection_id()?);
        let may_read = match key {
            Some(key) => caller.may_read(collection, key),
            None => caller.readable().contains(collection),
        };
        Ok(if may_read { Self::Full } else { Self::None })
    }
}

/// The response with the aggregate after the command, or without a body if it no longer exists, the caller may not read
/// it, or wants none. If there is no room for the body, the connection ends without a response: no other one would be true.
async fn response(context: &RequestContext, written: Written) -> HttpResponse {
    let Written { key, body, revision, changed, is_new, repeats, charge, .. } = written;
    let tag = Tag::of_revision(&context.shared.history, changed);
    let sees = context.collection_id().is_ok_and(|collection| context.caller().may_read(collection, &key));
    let returned = context.preferences().returned;
    let body = body.filter(|_| sees && returned != Some(Returned::Minimal));
    let status = match &body {
        _ if is_new => StatusCode::CREATED,
        None => StatusCode::NO_CONTENT,
        Some(_) => StatusCode::OK,
    };
    let mut response = answer(status, repeats.as_ref().unwrap_or(context.shared.epoch()), revision);
    if repeats.is_some() {
        mark_replayed(&mut response);
    }
    Caching::WRITTEN.insert(&mut response, Some(&tag));
    match returned {
        Some(Returned::Minimal) => response.insert_header((APPLIED, "return=minimal")),
        Some(Returned::Representation) if body.is_some() => response.insert_header((APPLIED, "return=representation")),
        _ => &mut response,
    };
    if let (true, Ok(collection)) = (is_new, context.collection()) {
        let key = utf8_percent_encode(key.as_str(), PATH_SEGMENT);
        response.insert_header((LOCATION, format!("/{}/{key}", collection.name())));
    }
    let Some(body) = body else { return response.finish() };
    response.insert_header((CONTENT_TYPE, JSON));
    let text = body.as_str().to_owned();
    // The text takes its place, also while it goes into a file.
    drop(body);
    let response = whole(context, response, text).await;
    drop(charge);
    response.unwrap_or_else(|_| no_response())
}
