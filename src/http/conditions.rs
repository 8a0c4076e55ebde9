//! Entity tags, and requests that hold for one state only
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).

use actix_web::http::header::{ETAG, EntityTag, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::Value;

use super::problem::{Kind, Problem};
use super::request::RequestContext;
use crate::domain::precondition::{Precondition, Tags};
use crate::domain::revision::{Epoch, Revision};

/// What ends the tag of a form that is compressed.
pub(super) const GZIP: &str = "-gzip";

/// The tag of an aggregate that last changed at this revision.
pub(super) fn tag(epoch: &Epoch, changed: Revision) -> String {
    format!("\"{epoch}.{changed}\"")
}

/// What the request expects.
pub(super) fn precondition(context: &RequestContext) -> Result<Precondition, Problem> {
    // `If-Match` compares strongly: a weak tag names no state. Reads, which compare weakly, send none that we gave.
    Ok(Precondition { if_match: tags(context, &IF_MATCH, false)?, if_none_match: tags(context, &IF_NONE_MATCH, true)? })
}

/// What a header with tags says.
enum Sent {
    Any,
    These(Vec<EntityTag>),
}

/// The revisions of the tags that a header names, if it is there.
fn tags(context: &RequestContext, name: &HeaderName, with_weak: bool) -> Result<Option<Tags>, Problem> {
    Ok(sent(context, name)?.map(|sent| match sent {
        Sent::Any => Tags::Any,
        Sent::These(list) => {
            let meant = list.iter().filter(|tag| with_weak || !tag.weak);
            Tags::These(meant.filter_map(|tag| revision(tag, &context.shared.epoch)).collect())
        }
    }))
}

/// The tag under which the client has already what has this one, if it says so. Both are without quotes; what is in lines
/// and what is not are two things, what is compressed and what is not are one.
pub(super) fn matching_etag(context: &RequestContext, tag: impl FnOnce() -> String) -> Result<Option<String>, Problem> {
    Ok(match sent(context, &IF_NONE_MATCH)? {
        None => None,
        Some(Sent::Any) => Some(tag()),
        Some(Sent::These(list)) => {
            let tag = tag();
            let mut sent = list.iter().map(EntityTag::tag);
            sent.find(|sent| sent.strip_suffix(GZIP).unwrap_or(sent) == tag).map(str::to_owned)
        }
    })
}

fn sent(context: &RequestContext, name: &HeaderName) -> Result<Option<Sent>, Problem> {
    let lines: Vec<_> = context.request.headers().get_all(name).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let text: Option<Vec<_>> = lines.into_iter().map(|line| line.to_str().ok()).collect();
    let text = text.map(|lines| lines.join(",")).unwrap_or_default();
    if text.trim() == "*" {
        return Ok(Some(Sent::Any));
    }
    let list = list(&text).ok_or_else(|| {
        let detail = format!("{name}: expected * or tags as they were given, such as \"4f9c21aa.8\"");
        Problem::new(Kind::MalformedRequest, detail)
    })?;
    Ok(Some(Sent::These(list)))
}

/// Every tag of a list, or nothing: the framework's own way leaves out what it cannot read, and a write that was meant
/// for some states only would be done in any.
fn list(text: &str) -> Option<Vec<EntityTag>> {
    let (mut tags, mut rest) = (Vec::new(), text);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        // A comma may stand inside of a tag, a quote may not.
        let (end, _) = rest.match_indices('"').nth(1)?;
        let (tag, after) = rest.split_at(end + 1);
        tags.push(tag.parse().ok()?);
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// The revision that a tag of this epoch names; what follows a hyphen is about the form only.
fn revision(tag: &EntityTag, ours: &Epoch) -> Option<Revision> {
    let (epoch, revision) = tag.tag().split('-').next()?.split_once('.')?;
    (epoch == ours.as_str()).then(|| revision.parse().ok()).flatten()
}

/// The aggregate is in another state, or not there.
pub(super) fn unexpected(context: &RequestContext, actual: Option<Revision>) -> Problem {
    let sent = |name| context.request.headers().get_all(name).filter_map(|value| value.to_str().ok());
    let matching = sent(IF_MATCH).map(str::to_owned);
    let expected: Vec<_> = matching.chain(sent(IF_NONE_MATCH).map(|tags| format!("not {tags}"))).collect();
    let actual = actual.map(|actual| tag(&context.shared.epoch, actual));
    let path = context.aggregate_path();
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
