//! Errors on the wire: problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use crate::domain::error_chain::ErrorChain;
use std::borrow::Cow;
use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use serde_json::{Value, json};

use crate::domain::command::{ErasedDomainError, Rejection};
use crate::domain::json::{JsonError, ValidationError};
use crate::domain::revision::{Epoch, Revision};
use crate::read::thread_pool::PoolStopped;
use crate::storage::error::StoreError;
use crate::write::aggregator::ExecuteError;

/// An answer that is not the one the client hoped for.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    /// What a rule of the business says instead of the kind.
    rule: Option<(StatusCode, String)>,
    detail: String,
    /// Members of its own, beside those of the RFC.
    members: Vec<(Cow<'static, str>, Value)>,
    headers: Vec<(&'static str, String)>,
}

/// The kinds of problem; each has a status, a stable slug, and a title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 400: the body is not JSON.
    MalformedJson,
    /// 400: a header or the query does not have the form that it must have.
    MalformedRequest,
    /// 404: no aggregate has this key.
    NotFound,
    /// 404: the aggregates of this collection know no such command.
    UnknownCommand,
    /// 404: nothing is at this path.
    NoSuchPath,
    /// 409: the projection does not stop at the event that was named.
    NotThere,
    /// 405: the path knows other methods only.
    MethodNotAllowed,
    /// 406: the client accepts none of the forms there are.
    NotAcceptable,
    /// 409, unless the rule says otherwise: a rule of the business, with a slug of its own.
    BrokenRule,
    /// 410: the change events from this cursor on are not all here.
    NotRetained,
    /// 412: the aggregate is not in the state that the client expected.
    Unexpected,
    /// 410: an id of another journal than this one.
    ForeignId,
    /// 413: the body is too long.
    TooLarge,
    /// 415: the body is of a type that is not read here.
    UnsupportedType,
    /// 422: JSON of the wrong shape.
    Invalid,
    /// 500: our fault; the log says more.
    Internal,
    /// 503: too much to do.
    Busy,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "The body is not JSON"),
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request", "The request is malformed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is no such aggregate"),
            Self::UnknownCommand => (StatusCode::NOT_FOUND, "unknown-command", "There is no such command"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path", "There is nothing at this path"),
            Self::NotThere => (StatusCode::CONFLICT, "not-there", "The projection is elsewhere"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Not with this method"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Not in a form that is accepted"),
            Self::BrokenRule => (StatusCode::CONFLICT, "rule-broken", "A rule would be broken"),
            Self::NotRetained => (StatusCode::GONE, "not-retained", "The events after this cursor are not all here"),
            Self::Unexpected => {
                (StatusCode::PRECONDITION_FAILED, "unexpected-state", "Not in the state that was expected")
            }
            Self::ForeignId => (StatusCode::GONE, "foreign-id", "The id is none of this journal"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too long"),
            Self::UnsupportedType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", "The body is of an unsupported type")
            }
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Not what it should be"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong here"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too busy"),
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, rule: None, detail: detail.into(), members: Vec::new(), headers: Vec::new() }
    }

    pub(crate) fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((member.into(), value.into()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Names the state in which it was so.
    pub(crate) fn at(self, epoch: &Epoch, revision: Revision) -> Self {
        self.header("X-Revision", revision.to_string()).header("X-Epoch", epoch.as_str())
    }

    pub(crate) fn not_found(path: &str) -> Self {
        Self::new(Kind::NotFound, format!("{path} is not there"))
    }

    pub(crate) fn no_such_path(path: &str) -> Self {
        Self::new(Kind::NoSuchPath, format!("{path} is no path of this service"))
    }

    pub(crate) fn method_not_allowed(method: &str, path: &str, allowed: &str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("{path} does not know {method}; expected one of {allowed}"))
            .header(ALLOW.as_str(), allowed)
    }

    /// A rule of the business says what it is, and has members of its own; those of the RFC keep their meaning.
    fn broken(broken: &dyn ErasedDomainError) -> Self {
        let told = broken.describe();
        let status = StatusCode::from_u16(told.status).ok().filter(StatusCode::is_client_error);
        let mut problem = Self::new(Kind::BrokenRule, told.detail);
        problem.rule = Some((status.unwrap_or(StatusCode::CONFLICT), told.slug));
        let reserved = ["type", "title", "status", "detail", "instance"];
        let fields = told.fields.into_iter().filter(|(name, _)| !reserved.contains(&name.as_str()));
        problem.members.extend(fields.map(|(name, value)| (name.into(), value)));
        problem
    }

    pub(crate) fn internal() -> Self {
        Self::new(Kind::Internal, "the request was not done; the log of the service says why")
    }

    /// What became of a command on its way, addressed by `path`.
    pub(crate) fn of_command(error: ExecuteError, path: &str) -> Self {
        match error {
            ExecuteError::Rejected(Rejection::NotFound) => Self::not_found(path),
            ExecuteError::Rejected(Rejection::Invalid(invalid)) => invalid.into(),
            ExecuteError::Rejected(Rejection::RuleBroken(broken)) => Self::broken(broken.as_ref()),
            ExecuteError::Rejected(Rejection::PreconditionFailed(_)) => {
                Self::new(Kind::Unexpected, format!("{path} is not in the state that was expected"))
            }
            ExecuteError::Rejected(Rejection::Corrupt(corrupt)) => {
                log::error!("{path}: {corrupt}");
                Self::internal()
            }
            // A panic has written to the log by itself, a failure where it happened.
            ExecuteError::Rejected(Rejection::Panicked) => Self::internal(),
            ExecuteError::Failed => {
                Self::new(Kind::Internal, "whether the command was done is unknown; the log of the service says why")
            }
            ExecuteError::Busy => Self::new(Kind::Busy, "too many commands wait; this one was not taken")
                .header(RETRY_AFTER.as_str(), "1"),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        log::error!("{}", ErrorChain(&error));
        Self::internal()
    }
}

impl From<PoolStopped> for Problem {
    fn from(error: PoolStopped) -> Self {
        log::error!("{error}");
        Self::internal()
    }
}

impl From<ValidationError> for Problem {
    fn from(invalid: ValidationError) -> Self {
        let problem = Self::new(Kind::Invalid, invalid.to_string());
        if invalid.member.is_empty() { problem } else { problem.with("member", invalid.member) }
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Malformed(why) => Self::new(Kind::MalformedJson, why),
            JsonError::Invalid(invalid) => invalid.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

/// `item-already-added` → `Item already added`
fn sentence(slug: &str) -> String {
    let (first, rest) = slug.split_at(slug.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + &rest.replace('-', " ")
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.rule.as_ref().map_or(self.kind.parts().0, |(status, _)| *status)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let (status, (_, kind, title)) = (self.status_code(), self.kind.parts());
        let slug = self.rule.as_ref().map_or(kind, |(_, slug)| slug);
        let title = self.rule.as_ref().map_or_else(|| title.to_owned(), |(_, slug)| sentence(slug));
        let mut body = json!({"type": slug, "title": title, "status": status.as_u16(), "detail": self.detail});
        for (member, value) in &self.members {
            body[member.as_ref()] = value.clone();
        }
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, "application/problem+json")).insert_header((CACHE_CONTROL, "no-store"));
        for (name, value) in &self.headers {
            response.insert_header((*name, value.as_str()));
        }
        response.body(body.to_string())
    }
}
