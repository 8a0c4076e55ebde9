//! Error responses: problem details ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use bytesize::ByteSize;
use serde_json::{Value, json};

use super::excerpt::{excerpt, excerpt_of};
use super::request_id::with_current;
use crate::domain::command::{ErasedDomainError, Oversize, Rejection};
use crate::domain::error_chain::ErrorChain;
use crate::domain::idempotency::{AnswersFull, ProblemDocument};
use crate::domain::json::{JsonError, ValidationError};
use crate::domain::revision::{Epoch, Revision};
use crate::read::last_changes::Unanswered;
use crate::read::spool::Cut;
use crate::read::thread_pool::{PoolBusy, PoolStopped};
use crate::storage::error::StoreError;
use crate::write::aggregator::ExecuteError;
use crate::write::refusal::Refusal;

/// The media type of a problem.
pub(super) const PROBLEM: &str = "application/problem+json";

/// An error response.
#[derive(Debug)]
pub(crate) struct Problem {
    kind: Kind,
    /// For a violated business rule, which replaces the status and the slug of the kind.
    rule: Option<ViolatedRule>,
    detail: String,
    /// Additional members.
    members: Vec<(Cow<'static, str>, Value)>,
    headers: Vec<(&'static str, String)>,
}

/// The status and the slug of a violated business rule.
#[derive(Debug)]
struct ViolatedRule {
    status: StatusCode,
    slug: String,
}

/// The kinds of problems. Each has a status, a stable slug (the member `type`), and a title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 400: the body is not valid JSON.
    MalformedJson,
    /// 400: a header or a query parameter is invalid.
    MalformedRequest,
    /// 401: the request has no valid token, and needs one.
    Unauthorized,
    /// 403: a write by a page of another origin.
    ForeignOrigin,
    /// 403: the token does not have the scope that the request needs.
    MissingScope,
    /// 404: no aggregate has this key.
    NotFound,
    /// 404: the collection has no such command.
    UnknownCommand,
    /// 404: no route matches the path.
    NoSuchPath,
    /// 408: the body does not arrive in time.
    TooSlow,
    /// 409: the projection is not stopped at the event that the request names.
    NotThere,
    /// 409: the first request with this idempotency key has no answer yet.
    InFlight,
    /// 409: the aggregate was erased, and nothing can have its key again.
    Erased,
    /// 405: the path does not support the method.
    MethodNotAllowed,
    /// 406: the client accepts none of the available media types.
    NotAcceptable,
    /// 409, unless the rule sets another status: a violated business rule, with a slug of its own.
    BrokenRule,
    /// 410: some change events after the cursor have been pruned.
    NotRetained,
    /// 412: the aggregate is not in the expected state.
    Unexpected,
    /// 410: the event id does not belong to this journal.
    ForeignId,
    /// 413: the body is larger than the limit.
    TooLarge,
    /// 415: the media type or the encoding of the body is not supported.
    UnsupportedType,
    /// 421: the `Host` is not a name of this service.
    UnknownHost,
    /// 422: the body is valid JSON, but not valid for the aggregate or command.
    Invalid,
    /// 422: the aggregate would be larger than the limit.
    AggregateTooLarge,
    /// 422: the idempotency key belongs to a request with another body.
    KeyReused,
    /// 500: a failure of the service; the log has the cause.
    Internal,
    /// 503: the service is overloaded.
    Busy,
    /// 503: another process has locked the database.
    Locked,
    /// 503: another version of this program has changed the rules.
    Outdated,
    /// 503: the service cannot do its work at the moment.
    Unavailable,
    /// 503: other services should get the requests.
    NotReady,
    /// 507: the disk is full.
    NoSpace,
    /// 507: there is no room for the answer to a request with an idempotency key.
    AnswersFull,
    /// 503: the database file is another one.
    Replaced,
    /// 503: the service does not show the revision yet that a read asks for.
    Behind,
    /// 431: the head of the request is too long.
    HeadTooLarge,
}

impl Kind {
    /// Every kind, in the order of their declaration.
    pub(super) const ALL: [Self; 35] = [
        Self::MalformedJson,
        Self::MalformedRequest,
        Self::Unauthorized,
        Self::ForeignOrigin,
        Self::MissingScope,
        Self::NotFound,
        Self::UnknownCommand,
        Self::NoSuchPath,
        Self::TooSlow,
        Self::NotThere,
        Self::InFlight,
        Self::Erased,
        Self::MethodNotAllowed,
        Self::NotAcceptable,
        Self::BrokenRule,
        Self::NotRetained,
        Self::Unexpected,
        Self::ForeignId,
        Self::TooLarge,
        Self::UnsupportedType,
        Self::UnknownHost,
        Self::Invalid,
        Self::AggregateTooLarge,
        Self::KeyReused,
        Self::Internal,
        Self::Busy,
        Self::Locked,
        Self::Outdated,
        Self::Unavailable,
        Self::NotReady,
        Self::NoSpace,
        Self::AnswersFull,
        Self::Replaced,
        Self::Behind,
        Self::HeadTooLarge,
    ];

