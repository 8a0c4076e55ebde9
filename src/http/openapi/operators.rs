//! The operations for those who operate the service: projections, reports, health, metrics.

use serde_json::{Map, Value, json};

use super::components::Components;
use super::operation::{About, Operation, Required, Success, TAGGED, not_modified};
use super::parameters::CONDITIONS;
use super::problems::{COMMON, Problems, reason};
use crate::access::need::Need;
use crate::http::ops::OPEN_METRICS;
use crate::http::problem::Kind;
use crate::http::projections::CSV;
use crate::http::respond::JSON;
use crate::http::surface::Surface;
use crate::projector::registry::{Projections, ReportKind};

const PROJECTIONS: &str = "Projections";
const REPORTS: &str = "Reports";
pub(super) const SERVICE: &str = "Service";

/// What a read with conditions may get as well.
const CONDITIONAL: [Kind; 2] = [Kind::NotAcceptable, Kind::Unexpected];

/// The tags of these operations.
pub(super) fn tags(surface: &Surface) -> Vec<Value> {
    let projections = json!({"name": PROJECTIONS, "description": "Read models that the service derives from events."});
    let service = if surface.has(Need::Operate) { "Health, metrics" } else { "Health" };
    let others = [
        json!({"name": REPORTS, "description": "What projections show."}),
        json!({"name": SERVICE, "description": format!("{service}, and this description.")}),
    ];
    surface.has(Need::Operate).then_some(projections).into_iter().chain(others).collect()
}

/// The paths of projections and their reports, of health and metrics, as far as a listener has them.
pub(super) fn paths(projections: &Projections, surface: &Surface, components: &mut Components) -> Map<String, Value> {
    let mut paths = Map::new();
    if surface.has(Need::Operate) {
        of_projections(projections, components, &mut paths);
        paths.insert("/metrics".to_owned(), json!({"get": metrics(components)}));
        paths.insert("/-/erase".to_owned(), json!({"post": erasure(components)}));
    }
    for name in projections.report_names() {
        let operation = report(projections, name, components);
        paths.insert(format!("/reports/{name}"), json!({"get": operation}));
    }
    paths.insert("/-/tickets".to_owned(), json!({"post": tickets(components)}));
    for (path, operation) in of_health(surface, components) {
        paths.insert(path.to_owned(), json!({"get": operation}));
    }
    paths
}

fn with(operation: Operation, kinds: &[Kind], components: &mut Components) -> Value {
    let problems = Problems::of(&[&COMMON[..], kinds].concat(), components);
    operation.problems(problems, components).into_json()
}

fn of_projections(projections: &Projections, components: &mut Components, paths: &mut Map<String, Value>) {
    let names: Vec<_> = projections.running.iter().map(|running| running.name).collect();
    let status = components.add("Projection", status());
    let all = json!({
        "type": "object",
        "required": ["projections"],
        "properties": {"projections": {"type": "array", "items": status}},
    });
    let about = |id, summary, description| Operation::new(&About { id, tag: PROJECTIONS, summary, description });
    let found = Success::new(200, "The status of each projection.").headers(&TAGGED).content(JSON, all);
    let operation =
        about("get projections", "List the projections", "In the order of their registration, inline ones first.")
            .shared(&CONDITIONS)
            .response(found)
            .response(not_modified());
    paths.insert("/projections".to_owned(), json!({"get": with(operation, &CONDITIONAL, components)}));
    if names.is_empty() {
        return;
    }
    let name = json!({"name": "name", "in": "path", "required": true, "description": "The name of the projection.", "schema": {"type": "string", "enum": names}});
    let one = |status_code, description: &str| {
        let headers = if status_code == 200 { &TAGGED[..] } else { &TAGGED[..2] };
        Success::new(status_code, description).headers(headers).content(JSON, status.clone())
    };
    let operation = about("get projection", "Read the status of a projection", "")
        .parameter(name.clone())
        .shared(&CONDITIONS)
        .response(one(200, "Its status."))
        .response(not_modified());
    let operation = with(operation, &[&CONDITIONAL[..], &[Kind::NoSuchPath]].concat(), components);
    paths.insert("/projections/{name}".to_owned(), json!({"get": operation}));
    let operation = about(
        "rebuild projection",
        "Rebuild a projection",
        "From all events. What it has is served until the new generation is complete.",
    )
    .parameter(name.clone())
    .response(one(202, "The rebuild has started."));
    let operation = with(operation, &[Kind::ForeignOrigin, Kind::NoSuchPath], components);
    paths.insert("/projections/{name}/rebuild".to_owned(), json!({"post": operation}));
    let body = skip_body(components);
    let operation = about("skip event", "Skip the event at which a projection stopped", "")
        .parameter(name)
        .body(&[JSON], &body, Required::Yes)
        .response(one(202, "The event is omitted."));
    let kinds = [
        Kind::ForeignOrigin,
        Kind::NoSuchPath,
        Kind::MalformedJson,
        Kind::TooSlow,
        Kind::NotThere,
        Kind::TooLarge,
        Kind::UnsupportedType,
        Kind::Invalid,
        Kind::Busy,
    ];
    paths.insert("/projections/{name}/skip".to_owned(), json!({"post": with(operation, &kinds, components)}));
}

