//! Cross-origin requests: which origins can read responses ([Fetch, section 3.2](https://fetch.spec.whatwg.org/#http-cors-protocol)).

use actix_cors::Cors;

/// The headers that scripts of other origins can read, in addition to those that browsers always expose.
const EXPOSED: [&str; 5] = ["X-Revision", "X-Epoch", "ETag", "Location", "Retry-After"];

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