    /// The status, the slug and the title.
    pub(super) const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedJson => (StatusCode::BAD_REQUEST, "malformed-json", "Malformed JSON"),
            Self::MalformedRequest => (StatusCode::BAD_REQUEST, "malformed-request", "Malformed request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "Valid token required"),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, "foreign-origin", "Origin not allowed"),
            Self::MissingScope => (StatusCode::FORBIDDEN, "missing-scope", "Scope missing"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "Aggregate not found"),
            Self::UnknownCommand => (StatusCode::NOT_FOUND, "unknown-command", "Unknown command"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no-such-path", "Resource not found"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too-slow", "Request timed out"),
            Self::NotThere => (StatusCode::CONFLICT, "not-there", "Projection not stopped at this event"),
            Self::InFlight => (StatusCode::CONFLICT, "request-in-flight", "First request not answered yet"),
            Self::Erased => (StatusCode::CONFLICT, "erased", "Aggregate erased"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not-acceptable", "Not acceptable"),
            Self::BrokenRule => (StatusCode::CONFLICT, "rule-broken", "Business rule violated"),
            Self::NotRetained => (StatusCode::GONE, "not-retained", "Events no longer retained"),
            Self::Unexpected => (StatusCode::PRECONDITION_FAILED, "unexpected-state", "Precondition failed"),
            Self::ForeignId => (StatusCode::GONE, "foreign-id", "Unknown history"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Request body too large"),
            Self::UnsupportedType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-type", "Unsupported media type"),
            Self::UnknownHost => (StatusCode::MISDIRECTED_REQUEST, "unknown-host", "Unknown host"),
            Self::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "invalid", "Validation failed"),
            Self::AggregateTooLarge => (StatusCode::UNPROCESSABLE_ENTITY, "aggregate-too-large", "Aggregate too large"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "Idempotency key reused"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal server error"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Service overloaded"),
            Self::Locked => (StatusCode::SERVICE_UNAVAILABLE, "locked", "Database locked"),
            Self::Outdated => (StatusCode::SERVICE_UNAVAILABLE, "outdated", "Program outdated"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Service unavailable"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Service not ready"),
            Self::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no-space", "Disk full"),
            Self::AnswersFull => (StatusCode::INSUFFICIENT_STORAGE, "answers-full", "No room for the answer"),
            Self::Replaced => (StatusCode::SERVICE_UNAVAILABLE, "replaced", "Database file replaced"),
            Self::Behind => (StatusCode::SERVICE_UNAVAILABLE, "behind", "Revision not reached"),
            Self::HeadTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "Request head too large")
            }
        }
    }
}