/// The body that names the event to skip.
fn skip_body(components: &mut Components) -> Value {
    let body = json!({
        "type": "object",
        "required": ["at"],
        "properties": {"at": {"type": "integer", "minimum": 0, "description": "The position or the revision at which it stopped, as its `error` says."}},
    });
    components.add("ProjectionSkip", body)
}

/// The status of a projection.
fn status() -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    json!({
        "type": "object",
        "required": ["name", "version", "mode", "state", "lag"],
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "integer"},
            "mode": {"type": "string", "enum": ["inline", "background"]},
            "state": {"type": "string", "enum": ["live", "building", "failing"]},
            "lag": {"type": "object", "required": ["events", "seconds"], "properties": {"events": number, "seconds": number}},
            "generation": {"type": "integer", "description": "The generation that is served."},
            "at": {"type": "integer", "description": "The last event that it has applied."},
            "erasing": {"type": "boolean", "description": "Its files may still have something of an erased aggregate."},
            "current_version": {"type": "integer", "description": "That of the data that is served, if it is another one."},
            "building": {
                "type": "object",
                "required": ["generation", "done", "total", "events_per_second", "seconds_left"],
                "properties": {
                    "generation": number, "done": number, "total": number, "events_per_second": {"type": "number"},
                    "seconds_left": {"type": ["number", "null"]},
                },
            },
            "error": {
                "type": "object",
                "required": ["at", "message", "attempts"],
                "properties": {
                    "at": {"type": ["integer", "null"]}, "message": {"type": "string"}, "attempts": number,
                    "generation": {"type": "integer"},
                },
            },
        },
    })
}

fn report(projections: &Projections, name: &str, components: &mut Components) -> Value {
    let id = format!("report {name}");
    let summary = format!("Read the report {name}");
    let about = About {
        id: &id,
        tag: REPORTS,
        summary: &summary,
        description: "It can lag behind the revision of the response.",
    };
    let ok = Success::new(200, "The report.").headers(&TAGGED);
    let (parameters, ok): (&[&str], _) = match projections.report(name) {
        Some(ReportKind::Query { parameters }) => (parameters, ok.content(JSON, json!({}))),
        Some(ReportKind::Inline(report)) => (report.parameters, ok.content(JSON, json!({}))),
        Some(ReportKind::File) | None => (&[], ok.content(CSV, json!({"type": "string"}))),
    };
    let mut operation = Operation::new(&about).shared(&CONDITIONS).response(ok).response(not_modified());
    for parameter in parameters {
        operation = operation.parameter(json!({"name": parameter, "in": "query", "schema": {"type": "string"}}));
    }
    with(operation, &[&CONDITIONAL[..], &[Kind::Busy, Kind::Unavailable]].concat(), components)
}

/// `/-/erase`
fn erasure(components: &mut Components) -> Value {
    let text = json!({"type": "string"});
    let key = json!({"type": "string", "description": "It need not exist any more. A number that was never given out is a 404."});
    let wanted = json!({
        "type": "object", "required": ["collection", "key"], "additionalProperties": false,
        "properties": {"collection": text, "key": key},
    });
    let wanted = components.add("WantedErasure", wanted);
    let pending = "The projections and streams that may still have something of it, because they are behind, fail, or are \
                   being rebuilt; or `database` with the status 202.";
    let known = "Whether the database had a state, a tombstone or domain events of it. Otherwise the key may be a mistake; \
                 what else there was of it goes nevertheless.";
    let erased = json!({
        "type": "object",
        "required": ["collection", "key", "revision", "known", "pending"],
        "properties": {
            "collection": text, "key": text,
            "revision": {"type": "integer", "minimum": 1, "description": "That of its last change event, which is null."},
            "known": {"type": "boolean", "description": known},
            "pending": {"type": "array", "items": text, "description": pending},
        },
    });
    let erased = components.add("Erasure", erased);
    let about = About {
        id: "erase aggregate",
        tag: SERVICE,
        summary: "Erase an aggregate with its past",
        description: "Its state, the content of its events, and what projections have of it. Its key is never used again. \
                      The response is sent when nothing is left, and after ten seconds at the latest.",
    };
    const HEADERS: [&str; 2] = ["X-Revision", "X-Epoch"];
    const LATER: &str = "It does not exist any more. The files of the database may have something of it until a reader or a \
                         lack of room does not prevent the rest.";
    let operation = Operation::new(&about)
        .body(&[JSON], &wanted, Required::Yes)
        .response(Success::new(200, "It is erased.").headers(&HEADERS).content(JSON, erased.clone()))
        .response(Success::new(202, LATER).headers(&HEADERS).content(JSON, erased));
    let kinds = [
        Kind::ForeignOrigin,
        Kind::NotFound,
        Kind::MalformedJson,
        Kind::TooSlow,
        Kind::TooLarge,
        Kind::UnsupportedType,
        Kind::Invalid,
        Kind::Busy,
        Kind::Locked,
        Kind::Outdated,
        Kind::Unavailable,
        Kind::NoSpace,
    ];
    with(operation, &kinds, components)
}

