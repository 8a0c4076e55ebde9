//! The operations that follow events: feeds of change events, and the journal of domain events.

use serde_json::{Map, Value, json};

use super::components::{Components, DescribedCollection, pascal, type_name};
use super::operation::{About, Operation, Success};
use super::parameters;
use super::problems::{COMMON, Problems};
use super::writer::Writer;
use crate::domain::collection::{Journaled, Registry};
use crate::domain::metadata::MAX_METADATA_LENGTH;
use crate::http::feeds::MAX_KEYS;
use crate::http::problem::Kind;
use crate::http::respond::{JSON, NDJSON, SSE};

/// The parameters of every feed.
const FEED: [&str; 11] = [
    "lastEventId",
    "revision",
    "epoch",
    "strict",
    "compact",
    "limit",
    "wait",
    "Last-Event-ID-header",
    "X-Revision-header",
    "X-Epoch-header",
    "Prefer-header",
];

/// What a feed may get beside what any request may.
const KINDS: [Kind; 5] = [Kind::NotAcceptable, Kind::NotRetained, Kind::Invalid, Kind::Busy, Kind::Unavailable];

/// What a journal may get beside what any request may.
const JOURNAL_KINDS: [Kind; 4] = [Kind::NotAcceptable, Kind::ForeignId, Kind::Busy, Kind::Unavailable];

const ABOUT_FEEDS: &str = "As Server-Sent Events (`text/event-stream`, the default) the response does not end; as JSON or \
    NDJSON it is one page, which ends at once, or after `wait` seconds, and names the cursor of the next one. Whatever the \
    cursor, applying all patches in their order to the state that one has leads to the current state.";

const ABOUT_JOURNAL: &str = "As Server-Sent Events (`text/event-stream`, the default) the response does not end; as JSON or \
    NDJSON it is one page. The journal is never pruned.";

/// A stream of change events, as a client sees it.
const EXAMPLE: &str = ":\nretry: 1234\n\ndata: {\"2\":{\"city\":\"Rome\"}}\nid: 4f9c21aa.8\n\n";

/// `/person-events`, `/events/persons`, `/persons/{key}/events`, `/carts/{key}/journal`
pub(super) fn of_collection(writer: &mut Writer<'_>, paths: &mut Map<String, Value>) {
    let (name, singular) = (writer.collection.name(), writer.collection.singular());
    let changes = changes_of_members(writer.components, &writer.name);
    let summary = format!("Follow {name}");
    for (path, id) in [
        (format!("/{singular}-events"), format!("follow all {}", writer.name)),
        (format!("/events/{name}"), format!("follow all {} by collection", writer.name)),
    ] {
        let operation = writer.operation(&id, &summary, ABOUT_FEEDS).parameter(parameters::keys(Some(MAX_KEYS)));
        let operation = operation.shared(&FEED).with_ticket().response(followed(&changes));
        let operation = writer.problems(operation, &[&COMMON, &KINDS]);
        paths.insert(path, json!({"get": operation}));
    }
    let changes = changes_of_one(writer.components, &writer.name);
    let operation = writer
        .operation(&format!("follow {}", writer.name), &format!("Follow one {singular}"), ABOUT_FEEDS)
        .parameter(writer.key())
        .shared(&FEED)
        .with_ticket()
        .response(followed(&changes));
    let operation = writer.problems(operation, &[&COMMON, &KINDS]);
    paths.insert(format!("/{name}/{{key}}/events"), json!({"get": operation}));
    if let Some(journaled) = writer.collection.journaled() {
        let operation = journal_of_one(writer, journaled);
        paths.insert(format!("/{name}/{{key}}/journal"), json!({"get": operation}));
    }
}

