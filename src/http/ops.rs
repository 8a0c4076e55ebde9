//! For those who operate the service: health and metrics.

use std::sync::atomic::AtomicI64;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::problem::Problem;
use super::projections::json_response;
use super::request::RequestContext;
use super::shared::Shared;

/// The text format that Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /healthz`: whether the service is fully operational, and the status of its projections.
pub(super) async fn health(context: RequestContext) -> Result<HttpResponse, Problem> {
    let projections = &context.shared.projections;
    let health = json!({
        "status": if projections.is_failing() { "degraded" } else { "ok" },
        "epoch": context.shared.epoch().as_str(),
        "revision": context.shared.committed.get().number(),
        "position": context.shared.journal.borrow().last.number(),
        "projections": projections.to_json(),
    });
    Ok(json_response(&context, StatusCode::OK, &health))
}

/// `GET /metrics`
pub(super) async fn metrics(context: RequestContext) -> Result<HttpResponse, Problem> {
    let mut text = String::new();
    encode(&mut text, &registry(&context.shared)).map_err(|error| {
        log::error!("cannot encode the metrics: {error}");
        Problem::internal()
    })?;
    let mut response = HttpResponse::Ok();
    Ok(response.insert_header((CONTENT_TYPE, OPEN_METRICS)).insert_header((CACHE_CONTROL, "no-store")).body(text))
}

/// All metrics, with their current values. A counter that the service increments is kept in [`Shared`], and a clone of it
/// is registered here.
fn registry(shared: &Shared) -> Registry {
    let mut registry = Registry::with_prefix("duality");
    register_projections(registry.sub_registry_with_prefix("projection"), shared);
    registry
}

fn register_projections(registry: &mut Registry, shared: &Shared) {
    let lag_events = ByProjection::register(registry, "lag_events", "Events that are not applied yet");
    let lag_seconds = ByProjection::register(registry, "lag_seconds", "Age of the first event that is not applied yet");
    let failing = ByProjection::register(registry, "failing", "1 while the projection is failing");
    let building =
        ByProjection::register(registry, "building", "1 while a generation of the projection is being built");
    let now = shared.projections.now();
    for projection in &shared.projections.running {
        let state = projection.status.state();
        let lag = state.lag(now);
        lag_events.set(projection.name, lag.events);
        lag_seconds.set(projection.name, lag.seconds);
        failing.set(projection.name, i64::from(state.name_of_state() == "failing"));
        building.set(projection.name, i64::from(state.name_of_state() == "building"));
    }
}

/// A gauge for each projection.
struct ByProjection(Family<[(&'static str, &'static str); 1], Gauge<i64, AtomicI64>>);

impl ByProjection {
    /// `help` is a sentence without its full stop, which the registry adds.
    fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, Family::clone(&family));
        Self(family)
    }

    fn set(&self, projection: &'static str, value: i64) {
        self.0.get_or_create(&[("projection", projection)]).set(value);
    }
}
