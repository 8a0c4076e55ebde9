//! What every request passes, whatever its path: whether it may be answered, how it is counted, and how its connection
//! ends.

use std::pin::pin;
use std::rc::Rc;
#[cfg(feature = "direct-write")]
use std::rc::Weak;
use std::sync::Arc;
use std::time::Instant;

use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
#[cfg(feature = "direct-write")]
use actix_web::http::Version;
use actix_web::middleware::Next;
use actix_web::{ResponseError as _, web};

use super::access_log;
#[cfg(feature = "direct-write")]
use super::access_log::is_stream;
use super::authorization::{Needs, admit, keep_private};
use super::last_request::{LastRequest, hang_up};
use super::request_id::RequestId;
use super::request_metrics::RouteMetrics;
use super::shared::Shared;
#[cfg(feature = "direct-write")]
use crate::delivery::direct_write::DirectWriter;
#[cfg(feature = "direct-write")]
use crate::delivery::intake::AfterBody;
#[cfg(feature = "direct-write")]
use crate::delivery::stream_body::Framing;
#[cfg(feature = "direct-write")]
use crate::delivery::stream_connection;

/// What the front knows of a path.
pub(super) struct Front {
    pub(super) metrics: Arc<RouteMetrics>,
    pub(super) needs: Needs,
    pub(super) shared: web::Data<Shared>,
}

/// Answers a request, or only says why it is refused. Counts it when the head of the response is known.
pub(super) async fn pass(
    front: Rc<Front>,
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> actix_web::Result<ServiceResponse> {
    if LastRequest::is_before(request.request()) {
        return Ok(hang_up(request).await);
    }
    let (method, started) = (request.method().clone(), Instant::now());
    #[cfg(feature = "direct-write")]
    let connection = connection(&request);
    let mut answering = pin!(RequestId::of(request.headers()).scope(async {
        match admit(&front.shared, &front.needs, &request) {
            Ok(()) => next.call(request).await,
            Err(problem) => Ok(request.into_response(problem.error_response())),
        }
    }));
    let outcome = answering.as_mut().await;
    let id = answering.take_value().expect("the future has the id again at its end");
    let status = match &outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    front.metrics.count(&method, status, started);
    #[cfg(feature = "direct-write")]
    if let (Some(connection), Ok(response)) = (&connection, &outcome) {
        if is_stream(response) {
            connection.intake().begin_endless();
        }
        if connection.intake().end_body() == AfterBody::End {
            LastRequest::is_now(response.request());
        }
    }
    let mut response = LastRequest::end(outcome?);
    if front.shared.tokens.is_some() {
        response = keep_private(response);
    }
    if access_log::is_on() {
        response = access_log::log_response(response, &id, started);
    }
    id.insert(response.headers_mut());
    #[cfg(feature = "direct-write")]
    if let Some(connection) = connection.filter(|_| is_stream(&response)) {
        return Ok(lend(response, &connection));
    }
    Ok(response)
}

/// Lets a connection go on with a stream that the framework has begun. Nothing behind it is answered, and its head does not say
/// so: with `Connection: close`, the `fetch` of Node takes a stream that is cut for one that has ended cleanly.
#[cfg(feature = "direct-write")]
fn lend(response: ServiceResponse, connection: &Rc<DirectWriter>) -> ServiceResponse {
    let framing = if response.request().version() < Version::HTTP_11 { Framing::Nothing } else { Framing::Chunks };
    response.map_body(|_, body| stream_connection::lend(body, framing, connection))
}

/// The connection of a request, which knows from now on that the request has begun.
#[cfg(feature = "direct-write")]
fn connection(request: &ServiceRequest) -> Option<Rc<DirectWriter>> {
    let connection = request.request().conn_data::<Weak<DirectWriter>>().and_then(Weak::upgrade)?;
    connection.intake().begin(request.head());
    Some(connection)
}
