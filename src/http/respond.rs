//! Responses that name the revision that they show.

use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY};

use super::request::RequestContext;
use crate::domain::revision::{Epoch, Revision};

/// The header with the revision that a response shows.
pub(super) const X_REVISION: HeaderName = HeaderName::from_static("x-revision");
/// The header with the epoch of that revision.
pub(super) const X_EPOCH: HeaderName = HeaderName::from_static("x-epoch");

/// The media type of a state.
pub(super) const JSON: &str = "application/json";
/// The media type with one line for each aggregate or event (<https://github.com/ndjson/ndjson-spec>).
pub(super) const NDJSON: &str = "application/x-ndjson";
/// The media type of a stream.
pub(super) const SSE: &str = "text/event-stream";

/// A response with the revision and the epoch that it shows.
pub(super) fn answer(status: StatusCode, epoch: &Epoch, revision: Revision) -> HttpResponseBuilder {
    let mut builder = HttpResponseBuilder::new(status);
    builder.insert_header((X_REVISION, HeaderValue::from(revision.number()))).insert_header((X_EPOCH, epoch.as_str()));
    builder
}

/// Adds the revision and the epoch to the headers of a response.
pub(super) fn insert_revision(headers: &mut HeaderMap, epoch: &Epoch, revision: Revision) {
    headers.insert(X_REVISION, HeaderValue::from(revision.number()));
    if let Ok(epoch) = HeaderValue::from_str(epoch.as_str()) {
        headers.insert(X_EPOCH, epoch);
    }
}

/// The head of a response with a state.
pub(super) fn state(
    context: &RequestContext,
    status: StatusCode,
    revision: Revision,
    content_type: &'static str,
) -> HttpResponseBuilder {
    let mut response = answer(status, context.shared.epoch(), revision);
    response
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "Accept, Accept-Encoding"));
    response
}
