//! The problem documents in the document: one schema for each kind and each business rule, with an example.

use std::collections::BTreeMap;

use heck::ToPascalCase as _;
use serde_json::{Map, Value, json};

use super::components::Components;
use super::examples::example;
use crate::domain::schema::NamedSchema;
use crate::http::problem::{Kind, sentence};

/// What any request may get.
pub(super) const COMMON: [Kind; 6] =
    [Kind::MalformedRequest, Kind::Unauthorized, Kind::MissingScope, Kind::UnknownHost, Kind::Internal, Kind::Replaced];

/// What a read of states may get as well.
pub(super) const READ: [Kind; 5] =
    [Kind::NotAcceptable, Kind::Unexpected, Kind::Invalid, Kind::Busy, Kind::Unavailable];

/// What a read that can wait for a revision may get as well.
pub(super) const STATE: [Kind; 2] = [Kind::ForeignId, Kind::Behind];

/// The problems of one operation, by status.
#[derive(Default)]
pub(super) struct Problems(BTreeMap<u16, Vec<Described>>);

/// A problem with its schema.
struct Described {
    slug: String,
    schema: Value,
    example: Value,
}

impl Problems {
    pub(super) fn of(kinds: &[Kind], components: &mut Components) -> Self {
        let mut problems = Self::default();
        for kind in kinds {
            let (status, slug, title) = kind.parts();
            let status = status.as_u16();
            let name = format!("{}Problem", slug.to_pascal_case());
            let parts = Parts { slug, title, status: Some(status), detail: detail(*kind), members: members(*kind) };
            problems.0.entry(status).or_default().push(parts.described(&name, components));
        }
        problems
    }

    /// Adds the business rules of a collection at a status. A rule may set any other 4xx.
    pub(super) fn rules(&mut self, rules: &[NamedSchema], status: u16, components: &mut Components) {
        for NamedSchema { name: slug, schema } in rules {
            let name = format!("{}Problem", slug.to_pascal_case());
            let title = sentence(slug);
            let detail = schema.get("description").and_then(Value::as_str).unwrap_or(&title);
            let members = Members::of_rule(schema);
            let parts = Parts { slug, title: &title, status: None, detail, members };
            let mut described = parts.described(&name, components);
            described.example["status"] = status.into();
            self.0.entry(status).or_default().push(described);
        }
    }

    /// The responses, by status.
    pub(super) fn responses(self, components: &mut Components) -> Vec<(u16, Value)> {
        let responses = self.0.into_iter().map(|(status, problems)| {
            let slugs: Vec<_> = problems.iter().map(|problem| problem.slug.as_str()).collect();
            let name = format!("{status}-{}", slugs.join("-"));
            let description = slugs.iter().map(|slug| sentence(slug)).collect::<Vec<_>>().join("; ");
            let mut headers = json!({
                "X-Revision": {"$ref": "#/components/headers/X-Revision"},
                "X-Epoch": {"$ref": "#/components/headers/X-Epoch"},
                "X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"},
            });
            let may_wait = problems.iter().any(|problem| problem.slug == Kind::InFlight.parts().1);
            if [503, 507].contains(&status) || may_wait {
                headers["Retry-After"] = json!({"$ref": "#/components/headers/Retry-After"});
            }
            if status == 415 {
                headers["Accept-Post"] = json!({"$ref": "#/components/headers/Accept-Post"});
                headers["Accept-Patch"] = json!({"$ref": "#/components/headers/Accept-Patch"});
            }
            if status == 405 {
                headers["Allow"] = json!({"$ref": "#/components/headers/Allow"});
            }
            if status == 412 {
                headers["ETag"] = json!({"$ref": "#/components/headers/ETag"});
            }
            let examples: Map<_, _> =
                problems.iter().map(|problem| (problem.slug.clone(), json!({"value": problem.example}))).collect();
            let schema = match &problems[..] {
                [only] => only.schema.clone(),
                several => json!({"oneOf": several.iter().map(|problem| &problem.schema).collect::<Vec<_>>()}),
            };
            let content = json!({"application/problem+json": {"schema": schema, "examples": examples}});
            let response = json!({"description": description, "headers": headers, "content": content});
            (status, components.add_response(&name, response))
        });
        responses.collect()
    }
}

/// The members of a problem beside those of the RFC.
struct Members {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Members {
    fn of(required: &Value, optional: &Value) -> Self {
        let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let required = members(required);
        let names = required.keys().map(|name| name.as_str().into()).collect();
        Self { properties: required.into_iter().chain(members(optional)).collect(), required: names }
    }

    /// The fields of a rule, which cannot replace those of the RFC.
    fn of_rule(fields: &Value) -> Self {
        let reserved = |name: &str| ["type", "title", "status", "detail", "instance"].contains(&name);
        let properties = fields.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let required = fields.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        Self {
            properties: properties.into_iter().filter(|(name, _)| !reserved(name)).collect(),
            required: required.into_iter().filter(|name| !name.as_str().is_some_and(reserved)).collect(),
        }
    }
}

/// What a schema and an example are made of.
struct Parts<'a> {
    slug: &'a str,
    title: &'a str,
    /// `None` for a rule, whose status only its value knows.
    status: Option<u16>,
    detail: &'a str,
    members: Members,
}

