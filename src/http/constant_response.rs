//! The response with a constant body: complete, compressed or a `304`.

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, ETAG};
use actix_web::{HttpResponse, HttpResponseBuilder};

use super::accept::takes_gzip;
use super::conditions::{GZIP, matching_etag};
use super::constant_body::ConstantBody;
use super::problem::Problem;
use super::request::RequestContext;
use crate::read::body_stream::BodyStream;

/// Completes a response with this body, or makes it a `304`.
///
/// # Errors
/// `If-None-Match` is malformed.
pub(super) fn respond(
    context: &RequestContext,
    mut response: HttpResponseBuilder,
    body: &ConstantBody,
) -> Result<HttpResponse, Problem> {
    if let Some(known) = matching_etag(context, || body.tag().to_owned())? {
        let tag = (ETAG, format!("\"{known}\""));
        return Ok(response.status(StatusCode::NOT_MODIFIED).insert_header(tag).finish());
    }
    if takes_gzip(&context.request) {
        let tag = (ETAG, format!("\"{}{GZIP}\"", body.tag()));
        response.insert_header((CONTENT_ENCODING, "gzip")).insert_header(tag);
        return Ok(response.body(BodyStream::new(body.gzip())));
    }
    Ok(response.insert_header((ETAG, format!("\"{}\"", body.tag()))).body(BodyStream::new(body.text())))
}
