//! Parameters and headers that several operations share, each under its name in `components`.

use serde_json::{Value, json};

use crate::domain::collection::Keys;
use crate::domain::metadata::MAX_METADATA_LENGTH;
use crate::http::pages::{MAX_LIMIT, MAX_WAIT_SECONDS};

/// A cursor, or nothing.
const CURSOR: &str = r"^([0-9a-z]{8,16}\.[0-9]{1,18}(\.partial(\.[0-9]{1,18}){0,2})?)?$";
/// Entity tags, or any.
const TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$"#;
/// A key: visible characters, or a string in quotes.
const IDEMPOTENCY_KEY: &str = r#"^([!#-~][!-~]{0,254}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;
/// The name of an epoch.
const EPOCH: &str = "^[0-9a-z]{8,16}$";

/// The revision that a read waits for.
pub(super) const AWAITED: [&str; 2] = ["awaited-X-Revision-header", "awaited-X-Epoch-header"];

/// What the response to a write has.
pub(super) const RETURNED: [&str; 1] = ["returned-Prefer-header"];

/// The conditions of a request.
pub(super) const CONDITIONS: [&str; 2] = ["If-Match-header", "If-None-Match-header"];

/// `{"$ref":"#/components/parameters/limit"}`
pub(super) fn shared(name: &str) -> Value {
    json!({"$ref": format!("#/components/parameters/{name}")})
}

/// `components.parameters`. A header has a suffix, because some have the name of a query parameter.
pub(super) fn all(collections: &[&str]) -> Value {
    let query = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "query", "description": description, "schema": schema});
    let header = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "header", "description": description, "schema": schema});
    let revision = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
    let epoch = json!({"type": "string", "pattern": EPOCH});
    let cursor = json!({"type": "string", "pattern": CURSOR, "examples": ["4f9c21aa.8"]});
    let flag = json!({"type": "boolean"});
    let text = json!({"type": "string"});
    let tags = json!({"type": "string", "pattern": TAGS, "examples": ["\"4f9c21aa.8\""]});
    let id = json!({"type": "string", "maxLength": MAX_METADATA_LENGTH, "pattern": "^[!-~]*$"});
    let key =
        json!({"type": "string", "pattern": IDEMPOTENCY_KEY, "examples": ["8e03978e-40d5-43dd-bc93-6894a57f9324"]});
    let names = json!({"type": "array", "items": {"type": "string", "enum": collections}});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 1000});
    let wait = json!({"type": "integer", "minimum": 0, "maximum": MAX_WAIT_SECONDS, "default": 0});
    json!({
        "lastEventId": query("lastEventId", "Everything up to this cursor is known, `<epoch>.<revision>`; without any cursor, nothing is.", cursor.clone()),
        "Last-Event-ID-header": header("Last-Event-ID", "As `lastEventId`, and takes precedence over it.", cursor),
        "revision": query("revision", "The first revision that is wanted.", revision.clone()),
        "epoch": query("epoch", "The epoch of `revision`, if it is known.", epoch.clone()),
        "X-Revision-header": header("X-Revision", "As the query parameter `revision`.", revision.clone()),
        "X-Epoch-header": header("X-Epoch", "As the query parameter `epoch`.", epoch.clone()),
        "awaited-X-Revision-header": header("X-Revision", "The least revision that the response shall show: it is waited for, for up to 3 seconds.", revision.clone()),
        "awaited-X-Epoch-header": header("X-Epoch", "The epoch of `X-Revision`, if it is known. A 410 if that history is not the one of this database.", epoch.clone()),
        "returned-Prefer-header": header("Prefer", "`return=minimal` leaves out the body: a creation is a 201, and any other write a 204 (RFC 7240).", text.clone()),
        "strict": query("strict", "Whether every event is needed: if some are not retained, the response is a 410.", flag.clone()),
        "compact": query("compact", "Whether a catch-up is preferred, which has each changed aggregate once.", flag),
        "Prefer-header": header("Prefer", "`handling=strict` is the same as `?strict=true` (RFC 7240).", text.clone()),
        "limit": query("limit", "The maximum number of events in a page. For pages only: a stream ignores it.", limit),
        "wait": query("wait", "How long a page waits for an event, in seconds. For pages only: a stream ignores it.", wait),
        "collection": query("collection", "Selects collections; repeat it for several.", names),
        "If-Match-header": header("If-Match", "Entity tags, or `*`: the request is for one of these states only, and gets a 412 otherwise.", tags.clone()),
        "X-Request-Id-header": header("X-Request-Id", "The id of the request, for the log. One that has not 1 to 128 visible ASCII characters is replaced.", text.clone()),
        "X-Correlation-Id-header": header("X-Correlation-Id", "What the write belongs to. The journal keeps it with the events.", id.clone()),
        "X-Causation-Id-header": header("X-Causation-Id", "What directly caused the write, such as the id of a message. The journal keeps it with the events.", id),
        "traceparent-header": header("traceparent", "A trace (W3C Trace Context), in the place of the two ids above. One that is malformed is ignored.", text.clone()),
        "Idempotency-Key-header": header("Idempotency-Key", "Identifies the request, for when it is sent again with the same body: then it is not executed again, and gets the first answer.", key),
        "If-None-Match-header": header("If-None-Match", "Entity tags, or `*`: a read of one of these states is a 304, and a write to one of them a 412.", tags),
    })
}