/// `/-/tickets`
fn tickets(components: &mut Components) -> Value {
    let text = json!({"type": "string"});
    let feed = json!({
        "type": "string", "examples": ["/person-events"],
        "description": "The path of a feed, with the query that selects what it shows.",
    });
    let wanted =
        json!({"type": "object", "required": ["feed"], "properties": {"feed": feed}, "additionalProperties": false});
    let wanted = components.add("WantedTicket", wanted);
    let ticket = components.add(
        "Ticket",
        json!({
            "type": "object",
            "required": ["ticket", "url", "seconds"],
            "properties": {
                "ticket": text,
                "url": {"type": "string", "description": "The feed with the ticket, to be opened once."},
                "seconds": {"type": "integer", "description": "How long it is valid."},
            },
        }),
    );
    let about = About {
        id: "get ticket",
        tag: SERVICE,
        summary: "Get a ticket for an `EventSource`",
        description: "It opens one feed once, with what the token permits. To open the feed again, get another one.",
    };
    let operation = Operation::new(&about)
        .body(&[JSON], &wanted, Required::Yes)
        .response(Success::new(201, "The ticket.").content(JSON, ticket));
    let kinds = [
        Kind::ForeignOrigin,
        Kind::NotAcceptable,
        Kind::MalformedJson,
        Kind::TooSlow,
        Kind::TooLarge,
        Kind::UnsupportedType,
        Kind::Invalid,
        Kind::Busy,
    ];
    with(operation, &kinds, components)
}

fn of_health(surface: &Surface, components: &mut Components) -> [(&'static str, Value); 2] {
    let about = |id, summary, description| Operation::new(&About { id, tag: SERVICE, summary, description });
    let text = json!({"type": "string"});
    let mut health = json!({
        "type": "object",
        "required": ["status", "reasons", "file_check", "epoch", "revision", "position"],
        "properties": {
            "status": {"type": "string", "enum": ["ok", "degraded"]},
            "reasons": {"type": "array", "items": reason()},
            "file_check": text, "epoch": text,
            "revision": {"type": "integer", "minimum": 0},
            "position": {"type": "integer", "minimum": 0},
        },
    });
    if surface.has(Need::Operate) {
        health["properties"]["projections"] = json!({"type": "array", "items": {"$ref": "#/components/schemas/Projection"}, "description": "For those who may operate the service."});
    }
    let ready = json!({"type": "object", "required": ["status"], "properties": {"status": {"const": "ready"}}});
    let headers = ["X-Revision", "X-Epoch"];
    let healthz =
        about("get health", "Whether the process lives", "A 200 while it does; `reasons` says what does not work.")
            .response(Success::new(200, "What works.").headers(&headers).content(JSON, health));
    let readyz = about("get readiness", "Whether the service should get requests", "")
        .response(Success::new(200, "It should.").headers(&headers).content(JSON, ready));
    let problems = Problems::of(&[Kind::MalformedRequest, Kind::NotReady], components);
    let readyz = readyz.problems(problems, components).into_json();
    let problems = Problems::of(&[Kind::MalformedRequest], components);
    [("/healthz", healthz.problems(problems, components).into_json()), ("/readyz", readyz)]
}

fn metrics(components: &mut Components) -> Value {
    let about = About { id: "get metrics", tag: SERVICE, summary: "Metrics for Prometheus", description: "" };
    let all = Success::new(200, "All metrics.").content(OPEN_METRICS, json!({"type": "string"}));
    let problems = Problems::of(&[Kind::MalformedRequest, Kind::UnknownHost, Kind::Internal], components);
    Operation::new(&about).response(all).problems(problems, components).into_json()
}
