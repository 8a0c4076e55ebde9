//! `GET /`: what the service has, as JSON; for a browser, the page.

use actix_web::HttpResponse;
use serde::Serialize;
use serde_json::{Map, Value};

use super::accept::{accepted_type, check_identity};
use super::collection_paths::CollectionPaths;
use super::openapi::schema_name;
use super::problem::Problem;
use super::query::NoParams;
use super::request::RequestContext;
use super::respond::JSON;
use super::surface::Surface;
use super::text_response::text_response;
use super::web_files::{HTML, send};
use crate::domain::clock::Timestamp;
use crate::domain::collection::{Collection, Derivation, Keys};

/// The document. What the service does not have is absent.
#[derive(Serialize)]
struct Index<'a> {
    name: &'static str,
    version: &'static str,
    epoch: &'a str,
    revision: i64,
    collections: Vec<IndexedCollection>,
    everything: Everything,
    /// The token of the request, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<IndexedToken>,
    /// The paths that are not about one collection, each if there is a route for it.
    #[serde(flatten)]
    service: Map<String, Value>,
}

#[derive(Serialize)]
struct IndexedCollection {
    name: &'static str,
    state: String,
    events: String,
    kind: &'static str,
    keys: &'static str,
    /// Whether `POST` to its state creates an aggregate.
    create: bool,
    commands: Vec<IndexedCommand>,
    #[serde(skip_serializing_if = "Option::is_none")]
    journal: Option<String>,
    /// The schema of one of its aggregates.
    schema: String,
    /// The collection that it is derived from.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
}

#[derive(Serialize)]
struct IndexedCommand {
    name: String,
    path: String,
}

#[derive(Serialize)]
struct IndexedToken {
    name: String,
    scopes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
    /// The collections that it may not read as a whole; they are not in `collections`.
    hidden: Vec<&'static str>,
}

/// The whole document, and the feed that changes it.
#[derive(Serialize)]
struct Everything {
    state: &'static str,
    events: &'static str,
}

/// The names of the members for paths that are not about one collection.
const SERVICE: [(&str, &str); 7] = [
    ("journal", "/journal"),
    ("projections", "/projections"),
    ("health", "/healthz"),
    ("metrics", "/metrics"),
    ("openapi", "/openapi.json"),
    ("docs", "/docs"),
    ("follow", "/follow.js"),
];

/// `GET /`
pub(super) async fn index(context: RequestContext) -> Result<HttpResponse, Problem> {
    let has_page = Surface::of(&context.request).is_some_and(Surface::has_page);
    let types = if has_page { &[JSON, HTML][..] } else { &[JSON] };
    if accepted_type(&context.request, types)? == HTML {
        return send(&context);
    }
    check_identity(&context.request)?;
    let NoParams {} = context.params()?;
    let (registry, revision) = (&context.shared.registry, context.shared.committed.get());
    let readable = context.caller().readable();
    let index = Index {
        name: "duality",
        version: env!("CARGO_PKG_VERSION"),
        epoch: context.shared.epoch().as_str(),
        revision: revision.number(),
        collections: registry.ids().filter(|id| readable.contains(*id)).map(|id| indexed(registry.get(id))).collect(),
        everything: Everything { state: "/aggregates", events: "/events" },
        token: token(&context),
        service: service(&context),
    };
    let text = serde_json::to_string(&index).map_err(|error| {
        log::error!("cannot write the index: {error}");
        Problem::internal()
    })?;
    text_response(&context, revision, text).await
}

fn token(context: &RequestContext) -> Option<IndexedToken> {
    let (registry, caller) = (&context.shared.registry, context.caller());
    let (grant, readable) = (caller.grant()?, caller.readable());
    let hidden = registry.ids().filter(|id| !readable.contains(*id));
    Some(IndexedToken {
        name: grant.name().to_owned(),
        scopes: grant.scopes().iter().map(ToString::to_string).collect(),
        expires: grant.expires(),
        hidden: hidden.map(|id| registry.get(id).name()).collect(),
    })
}

fn service(context: &RequestContext) -> Map<String, Value> {
    let routes = context.request.resource_map();
    let present = SERVICE.into_iter().filter(|(_, path)| routes.has_resource(path));
    present.map(|(name, path)| (name.to_owned(), path.into())).collect()
}

fn indexed(collection: &dyn Collection) -> IndexedCollection {
    let paths = CollectionPaths(collection);
    let source = collection.derivation().map(Derivation::source);
    let journaled = collection.journaled().is_some();
    let command = |name: &String| IndexedCommand { name: name.clone(), path: paths.command(name) };
    IndexedCollection {
        name: collection.name(),
        state: paths.state(),
        events: paths.feed(),
        kind: match source {
            Some(_) => "derived",
            None if journaled => "event-sourced",
            None => "state",
        },
        keys: match collection.keys() {
            Keys::Sequence => "sequence",
            Keys::Uuid => "uuid",
            Keys::Text => "text",
        },
        create: paths.can_create(),
        commands: paths.commands().iter().map(command).collect(),
        journal: journaled.then(|| paths.journal()),
        schema: format!("/openapi.json#/components/schemas/{}", schema_name(collection)),
        source,
    }
}
