//! For those who operate the service: health, readiness and metrics.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use prometheus_client::encoding::text::encode;
use serde_json::json;

use super::caching::Caching;
use super::metrics::registry;
use super::problem::{Kind, Problem};
use super::projections::json_response;
use super::readiness::{Reason, obstacles, reasons, stale_files};
use super::request::RequestContext;
use super::surface::Surface;
use crate::access::need::Need;

/// The text format that Prometheus reads.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `GET /healthz`: a 200 while the process lives. `{"status":"degraded","reasons":[{"part":"writer","reason":"…"}],…}`
pub(super) async fn health(context: RequestContext) -> Result<HttpResponse, Problem> {
    let reasons = shown(&context, reasons(&context.shared));
    let mut health = json!({
        "status": if reasons.is_empty() { "ok" } else { "degraded" },
        "reasons": reasons,
        "file_check": context.shared.database.health().file_check().as_str(),
        "epoch": context.shared.epoch().as_str(),
        "revision": context.shared.committed.get().number(),
        "position": context.shared.journal.borrow().last.number(),
    });
    // The errors of projections may have a part of what they project.
    if is_for_operators(&context) {
        health["projections"] = json!(context.shared.projections.to_json());
    }
    Ok(json_response(&context, StatusCode::OK, &health))
}

/// `GET /readyz`: whether the service should get requests. `{"status":"ready"}`, or a 503 with all reasons.
pub(super) async fn readiness(context: RequestContext) -> Result<HttpResponse, Problem> {
    let reasons = shown(&context, obstacles(&context.shared));
    if reasons.is_empty() {
        let mut ready = json!({"status": "ready"});
        let stale = stale_files(&context.shared);
        if !stale.is_empty() {
            ready["reasons"] = json!(stale);
        }
        return Ok(json_response(&context, StatusCode::OK, &ready));
    }
    let sentences: Vec<_> = reasons.iter().map(Reason::sentence).collect();
    let problem = Problem::new(Kind::NotReady, sentences.join("; "));
    Err(problem.with("reasons", json!(reasons)).header(RETRY_AFTER.as_str(), "5"))
}

/// What of the reasons the caller may read.
fn shown(context: &RequestContext, reasons: Vec<Reason>) -> Vec<Reason> {
    if is_for_operators(context) {
        return reasons;
    }
    reasons.into_iter().map(Reason::without_details).collect()
}

/// Whether the caller may operate the service, and does so on this listener.
fn is_for_operators(context: &RequestContext) -> bool {
    let is_here = Surface::of(&context.request).is_some_and(|surface| surface.has(Need::Operate));
    is_here && context.caller().may_operate()
}

/// `GET /metrics`
pub(super) async fn metrics(context: RequestContext) -> Result<HttpResponse, Problem> {
    let mut text = String::new();
    encode(&mut text, &registry(&context.shared)).map_err(|error| {
        log::error!("cannot encode the metrics: {error}");
        Problem::internal()
    })?;
    let mut response = HttpResponse::Ok();
    Caching::MOMENT.insert(&mut response, None);
    Ok(response.insert_header((CONTENT_TYPE, OPEN_METRICS)).body(text))
}
