//! Answers that name the state they show.

use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};

use super::request::RequestContext;
use crate::domain::revision::{Epoch, Revision};

/// The forms of a state.
pub(super) const JSON: &str = "application/json";
/// A line for each aggregate or event (<https://github.com/ndjson/ndjson-spec>).
pub(super) const NDJSON: &str = "application/x-ndjson";
/// The form of a stream.
pub(super) const SSE: &str = "text/event-stream";

/// An answer that names the state it shows.
pub(super) fn answer(status: StatusCode, epoch: &Epoch, revision: Revision) -> HttpResponseBuilder {
    let mut builder = HttpResponseBuilder::new(status);
    builder.insert_header(("X-Revision", revision.to_string())).insert_header(("X-Epoch", epoch.as_str()));
    builder
}

/// The head of an answer that shows a state.
pub(super) fn state(
    context: &RequestContext,
    status: StatusCode,
    revision: Revision,
    content_type: &'static str,
) -> HttpResponseBuilder {
    let mut response = answer(status, &context.shared.epoch, revision);
    response
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "Accept, Accept-Encoding"));
    response
}
