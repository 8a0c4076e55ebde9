//! What clients are answered while a service that starts still has much to do: bytes that need nothing of the service.

use std::str;

use super::feed_response::prologue;
use super::problem::{Kind, Problem};
use super::request_id::RequestId;
use super::respond::SSE;

/// What it does, for those who ask whether it is ready.
const REASON: &str = "the service starts, and still prepares its database: it computes or converts what is stored; the log has how \
                      far that is";

/// When it is worth to ask again, in seconds.
const RETRY_AFTER: u32 = 5;

/// The answer to a request, of which the head is complete: `/healthz` says that the process lives, everything else that the
/// service is not ready. `None` if it is no request.
pub(crate) fn answer(head: &[u8]) -> Option<String> {
    let line = str::from_utf8(head.split(|byte| *byte == b'\r').next()?).ok()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/1.") {
        return None;
    }
    if method == "GET" && wants_stream(head) {
        return Some(cut_stream(version));
    }
    let id = RequestId::new();
    let reasons = serde_json::json!([{"part": "start", "reason": REASON}]);
    let path = target.split('?').next()?;
    let (status, kind, body) = if path == "/healthz" {
        let health = serde_json::json!({"status": "degraded", "reasons": reasons});
        ("200 OK".to_owned(), "application/json", health.to_string())
    } else {
        let problem = Problem::new(Kind::NotReady, REASON).with("reasons", reasons);
        (Kind::NotReady.parts().0.to_string(), "application/problem+json", id.within(|| problem.document()))
    };
    let (id, length) = (id.as_str(), body.len());
    let body = if method == "HEAD" { "" } else { &body };
    Some(format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: {kind}\r\n\
         retry-after: {RETRY_AFTER}\r\ncache-control: no-store\r\nx-request-id: {id}\r\n\r\n{body}"
    ))
}

/// Whether a head has a line such as `Accept: text/event-stream`.
fn wants_stream(head: &[u8]) -> bool {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    let mut accepted =
        lines.filter_map(|line| line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("accept")));
    accepted.any(|(_, types)| types.to_ascii_lowercase().contains(SSE))
}

/// A stream that is cut after its first lines, as those over the limit are: an `EventSource` that gets an error, or a stream
/// that ends in order, would never come back.
fn cut_stream(version: &str) -> String {
    let prologue = prologue(&[]);
    let lines = String::from_utf8_lossy(&prologue);
    let (framing, lines) = if version == "HTTP/1.0" {
        ("", lines.into_owned())
    } else {
        ("transfer-encoding: chunked\r\n", format!("{:x}\r\n{lines}\r\n", lines.len()))
    };
    format!(
        "HTTP/1.1 200 OK\r\n{framing}content-type: {SSE}\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n\r\n{lines}"
    )
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn only_a_request_is_answered() {
        for head in ["", "\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/2\r\n\r\n", "\u{16}\u{3}\u{1} x y\r\n\r\n"] {
            assert_eq!(answer(head.as_bytes()), None, "{head:?}");
        }
        assert_eq!(answer(b"GET /\xff HTTP/1.1\r\n\r\n"), None);
        let ready = answer(b"GET /readyz?x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(ready.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{ready}");
        let stream = answer(b"GET /person-events HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n").unwrap();
        assert!(stream.starts_with("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"), "{stream}");
        assert!(stream.contains("\r\n\r\ne\r\n:\nretry: ") && stream.ends_with("\n\r\n"), "{stream}");
        assert!(answer(b"HEAD /persons HTTP/1.0\r\n\r\n").unwrap().ends_with("\r\n\r\n"));
    }
}
