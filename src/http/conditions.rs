//! Entity tags and conditional requests
//! ([RFC 9110, section 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).

use std::sync::Arc;

use actix_web::http::header::{ETAG, EntityTag, HeaderName, IF_MATCH, IF_NONE_MATCH};
use serde_json::Value;

use super::caching::{GZIP, Tag};
use super::problem::{Kind, Problem};
use super::request::RequestContext;
use crate::domain::history::History;
use crate::domain::precondition::{Precondition, Tags};
use crate::domain::revision::Revision;

/// The conditions of the request.
pub(super) fn precondition(context: &RequestContext) -> Result<Precondition, Problem> {
    Ok(Precondition {
        if_match: tags(context, &IF_MATCH, Comparison::Strong)?,
        if_none_match: tags(context, &IF_NONE_MATCH, Comparison::Weak)?,
    })
}

/// How tags are compared ([RFC 9110, section 8.8.3.2](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3.2)).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// A weak tag matches nothing.
    Strong,
    /// A weak tag matches as a strong one does.
    Weak,
}

/// The value of a header with tags.
enum Sent {
    Any,
    These(Vec<EntityTag>),
}

/// The revisions of the tags in a header, if it is present.
fn tags(context: &RequestContext, name: &HeaderName, comparison: Comparison) -> Result<Option<Tags>, Problem> {
    Ok(sent(context, name)?.map(|sent| match sent {
        Sent::Any => Tags::Any,
        Sent::These(list) => {
            let usable = list.iter().filter(|tag| comparison == Comparison::Weak || !tag.weak);
            Tags::These(usable.filter_map(|tag| revision(tag, &context.shared.history)).collect())
        }
    }))
}

/// What a read is answered with, by its conditions.
pub(super) enum Verdict {
    /// The body.
    Send,
    /// A 304: the client has a body with this tag, which may be the compressed one.
    Unchanged(Tag),
}

/// The verdict on a read of what has this tag. NDJSON and JSON have different tags; a compressed and an uncompressed body match
/// each other.
///
/// # Errors
/// A 412, if the client expects another tag; a 400, if a header is malformed.
pub(super) fn verdict(context: &RequestContext, tag: &Tag) -> Result<Verdict, Problem> {
    let (if_match, if_none_match) = (sent(context, &IF_MATCH)?, sent(context, &IF_NONE_MATCH)?);
    if let Some(Sent::These(list)) = if_match
        && !list.iter().any(|sent| !sent.weak && stem(sent.tag()) == stem(tag.as_str()))
    {
        return Err(unexpected_tag(context, Some(tag)));
    }
    Ok(match if_none_match {
        None => Verdict::Send,
        Some(Sent::Any) => Verdict::Unchanged(tag.clone()),
        Some(Sent::These(list)) => {
            let mut sent = list.iter().map(EntityTag::tag);
            match sent.find(|sent| sent.strip_suffix(GZIP).unwrap_or(sent) == tag.as_str()) {
                Some(known) if known != tag.as_str() => Verdict::Unchanged(tag.clone().with(GZIP)),
                Some(_) => Verdict::Unchanged(tag.clone()),
                None => Verdict::Send,
            }
        }
    })
}

/// A tag without what names the representation only.
fn stem(tag: &str) -> &str {
    tag.split('-').next().unwrap_or_default()
}

fn sent(context: &RequestContext, name: &HeaderName) -> Result<Option<Sent>, Problem> {
    let lines: Vec<_> = context.request.headers().get_all(name).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    // A tag can have any bytes from 0x80 on; none of this service does.
    let text: Vec<_> = lines.into_iter().map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let text = text.join(",");
    if text.trim() == "*" {
        return Ok(Some(Sent::Any));
    }
    let list = list(&text).ok_or_else(|| {
        let detail = format!("{name}: expected * or entity tags such as \"4f9c21aa.8\"");
        Problem::new(Kind::MalformedRequest, detail)
    })?;
    Ok(Some(Sent::These(list)))
}

/// All tags of a list; `None` if one of them is malformed. The parser of the framework ignores malformed tags, and a
/// conditional write would become unconditional.
fn list(text: &str) -> Option<Vec<EntityTag>> {
    let mut tags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return (!tags.is_empty()).then_some(tags);
        }
        // A tag can contain a comma, but not a quote.
        let (end, _) = rest.match_indices('"').nth(1)?;
        let (tag, after) = rest.split_at(end + 1);
        tags.push(tag.parse().ok()?);
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

/// The revision in a tag, if it belongs to this history.
fn revision(tag: &EntityTag, history: &History) -> Option<Revision> {
    let (epoch, revision) = stem(tag.tag()).split_once('.')?;
    let revision = revision.parse().ok()?;
    history.has_revision(&epoch.parse().ok()?, revision).then_some(revision)
}

/// The most tags of a header that a problem repeats.
const MAX_TAGS: usize = 20;

/// The tags in a header, each with its quotes.
fn listed(context: &RequestContext, name: &HeaderName) -> Vec<String> {
    match sent(context, name) {
        Ok(Some(Sent::Any)) => vec!["*".to_owned()],
        Ok(Some(Sent::These(list))) => list.iter().take(MAX_TAGS).map(ToString::to_string).collect(),
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// The aggregate is in another state, or does not exist.
pub(super) fn unexpected(context: &RequestContext, actual: Option<Revision>) -> Problem {
    Expectation::of(context).problem(actual)
}

/// What is at the path has another tag, or none.
fn unexpected_tag(context: &RequestContext, actual: Option<&Tag>) -> Problem {
    Expectation::of(context).problem_of_tag(actual)
}

/// What a request expects of its aggregate, for the problem that says so.
pub(super) struct Expectation {
    path: String,
    /// The tags in its headers.
    tags: Vec<String>,
    history: Arc<History>,
}

impl Expectation {
    pub(super) fn of(context: &RequestContext) -> Self {
        let not = listed(context, &IF_NONE_MATCH).into_iter().map(|tag| format!("not {tag}"));
        let tags = listed(context, &IF_MATCH).into_iter().chain(not).collect();
        Self { path: context.aggregate_path(), tags, history: Arc::clone(&context.shared.history) }
    }

    /// The path of the aggregate.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The problem if the aggregate last changed at another revision, or does not exist.
    pub(super) fn problem(&self, actual: Option<Revision>) -> Problem {
        let tag = actual.map(|actual| Tag::of_revision(&self.history, actual));
        self.problem_of_tag(tag.as_ref())
    }

    fn problem_of_tag(&self, actual: Option<&Tag>) -> Problem {
        let Self { path, tags: expected, .. } = self;
        let detail = match actual.map(Tag::quoted) {
            Some(actual) => format!("{path} is at {actual}; expected {}", expected.join(", ")),
            None => format!("{path} does not exist; expected {}", expected.join(", ")),
        };
        let problem = Problem::new(Kind::Unexpected, detail)
            .with("expected", expected.as_slice())
            .with("actual", actual.map_or(Value::Null, |actual| actual.quoted().into()));
        match actual {
            Some(actual) => problem.header(ETAG.as_str(), actual.quoted()),
            None => problem,
        }
    }
}
