//! `GET /openapi.json`: all operations and schemas of the service
//! ([OpenAPI 3.1](https://spec.openapis.org/oas/v3.1.1.html)), from the registered collections and projections.

mod collections;
mod components;
mod examples;
mod feeds;
mod files;
mod operation;
mod operators;
mod parameters;
mod problems;
mod writer;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use self::components::{Components, described};
use self::operation::{About, Operation, Success, TAGGED, not_modified};
use self::parameters::{AWAITED, CONDITIONS};
use self::problems::{COMMON, Problems, READ, STATE};
use super::accept::accepted_type;
use super::caching::Caching;
use super::constant_body::ConstantBody;
use super::constant_response::respond;
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, answer};
use super::surface::Surface;
use crate::domain::collection::{Collection, Registry};
use crate::projector::registry::Projections;

const EVERYTHING: &str = "Everything";
const JOURNAL: &str = "Journal";

/// `GET /openapi.json`
pub(super) async fn get(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted_type(&context.request, &[JSON])?;
    context.query(&[])?;
    let shared = &context.shared;
    let surface = Surface::of(&context.request).ok_or_else(|| Problem::no_such_path(context.request.path()))?;
    let make = || ConstantBody::new(document(&shared.registry, &shared.projections, surface).to_string().into());
    let body = surface.openapi.get_or_init(make);
    let mut response = answer(StatusCode::OK, shared.epoch(), shared.committed.get());
    response.insert_header((CONTENT_TYPE, JSON));
    respond(&context, response, Caching::STATE, body)
}

/// The name of the schema of an aggregate.
pub(super) fn schema_name(collection: &dyn Collection) -> String {
    components::type_name(&collection.singular())
}

const DESCRIPTION: &str = "Aggregates and their change events: two views of one state. Load the state at a revision, then \
    follow the events after it; the copy stays exact. Every `GET` has a `HEAD`. Every error is a problem document of RFC 9457, \
    whose `type` is stable; any request can get a `404` `no-such-path` or a `405` `method-not-allowed`.";

fn document(registry: &Registry, projections: &Projections, surface: &Surface) -> Value {
    let mut components = Components::default();
    let described = described(registry, &mut components);
    let mut paths = collections::paths(registry, &described, &mut components);
    paths.insert("/aggregates".to_owned(), aggregates(registry, &described, &mut components));
    paths.insert("/events".to_owned(), feeds::everything(registry, &mut components));
    paths.insert("/journal".to_owned(), feeds::journal(registry, &described, &mut components));
    paths.extend(operators::paths(projections, surface, &mut components));
    paths.extend(files::paths(surface, &mut components));
    // Every kind has its schema, also if no operation above can get it.
    Problems::of(&Kind::ALL, &mut components);
    let names: Vec<_> = registry.ids().map(|id| registry.get(id).name()).collect();
    let mut tags: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    tags.push(json!({"name": EVERYTHING, "description": "All collections as one document."}));
    tags.push(json!({"name": JOURNAL, "description": "The domain events of all event-sourced aggregates, in order."}));
    tags.extend(operators::tags(surface));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "duality", "version": env!("CARGO_PKG_VERSION"), "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        // A service that was started without tokens needs none.
        "security": [{}, {"token": []}],
        "tags": tags,
        "paths": paths,
        "components": components.into_json(&parameters::all(&names), &parameters::headers()),
    })
}

/// `/aggregates`
fn aggregates(
    registry: &Registry,
    described: &[components::DescribedCollection],
    components: &mut Components,
) -> Value {
    let members = described.iter().map(|described| {
        let schema = json!({"type": "object", "additionalProperties": described.state});
        (registry.get(described.id).name().to_owned(), schema)
    });
    let schema = json!({"type": "object", "properties": members.collect::<Map<_, _>>()});
    let schema = components.add("Aggregates", schema);
    let about = About {
        id: "get everything",
        tag: EVERYTHING,
        summary: "Read all collections",
        description: "Exact at one revision. `collection` selects some.",
    };
    let operation = Operation::new(&about)
        .shared(&["collection"])
        .shared(&AWAITED)
        .shared(&CONDITIONS)
        .response(Success::new(200, "The collections, by name.").headers(&TAGGED).content(JSON, schema))
        .response(not_modified());
    let problems = Problems::of(&[&COMMON[..], &READ, &STATE].concat(), components);
    json!({"get": operation.problems(problems, components).into_json()})
}
