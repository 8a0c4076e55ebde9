//! Responses that name the revision that they show.

use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::caching::{Caching, Tag};
pub(super) use super::media_types::{JSON, MERGE_PATCH, NDJSON, SSE};
use super::request::RequestContext;
use crate::domain::revision::{Epoch, Revision};

/// The header with the revision that a response shows.
pub(super) const X_REVISION: HeaderName = HeaderName::from_static("x-revision");
/// The header with the epoch of that revision.
pub(super) const X_EPOCH: HeaderName = HeaderName::from_static("x-epoch");

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
    tag: &Tag,
) -> HttpResponseBuilder {
    let mut response = answer(status, context.shared.epoch(), revision);
    response.insert_header((CONTENT_TYPE, content_type));
    Caching::STATE.insert(&mut response, Some(tag));
    response
}
