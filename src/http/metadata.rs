//! The metadata of a write, from the headers of its request.

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::problem::{Kind, Problem};
use super::request::RequestContext;
use super::request_id::with_current;
use crate::domain::metadata::{MAX_METADATA_LENGTH, Metadata};

/// A header, with its name as a problem has it.
struct Header {
    name: HeaderName,
    shown: &'static str,
}

const CORRELATION: Header = Header { name: HeaderName::from_static("x-correlation-id"), shown: "X-Correlation-Id" };
const CAUSATION: Header = Header { name: HeaderName::from_static("x-causation-id"), shown: "X-Causation-Id" };
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// The metadata of a write: the actor is the name of the token, and without another one, the correlation is the id of the
/// request.
///
/// # Errors
/// `X-Correlation-Id` or `X-Causation-Id` is malformed.
pub(super) fn metadata(context: &RequestContext) -> Result<Metadata, Problem> {
    let metadata = of_headers(context.request.headers(), of_request)?;
    match context.caller().name() {
        // The name of a token can be an actor.
        Some(name) => metadata.with_actor(name).map_err(|_| Problem::internal()),
        None => Ok(metadata),
    }
}

/// The correlation of a write whose headers name none: the id of its request.
fn of_request() -> Metadata {
    let named = with_current(|id| Metadata::default().with_correlation(id).ok());
    named.flatten().unwrap_or_else(Metadata::new)
}

/// Metadata with what the headers say. A `traceparent` counts where there is no header of ours; `otherwise` is the
/// metadata without a correlation of the client's.
fn of_headers(headers: &HeaderMap, otherwise: impl FnOnce() -> Metadata) -> Result<Metadata, Problem> {
    let trace = trace_parent(headers);
    let metadata = match CORRELATION.value(headers)?.or(trace.map(|trace| trace.trace)) {
        Some(correlation) => Metadata::default().with_correlation(correlation).map_err(|_| CORRELATION.malformed())?,
        None => otherwise(),
    };
    match CAUSATION.value(headers)?.or(trace.map(|trace| trace.parent)) {
        Some(causation) => metadata.with_causation(causation).map_err(|_| CAUSATION.malformed()),
        None => Ok(metadata),
    }
}

impl Header {
    /// The value of the header; `None` if it is absent or empty.
    fn value<'a>(&self, headers: &'a HeaderMap) -> Result<Option<&'a str>, Problem> {
        let mut values = headers.get_all(&self.name).filter(|value| !value.is_empty());
        let Some(value) = values.next() else { return Ok(None) };
        // Of two, nobody knows which one is meant.
        let is_only = values.next().is_none();
        value.to_str().ok().filter(|_| is_only).map(Some).ok_or_else(|| self.malformed())
    }

    fn malformed(&self) -> Problem {
        let detail = format!("{}: expected 1 to {MAX_METADATA_LENGTH} visible ASCII characters", self.shown);
        Problem::new(Kind::MalformedRequest, detail)
    }
}

/// What a [`traceparent`](https://www.w3.org/TR/trace-context/#traceparent-header) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TraceParent<'a> {
    trace: &'a str,
    parent: &'a str,
}

/// The `traceparent`. One that is malformed, or sent more than once, is ignored, as the specification demands.
fn trace_parent(headers: &HeaderMap) -> Option<TraceParent<'_>> {
    let mut values = headers.get_all(&TRACE_PARENT);
    let value = values.next().filter(|_| values.next().is_none())?;
    parse(value)
}

/// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`: version, trace, parent and flags. A later version may have
/// more after another hyphen.
fn parse(value: &HeaderValue) -> Option<TraceParent<'_>> {
    let text = value.to_str().ok()?;
    let (known, more) = text.split_at_checked(55)?;
    let mut parts = known.split('-');
    let [version, trace, parent, flags] = [2, 32, 16, 2].map(|length| parts.next().filter(|part| is_hex(part, length)));
    let (version, trace, parent, _) = (version?, trace?, parent?, flags?);
    let is_known_end = if version == "00" { more.is_empty() } else { more.is_empty() || more.starts_with('-') };
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    let is_valid = version != "ff" && is_known_end && !is_zero(trace) && !is_zero(parent);
    is_valid.then_some(TraceParent { trace, parent })
}

