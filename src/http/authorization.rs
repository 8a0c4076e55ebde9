//! Who sends a request, and whether that is enough for what it asks for
//! ([RFC 6750](https://www.rfc-editor.org/rfc/rfc6750): bearer tokens).

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpMessage as _;
use actix_web::dev::{RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderName, HeaderValue, VARY, WWW_AUTHENTICATE};
use actix_web::rt::time::timeout;

use super::problem::{Kind, Problem};
use super::query::decoded_pairs;
use super::shared::Shared;
use crate::access::caller::Caller;
use crate::access::grant::Grant;
use crate::access::need::{MissingScope, Need, Part};
use crate::access::redaction::without_secrets;
use crate::access::tickets::{TICKET, TicketFeed};
use crate::access::token::Secret;
use crate::access::tokens::Tokens;

/// What the methods of a path need.
#[derive(Debug)]
pub(super) struct Needs(Vec<(Method, Need)>);

impl Needs {
    pub(super) fn new(needs: impl IntoIterator<Item = (Method, Need)>) -> Self {
        Self(needs.into_iter().collect())
    }

    /// What a method needs. One that the path does not have gets a `405`, whoever asks.
    fn of(&self, method: &Method) -> Need {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.0.iter().find(|(known, _)| known == method).map_or(Need::Open, |(_, need)| *need)
    }
}

/// Checks where a request comes from, whom it addresses, and who sends it, in this order. A request with a valid token in a
/// header is not a page that was lured here under another name, so its `Host` does not count; its `Origin` does.
///
/// # Errors
/// See [`AccessPolicy::check`](super::origin::AccessPolicy::check); 401 if a token is needed and there is none, or one that
/// is not valid; 403 without the scope that is needed.
pub(super) fn admit(shared: &Shared, needs: &Needs, request: &ServiceRequest) -> Result<(), Problem> {
    let Some(tokens) = &shared.tokens else { return shared.access.check(request.head()) };
    let need = needs.of(request.method());
    let caller = match identify(tokens, request.head()) {
        // Those of a proxy, or of a token that has ended: they take away nothing that everybody gets.
        Err(_) if need == Need::Open => Ok(Caller::Stranger),
        caller => caller,
    };
    match &caller {
        Ok(Caller::Holder(_)) => shared.access.check_with_token(request.head())?,
        _ => shared.access.check(request.head())?,
    }
    let caller = match caller? {
        Caller::Stranger => redeem(tokens, request.head(), need)?,
        caller => caller,
    };
    let path = request.uri().path();
    if !caller.may(need, path) {
        let Some(name) = caller.name() else { return Err(Problem::token_needed()) };
        let scope = MissingScope::of(need, path, &shared.registry);
        log::debug!("the token {name} does not have the scope {}", without_secrets(&scope.to_string()));
        return Err(Problem::missing_scope(&scope));
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

/// Who sends a request.
///
/// # Errors
/// 401 if it has a token that is not in force, or several, or another form of credentials.
fn identify(tokens: &Tokens, head: &RequestHead) -> Result<Caller, Problem> {
    let mut sent = head.headers.get_all(AUTHORIZATION);
    match (sent.next(), sent.next()) {
        (None, _) => Ok(Caller::Stranger),
        (Some(credentials), None) => {
            let secret = bearer(credentials).ok_or_else(|| {
                Problem::invalid_token("Authorization: expected Bearer, a space, and a token of this service")
            })?;
            let grant = tokens.find(&secret);
            grant.map(Caller::Holder).ok_or_else(|| Problem::invalid_token("the token is unknown, or no longer valid"))
        }
        _ => Err(Problem::invalid_token("Authorization: expected exactly one")),
    }
}

/// Who sends a request for a feed without a token: the holder of the ticket in its query, if there is one. It is used up.
///
/// # Errors
/// 401 if the ticket is not valid for this feed.
fn redeem(tokens: &Tokens, head: &RequestHead, need: Need) -> Result<Caller, Problem> {
    let query = head.uri.query().unwrap_or_default();
    // A report may have a parameter of this name.
    if !matches!(need, Need::Read(Part::Document | Part::Collection(_) | Part::Aggregate(_))) || !query.contains(TICKET)
    {
        return Ok(Caller::Stranger);
    }
    let params = decoded_pairs(query)?;
    let mut sent = params.iter().filter(|(name, _)| name == TICKET).map(|(_, value)| value);
    let Some(ticket) = sent.next_back() else { return Ok(Caller::Stranger) };
    let feed = TicketFeed::new(head.uri.path(), &params);
    let grant = Secret::parse(ticket.as_bytes()).and_then(|secret| tokens.tickets().redeem(&secret, feed));
    grant.map(Caller::Holder).ok_or_else(|| {
        Problem::invalid_token("the ticket is not valid: it can open one feed once; POST /-/tickets gives another one")
    })
}

/// The secret in `Authorization: Bearer duality_…`.
fn bearer(credentials: &HeaderValue) -> Option<Secret> {
    let credentials = credentials.as_bytes();
    let (scheme, token) = credentials.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Secret::parse(token.trim_ascii())).flatten()
}

/// Waits until a grant is over; for ever if there is none. The clock of the day may be changed meanwhile, so it is looked at
/// once in every `interval`.
pub(super) async fn ended(grant: Option<Arc<Grant>>, interval: Duration) {
    let Some(grant) = grant else { return std::future::pending().await };
    while !grant.is_over() {
        match grant.left() {
            None => grant.revoked().await,
            // A millisecond more, so that it does not wake up before the time has come.
            Some(left) => _ = timeout(interval.min(left + Duration::from_millis(1)), grant.revoked()).await,
        }
    }
}

/// Keeps a response that depends on its caller out of shared caches (RFC 9111, section 5.2.2.7).
pub(super) fn keep_private(mut response: ServiceResponse) -> ServiceResponse {
    let headers = response.headers_mut();
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let control = text(&CACHE_CONTROL).filter(|control| control.starts_with("no-cache"));
    let control = control.map(|control| HeaderValue::try_from(format!("private, {control}")));
    let mut vary: Vec<_> = headers.get_all(VARY).filter_map(|vary| vary.to_str().ok()).collect();
    vary.push("Authorization");
    let vary = HeaderValue::try_from(vary.join(", "));
    if let Some(Ok(control)) = control {
        headers.insert(CACHE_CONTROL, control);
    }
    if let Ok(vary) = vary {
        headers.insert(VARY, vary);
    }
    response
}

impl Problem {
    /// 401: there is no token.
    fn token_needed() -> Self {
        let detail = "this needs a token: Authorization: Bearer duality_…, as `duality token new` has printed it";
        Self::new(Kind::Unauthorized, detail).header(WWW_AUTHENTICATE.as_str(), "Bearer")
    }

    /// 401: there is one, but not a valid one. No message repeats what was sent.
    pub(super) fn invalid_token(detail: &str) -> Self {
        Self::new(Kind::Unauthorized, detail).header(WWW_AUTHENTICATE.as_str(), "Bearer error=\"invalid_token\"")
    }

    /// 401: the token of a request that waits is no longer valid.
    pub(super) fn token_ended() -> Self {
        Self::invalid_token("the token is no longer valid")
    }

    /// 403: the token does not have the scope.
    pub(super) fn missing_scope(scope: &MissingScope) -> Self {
        let scope = scope.to_string();
        let scope = without_secrets(&scope);
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
        Self::new(Kind::MissingScope, format!("the token does not have the scope {scope}"))
            .with("scope", scope)
            .header(WWW_AUTHENTICATE.as_str(), challenge)
    }
}
