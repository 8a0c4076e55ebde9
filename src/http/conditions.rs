//! Entity tags, and requests that hold for one state only
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).

use actix_web::HttpRequest;
use actix_web::http::header::{ETAG, EntityTag, Header, IF_MATCH, IF_NONE_MATCH, IfMatch, IfNoneMatch};
use serde_json::Value;

use super::problem::{Kind, Problem};
use super::request::Call;
use crate::cursor::{Epoch, Revision};
use crate::precondition::{Precondition, Tags};

/// The tag of an aggregate that last changed at this revision.
pub(super) fn tag(epoch: &Epoch, changed: Revision) -> String {
    format!("\"{epoch}.{changed}\"")
}

/// What the request expects.
pub(super) fn precondition(call: &Call) -> Result<Precondition, Problem> {
    let epoch = &call.shared.epoch;
    // The comparison is strong: a weak tag names no state. Reads, which compare weakly, send none that we gave.
    let strong = |tag: &EntityTag| if tag.weak { None } else { revision(tag, epoch) };
    Ok(Precondition {
        if_match: match header(&call.request)? {
            None => None,
            Some(IfMatch::Any) => Some(Tags::Any),
            Some(IfMatch::Items(tags)) => Some(Tags::These(tags.iter().filter_map(strong).collect())),
        },
        if_none_match: match header(&call.request)? {
            None => None,
            Some(IfNoneMatch::Any) => Some(Tags::Any),
            Some(IfNoneMatch::Items(tags)) => {
                Some(Tags::These(tags.iter().filter_map(|tag| revision(tag, epoch)).collect()))
            }
        },
    })
}

fn header<H: Header>(request: &HttpRequest) -> Result<Option<H>, Problem> {
    if !request.headers().contains_key(H::name()) {
        return Ok(None);
    }
    H::parse(request).map(Some).map_err(|_| {
        let detail = format!("{}: expected * or tags as they were given, such as \"4f9c21aa.8\"", H::name());
        Problem::new(Kind::MalformedRequest, detail)
    })
}

/// The revision that a tag of this epoch names; what follows a hyphen is about the form only.
fn revision(tag: &EntityTag, ours: &Epoch) -> Option<Revision> {
    let (epoch, revision) = tag.tag().split('-').next()?.split_once('.')?;
    (epoch == ours.as_str()).then(|| revision.parse().ok()).flatten()
}

/// The aggregate is in another state, or not there.
pub(super) fn unexpected(call: &Call, actual: Option<Revision>) -> Problem {
    let sent = |name| call.request.headers().get_all(name).filter_map(|value| value.to_str().ok());
    let matching = sent(IF_MATCH).map(str::to_owned);
    let expected: Vec<_> = matching.chain(sent(IF_NONE_MATCH).map(|tags| format!("not {tags}"))).collect();
    let actual = actual.map(|actual| tag(&call.shared.epoch, actual));
    let path = call.aggregate_path();
    let detail = match &actual {
        Some(actual) => format!("{path} is at {actual}; expected {}", expected.join(", ")),
        None => format!("{path} is not there; expected {}", expected.join(", ")),
    };
    let problem = Problem::new(Kind::Unexpected, detail)
        .with("expected", expected)
        .with("actual", actual.clone().map_or(Value::Null, Value::from));
    match actual {
        Some(actual) => problem.header(ETAG.as_str(), actual),
        None => problem,
    }
}