/// Whether a text has this number of hexadecimal digits, in lower case.
fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";
    const NOTHING: &str = "00000000000000000000000000000000";

    #[test]
    fn a_trace_parent_that_is_malformed_is_ignored() {
        for (text, is_valid) in [
            (format!("00-{TRACE}-{PARENT}-01"), true),
            (format!("00-{TRACE}-{PARENT}-00"), true),
            (format!("00-{TRACE}-{PARENT}-01-"), false),
            (format!("00-{TRACE}-{PARENT}-01-more"), false),
            (format!("01-{TRACE}-{PARENT}-01-more"), true),
            (format!("01-{TRACE}-{PARENT}-01"), true),
            (format!("01-{TRACE}-{PARENT}-01more"), false),
            (format!("ff-{TRACE}-{PARENT}-01"), false),
            (format!("00-{NOTHING}-{PARENT}-01"), false),
            (format!("00-{TRACE}-{}-01", &NOTHING[..16]), false),
            (format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-{PARENT}"), false),
            (format!("00-{TRACE}-{PARENT}-0g"), false),
            (format!("0-{TRACE}0-{PARENT}-01"), false),
            (String::new(), false),
            ("ä".repeat(30), false),
        ] {
            let value = HeaderValue::from_str(&text).or_else(|_| HeaderValue::from_bytes(text.as_bytes())).unwrap();
            let expected = is_valid.then_some(TraceParent { trace: TRACE, parent: PARENT });
            assert_eq!(parse(&value), expected, "{text}");
        }
    }

    fn metadata(headers: &[(&str, &str)]) -> Result<String, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let minted = || Metadata::default().with_correlation("minted").unwrap();
        let metadata = of_headers(&map, minted).map_err(|problem| problem.to_string())?;
        Ok(metadata.stored().unwrap().as_str().to_owned())
    }

    #[test]
    fn headers_of_ours_come_before_a_trace_parent_and_a_new_correlation_is_last() {
        let trace = format!("00-{TRACE}-{PARENT}-01");
        let of_trace = format!(r#"{{"correlation":"{TRACE}","causation":"{PARENT}"}}"#);
        for (headers, expected) in [
            (&[][..], r#"{"correlation":"minted"}"#),
            (&[(CORRELATION.shown, "a")], r#"{"correlation":"a"}"#),
            (&[(CORRELATION.shown, ""), (CAUSATION.shown, "b")], r#"{"correlation":"minted","causation":"b"}"#),
            (&[("traceparent", &trace)], &of_trace),
            (&[("traceparent", &trace), ("traceparent", &trace)], r#"{"correlation":"minted"}"#),
            (&[("traceparent", "nonsense")], r#"{"correlation":"minted"}"#),
            (
                &[("traceparent", &trace), (CORRELATION.shown, "a")],
                &format!(r#"{{"correlation":"a","causation":"{PARENT}"}}"#),
            ),
            (
                &[("traceparent", &trace), (CORRELATION.shown, "a"), (CAUSATION.shown, "b")],
                r#"{"correlation":"a","causation":"b"}"#,
            ),
        ] {
            assert_eq!(metadata(headers).as_deref(), Ok(expected), "{headers:?}");
        }
    }

    #[test]
    fn a_malformed_header_is_named() {
        let long = "x".repeat(MAX_METADATA_LENGTH + 1);
        for name in [CORRELATION.shown, CAUSATION.shown] {
            for headers in [&[(name, long.as_str())][..], &[(name, "a b")], &[(name, "a"), (name, "a")]] {
                let expected = format!("{name}: expected 1 to 128 visible ASCII characters");
                assert_eq!(metadata(headers), Err(expected), "{headers:?}");
            }
        }
    }
}
