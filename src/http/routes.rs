//! All routes of the service.

use std::sync::Arc;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, Route, guard, web};
use actix_web_lab::middleware::map_response;

use super::collection_paths::CollectionPaths;
use super::front::pass;
use super::nearest::distance;
use super::problem::{Kind, Problem};
use super::respond::{X_REVISION, insert_revision};
use super::shared::Shared;
use super::web_files::web_file;
use super::{commands, feeds, index, journal, openapi, ops, projections, queries};
use crate::domain::collection::{Keys, Registry};
use crate::domain::key::CollectionId;

/// The name of all other paths in the metrics.
const UNMATCHED: &str = "unmatched";

/// Adds the routes of the registered collections, and those of the service itself.
pub(crate) fn routes(config: &mut web::ServiceConfig, shared: &web::Data<Shared>) {
    for Path { path, methods, subject } in paths(&shared.registry) {
        let route = shared.requests.route(&path);
        let mut resource = resource(&path, methods);
        if let Subject::Collection(id) = subject {
            resource = resource.app_data(id);
        }
        let shared = shared.clone();
        let front = from_fn(move |request: ServiceRequest, next| {
            pass(Arc::clone(&route), shared.access.check(request.head()), request, next)
        });
        match subject {
            Subject::Operation => config.service(resource.wrap(front)),
            Subject::Collection(_) | Subject::Document => {
                config.service(resource.wrap(map_response(name_revision)).wrap(front))
            }
        };
    }
    let route = shared.requests.route(UNMATCHED);
    let unmatched = web::route().to(no_such_path);
    let shared = shared.clone();
    config.default_service(unmatched.wrap(from_fn(move |request: ServiceRequest, next| {
        pass(Arc::clone(&route), shared.access.check(request.head()), request, next)
    })));
}

/// The paths of all routes, such as `/persons/{key}`.
pub(crate) fn path_names(registry: &Registry) -> Vec<String> {
    paths(registry).into_iter().map(|path| path.path).collect()
}

/// A path with its methods.
struct Path {
    path: String,
    methods: Vec<(Method, Route)>,
    subject: Subject,
}

/// What a path is about.
#[derive(Clone, Copy)]
enum Subject {
    Collection(CollectionId),
    /// More than one collection.
    Document,
    /// The service itself.
    Operation,
}

fn paths(registry: &Registry) -> Vec<Path> {
    let mut paths: Vec<_> = registry.ids().flat_map(|id| of_collection(registry, id)).collect();
    let document = [
        ("/", read().to(index::index)),
        ("/journal", read().to(journal::everything)),
        ("/aggregates", read().to(queries::document)),
        ("/events", read().to(feeds::everything)),
    ];
    paths.extend(document.map(|(path, handler)| Path {
        path: path.to_owned(),
        methods: vec![(Method::GET, handler)],
        subject: Subject::Document,
    }));
    paths.extend(of_the_service().map(|(path, method, handler)| Path {
        path: path.to_owned(),
        methods: vec![(method, handler)],
        subject: Subject::Operation,
    }));
    paths
}

/// The routes of one collection.
fn of_collection(registry: &Registry, id: CollectionId) -> Vec<Path> {
    let collection = registry.get(id);
    let paths = CollectionPaths(collection);
    let journaled = collection.journaled().is_some();
    let keys = collection.keys();
    let mut on_all = vec![(Method::GET, read().to(queries::collection))];
    let mut on_one = vec![(Method::GET, read().to(queries::aggregate))];
    if paths.can_create() {
        on_all.push((Method::POST, web::post().to(commands::create)));
    }
    if journaled && keys != Keys::Sequence {
        on_one.push((Method::PUT, web::put().to(commands::replace)));
    }
    if collection.derivation().is_none() && !journaled {
        on_one.push((Method::PUT, web::put().to(commands::replace)));
        on_one.push((Method::PATCH, web::patch().to(commands::patch)));
        on_one.push((Method::DELETE, web::delete().to(commands::delete)));
    }
    let follow = || vec![(Method::GET, read().to(feeds::collection))];
    let mut routes = vec![
        (paths.state(), on_all),
        (paths.aggregate(), on_one),
        (paths.feed(), follow()),
        (paths.feed_by_name(), follow()),
        (paths.aggregate_feed(), vec![(Method::GET, read().to(feeds::aggregate))]),
    ];
    if journaled {
        routes.push((paths.aggregate_journal(), vec![(Method::GET, read().to(journal::aggregate))]));
        routes.push((paths.command("{command}"), vec![(Method::POST, web::post().to(commands::command))]));
    }
    let subject = Subject::Collection(id);
    routes.into_iter().map(|(path, methods)| Path { path, methods, subject }).collect()
}

