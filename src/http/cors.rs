//! Cross-origin requests: which origins can read responses ([Fetch, section 3.2](https://fetch.spec.whatwg.org/#http-cors-protocol)).

use actix_cors::{Cors, CorsError};
use actix_web::ResponseError as _;
use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::ORIGIN;

use super::problem::{Kind, Problem};
use super::request_id::{RequestId, X_REQUEST_ID};

/// The headers that scripts of other origins can read, in addition to those that browsers always expose.
const EXPOSED: [&str; 7] =
    ["X-Revision", "X-Epoch", "X-Request-Id", "ETag", "Location", "Retry-After", "Idempotency-Replayed"];

/// Allows these origins; `*` allows all.
pub(crate) fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default().allow_any_method().allow_any_header().expose_headers(EXPOSED).max_age(3600);
    if origins.iter().any(|origin| origin == "*") {
        return cors.allow_any_origin().send_wildcard();
    }
    // Other origins get the response without CORS headers, as from a service without CORS support.
    let cors = cors.block_on_origin_mismatch(false);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}

/// Replaces the plain text with which a preflight is refused by a problem, and adds the id of the request, which only the
/// routes have added.
pub(crate) async fn complete<B: MessageBody + 'static>(
    response: ServiceResponse<B>,
) -> actix_web::Result<ServiceResponse> {
    let mut response = response.map_into_boxed_body();
    if response.headers().contains_key(&X_REQUEST_ID) {
        return Ok(response);
    }
    let id = RequestId::of(response.request().headers());
    if let Some(problem) = refusal(&response) {
        let problem = id.within(|| problem.error_response());
        response = ServiceResponse::new(response.request().clone(), problem);
    }
    id.insert(response.headers_mut());
    Ok(response)
}

/// Why a preflight is refused.
fn refusal(response: &ServiceResponse) -> Option<Problem> {
    let error = response.response().error().and_then(|error| error.as_error::<CorsError>())?;
    let origin = response.request().headers().get(ORIGIN);
    let origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes())).unwrap_or_default();
    Some(match error {
        CorsError::OriginNotAllowed => {
            Problem::new(Kind::ForeignOrigin, format!("Origin: {origin} is not one of those of --cors-origin"))
        }
        other => Problem::new(Kind::MalformedRequest, format!("the preflight is refused: {other}")),
    })
}
