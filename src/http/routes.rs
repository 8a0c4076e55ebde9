//! All routes of the service.

use std::future::ready;
use std::rc::Rc;

use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route, guard, web};
use actix_web_lab::middleware::map_response;

use super::authorization::Needs;
use super::collection_paths::CollectionPaths;
use super::front::{Front, pass};
use super::nearest::distance;
use super::options::Options;
use super::problem::{Kind, Problem};
use super::respond::{X_REVISION, insert_revision};
use super::shared::Shared;
use super::surface::Surface;
use super::web_files::web_file;
use super::{commands, erasure, feeds, index, journal, openapi, ops, projections, queries, tickets};
use crate::access::need::{Need, Part};
use crate::domain::collection::{Keys, Registry};
use crate::domain::key::CollectionId;

/// The name of all other paths in the metrics.
const UNMATCHED: &str = "unmatched";

/// Adds the routes of the registered collections, and those of the service itself, as far as a listener has them.
pub(crate) fn routes(config: &mut web::ServiceConfig, shared: &web::Data<Shared>, surface: &Surface) {
    for Path { path, methods, subject } in paths(&shared.registry, surface) {
        let needs = Needs::new(methods.iter().map(|method| (method.name.clone(), method.need)));
        let front = Front { metrics: shared.requests.route(&path), needs, shared: shared.clone() };
        let mut resource = resource(&path, methods);
        if let Subject::Collection(id) = subject {
            resource = resource.app_data(id);
        }
        let front = Rc::new(front);
        let front = from_fn(move |request: ServiceRequest, next| pass(Rc::clone(&front), request, next));
        match subject {
            Subject::Operation | Subject::Page => config.service(resource.wrap(front)),
            Subject::Collection(_) | Subject::Document => {
                config.service(resource.wrap(map_response(name_revision)).wrap(front))
            }
        };
    }
    let needs = Needs::new([]);
    let front = Rc::new(Front { metrics: shared.requests.route(UNMATCHED), needs, shared: shared.clone() });
    let unmatched = web::route().to(no_such_path);
    config.default_service(
        unmatched.wrap(from_fn(move |request: ServiceRequest, next| pass(Rc::clone(&front), request, next))),
    );
}

/// The paths of all routes of a listener, such as `/persons/{key}`.
fn path_names(registry: &Registry, surface: &Surface) -> Vec<String> {
    paths(registry, surface).into_iter().map(|path| path.path).collect()
}

/// A path with its methods.
struct Path {
    path: String,
    methods: Vec<Endpoint>,
    subject: Subject,
}

/// A method of a path, with what a caller must be allowed to do for it.
struct Endpoint {
    name: Method,
    need: Need,
    handler: Route,
}

impl Endpoint {
    /// For `GET` and `HEAD`.
    fn get<F: Handler<Args>, Args: FromRequest + 'static>(need: Need, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        let read = web::route().guard(guard::Any(guard::Get()).or(guard::Head()));
        Self { name: Method::GET, need, handler: read.to(handler) }
    }

    fn of<F: Handler<Args>, Args: FromRequest + 'static>(name: Method, need: Need, handler: F) -> Self
    where
        F::Output: Responder + 'static,
    {
        Self { handler: web::method(name.clone()).to(handler), name, need }
    }
}

/// What a path is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Collection(CollectionId),
    /// More than one collection.
    Document,
    /// The service itself.
    Operation,
    /// The page, apart from `/`, at which there is the index as well.
    Page,
}

fn paths(registry: &Registry, surface: &Surface) -> Vec<Path> {
    let mut paths: Vec<_> = registry.ids().flat_map(|id| of_collection(registry, id)).collect();
    let document = [
        // Shows what the caller may read, and a stranger the page.
        ("/", Endpoint::get(Need::Open, index::index)),
        ("/journal", Endpoint::get(Need::Read(Part::Document), journal::everything)),
        ("/aggregates", Endpoint::get(Need::Read(Part::Document), queries::document)),
        ("/events", Endpoint::get(Need::Read(Part::Document), feeds::everything)),
    ];
    paths.extend(document.map(|(path, method)| Path {
        path: path.to_owned(),
        methods: vec![method],
        subject: Subject::Document,
    }));
    paths.extend(of_the_service().map(|(path, method)| Path {
        path: path.to_owned(),
        methods: vec![method],
        subject: Subject::Operation,
    }));
    let page = ["/docs", "/page/{file}"].map(|path| Path {
        path: path.to_owned(),
        methods: vec![Endpoint::get(Need::Open, web_file)],
        subject: Subject::Page,
    });
    paths.extend(page);
    for path in &mut paths {
        path.methods.retain(|method| surface.has(method.need));
    }
    paths.retain(|path| !path.methods.is_empty() && (path.subject != Subject::Page || surface.has_page()));
    paths
}

