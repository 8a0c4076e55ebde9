//! The response with a constant body: complete, compressed or a `304`.

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_ENCODING;
use actix_web::{HttpResponse, HttpResponseBuilder};

use super::accept::{Coding, coding};
use super::caching::{Caching, GZIP};
use super::conditions::{Verdict, verdict};
use super::constant_body::ConstantBody;
use super::problem::Problem;
use super::request::RequestContext;
use crate::read::body_stream::BodyStream;

/// Completes a response with this body, or makes it a `304`.
///
/// # Errors
/// A 412, if the client expects another body; a 400, if a condition is malformed; a 406, if it takes no coding.
pub(super) fn respond(
    context: &RequestContext,
    mut response: HttpResponseBuilder,
    caching: Caching,
    body: &ConstantBody,
) -> Result<HttpResponse, Problem> {
    let coding = coding(&context.request)?;
    if let Verdict::Unchanged(known) = verdict(context, body.tag())? {
        caching.insert(&mut response, Some(&known));
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    if coding != Coding::Identity {
        caching.insert(&mut response, Some(&body.tag().clone().with(GZIP)));
        return Ok(response.insert_header((CONTENT_ENCODING, "gzip")).body(BodyStream::new(body.gzip())));
    }
    caching.insert(&mut response, Some(body.tag()));
    Ok(response.body(BodyStream::new(body.text())))
}
