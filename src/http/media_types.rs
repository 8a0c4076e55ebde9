//! The media types of requests and responses.

/// The media type of a state.
pub(super) const JSON: &str = "application/json";
/// The media type of a patch ([RFC 7396](https://www.rfc-editor.org/rfc/rfc7396#section-4)).
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
/// The media type with one line for each aggregate or event (<https://github.com/ndjson/ndjson-spec>).
pub(super) const NDJSON: &str = "application/x-ndjson";
/// The media type of a stream.
pub(super) const SSE: &str = "text/event-stream";