impl Problem {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, rule: None, detail: detail.into(), members: Vec::new(), headers: Vec::new() }
    }

    /// The body of the response.
    pub(super) fn document(&self) -> String {
        let (slug, title, status) = (self.slug(), self.title(), self.status_code().as_u16());
        let mut body = json!({"type": slug, "title": title, "status": status, "detail": excerpt(&self.detail)});
        for (member, value) in &self.members {
            body[member.as_ref()] = excerpt_of(value);
        }
        // A business rule may have a member of this name.
        if let (None, Some(id)) = (body.get("request"), with_current(str::to_owned)) {
            body["request"] = id.into();
        }
        body.to_string()
    }

    /// The stable name of its kind, or of the violated rule.
    pub(super) fn slug(&self) -> &str {
        self.rule.as_ref().map_or(self.kind.parts().1, |rule| &rule.slug)
    }

    pub(crate) fn with(mut self, member: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((member.into(), value.into()));
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Ends the connection, for a client that would otherwise keep one that others need.
    pub(super) fn and_close(self) -> Self {
        self.header(CONNECTION.as_str(), "close")
    }

    /// Adds the headers that name the revision and the epoch.
    pub(crate) fn at(self, epoch: &Epoch, revision: Revision) -> Self {
        self.header("X-Revision", revision.to_string()).header("X-Epoch", epoch.as_str())
    }

    pub(crate) fn not_found(path: &str) -> Self {
        Self::new(Kind::NotFound, format!("{path} does not exist"))
    }

    /// An aggregate that was erased, for those who read it.
    pub(crate) fn no_longer_found(path: &str) -> Self {
        Self::new(Kind::NotFound, format!("{path} was erased")).with("erased", true)
    }

    pub(crate) fn no_such_path(path: &str) -> Self {
        Self::new(Kind::NoSuchPath, format!("no route matches {path}"))
    }

    pub(crate) fn method_not_allowed(method: &str, path: &str, allowed: &str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("{path} does not support {method}; expected one of {allowed}"))
            .header(ALLOW.as_str(), allowed)
    }

    /// A violated business rule. Its fields are additional members, but cannot replace those of the RFC.
    fn of_rule(rule: &dyn ErasedDomainError) -> Self {
        let description = rule.describe();
        let status = StatusCode::from_u16(description.status).ok().filter(StatusCode::is_client_error);
        let mut problem = Self::new(Kind::BrokenRule, description.detail);
        problem.rule = Some(ViolatedRule { status: status.unwrap_or(StatusCode::CONFLICT), slug: description.slug });
        let reserved = ["type", "title", "status", "detail", "instance"];
        let fields = description.fields.into_iter().filter(|(name, _)| !reserved.contains(&name.as_str()));
        problem.members.extend(fields.map(|(name, value)| (name.into(), value)));
        problem
    }

    /// The file was removed or overwritten, or another one has its name. The process is about to end.
    pub(crate) fn replaced() -> Self {
        Self::new(Kind::Replaced, "the database file was replaced; the log of the service contains what was found")
            .header(RETRY_AFTER.as_str(), "5")
    }

    /// The server of the database does not answer now.
    pub(crate) fn unavailable() -> Self {
        let detail = "the database server cannot be reached, or refuses what it is asked; the log of the service contains the cause";
        Self::new(Kind::Unavailable, detail).header(RETRY_AFTER.as_str(), "1")
    }

    pub(crate) fn internal() -> Self {
        Self::new(Kind::Internal, "the request failed; the log of the service contains the cause")
    }

    /// The problem of a command for the aggregate at `path`.
    pub(crate) fn of_command(error: ExecuteError, path: &str) -> Self {
        match error {
            ExecuteError::Rejected(Rejection::NotFound) => Self::not_found(path),
            ExecuteError::Rejected(Rejection::Erased) => {
                Self::new(Kind::Erased, format!("{path} was erased; its key is never used again"))
            }
            ExecuteError::Rejected(Rejection::Derived) => {
                Self::new(Kind::Invalid, "collection: it is computed from another one; erase what it is computed from")
                    .with("member", "collection")
            }
            ExecuteError::Rejected(Rejection::Invalid(invalid)) => invalid.into(),
            ExecuteError::Rejected(Rejection::TooLarge(oversize)) => Self::of_oversize(oversize),
            ExecuteError::Rejected(Rejection::RuleBroken(rule)) => Self::of_rule(rule.as_ref()),
            ExecuteError::Rejected(Rejection::PreconditionFailed(_)) => {
                Self::new(Kind::Unexpected, format!("{path} is not in the expected state"))
            }
            ExecuteError::Rejected(Rejection::KeyReused) => Self::new(
                Kind::KeyReused,
                "Idempotency-Key: the first request with this key had another body; expected the same one, or another key",
            ),
            ExecuteError::Rejected(Rejection::AnswersFull(full)) => Self::of_full_answers(full),
            ExecuteError::Rejected(Rejection::AnswerErased) => Self::new(
                Kind::Erased,
                "the command was executed, but its aggregate was erased since, and with it the answer",
            ),
            ExecuteError::Rejected(Rejection::Corrupt(corrupt)) => {
                log::error!("{path}: {corrupt}");
                Self::internal()
            }
            // The panic is in the log already, and so is a failure, but not which request had it.
            ExecuteError::Rejected(Rejection::Panicked) => {
                log::error!("{path}: the code of the collection panicked");
                Self::internal()
            }
            // A stored problem has its own response.
            ExecuteError::Rejected(Rejection::Kept(_)) => Self::internal(),
            ExecuteError::Unknown => {
                log::error!("{path}: it is unknown whether the command was executed");
                Self::new(
                    Kind::Internal,
                    "it is unknown whether the command was executed; the log of the service contains the cause",
                )
            }
            ExecuteError::NotDone(refusal) => Self::of_refusal(refusal),
        }
    }

    /// The same problem for a caller that may write an aggregate, but not read it: of a violated rule and of a size, only
    /// that there was one.
    pub(super) fn without_state(mut self) -> Self {
        if self.shows_state() {
            self.members.clear();
            self.detail = detail_without_state(&self.title());
        }
        self
    }

    /// Whether it is about the state of an aggregate.
    fn shows_state(&self) -> bool {
        matches!(self.kind, Kind::BrokenRule | Kind::AggregateTooLarge)
    }

    fn title(&self) -> String {
        let (_, _, title) = self.kind.parts();
        self.rule.as_ref().map_or_else(|| title.to_owned(), |rule| sentence(&rule.slug))
    }

    /// The document with its head, to be sent later.
    pub(super) fn into_document(self) -> ProblemDocument {
        let shows_state = self.shows_state() || self.kind == Kind::Unexpected;
        let (status, body) = (self.status_code().as_u16(), self.document());
        let headers = self.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        ProblemDocument { status, headers, shows_state, body }
    }

    fn of_oversize(Oversize { size, limit, remedy }: Oversize) -> Self {
        let detail =
            format!("the state would have {size} bytes, more than the limit of {limit} (--max-aggregate); {remedy}");
        Self::new(Kind::AggregateTooLarge, detail).with("size", size).with("limit", limit)
    }

    fn of_full_answers(AnswersFull { limit, room_in }: AnswersFull) -> Self {
        let seconds = room_in.as_secs().saturating_add(1);
        let detail = format!(
            "nothing was done: the answers that are kept for an Idempotency-Key take {} (--idempotency-size); the oldest is \
             kept for another {} (--idempotency-retention); expected this request then, or one without a key",
            ByteSize(limit),
            humantime::format_duration(Duration::from_secs(seconds)),
        );
        Self::new(Kind::AnswersFull, detail).with("limit", limit).header(RETRY_AFTER.as_str(), seconds.to_string())
    }

    /// The problem of a command that was certainly not executed.
    pub(crate) fn of_refusal(refusal: Refusal) -> Self {
        let (kind, seconds) = match refusal {
            Refusal::QueueFull => (Kind::Busy, "1"),
            Refusal::Locked => (Kind::Locked, "1"),
            Refusal::DiskFull => (Kind::NoSpace, "5"),
            Refusal::Replaced => (Kind::Replaced, "5"),
            Refusal::Outdated => (Kind::Outdated, "5"),
            Refusal::Unavailable | Refusal::Stopping => (Kind::Unavailable, "5"),
            Refusal::Failed => return Self::new(Kind::Internal, format!("nothing was done: {refusal}")),
        };
        Self::new(kind, format!("nothing was done: {refusal}")).header(RETRY_AFTER.as_str(), seconds)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Replaced { .. } => return Self::replaced(),
            StoreError::Unavailable(_) => return Self::unavailable(),
            _ => {}
        }
        // If nothing can be read, that is in the log already, once and not for each request.
        if !error.is_of_file() {
            log::error!("{}", ErrorChain(&error));
        }
        if error.is_unreachable() {
            return Self::unavailable();
        }
        Self::internal()
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Replaced => Self::replaced(),
            Unanswered::Unavailable => Self::unavailable(),
            Unanswered::Failed => Self::internal(),
        }
    }
}