/// The routes for those who operate the service, and those of the files that are part of it.
fn of_the_service() -> [(&'static str, Method, Route); 13] {
    [
        ("/projections", Method::GET, read().to(projections::all)),
        ("/projections/{name}", Method::GET, read().to(projections::one)),
        ("/projections/{name}/rebuild", Method::POST, web::post().to(projections::rebuild)),
        ("/projections/{name}/skip", Method::POST, web::post().to(projections::skip)),
        ("/reports/{name}", Method::GET, read().to(projections::report)),
        ("/healthz", Method::GET, read().to(ops::health)),
        ("/readyz", Method::GET, read().to(ops::readiness)),
        ("/metrics", Method::GET, read().to(ops::metrics)),
        ("/openapi.json", Method::GET, read().to(openapi::get)),
        ("/docs", Method::GET, read().to(web_file)),
        ("/follow.js", Method::GET, read().to(web_file)),
        ("/follow.d.ts", Method::GET, read().to(web_file)),
        ("/page/{file}", Method::GET, read().to(web_file)),
    ]
}

/// A route for `GET` and `HEAD`.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A resource with its methods; other methods get a `405` that lists these.
fn resource(path: &str, methods: Vec<(Method, Route)>) -> Resource {
    let names: Vec<&str> = methods
        .iter()
        .flat_map(|(method, _)| if *method == Method::GET { vec!["GET", "HEAD"] } else { vec![method.as_str()] })
        .collect();
    let allowed = names.join(", ");
    let resource = methods.into_iter().fold(web::resource(path), |resource, (_, route)| resource.route(route));
    resource.default_service(web::to(move |request: HttpRequest| {
        let problem = Problem::method_not_allowed(request.method().as_str(), request.path(), &allowed);
        async move { Err::<HttpResponse, _>(problem) }
    }))
}

/// Adds the current revision to an error without one, so that every response about the document has a revision.
async fn name_revision(mut response: ServiceResponse) -> actix_web::Result<ServiceResponse> {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    if is_error && !response.headers().contains_key(&X_REVISION) {
        let shared = response.request().app_data::<web::Data<Shared>>().cloned();
        if let Some(shared) = shared {
            insert_revision(response.headers_mut(), shared.epoch(), shared.committed.get());
        }
    }
    Ok(response)
}

/// A path is suggested if it is no further away than this, in characters.
const MAX_DISTANCE: usize = 3;

async fn no_such_path(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let path = request.path();
    let shared = request.app_data::<web::Data<Shared>>();
    let mut known = shared.map(|shared| path_names(&shared.registry)).unwrap_or_default();
    known.sort_by_cached_key(|known| distance(path, known));
    let meant = path.trim_end_matches('/');
    let problem = if meant.len() < path.len() && request.resource_map().has_resource(meant) {
        Problem::new(Kind::NoSuchPath, format!("no route matches {path}; expected {meant}, without a slash at the end"))
    } else {
        match known.first().filter(|known| distance(path, known) <= MAX_DISTANCE) {
            Some(nearest) => {
                Problem::new(Kind::NoSuchPath, format!("no route matches {path}; did you mean {nearest}?"))
            }
            None => Problem::no_such_path(path),
        }
    };
    Err(problem.with("paths", known))
}