/// `/events`
pub(super) fn everything(registry: &Registry, components: &mut Components) -> Value {
    let members: Map<_, _> = registry
        .ids()
        .map(|id| {
            let collection = registry.get(id);
            (collection.name().to_owned(), changes_of_members(components, &type_name(&collection.singular())))
        })
        .collect();
    let changes = json!({"type": ["object", "null"], "properties": members});
    let changes = components.add("Changes", changes);
    let about = About {
        id: "follow everything",
        tag: super::EVERYTHING,
        summary: "Follow everything",
        description: ABOUT_FEEDS,
    };
    let operation =
        Operation::new(&about).shared(&["collection"]).shared(&FEED).with_ticket().response(followed(&changes));
    let problems = Problems::of(&[&COMMON[..], &KINDS].concat(), components);
    json!({"get": operation.problems(problems, components).into_json()})
}

/// The merge patches of one aggregate.
fn changes_of_one(components: &mut Components, name: &str) -> Value {
    let description = format!("A JSON merge patch (RFC 7396) of a {name}, or null if it does not exist.");
    components.add(&format!("{name}Change"), json!({"description": description, "type": ["object", "null"]}))
}

/// The merge patches of a collection.
fn changes_of_members(components: &mut Components, name: &str) -> Value {
    let one = changes_of_one(components, name);
    let description = "A JSON merge patch (RFC 7396) of the collection, by key. Null, at the beginning, means that what one \
        has is void.";
    let schema = json!({"description": description, "type": ["object", "null"], "additionalProperties": one});
    components.add(&format!("{name}Changes"), schema)
}

/// The response of a feed.
fn followed(changes: &Value) -> Success {
    let event = json!({
        "type": "object",
        "required": ["patch"],
        "properties": {
            "revision": {"type": "integer", "minimum": 1, "description": "Absent in a catch-up."},
            "patch": changes,
        },
    });
    let page = json!({
        "type": "object",
        "required": ["events", "cursor"],
        "properties": {"events": {"type": "array", "items": event}, "cursor": cursor()},
    });
    let stream = json!({"type": "string", "description": "Messages with a patch as `data` and a cursor as `id`."});
    let lines =
        json!({"type": "string", "description": "An event in each line, and `{\"cursor\":…}` in the last one."});
    Success::new(200, "A stream, or a page.")
        .headers(&["X-Revision", "X-Epoch"])
        .example(SSE, &stream, EXAMPLE)
        .content(JSON, page)
        .content(NDJSON, lines)
}

fn cursor() -> Value {
    json!({"type": "string", "description": "Goes into `lastEventId` of the next request.", "examples": ["4f9c21aa.8"]})
}

/// `/journal`
pub(super) fn journal(registry: &Registry, described: &[DescribedCollection], components: &mut Components) -> Value {
    let mut events = Vec::new();
    for described in described {
        let collection = registry.get(described.id);
        if let Some(journaled) = collection.journaled() {
            events.push(event(components, described, &type_name(&collection.singular()), collection.name(), journaled));
        }
    }
    let items = if events.is_empty() { json!({"type": "object"}) } else { json!({"oneOf": events}) };
    let page = json!({
        "type": "object",
        "required": ["events", "cursor"],
        "properties": {"events": {"type": "array", "items": items}, "cursor": cursor()},
    });
    let stream = json!({"type": "string", "description": "Messages with an event as `data`, its kind as `event` and a cursor as `id`."});
    let lines =
        json!({"type": "string", "description": "An event in each line, and `{\"cursor\":…}` in the last one."});
    let about = About {
        id: "read journal",
        tag: super::JOURNAL,
        summary: "Read the domain events",
        description: ABOUT_JOURNAL,
    };
    let operation = Operation::new(&about)
        .shared(&["collection", "lastEventId", "limit", "wait", "Last-Event-ID-header"])
        .with_ticket()
        .response(
            Success::new(200, "A stream, or a page.")
                .headers(&["X-Revision", "X-Epoch"])
                .content(SSE, stream)
                .content(JSON, page)
                .content(NDJSON, lines),
        );
    let problems = Problems::of(&[&COMMON[..], &JOURNAL_KINDS].concat(), components);
    json!({"get": operation.problems(problems, components).into_json()})
}

