//! Projections: how they are, what can be read of them, and orders to build them anew.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, rt, web};
use serde_json::{Value, json};

use super::accept::accepted;
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, answer};
use crate::projector::registry::{Answered, Kept};
use crate::read::spooled_body::{Spool, spool};
use crate::read_model::projection::ProjectionError;
use crate::read_model::report::ReportError;

/// The form of a file.
const CSV: &str = "text/csv; charset=utf-8; header=present";

/// `GET /projections`
pub(super) async fn all(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    context.query(&[])?;
    Ok(told(&context, StatusCode::OK, &json!({"projections": context.shared.projections.told()})))
}

/// `GET /projections/cart_items`
pub(super) async fn one(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    context.query(&[])?;
    let kept = named(&context)?;
    Ok(told(&context, StatusCode::OK, &context.shared.projections.told_of(kept)))
}

/// `POST /projections/cart_items/rebuild`: answered when it has begun.
pub(super) async fn rebuild(context: RequestContext) -> Result<HttpResponse, Problem> {
    context.query(&[])?;
    let kept = named(&context)?;
    let begun =
        context.shared.projections.rebuild(kept, &context.shared.aggregator).await.map_err(|error| failed(&error))?;
    Ok(told(&context, StatusCode::ACCEPTED, &begun))
}

/// `POST /projections/cart_items/skip {"at":12}`: leaves out the event at which it stopped.
pub(super) async fn skip(context: RequestContext, payload: web::Payload) -> Result<HttpResponse, Problem> {
    context.query(&[])?;
    let kept = named(&context)?;
    let body = context.json_body(payload).await?;
    let at = body.get("at").and_then(Value::as_i64).ok_or_else(|| {
        Problem::new(Kind::Invalid, "at: expected the position or the revision at which the projection stopped")
            .with("member", "at")
    })?;
    kept.skip(at).await.map_err(|error| Problem::new(Kind::NotThere, error.to_string()))?;
    Ok(told(&context, StatusCode::ACCEPTED, &context.shared.projections.told_of(kept)))
}

/// `GET /reports/popular-items`, `GET /reports/carts.csv`
pub(super) async fn report(context: RequestContext) -> Result<HttpResponse, Problem> {
    let name = segment(&context);
    let projections = Arc::clone(&context.shared.projections);
    let Some((_, report)) = projections.reports.get(name.as_str()) else {
        let mut known: Vec<_> = projections.reports.keys().copied().collect();
        known.sort_unstable();
        let detail = format!("there is no report {name:?}; expected one of {}", known.join(", "));
        return Err(Problem::new(Kind::NoSuchPath, detail).with("expected", known));
    };
    accepted(&context.request, &[if report.is_some() { JSON } else { "text/csv" }])?;
    let parameters = context.query(report.map_or(&[][..], |report| report.parameters))?.into_parameters();
    let read = web::block(move || projections.read(&name, &parameters)).await;
    match read.map_err(|error| failed(&error.into()))? {
        Ok(Answered::Value(value)) => Ok(told(&context, StatusCode::OK, &value)),
        Ok(Answered::File(opened, length)) => Ok(file(&context, opened, length)),
        Ok(Answered::Building) => {
            let problem = Problem::new(Kind::Busy, "the projection is being built for the first time");
            Err(problem.header(RETRY_AFTER.as_str(), "1"))
        }
        Err(ReportError::Invalid(invalid)) => Err(Problem::new(Kind::MalformedRequest, invalid.to_string())),
        Err(ReportError::Failed(error)) => Err(failed(&error)),
    }
}

/// `GET /healthz`: whether the service does what it is for, and how its projections are.
pub(super) async fn health(context: RequestContext) -> Result<HttpResponse, Problem> {
    let projections = &context.shared.projections;
    let status = if projections.is_failing() { "degraded" } else { "ok" };
    let health = json!({
        "status": status,
        "epoch": context.shared.epoch.as_str(),
        "revision": context.shared.committed.get().number(),
        "position": context.shared.journal.borrow().last.number(),
        "projections": projections.told(),
    });
    Ok(told(&context, StatusCode::OK, &health))
}

/// `GET /metrics`, in the text format of Prometheus.
pub(super) async fn metrics(context: RequestContext) -> Result<HttpResponse, Problem> {
    let told = context.shared.projections.told();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Value) -> Value| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for projection in &told {
            let label = projection["name"].as_str().unwrap_or_default();
            text.push_str(&format!("{name}{{projection=\"{label}\"}} {}\n", value(projection)));
        }
    };
    metric("duality_projection_lag_events", "gauge", "Events that wait.", &|told| told["lag"]["events"].clone());
    metric("duality_projection_lag_seconds", "gauge", "Age of the first event that waits.", &|told| {
        told["lag"]["seconds"].clone()
    });
    metric("duality_projection_failing", "gauge", "1 while it does not go on.", &|told| {
        i32::from(told["state"] == "failing").into()
    });
    metric("duality_projection_building", "gauge", "1 while it is built anew.", &|told| {
        i32::from(told["state"] == "building").into()
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(text))
}

/// The second segment of the path.
fn segment(context: &RequestContext) -> String {
    context.request.path().split('/').nth(2).unwrap_or_default().to_owned()
}

fn named(context: &RequestContext) -> Result<&Kept, Problem> {
    let name = segment(context);
    context.shared.projections.get(&name).ok_or_else(|| {
        let known: Vec<_> = context.shared.projections.kept.iter().map(|kept| kept.name).collect();
        let detail = format!("there is no projection {name:?}; expected one of {}", known.join(", "));
        Problem::new(Kind::NoSuchPath, detail).with("expected", known)
    })
}

fn failed(error: &ProjectionError) -> Problem {
    log::error!("{error}");
    Problem::internal()
}

fn told(context: &RequestContext, status: StatusCode, value: &Value) -> HttpResponse {
    answer(status, &context.shared.epoch, context.shared.committed.get())
        .insert_header((CONTENT_TYPE, JSON))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(value.to_string())
}

/// Sends the bytes of a file that count. It is open when the answer begins, so another generation does not matter.
fn file(context: &RequestContext, opened: File, length: u64) -> HttpResponse {
    let (spool, body) = spool(&context.shared.spool_directory);
    rt::task::spawn_blocking(move || copy(opened, length, spool));
    answer(StatusCode::OK, &context.shared.epoch, context.shared.committed.get())
        .insert_header((CONTENT_TYPE, CSV))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(body)
}

/// What cannot be read to its end is dropped unfinished: the client's response is cut.
fn copy(file: File, length: u64, mut spool: Spool) {
    let mut file = file.take(length);
    loop {
        let mut chunk = vec![0; 64 * 1024];
        match file.read(&mut chunk) {
            Ok(0) if file.limit() == 0 => return spool.finish(),
            Ok(0) => return log::error!("a file of a projection is shorter than its checkpoint"),
            Ok(read) => {
                chunk.truncate(read);
                if spool.push(chunk.into()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return log::error!("a file of a projection cannot be read: {error}"),
        }
    }
}
