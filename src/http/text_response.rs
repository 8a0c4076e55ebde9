//! The response with a JSON text that has no revision of its own: its entity tag follows from the text.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;

use super::caching::Tag;
use super::conditions::{Verdict, verdict};
use super::problem::Problem;
use super::request::RequestContext;
use super::respond::{JSON, state};
use super::spooled_response::whole;
use crate::domain::revision::Revision;

/// Responds with a text, or with a 304.
///
/// # Errors
/// A 412, if the client expects another text; a 400, if a condition is malformed; a 503, if there is no room for the text.
pub(super) async fn text_response(
    context: &RequestContext,
    revision: Revision,
    text: String,
) -> Result<HttpResponse, Problem> {
    let tag = Tag::of_text(text.as_bytes());
    let verdict = verdict(context, &tag).map_err(|problem| problem.at(context.shared.epoch(), revision))?;
    match verdict {
        Verdict::Send => whole(context, state(context, StatusCode::OK, revision, JSON, &tag), text).await,
        Verdict::Unchanged(known) => Ok(state(context, StatusCode::NOT_MODIFIED, revision, JSON, &known).finish()),
    }
}
