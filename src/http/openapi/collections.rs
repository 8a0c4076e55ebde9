//! The operations of a registered collection.

use serde_json::{Map, Value, json};

use super::components::{Components, DescribedCollection, pascal, type_name};
use super::feeds;
use super::operation::{Operation, Required, Success, TAGGED, not_modified};
use super::parameters::{self, AWAITED, CONDITIONS, RETURNED};
use super::problems::{COMMON, Problems, READ, STATE};
use super::writer::Writer;
use crate::domain::collection::{Keys, Registry};
use crate::domain::schema::patch_of;
use crate::http::problem::Kind;
use crate::http::respond::{JSON, MERGE_PATCH, NDJSON};

/// What a write may get as well.
const WRITE: [Kind; 17] = [
    Kind::MalformedJson,
    Kind::ForeignOrigin,
    Kind::TooSlow,
    Kind::Unexpected,
    Kind::TooLarge,
    Kind::UnsupportedType,
    Kind::Invalid,
    Kind::AggregateTooLarge,
    Kind::InFlight,
    Kind::Erased,
    Kind::KeyReused,
    Kind::Busy,
    Kind::Locked,
    Kind::Outdated,
    Kind::Unavailable,
    Kind::NoSpace,
    Kind::AnswersFull,
];

/// The headers that a write may have.
const WRITE_HEADERS: [&str; 6] = [
    "If-Match-header",
    "If-None-Match-header",
    "Idempotency-Key-header",
    "X-Correlation-Id-header",
    "X-Causation-Id-header",
    "traceparent-header",
];

/// The media types of a patch.
const PATCH_TYPES: [&str; 2] = [MERGE_PATCH, JSON];

/// The paths of all collections, with their operations.
pub(super) fn paths(
    registry: &Registry,
    described: &[DescribedCollection],
    components: &mut Components,
) -> Map<String, Value> {
    let mut paths = Map::new();
    for described in described {
        let collection = registry.get(described.id);
        let mut writer = Writer { collection, described, name: type_name(&collection.singular()), components };
        let all = format!("/{}", collection.name());
        let one = format!("{all}/{{key}}");
        paths.insert(all.clone(), writer.on_all());
        paths.insert(one.clone(), writer.on_one());
        feeds::of_collection(&mut writer, &mut paths);
        if collection.journaled().is_some() {
            writer.commands(&one, &mut paths);
        }
    }
    paths
}