/// The routes of one collection.
fn of_collection(registry: &Registry, id: CollectionId) -> Vec<Path> {
    let collection = registry.get(id);
    let paths = CollectionPaths(collection);
    let journaled = collection.journaled().is_some();
    let keys = collection.keys();
    let (read_all, read_one) = (Need::Read(Part::Collection(id)), Need::Read(Part::Aggregate(id)));
    let (write_all, write_one) = (Need::Write(Part::Collection(id)), Need::Write(Part::Aggregate(id)));
    let mut on_all = vec![Endpoint::get(read_all, queries::collection)];
    let mut on_one = vec![Endpoint::get(read_one, queries::aggregate)];
    if paths.can_create() {
        on_all.push(Endpoint::of(Method::POST, write_all, commands::create));
    }
    let is_document = collection.derivation().is_none() && !journaled;
    if is_document || (journaled && keys != Keys::Sequence) {
        on_one.push(Endpoint::of(Method::PUT, write_one, commands::put));
    }
    if is_document {
        on_one.push(Endpoint::of(Method::PATCH, write_one, commands::patch));
        on_one.push(Endpoint::of(Method::DELETE, write_one, commands::delete));
    }
    let follow = || vec![Endpoint::get(read_all, feeds::collection)];
    let mut routes = vec![
        (paths.state(), on_all),
        (paths.aggregate(), on_one),
        (paths.feed(), follow()),
        (paths.feed_by_name(), follow()),
        (paths.aggregate_feed(), vec![Endpoint::get(read_one, feeds::aggregate)]),
    ];
    if journaled {
        routes.push((paths.aggregate_journal(), vec![Endpoint::get(read_one, journal::aggregate)]));
        let command = Endpoint::of(Method::POST, write_one, commands::command);
        routes.push((paths.command("{command}"), vec![command]));
    }
    let subject = Subject::Collection(id);
    routes.into_iter().map(|(path, methods)| Path { path, methods, subject }).collect()
}

/// The routes for those who operate the service, and those of the files that are part of it.
fn of_the_service() -> [(&'static str, Endpoint); 14] {
    [
        ("/projections", Endpoint::get(Need::Operate, projections::all)),
        ("/projections/{name}", Endpoint::get(Need::Operate, projections::one)),
        ("/projections/{name}/rebuild", Endpoint::of(Method::POST, Need::Operate, projections::rebuild)),
        ("/projections/{name}/skip", Endpoint::of(Method::POST, Need::Operate, projections::skip)),
        ("/reports/{name}", Endpoint::get(Need::Read(Part::Report), projections::report)),
        ("/-/tickets", Endpoint::of(Method::POST, Need::Token, tickets::issue)),
        ("/-/erase", Endpoint::of(Method::POST, Need::Operate, erasure::erase)),
        ("/healthz", Endpoint::get(Need::Open, ops::health)),
        ("/readyz", Endpoint::get(Need::Open, ops::readiness)),
        ("/metrics", Endpoint::get(Need::Operate, ops::metrics)),
        ("/openapi.json", Endpoint::get(Need::Open, openapi::get)),
        ("/follow.js", Endpoint::get(Need::Open, web_file)),
        ("/follow_tabs.js", Endpoint::get(Need::Open, web_file)),
        ("/follow.d.ts", Endpoint::get(Need::Open, web_file)),
    ]
}

/// A resource with its methods; `OPTIONS` lists these, and so does the `405` to other methods.
fn resource(path: &str, methods: Vec<Endpoint>) -> Resource {
    let options = Options::of(methods.iter().map(|method| &method.name));
    let allowed = options.allowed.clone();
    let resource = methods.into_iter().fold(web::resource(path), |resource, method| resource.route(method.handler));
    let resource = resource.route(web::method(Method::OPTIONS).to(move || ready(options.response())));
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
    if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        return Ok(Options::of(&[Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE]).response());
    }
    let shared = request.app_data::<web::Data<Shared>>();
    let known = shared.zip(Surface::of(&request));
    let mut known = known.map(|(shared, surface)| path_names(&shared.registry, surface)).unwrap_or_default();
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
