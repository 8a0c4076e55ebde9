//! Who else's pages may read what the service answers ([Fetch, section 3.2](https://fetch.spec.whatwg.org/#http-cors-protocol)).

use actix_cors::Cors;

/// The headers with a meaning of ours, which scripts of other origins would not see otherwise.
const EXPOSED: [&str; 5] = ["X-Revision", "X-Epoch", "ETag", "Location", "Retry-After"];

/// Lets pages of these origins in; `*` lets all in.
pub(crate) fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default().allow_any_method().allow_any_header().expose_headers(EXPOSED).max_age(3600);
    if origins.iter().any(|origin| origin == "*") {
        return cors.allow_any_origin().send_wildcard();
    }
    // A page of another origin gets its answer without permission to read it, as from a service that knows no CORS.
    let cors = cors.block_on_origin_mismatch(false);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