impl Writer<'_> {
    /// `/persons`
    fn on_all(&mut self) -> Value {
        let mut methods = json!({"get": self.get_all()});
        if self.described.schemas.created.is_some() && self.collection.keys() != Keys::Text {
            methods["post"] = self.create();
        }
        methods
    }

    /// `/persons/{key}`
    fn on_one(&mut self) -> Value {
        let mut methods = json!({"get": self.get_one()});
        let is_journaled = self.collection.journaled().is_some();
        let is_document = !is_journaled && self.described.schemas.created.is_some();
        if is_document || (is_journaled && self.collection.keys() != Keys::Sequence) {
            methods["put"] = self.put();
        }
        if is_document {
            methods["patch"] = self.patch();
            methods["delete"] = self.delete();
        }
        methods
    }

    fn get_all(&mut self) -> Value {
        let name = self.collection.name();
        let schema = json!({"type": "object", "additionalProperties": self.described.state});
        let lines =
            json!({"type": "string", "description": "A line `{\"key\":…,\"aggregate\":{…}}` for each aggregate."});
        let operation = self
            .operation(&format!("get all {}", self.name), &format!("Read {name}"), "All of them, or those that `key` selects, by their keys. The body is exact at the revision in `X-Revision`.")
            .parameter(parameters::keys(None))
            .shared(&AWAITED)
            .shared(&CONDITIONS)
            .response(
                Success::new(200, format!("The {name}, by key."))
                    .headers(&TAGGED)
                    .content(JSON, schema)
                    .content(NDJSON, lines),
            )
            .response(not_modified());
        self.problems(operation, &[&COMMON, &READ, &STATE])
    }

    fn get_one(&mut self) -> Value {
        let singular = self.collection.singular();
        let mut operation = self
            .operation(&format!("get {}", self.name), &format!("Read one {singular}"), "")
            .parameter(self.key())
            .shared(&AWAITED)
            .shared(&CONDITIONS)
            .response(
                Success::new(200, format!("The {singular}."))
                    .headers(&TAGGED)
                    .content(JSON, self.described.state.clone()),
            )
            .response(not_modified());
        if self.collection.journaled().is_some() {
            operation = operation.parameter(json!({
                "name": "version", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": i64::MAX},
                "description": "The state after so many events of its journal.",
            }));
        }
        self.problems(operation, &[&COMMON, &READ, &STATE, &[Kind::NotFound]])
    }

    /// The body that creates an aggregate, as a component.
    fn created_body(&mut self) -> Value {
        let schema = self.described.schemas.created.clone().unwrap_or_default();
        let is_document = self.collection.journaled().is_none();
        let name = if is_document { format!("{}Input", self.name) } else { format!("{}Create", self.name) };
        self.components.add(&name, schema)
    }

    fn create(&mut self) -> Value {
        let singular = self.collection.singular();
        let schema = self.created_body();
        let operation = self
            .operation(
                &format!("create {}", self.name),
                &format!("Create a {singular}"),
                "The service assigns the key, which is the end of the path of the new aggregate.",
            )
            .shared(&RETURNED)
            .shared(&WRITE_HEADERS)
            .body(&[JSON], &schema, self.requires_body(&schema));
        let operation = operation.response(self.written(201, "created"));
        self.write_problems(operation, &[])
    }

    fn put(&mut self) -> Value {
        let singular = self.collection.singular();
        let schema = self.created_body();
        let (is_keyed, is_document) = (self.collection.keys() != Keys::Sequence, self.collection.journaled().is_none());
        let (id, summary) = match (is_keyed, is_document) {
            (true, true) => ("put", format!("Create or replace a {singular} with a key of your choice")),
            (true, false) => ("create keyed", format!("Create a {singular} with a key of your choice")),
            (false, _) => ("replace", format!("Replace a {singular}")),
        };
        let mut operation = self
            .operation(&format!("{id} {}", self.name), &summary, "")
            .parameter(self.key())
            .shared(&RETURNED)
            .shared(&WRITE_HEADERS)
            .body(&[JSON], &schema, self.requires_body(&schema));
        if is_keyed {
            operation = operation.response(self.written(201, "created"));
        }
        if is_document {
            operation = operation.response(self.written(200, "replaced")).response(unreturned());
        }
        self.write_problems(operation, if is_keyed { &[] } else { &[Kind::NotFound] })
    }

    fn patch(&mut self) -> Value {
        let singular = self.collection.singular();
        let patch = patch_of(self.described.schemas.created.clone().unwrap_or_default());
        let schema = self.components.add(&format!("{}Patch", self.name), patch);
        let operation = self
            .operation(
                &format!("patch {}", self.name),
                &format!("Change a {singular}"),
                "A JSON merge patch (RFC 7396): members that are not in it stay, and null removes one.",
            )
            .parameter(self.key())
            .shared(&RETURNED)
            .shared(&WRITE_HEADERS)
            .body(&PATCH_TYPES, &schema, Required::Yes);
        let operation = operation.response(self.written(200, "changed")).response(unreturned());
        self.write_problems(operation, &[Kind::NotFound])
    }

    fn delete(&mut self) -> Value {
        let singular = self.collection.singular();
        let operation = self
            .operation(&format!("delete {}", self.name), &format!("Delete a {singular}"), "")
            .parameter(self.key())
            .shared(&WRITE_HEADERS)
            .response(
                Success::new(204, format!("The {singular} was deleted."))
                    .headers(&[&TAGGED[..], &["Idempotency-Replayed"]].concat()),
            );
        self.write_problems(operation, &[Kind::NotFound])
    }

    /// `/carts/{key}/add-item`, and so on.
    fn commands(&mut self, one: &str, paths: &mut Map<String, Value>) {
        for command in &self.described.schemas.commands {
            let schema =
                self.components.add(&format!("{}{}", self.name, pascal(&command.name)), command.schema.clone());
            let singular = self.collection.singular();
            let summary = format!("{} ({singular})", sentence_of(&command.name));
            let description = command.schema.get("description").and_then(Value::as_str).unwrap_or_default();
            let operation = self
                .operation(&format!("{} {}", self.name, command.name), &summary, description)
                .parameter(self.key())
                .shared(&RETURNED)
                .shared(&WRITE_HEADERS)
                .body(&[JSON], &schema, self.requires_body(&schema));
            let operation = operation.response(self.written(200, "changed")).response(unreturned());
            let operation = self.write_problems(operation, &[Kind::NotFound]);
            paths.insert(format!("{one}/{}", command.name), json!({"post": operation}));
        }
    }

    /// A command without required fields needs no body.
    fn requires_body(&self, schema: &Value) -> Required {
        let body = self.components.resolve(schema);
        let has_required = body.and_then(|body| body.get("required")).is_some();
        if has_required || self.collection.journaled().is_none() { Required::Yes } else { Required::No }
    }

    /// The response with the aggregate after a write.
    fn written(&self, status: u16, outcome: &str) -> Success {
        let singular = self.collection.singular();
        let mut headers = [&TAGGED[..], &["Preference-Applied", "Idempotency-Replayed"]].concat();
        if status == 201 {
            headers.push("Location");
        }
        Success::new(status, format!("The {singular} was {outcome}; this is its state now."))
            .headers(&headers)
            .content(JSON, self.described.state.clone())
    }

    fn write_problems(&mut self, operation: Operation, kinds: &[Kind]) -> Value {
        let kinds = [&COMMON[..], &WRITE, kinds].concat();
        let mut problems = Problems::of(&kinds, self.components);
        problems.rules(&self.described.schemas.rules, 409, self.components);
        problems.rules(&self.described.schemas.rules, 422, self.components);
        operation.problems(problems, self.components).into_json()
    }
}

/// The response to a client that wants no body.
fn unreturned() -> Success {
    let headers = [&TAGGED[..], &["Preference-Applied"]].concat();
    Success::new(204, "It was done, and the client wants no body.").headers(&headers)
}

/// `add-item` → `Add item`
fn sentence_of(name: &str) -> String {
    crate::http::problem::sentence(name)
}
