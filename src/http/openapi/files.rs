//! The operations that return what is part of the program: the index, the page, scripts, and this description.

use serde_json::{Map, Value, json};

use super::components::Components;
use super::operation::{About, Operation, Success, not_modified};
use super::operators::SERVICE;
use super::parameters::CONDITIONS;
use super::problems::{COMMON, Problems};
use crate::http::problem::Kind;
use crate::http::respond::JSON;
use crate::http::surface::Surface;

/// The paths of files, and of descriptions of the service.
pub(super) fn paths(surface: &Surface, components: &mut Components) -> Map<String, Value> {
    let mut paths = Map::new();
    let mut get = |path: &str, operation: Value| paths.insert(path.to_owned(), json!({"get": operation}));
    get("/", index(components));
    get("/openapi.json", description(components));
    get(
        "/follow.js",
        file("get follow module", "The JavaScript module that follows a feed", "text/javascript", components),
    );
    get(
        "/follow_tabs.js",
        file("get follow tabs", "A part of it, which it loads to share one connection", "text/javascript", components),
    );
    get("/follow.d.ts", file("get follow types", "Its types", "application/typescript", components));
    if !surface.has_page() {
        return paths;
    }
    get("/docs", file("get docs", "This description for people", "text/html", components));
    let name = json!({"name": "file", "in": "path", "required": true, "schema": {"type": "string"}});
    let about = about("get page file", "A file of the page");
    let found = Success::new(200, "The file.").headers(&["ETag"]);
    let types = ["text/javascript", "text/css", "image/svg+xml"];
    let found = types.iter().fold(found, |found, media_type| found.content(media_type, json!({"type": "string"})));
    let operation = Operation::new(&about).parameter(name).shared(&CONDITIONS).response(found);
    get("/page/{file}", with(operation.response(unchanged()), &[Kind::Unexpected, Kind::NoSuchPath], components));
    paths
}

fn about<'a>(id: &'a str, summary: &'a str) -> About<'a> {
    About { id, tag: SERVICE, summary, description: "" }
}

fn with(operation: Operation, kinds: &[Kind], components: &mut Components) -> Value {
    let problems = Problems::of(&[&COMMON[..], kinds].concat(), components);
    operation.problems(problems, components).into_json()
}

fn unchanged() -> Success {
    Success::new(304, "The file is still the one that `If-None-Match` names.").headers(&["ETag"])
}

fn file(id: &str, summary: &str, media_type: &str, components: &mut Components) -> Value {
    let found = Success::new(200, "The file.").headers(&["ETag"]).content(media_type, json!({"type": "string"}));
    let operation = Operation::new(&about(id, summary)).shared(&CONDITIONS).response(found);
    with(operation.response(unchanged()), &[Kind::Unexpected], components)
}

/// `/`
fn index(components: &mut Components) -> Value {
    let text = json!({"type": "string"});
    let collection = json!({
        "type": "object",
        "required": ["name", "state", "events", "kind", "keys", "create", "commands", "schema"],
        "properties": {
            "name": text, "state": text, "events": text,
            "kind": {"type": "string", "enum": ["state", "event-sourced", "derived"]},
            "keys": {"type": "string", "enum": ["sequence", "uuid", "text"]},
            "create": {"type": "boolean"},
            "commands": {"type": "array", "items": {
                "type": "object", "required": ["name", "path"], "properties": {"name": text, "path": text},
            }},
            "journal": text, "schema": text, "source": text,
        },
    });
    let index = json!({
        "type": "object",
        "required": ["name", "version", "epoch", "revision", "collections", "everything"],
        "properties": {
            "name": text, "version": text, "epoch": text, "revision": {"type": "integer", "minimum": 0},
            "collections": {"type": "array", "items": collection},
            "everything": {
                "type": "object", "required": ["state", "events"], "properties": {"state": text, "events": text},
            },
            "token": {
                "type": "object", "required": ["name", "scopes", "hidden"],
                "properties": {
                    "name": text, "scopes": {"type": "array", "items": text}, "expires": text,
                    "hidden": {"type": "array", "items": text, "description": "The collections that it may not read as a whole."},
                },
            },
        },
        "additionalProperties": text,
    });
    let index = components.add("Index", index);
    let found = Success::new(200, "The index, or the page.")
        .headers(&["X-Revision", "X-Epoch", "ETag"])
        .content(JSON, index)
        .content("text/html", text);
    let operation = Operation::new(&about("get index", "What the service has; for a browser, the page"));
    let operation = operation.shared(&CONDITIONS).response(found).response(unchanged());
    with(operation, &[Kind::NotAcceptable, Kind::Unexpected], components)
}

/// `/openapi.json`
fn description(components: &mut Components) -> Value {
    let found = Success::new(200, "The description (OpenAPI 3.1).").headers(&["X-Revision", "X-Epoch", "ETag"]);
    let found = found.content(JSON, json!({"type": "object"}));
    let operation = Operation::new(&about("get openapi", "This description"));
    let operation = operation.shared(&CONDITIONS).response(found).response(not_modified());
    with(operation, &[Kind::NotAcceptable, Kind::Unexpected], components)
}
