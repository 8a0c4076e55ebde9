//! One line of the log for each request, and two for a stream: at the level `debug`.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::HttpMessage as _;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use actix_web::web::Bytes;
use percent_encoding::percent_decode_str;

use super::request_id::RequestId;
use super::respond::SSE;
use crate::access::caller::Caller;
use crate::access::redaction::without_secrets;

/// What `RUST_LOG` knows these lines by.
const TARGET: &str = "duality::access";

/// The query parameters whose values nobody may see.
const SECRET: [&str; 1] = ["ticket"];

/// Whether requests are logged. Without it, a request costs nothing here.
pub(super) fn is_on() -> bool {
    log::log_enabled!(target: TARGET, log::Level::Debug)
}

/// Whether a response has no end.
pub(super) fn is_stream(response: &ServiceResponse) -> bool {
    let media_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    response.request().method() == Method::GET && media_type == Some(SSE.as_bytes())
}

/// Logs a response whose head is known, and the end of a stream when its body is dropped.
pub(super) fn log_response(response: ServiceResponse, id: &RequestId, started: Instant) -> ServiceResponse {
    let is_stream = is_stream(&response);
    let request = response.request();
    let (method, status) = (request.method().clone(), response.status().as_u16());
    let path = shown(request.uri().path(), request.query_string()).into_owned();
    let extensions = request.extensions();
    let actor = extensions.get::<Caller>().and_then(Caller::name);
    let bytes = match response.response().body().size() {
        BodySize::Sized(bytes) if method != Method::HEAD => Some(bytes),
        BodySize::None => Some(0),
        BodySize::Sized(_) | BodySize::Stream => None,
    };
    log::debug!(
        target: TARGET,
        method = method.as_str(), path = path.as_str(), status, bytes, microseconds = microseconds(started), actor,
        request = id.as_str();
        "{}", if is_stream { "a stream begins" } else { "answered" }
    );
    drop(extensions);
    if !is_stream {
        return response;
    }
    let end = StreamEnd { path, id: id.clone(), started };
    response.map_body(|_, body| BoxBody::new(LoggedStream { body, _end: end }))
}

/// The body of a stream whose end is logged.
struct LoggedStream {
    body: BoxBody,
    _end: StreamEnd,
}

impl MessageBody for LoggedStream {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// Logs the end of a stream when it is dropped.
struct StreamEnd {
    path: String,
    id: RequestId,
    started: Instant,
}

impl Drop for StreamEnd {
    fn drop(&mut self) {
        let Self { path, id, started } = self;
        log::debug!(
            target: TARGET,
            path = path.as_str(), microseconds = microseconds(*started), request = id.as_str();
            "a stream ends"
        );
    }
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A path with its query, without control characters and without the values of secrets.
fn shown<'a>(path: &'a str, query: &str) -> Cow<'a, str> {
    let path = visible(path);
    if query.is_empty() {
        return path;
    }
    let parameters: Vec<_> = query.split('&').map(shown_parameter).collect();
    format!("{path}?{}", parameters.join("&")).into()
}

/// `ticket=…` for a secret, however its name is encoded.
fn shown_parameter(parameter: &str) -> Cow<'_, str> {
    let name = parameter.split('=').next().unwrap_or_default();
    let is_secret = SECRET.iter().any(|secret| percent_decode_str(name).eq(secret.bytes()));
    if is_secret { format!("{}=…", visible(name)).into() } else { visible(parameter) }
}

/// Without control characters, and without the digits of a token that somebody has put into a URL.
fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        return without_secrets(&text.escape_debug().to_string()).into_owned().into();
    }
    without_secrets(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_and_everything_else_is() {
        for (query, expected) in [
            ("", "/persons"),
            ("key=1&key=a%20b", "/persons?key=1&key=a%20b"),
            ("ticket=abc", "/persons?ticket=…"),
            ("key=1&ticket=abc&strict", "/persons?key=1&ticket=…&strict"),
            ("%74icke%74=abc", "/persons?%74icke%74=…"),
            ("ticket", "/persons?ticket=…"),
            ("tickets=1", "/persons?tickets=1"),
            ("a=\u{85}", "/persons?a=\\u{85}"),
            ("token=duality_0123456789abcdef&x=1", "/persons?token=duality_…&x=1"),
            ("token=duality%5F0123456789abcde%66", "/persons?token=duality%5F…"),
        ] {
            assert_eq!(shown("/persons", query), expected, "{query}");
        }
        assert_eq!(shown("/persons/duality_0123456789abcdef/events", ""), "/persons/duality_…/events");
    }
}