impl From<PoolStopped> for Problem {
    fn from(error: PoolStopped) -> Self {
        log::error!("{error}");
        Self::internal()
    }
}

impl From<PoolBusy> for Problem {
    fn from(_: PoolBusy) -> Self {
        Self::new(Kind::Busy, "too many long reads are waiting").header(RETRY_AFTER.as_str(), "1")
    }
}

impl From<Cut> for Problem {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::NoRoom => {
                let detail = "the response has no room while it waits for its client: other clients read too slowly";
                Self::new(Kind::Busy, detail).header(RETRY_AFTER.as_str(), "5")
            }
            Cut::Abandoned | Cut::Interrupted => {
                Self::new(Kind::Unavailable, "the response was not finished").header(RETRY_AFTER.as_str(), "1")
            }
            Cut::Unreadable => Self::new(Kind::Internal, "the collection cannot be read"),
            Cut::Replaced => Self::replaced(),
        }
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

/// The detail of a problem for a caller that may not read the aggregate.
pub(super) fn detail_without_state(title: &str) -> String {
    format!("{title}; more is for those who may read the aggregate")
}

/// `item-already-added` → `Item already added`
pub(super) fn sentence(slug: &str) -> String {
    let (first, rest) = slug.split_at(slug.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + &rest.replace('-', " ")
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.rule.as_ref().map_or(self.kind.parts().0, |rule| rule.status)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((CONTENT_TYPE, PROBLEM)).insert_header((CACHE_CONTROL, "no-store"));
        for (name, value) in &self.headers {
            response.insert_header((*name, value.as_str()));
            // The framework writes this header itself.
            if *name == CONNECTION.as_str() {
                response.force_close();
            }
        }
        response.body(self.document())
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    /// Turns of phrase that clients must not read.
    const PRIVATE_WORDS: [&str; 8] = ["is none", "is no ", "told", "stands", "not there", "said", " says", "wants"];

    fn document(problem: &Problem) -> Value {
        let body = problem.error_response().into_body();
        let body = actix_web::rt::System::new().block_on(to_bytes(body)).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn the_list_of_kinds_is_complete() {
        // The order of the list is that of the declaration, so the last one and the number show that none is missing.
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?}");
        }
        assert_eq!(Kind::ALL.len(), Kind::HeadTooLarge as usize + 1);
    }

    #[test]
    fn a_slug_belongs_to_one_kind() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.parts().1).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }

    #[test]
    fn every_title_is_a_capitalised_phrase_in_plain_english() {
        for kind in Kind::ALL {
            let (status, slug, title) = kind.parts();
            assert!(status.is_client_error() || status.is_server_error(), "{slug}");
            assert!(slug.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{slug}");
            assert!(title.starts_with(|first: char| first.is_ascii_uppercase()), "{title}");
            assert!(!title.ends_with('.') && title.len() <= 40, "{title}");
            assert!(!PRIVATE_WORDS.iter().any(|word| title.contains(word)), "{title}");
            let body = document(&Problem::new(kind, "x"));
            assert_eq!(body, json!({"type": slug, "title": title, "status": status.as_u16(), "detail": "x"}));
        }
    }

    #[test]
    fn every_detail_of_a_common_problem_is_plain_english() {
        let rejected = |rejection| Problem::of_command(ExecuteError::Rejected(rejection), "/persons/1");
        for (problem, detail) in [
            (Problem::not_found("/persons/1"), "/persons/1 does not exist"),
            (Problem::no_such_path("/x"), "no route matches /x"),
            (
                Problem::method_not_allowed("BREW", "/persons", "GET, HEAD"),
                "/persons does not support BREW; expected one of GET, HEAD",
            ),
            (Problem::replaced(), "the database file was replaced; the log of the service contains what was found"),
            (Problem::internal(), "the request failed; the log of the service contains the cause"),
            (rejected(Rejection::NotFound), "/persons/1 does not exist"),
            (rejected(Rejection::PreconditionFailed(None)), "/persons/1 is not in the expected state"),
            (rejected(Rejection::Panicked), "the request failed; the log of the service contains the cause"),
            (
                Problem::of_command(ExecuteError::Unknown, "/persons/1"),
                "it is unknown whether the command was executed; the log of the service contains the cause",
            ),
            (
                Problem::of_command(ExecuteError::NotDone(Refusal::QueueFull), "/persons/1"),
                "nothing was done: too many commands are waiting",
            ),
            (
                Problem::of_command(ExecuteError::NotDone(Refusal::DiskFull), "/persons/1"),
                "nothing was done: the disk of the database is full",
            ),
            (ValidationError::new("age", "unknown member; expected name").into(), "age: unknown member; expected name"),
            (JsonError::Malformed("invalid UTF-8 at byte 1".to_owned()).into(), "invalid UTF-8 at byte 1"),
        ] {
            assert_eq!(document(&problem)["detail"], detail);
            assert!(!PRIVATE_WORDS.iter().any(|word| detail.contains(word)), "{detail}");
        }
    }

    #[test]
    fn the_title_of_a_business_rule_is_its_name() {
        assert_eq!(sentence("item-already-added"), "Item already added");
        assert_eq!(sentence(""), "");
    }
}
