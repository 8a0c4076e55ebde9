//! All routes of the service.

use std::sync::Arc;

use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Resource, Route, guard, web};
use actix_web_lab::middleware::map_response;

use super::problem::Problem;
use super::request_metrics::observe;
use super::respond::{X_REVISION, insert_revision};
use super::shared::Shared;
use super::{commands, feeds, journal, ops, projections, queries};
use crate::domain::collection::Keys;

/// The name of all other paths in the metrics.
const UNMATCHED: &str = "unmatched";

/// Adds the routes of the registered collections, and those of the service itself.
pub(crate) fn routes(config: &mut web::ServiceConfig, shared: &web::Data<Shared>) {
    for id in shared.registry.ids() {
        let collection = shared.registry.get(id);
        let all = format!("/{}", collection.name());
        let one = format!("{all}/{{key}}");
        let events = format!("/{}-events", collection.singular());

        let journaled = collection.journaled().is_some();
        let keys = collection.keys();
        let mut on_all = vec![(Method::GET, read().to(queries::collection))];
        let mut on_one = vec![(Method::GET, read().to(queries::aggregate))];
        if collection.derivation().is_none() && keys != Keys::Text {
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
        let mut paths = vec![
            (events, vec![(Method::GET, read().to(feeds::collection))]),
            (format!("{one}/events"), vec![(Method::GET, read().to(feeds::aggregate))]),
        ];
        if journaled {
            paths.push((format!("{one}/journal"), vec![(Method::GET, read().to(journal::aggregate))]));
            paths.push((format!("{one}/{{command}}"), vec![(Method::POST, web::post().to(commands::command))]));
        }
        for (path, methods) in [(all, on_all), (one, on_one)].into_iter().chain(paths) {
            let route = shared.requests.route(&path);
            let resource = resource(&path, methods).app_data(id).wrap(map_response(name_revision));
            config.service(resource.wrap(from_fn(move |request, next| observe(Arc::clone(&route), request, next))));
        }
    }
    for (path, handler) in [
        ("/journal", read().to(journal::everything)),
        ("/aggregates", read().to(queries::document)),
        ("/events", read().to(feeds::everything)),
    ] {
        let route = shared.requests.route(path);
        let resource = resource(path, vec![(Method::GET, handler)]).wrap(map_response(name_revision));
        config.service(resource.wrap(from_fn(move |request, next| observe(Arc::clone(&route), request, next))));
    }
    for (path, method, handler) in of_operators() {
        let route = shared.requests.route(path);
        let resource = resource(path, vec![(method, handler)]);
        config.service(resource.wrap(from_fn(move |request, next| observe(Arc::clone(&route), request, next))));
    }
    let route = shared.requests.route(UNMATCHED);
    let unmatched = web::route().to(no_such_path);
    config.default_service(unmatched.wrap(from_fn(move |request, next| observe(Arc::clone(&route), request, next))));
}

/// The routes for those who operate the service.
fn of_operators() -> [(&'static str, Method, Route); 8] {
    [
        ("/projections", Method::GET, read().to(projections::all)),
        ("/projections/{name}", Method::GET, read().to(projections::one)),
        ("/projections/{name}/rebuild", Method::POST, web::post().to(projections::rebuild)),
        ("/projections/{name}/skip", Method::POST, web::post().to(projections::skip)),
        ("/reports/{name}", Method::GET, read().to(projections::report)),
        ("/healthz", Method::GET, read().to(ops::health)),
        ("/readyz", Method::GET, read().to(ops::readiness)),
        ("/metrics", Method::GET, read().to(ops::metrics)),
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

async fn no_such_path(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(Problem::no_such_path(request.path()))
}
