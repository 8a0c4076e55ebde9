//! The status and the reports of projections, and requests to rebuild them or to skip an event.

use std::fs::File;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder, web};
use serde_json::{Value, json};

use super::accept::accepted;
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, answer};
use super::spooled_response::whole;
use crate::projector::registry::{ReportContent, ReportKind, RunningProjection};
use crate::read::file_body::FileBody;
use crate::read::pool::ReadReport;
use crate::read_model::error::ProjectionError;
use crate::read_model::report::ReportError;

/// The media type of a file.
pub(super) const CSV: &str = "text/csv; charset=utf-8; header=present";

/// `GET /projections`
pub(super) async fn all(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    context.query(&[])?;
    Ok(json_response(&context, StatusCode::OK, &json!({"projections": context.shared.projections.to_json()})))
}

/// `GET /projections/cart_items`
pub(super) async fn one(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    context.query(&[])?;
    let running = named(&context)?;
    Ok(json_response(&context, StatusCode::OK, &context.shared.projections.status_json(running)))
}

/// `POST /projections/cart_items/rebuild`: the response is sent when the rebuild has started.
pub(super) async fn rebuild(context: RequestContext) -> Result<HttpResponse, Problem> {
    context.query(&[])?;
    let running = named(&context)?;
    let started = context.shared.projections.rebuild(running, &context.shared.aggregator).await;
    Ok(json_response(&context, StatusCode::ACCEPTED, &started.map_err(|error| failed(&error))?))
}

/// `POST /projections/cart_items/skip {"at":12}`: skips the event at which the projection stopped.
pub(super) async fn skip(context: RequestContext, payload: web::Payload) -> Result<HttpResponse, Problem> {
    context.query(&[])?;
    let running = named(&context)?;
    let body = context.json_body(payload).await?;
    let at = body.get("at").and_then(Value::as_i64).ok_or_else(|| {
        Problem::new(Kind::Invalid, "at: expected the position or the revision at which the projection stopped")
            .with("member", "at")
    })?;
    running.skip(at).await.map_err(|error| Problem::new(Kind::NotThere, error.to_string()))?;
    Ok(json_response(&context, StatusCode::ACCEPTED, &context.shared.projections.status_json(running)))
}

/// `GET /reports/popular-items`, `GET /reports/carts.csv`
pub(super) async fn report(context: RequestContext) -> Result<HttpResponse, Problem> {
    let name = segment(&context);
    let projections = Arc::clone(&context.shared.projections);
    let Some(kind) = projections.report(&name) else {
        let known = projections.report_names();
        let detail = format!("there is no report {name:?}; expected one of {}", known.join(", "));
        return Err(Problem::new(Kind::NoSuchPath, detail).with("expected", known));
    };
    let (media_type, allowed) = match kind {
        ReportKind::File => ("text/csv", &[][..]),
        ReportKind::Query { parameters } => (JSON, parameters),
        ReportKind::Inline(report) => (JSON, report.parameters),
    };
    accepted(&context.request, &[media_type])?;
    let parameters = context.query(allowed)?.into_parameters();
    let content = match kind {
        // A part of the database, so it is read and refused like everything else in it.
        ReportKind::Inline(report) => {
            let read = context.shared.scanners.try_send(ReadReport { report, parameters })?.await??;
            read.map(ReportContent::Json)
        }
        ReportKind::File | ReportKind::Query { .. } => {
            let read = web::block(move || projections.read(&name, &parameters)).await;
            read.map_err(|error| failed(&error.into()))?
        }
    };
    match content {
        Ok(ReportContent::Json(value)) => whole(&context, json_head(&context, StatusCode::OK), value.to_string()).await,
        Ok(ReportContent::File { file, length }) => Ok(file_response(&context, file, length)),
        Ok(ReportContent::Building) => {
            let problem = Problem::new(Kind::Busy, "the projection is being built");
            Err(problem.header(RETRY_AFTER.as_str(), "1"))
        }
        Err(ReportError::Invalid(invalid)) => Err(Problem::new(Kind::MalformedRequest, invalid.to_string())),
        Err(ReportError::Failed(error)) => Err(failed(&error)),
    }
}

/// The second segment of the path.
fn segment(context: &RequestContext) -> String {
    context.request.path().split('/').nth(2).unwrap_or_default().to_owned()
}

/// The projection in the path.
fn named(context: &RequestContext) -> Result<&RunningProjection, Problem> {
    let name = segment(context);
    context.shared.projections.get(&name).ok_or_else(|| {
        let known: Vec<_> = context.shared.projections.running.iter().map(|running| running.name).collect();
        let detail = format!("there is no projection {name:?}; expected one of {}", known.join(", "));
        Problem::new(Kind::NoSuchPath, detail).with("expected", known)
    })
}

fn failed(error: &ProjectionError) -> Problem {
    log::error!("{error}");
    Problem::internal()
}

pub(super) fn json_response(context: &RequestContext, status: StatusCode, value: &Value) -> HttpResponse {
    json_head(context, status).body(value.to_string())
}

fn json_head(context: &RequestContext, status: StatusCode) -> HttpResponseBuilder {
    let mut response = answer(status, context.shared.epoch(), context.shared.committed.get());
    response.insert_header((CONTENT_TYPE, JSON)).insert_header((CACHE_CONTROL, "no-store"));
    response
}

/// Sends the first `length` bytes of a file. It is open when the response starts, so a swap of generations does not matter.
fn file_response(context: &RequestContext, file: File, length: u64) -> HttpResponse {
    answer(StatusCode::OK, context.shared.epoch(), context.shared.committed.get())
        .insert_header((CONTENT_TYPE, CSV))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(FileBody::new(file, length))
}
