//! What every request passes, whatever its path: whether it may be answered, how it is counted, and how its connection
//! ends.

use std::sync::Arc;
use std::time::Instant;

use actix_web::ResponseError as _;
use actix_web::body::{BodySize, MessageBody as _};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, Version};
use actix_web::middleware::Next;

use super::problem::Problem;
use super::request_metrics::RouteMetrics;

/// Answers a request, or only says why it is refused. Counts it when the head of the response is known.
pub(super) async fn pass(
    route: Arc<RouteMetrics>,
    verdict: Result<(), Problem>,
    request: ServiceRequest,
    next: Next<actix_web::body::BoxBody>,
) -> actix_web::Result<ServiceResponse> {
    let (method, started) = (request.method().clone(), Instant::now());
    let outcome = match verdict {
        Ok(()) => next.call(request).await,
        Err(problem) => Ok(request.into_response(problem.error_response())),
    };
    let status = match &outcome {
        Ok(response) => response.status(),
        Err(error) => error.as_response_error().status_code(),
    };
    route.count(&method, status, started);
    outcome.map(framed)
}

/// A client of HTTP/1.0 knows no chunks: a body without a length ends with the connection
/// ([RFC 9112, section 6.1](https://www.rfc-editor.org/rfc/rfc9112#section-6.1)).
fn framed(mut response: ServiceResponse) -> ServiceResponse {
    let is_old = response.request().version() < Version::HTTP_11;
    if is_old && response.response().body().size() == BodySize::Stream {
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    response
}