/// Who caused an event, and why.
fn metadata() -> Value {
    let part = |description: &str| {
        let (length, pattern) = (MAX_METADATA_LENGTH, "^[!-~]+$");
        json!({"type": "string", "description": description, "maxLength": length, "pattern": pattern})
    };
    json!({
        "type": "object",
        "description": "Who caused the event, and why. Events of earlier versions of the service have none.",
        "properties": {
            "actor": part("Who caused it."),
            "correlation": part("What it belongs to: `X-Correlation-Id`, the trace of `traceparent`, or the id of the request."),
            "causation": part("What directly caused it: `X-Causation-Id`, or the parent in `traceparent`."),
        },
    })
}

/// A domain event in the journal: one of the kinds, or one in a shape of an earlier program, which stays as it was written.
fn event(
    components: &mut Components,
    described: &DescribedCollection,
    name: &str,
    collection: &str,
    journaled: &dyn Journaled,
) -> Value {
    let of_shape = |schema: Value, kind: Value, body: Value| {
        let number = json!({"type": "integer", "minimum": 1});
        json!({
            "type": "object",
            "required": ["position", "collection", "key", "version", "time", "kind", "schema", "body"],
            "properties": {
                "position": number, "collection": {"type": "string", "const": collection}, "key": {"type": "string"},
                "version": number, "time": {"type": "string", "format": "date-time"}, "kind": kind,
                "schema": schema, "body": body, "metadata": metadata(),
            },
        })
    };
    let current = journaled.schema();
    let mut shapes = Vec::new();
    for kind in &described.schemas.events {
        let of_kind = pascal(&kind.name);
        let prefix = if of_kind.starts_with(name) { "" } else { name };
        let shape = of_shape(
            json!({"type": "integer", "const": current}),
            json!({"type": "string", "const": kind.name}),
            kind.schema.clone(),
        );
        shapes.push(components.add(&format!("{prefix}{of_kind}Event"), shape));
    }
    shapes.push(components.add(&format!("{name}ErasedEvent"), erased(collection)));
    if current > 1 {
        let earlier = json!({"type": "integer", "maximum": current - 1});
        let shape = of_shape(earlier, json!({"type": "string"}), json!({"type": "object"}));
        shapes.push(components.add(&format!("{name}EarlierEvent"), shape));
    }
    components.add(&format!("{name}Event"), json!({"anyOf": shapes}))
}

/// An event of an aggregate that was erased.
fn erased(collection: &str) -> Value {
    let number = json!({"type": "integer", "minimum": 1});
    json!({
        "type": "object",
        "required": ["position", "collection", "key", "version", "time", "kind", "schema", "body", "erased"],
        "properties": {
            "position": number, "collection": {"type": "string", "const": collection}, "key": {"type": "string"},
            "version": number, "time": {"type": "string", "format": "date-time"}, "kind": {"type": "string"},
            "schema": {"type": "integer", "minimum": 0}, "body": {"type": "object", "maxProperties": 0},
            "erased": {"type": "boolean"},
        },
    })
}

/// `/carts/{key}/journal`
fn journal_of_one(writer: &mut Writer<'_>, journaled: &dyn Journaled) -> Value {
    let (name, singular) = (writer.name.clone(), writer.collection.singular());
    let event = event(writer.components, writer.described, &name, writer.collection.name(), journaled);
    let page = json!({
        "type": "object",
        "required": ["events"],
        "properties": {
            "events": {"type": "array", "items": event},
            "next": {"type": "string", "description": "The path of the next page, if there is one."},
        },
    });
    let after = json!({
        "name": "after", "in": "query", "description": "The version after which the page begins.",
        "schema": {"type": "integer", "minimum": 0, "maximum": i64::MAX, "default": 0},
    });
    let operation = writer
        .operation(&format!("read {name} journal"), &format!("Read the domain events of a {singular}"), "")
        .parameter(writer.key())
        .parameter(after)
        .shared(&["limit"])
        .response(Success::new(200, "A page of events.").headers(&["X-Revision", "X-Epoch"]).content(JSON, page));
    writer.problems(
        operation,
        &[&COMMON, &[Kind::NotAcceptable, Kind::NotFound, Kind::Invalid, Kind::Busy, Kind::Unavailable]],
    )
}