/// `components.headers`
pub(super) fn headers() -> Value {
    json!({
        "X-Revision": {"description": "The revision that the response shows, or that a write created. Responses about the document have it, errors as well.", "schema": {"type": "integer", "minimum": 0}},
        "X-Epoch": {"description": "The epoch of the revision.", "schema": {"type": "string", "pattern": EPOCH}},
        "X-Request-Id": {"description": "The id of the request: the one that was sent, or a new one. The log has it, and a problem as `request`.", "schema": {"type": "string", "minLength": 1, "maxLength": MAX_METADATA_LENGTH}},
        "ETag": {"description": "The tag of the state, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}},
        "Location": {"description": "The path of the new aggregate.", "schema": {"type": "string"}},
        "Retry-After": {"description": "After how many seconds the request may be repeated.", "schema": {"type": "integer", "minimum": 0}},
        "Preference-Applied": {"description": "The preferences that the response follows.", "schema": {"type": "string"}},
        "Accept-Post": {"description": "The media types of bodies of `POST`.", "schema": {"type": "string"}},
        "Accept-Patch": {"description": "The media types of bodies of `PATCH`.", "schema": {"type": "string"}},
        "Idempotency-Replayed": {"description": "`true` if the request was answered before; this is that answer.", "schema": {"type": "string", "const": "true"}},
        "Allow": {"description": "The methods that the path supports.", "schema": {"type": "string"}},
    })
}

/// The key in the path.
pub(super) fn key(keys: Keys) -> Value {
    let schema = match keys {
        Keys::Sequence => json!({"type": "string", "pattern": "^[1-9][0-9]{0,15}$", "examples": ["1"]}),
        Keys::Uuid => {
            json!({"type": "string", "format": "uuid", "examples": ["0193a5b0-7b2c-7def-8000-123456789abc"]})
        }
        Keys::Text => super::components::reference("Key"),
    };
    json!({"name": "key", "in": "path", "required": true, "description": "The key of the aggregate.", "schema": schema})
}

/// The keys in the query that select aggregates of a collection, at most so many.
pub(super) fn keys(max: Option<usize>) -> Value {
    let mut schema = json!({"type": "array", "items": super::components::reference("Key")});
    if let Some(max) = max {
        schema["maxItems"] = max.into();
    }
    json!({"name": "key", "in": "query", "description": "Selects aggregates by their keys; repeat it for several.", "schema": schema})
}
