//! The status and the reports of projections, and requests to rebuild them or to skip an event.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::accept::accepted;
use super::caching::{Caching, Tag};
use super::conditions::{Verdict, verdict};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::respond::{JSON, answer};
use super::text_response::text_response;
use crate::projector::registry::{ReportContent, ReportFile, ReportKind, RunningProjection};
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
    let statuses = json!({"projections": context.shared.projections.to_json()});
    text_response(&context, context.shared.committed.get(), statuses.to_string()).await
}

/// `GET /projections/cart_items`
pub(super) async fn one(context: RequestContext) -> Result<HttpResponse, Problem> {
    accepted(&context.request, &[JSON])?;
    context.query(&[])?;
    let status = context.shared.projections.status_json(named(&context)?);
    text_response(&context, context.shared.committed.get(), status.to_string()).await
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
    let name = context.name("report")?.into_owned();
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
        Ok(ReportContent::Json(value)) => {
            text_response(&context, context.shared.committed.get(), value.to_string()).await
        }
        Ok(ReportContent::File(report)) => file_response(&context, report),
        Ok(ReportContent::Building) => {
            let problem = Problem::new(Kind::Busy, "the projection is being built");
            Err(problem.header(RETRY_AFTER.as_str(), "1"))
        }
        Err(ReportError::Invalid(invalid)) => Err(Problem::new(Kind::MalformedRequest, invalid.to_string())),
        Err(ReportError::Failed(error)) => Err(failed(&error)),
    }
}

/// The projection in the path.
fn named(context: &RequestContext) -> Result<&RunningProjection, Problem> {
    let name = context.name("projection")?;
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

/// What the service is like at the moment.
pub(super) fn json_response(context: &RequestContext, status: StatusCode, value: &Value) -> HttpResponse {
    let mut response = answer(status, context.shared.epoch(), context.shared.committed.get());
    response.insert_header((CONTENT_TYPE, JSON));
    Caching::MOMENT.insert(&mut response, None);
    response.body(value.to_string())
}

/// Sends the beginning of a file, or a 304. It is open when the response starts, so a swap of generations does not matter.
fn file_response(context: &RequestContext, report: ReportFile) -> Result<HttpResponse, Problem> {
    let ReportFile { file, length, generation } = report;
    let shared = &context.shared;
    // Files are only appended to, but after a loss another one may have the number of a generation of an earlier process.
    let tag = Tag::of_text(format!("{} {generation} {length}", shared.epoch()).as_bytes());
    let mut response = answer(StatusCode::OK, shared.epoch(), shared.committed.get());
    response.insert_header((CONTENT_TYPE, CSV));
    if let Verdict::Unchanged(known) = verdict(context, &tag)? {
        Caching::STATE.insert(&mut response, Some(&known));
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    Caching::STATE.insert(&mut response, Some(&tag));
    #[cfg(feature = "direct-write")]
    note_text(context);
    Ok(response.body(FileBody::new(file, length)))
}

/// The file may have any text of clients in it, with line breaks.
#[cfg(feature = "direct-write")]
fn note_text(context: &RequestContext) {
    if let Some(connection) = context.connection() {
        connection.note_text();
    }
}
