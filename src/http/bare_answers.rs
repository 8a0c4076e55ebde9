//! The answers of the framework to what it cannot read as a request. They have no body, and no hook makes one, so they are
//! replaced on their way to the client.

use std::str;

use actix_web::http::StatusCode;

use super::problem::{Kind, Problem};
use super::request_id::RequestId;
use crate::delivery::direct_write::Replacement;

/// The longest head of such an answer, in bytes.
const LONGEST: usize = 192;

/// What is sent in the place of a bare answer at the end of some bytes, if there is one. Answers of the service itself have a
/// body, or headers that these have not.
pub(super) fn explained(bytes: &[u8]) -> Option<Replacement> {
    let start = bytes.len().saturating_sub(LONGEST);
    let from = start + memchr::memmem::rfind(&bytes[start..], b"HTTP/1.")?;
    let mut lines = str::from_utf8(&bytes[from..]).ok()?.strip_suffix("\r\n\r\n")?.split("\r\n");
    let (_, status) = lines.next()?.split_once(' ')?;
    let problem = problem(status.split(' ').next()?.parse().ok()?)?;
    let (mut is_empty, mut date) = (false, None);
    for line in lines {
        match line.split_once(": ")? {
            ("content-length", "0") => is_empty = true,
            ("date", time) => date = Some(time),
            ("connection", _) => {}
            _ => return None,
        }
    }
    let date = date.filter(|_| is_empty)?;
    let id = RequestId::new();
    let body = id.within(|| problem.document());
    let (id, length) = (id.as_str(), body.len());
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-store\r\nx-request-id: {id}\r\ndate: {date}\r\n\r\n{body}"
    );
    Some(Replacement { from, text: text.into() })
}

/// The framework does not say what was wrong, so the detail has all that was expected.
fn problem(status: StatusCode) -> Option<Problem> {
    Some(match status {
        StatusCode::BAD_REQUEST => Problem::new(
            Kind::MalformedRequest,
            "the request cannot be read as HTTP/1.1 (RFC 9112); expected a first line such as GET /persons HTTP/1.1, headers with \
             exactly one Host, and the length of a body by one Content-Length or by Transfer-Encoding: chunked",
        ),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Problem::new(
            Kind::HeadTooLarge,
            "the head of the request is too large; expected at most 96 headers and 128 KiB in all",
        ),
        StatusCode::REQUEST_TIMEOUT => {
            Problem::new(Kind::TooSlow, "the head of the request did not arrive in time; expected its end within 5 s")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: Sun, 29 Nov 2026 12:10:04 GMT\r\n\r\n";

    #[test]
    fn only_a_bare_answer_at_the_end_is_replaced() {
        for before in ["", "{}", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", &"x".repeat(70_000)] {
            let replaced = explained(format!("{before}{BARE}").as_bytes()).unwrap();
            assert_eq!(replaced.from, before.len());
            let text = str::from_utf8(&replaced.text).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
            assert!(head.ends_with("date: Sun, 29 Nov 2026 12:10:04 GMT"), "{head}");
            assert!(
                body.starts_with(r#"{"detail":"the request cannot be read"#)
                    || body.contains(r#""type":"malformed-request""#)
            );
        }
        for other in [
            "".to_owned(),
            format!("{BARE}x"),
            BARE.replace("400 Bad Request", "200 OK"),
            BARE.replace("length: 0", "length: 5"),
            BARE.replace("date", "content-type: application/problem+json\r\ndate"),
            BARE.replace("content-length: 0\r\n", ""),
            BARE.replace("HTTP/1.1 ", ""),
        ] {
            assert!(explained(other.as_bytes()).is_none(), "{other}");
        }
    }
}