impl Parts<'_> {
    fn described(self, name: &str, components: &mut Components) -> Described {
        let Members { properties: members, required: required_members } = self.members;
        let status = match self.status {
            Some(status) => json!({"const": status}),
            None => json!({"type": "integer", "minimum": 400, "maximum": 499}),
        };
        let mut properties = json!({
            "type": {"type": "string", "const": self.slug},
            "title": {"type": "string", "const": self.title},
            "status": status,
            "detail": {"type": "string", "description": "What was wrong, and what was expected."},
            "request": {"type": "string", "description": "The id of the request, as in `X-Request-Id`."},
        });
        properties["status"]["type"] = "integer".into();
        let mut example_members = json!({
            "type": self.slug, "title": self.title, "status": self.status.unwrap_or(409), "detail": self.detail,
        });
        for (member, schema) in members {
            example_members[&member] = example(&schema);
            properties[&member] = schema;
        }
        let mut required = vec!["type".into(), "title".into(), "status".into(), "detail".into()];
        required.extend(required_members);
        let schema = json!({"type": "object", "required": required, "properties": properties});
        Described { slug: self.slug.to_owned(), schema: components.add(name, schema), example: example_members }
    }
}

/// The additional members of a kind.
fn members(kind: Kind) -> Members {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let number = json!({"type": "integer", "minimum": 0});
    let none = json!({});
    let history = || json!({"current": number, "epoch": {"type": "string"}, "bootstrap": {"type": "string"}});
    match kind {
        Kind::MalformedRequest => Members::of(&none, &json!({"parameter": {"type": "string"}, "limit": number})),
        Kind::Invalid => Members::of(&none, &json!({"member": {"type": "string"}})),
        Kind::NoSuchPath => Members::of(&none, &json!({"paths": texts, "expected": texts})),
        Kind::NotFound => Members::of(&none, &json!({"erased": {"type": "boolean"}})),
        Kind::UnknownCommand => Members::of(&json!({"expected": texts}), &none),
        Kind::UnsupportedType => Members::of(&none, &json!({"expected": texts})),
        Kind::TooLarge | Kind::AnswersFull => Members::of(&json!({"limit": number}), &none),
        Kind::AggregateTooLarge => Members::of(&json!({"size": number, "limit": number}), &none),
        Kind::Unexpected => Members::of(&json!({"expected": texts, "actual": {"type": ["string", "null"]}}), &none),
        Kind::NotRetained => {
            let mut required = history();
            required["oldest"] = number.clone();
            Members::of(&required, &none)
        }
        Kind::ForeignId => Members::of(&history(), &none),
        Kind::MissingScope => Members::of(&json!({"scope": {"type": "string"}}), &none),
        Kind::Behind => Members::of(&json!({"expected": number, "current": number}), &none),
        Kind::NotAcceptable => Members::of(&json!({"expected": texts}), &none),
        Kind::NotReady => Members::of(&json!({"reasons": {"type": "array", "items": reason()}}), &none),
        _ => Members::of(&none, &none),
    }
}

/// A part of the service that does not work, and why.
pub(super) fn reason() -> Value {
    let text = json!({"type": "string"});
    json!({"type": "object", "required": ["part", "reason"], "properties": {"part": text, "reason": text}})
}

/// A typical detail.
fn detail(kind: Kind) -> &'static str {
    match kind {
        Kind::MalformedJson => "expected value at line 1 column 9",
        Kind::MalformedRequest => "keys: unknown query parameter; expected key",
        Kind::Unauthorized => "the token is unknown, or no longer valid",
        Kind::MissingScope => "the token does not have the scope read:persons",
        Kind::ForeignOrigin => "nothing was done: the request comes from a page of another origin",
        Kind::NotFound => "the aggregate does not exist",
        Kind::UnknownCommand => "unknown command \"fly\"; expected one of the commands of the collection",
        Kind::NoSuchPath => "no route matches /x",
        Kind::TooSlow => "the body did not arrive in time",
        Kind::NotThere => "the projection is not stopped at this event",
        Kind::InFlight => "the first request with this Idempotency-Key has no answer yet; repeat this one later",
        Kind::Erased => "the aggregate was erased; its key is never used again",
        Kind::MethodNotAllowed => "the path does not support BREW; expected one of GET, HEAD",
        Kind::NotAcceptable => {
            "Accept: none of the available media types is accepted; expected one of application/json"
        }
        Kind::BrokenRule => "a business rule was violated",
        Kind::NotRetained => "the cursor is not within the retained revisions; load the state and follow from there",
        Kind::Unexpected => "the aggregate is at \"4f9c21aa.9\"; expected \"4f9c21aa.8\"",
        Kind::ForeignId => "the id does not belong to the history of this database; restart from the beginning",
        Kind::TooLarge => "the body is larger than 1048576 bytes",
        Kind::UnsupportedType => "Content-Type: got text/plain; expected application/json",
        Kind::UnknownHost => "the host is not a name of this service",
        Kind::Invalid => "age: unknown member; expected one of the members of the schema",
        Kind::AggregateTooLarge => {
            "the state would have 1048600 bytes, more than the limit of 1048576 (--max-aggregate)"
        }
        Kind::KeyReused => "Idempotency-Key: the first request with this key had another body",
        Kind::Internal => "the request failed; the log of the service contains the cause",
        Kind::Busy => "nothing was done: too many commands are waiting",
        Kind::Locked => "nothing was done: another process has locked the database",
        Kind::Outdated => "nothing was done: another version of this program has changed the rules of its collections",
        Kind::Unavailable => "nothing was done: the service is stopping",
        Kind::NotReady => "less than 64.0 MiB are free on the disk of the database",
        Kind::AnswersFull => "nothing was done: the answers that are kept for an Idempotency-Key take 1.0 GiB",
        Kind::NoSpace => "nothing was done: the disk of the database is full",
        Kind::Behind => "X-Revision: the service is at revision 8, and did not reach 9 within 3 s",
        Kind::HeadTooLarge => "the head of the request is longer than 128 KiB or has more than 96 headers",
        Kind::Replaced => "the database file was replaced; the log of the service contains what was found",
    }
}
