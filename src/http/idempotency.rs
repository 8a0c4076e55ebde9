//! `Idempotency-Key`: a write that is sent again with the same key gets the first answer
//! ([draft-ietf-httpapi-idempotency-key-header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/)).

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::conditions::Expectation;
use super::problem::{Kind, PROBLEM, Problem, detail_without_state};
use super::request::RequestContext;
use super::respond::answer;
use crate::access::need::PATH_SEGMENT;
use crate::domain::command::{Describe, Idempotency, Rejection};
use crate::domain::idempotency::{Fingerprint, Given, KeptRejection, RequestId};
use crate::write::aggregator::ExecuteError;
use crate::write::in_flight::InFlight;

/// The header of a request that may be sent again.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Its name as a problem has it.
const SHOWN: &str = "Idempotency-Key";

/// The header of an answer that was given before.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 255;

/// The request of the context, if it has a key.
///
/// # Errors
/// The header is malformed, or there are several; or the key in the path is.
pub(super) fn request_id(context: &RequestContext) -> Result<Option<RequestId>, Problem> {
    let mut lines = context.request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(line) = lines.next() else { return Ok(None) };
    let key = line.to_str().ok().filter(|_| lines.next().is_none()).and_then(parse).ok_or_else(malformed)?;
    let (caller, method, path) = (context.caller(), context.request.method().as_str(), path(context)?);
    let parts = [caller.name().unwrap_or_default(), method, &path, &key].map(str::as_bytes);
    Ok(Some(RequestId::of(&parts)))
}

/// The path of a write, in the one spelling that responses use: a proxy may have spelled the first try in another way.
fn path(context: &RequestContext) -> Result<String, Problem> {
    let mut path = format!("/{}", context.collection()?.name());
    let mut segments = context.request.uri().path().split('/').skip(2);
    if segments.next().is_some() {
        path.push('/');
        path.extend(utf8_percent_encode(context.key()?.as_str(), PATH_SEGMENT));
    }
    for command in segments {
        path.push('/');
        path.push_str(command);
    }
    Ok(path)
}

fn malformed() -> Problem {
    let detail =
        format!("{SHOWN}: expected one value of 1 to {MAX_KEY_BYTES} visible ASCII characters, or a string in quotes");
    Problem::new(Kind::MalformedRequest, detail)
}

/// The key in a header: visible characters without quotes, or a string of RFC 9651, section 3.3.3, without its quotes.
/// Both forms of a key are the same key.
fn parse(header: &str) -> Option<String> {
    let header = header.trim_matches([' ', '\t']);
    let key = match header.strip_prefix('"') {
        Some(rest) => unquoted(rest)?,
        None => header.bytes().all(|byte| byte.is_ascii_graphic()).then(|| header.to_owned())?,
    };
    (1..=MAX_KEY_BYTES).contains(&key.len()).then_some(key)
}

/// The string that ends with a quote.
fn unquoted(text: &str) -> Option<String> {
    let mut string = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(string),
            '\\' => string.push(characters.next().filter(|escaped| ['"', '\\'].contains(escaped))?),
            character @ ' '..='~' => string.push(character),
            _ => return None,
        }
    }
}

/// What was sent: the media type, in which the body has its meaning, and the body.
pub(super) fn fingerprint(context: &RequestContext, body: &[u8]) -> Fingerprint {
    let media_type = context.request_type().to_ascii_lowercase();
    Fingerprint::of(&[media_type.as_bytes(), body])
}

/// What makes the command of a request one that is executed once.
pub(super) fn idempotency(context: &RequestContext, request: RequestId, fingerprint: Fingerprint) -> Box<Idempotency> {
    let expectation = Expectation::of(context);
    let describe: Describe = Arc::new(move |rejection| {
        let problem = match rejection {
            Rejection::PreconditionFailed(actual) => expectation.problem(actual),
            Rejection::NotFound | Rejection::Invalid(_) | Rejection::TooLarge(_) | Rejection::RuleBroken(_) => {
                Problem::of_command(ExecuteError::Rejected(rejection), expectation.path())
            }
            // They decide nothing about the command.
            Rejection::Kept(_)
            | Rejection::KeyReused
            | Rejection::AnswersFull(_)
            | Rejection::AnswerErased
            | Rejection::Erased
            | Rejection::Derived
            | Rejection::Corrupt(_)
            | Rejection::Panicked => return Err(rejection),
        };
        Ok(problem.into_document())
    });
    Box::new(Idempotency { request, fingerprint, describe })
}

/// Notes that a request is in flight, until its command is answered.
///
/// # Errors
/// It is already.
pub(super) fn enter(context: &RequestContext, request: RequestId) -> Result<InFlight, Problem> {
    context.shared.in_flight.enter(request).ok_or_else(|| {
        let detail = format!("the first request with this {SHOWN} has no answer yet; repeat this one later");
        Problem::new(Kind::InFlight, detail).header(RETRY_AFTER.as_str(), "1")
    })
}

/// Notes in the head of a response that it is the answer to an earlier request.
pub(super) fn mark_replayed(response: &mut HttpResponseBuilder) {
    response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
}

/// The response with a stored problem.
pub(super) fn kept_problem(kept: KeptRejection) -> HttpResponse {
    let KeptRejection { problem, revision, epoch, given } = kept;
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::CONFLICT);
    let mut response = answer(status, &epoch, revision);
    response.insert_header((CONTENT_TYPE, PROBLEM)).insert_header((CACHE_CONTROL, "no-store"));
    for (name, value) in &problem.headers {
        response.insert_header((name.as_str(), value.as_str()));
    }
    if given == Given::Again {
        mark_replayed(&mut response);
    }
    response.body(problem.body)
}

/// A stored problem for a caller that may write the aggregate, but not read it; see [`Problem::without_state`].
pub(super) fn without_state(mut kept: KeptRejection) -> KeptRejection {
    if kept.problem.shows_state {
        kept.problem.headers.clear();
        let known: Value = serde_json::from_str(&kept.problem.body).unwrap_or_default();
        let detail = detail_without_state(known["title"].as_str().unwrap_or_default());
        let (slug, title) = (&known["type"], &known["title"]);
        kept.problem.body =
            json!({"type": slug, "title": title, "status": kept.problem.status, "detail": detail}).to_string();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_visible_ascii_or_a_quoted_string() {
        let longest = "k".repeat(MAX_KEY_BYTES);
        let quoted = format!("\"{longest}\"");
        for (header, key) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", Some("8e03978e-40d5-43dd-bc93-6894a57f9324")),
            ("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"", Some("8e03978e-40d5-43dd-bc93-6894a57f9324")),
            (" a ", Some("a")),
            ("a\"b", Some("a\"b")),
            ("\"a b\"", Some("a b")),
            (r#""a\"\\b""#, Some(r#"a"\b"#)),
            (&longest, Some(&longest)),
            (&quoted, Some(&longest)),
            ("", None),
            ("\"\"", None),
            ("\"", None),
            ("\"a", None),
            ("\"a\"b", None),
            ("\"a\"; b=1", None),
            (r#""\a""#, None),
            (r#""a\"#, None),
            ("a b", None),
            ("a\tb", None),
            ("\"a\tb\"", None),
            ("ä", None),
            ("\"ä\"", None),
            (&format!("{longest}k"), None),
            (&format!("\"{longest}k\""), None),
        ] {
            assert_eq!(parse(header).as_deref(), key, "{header}");
        }
    }
}
