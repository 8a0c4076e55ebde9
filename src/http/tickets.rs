//! `POST /-/tickets`: the right to open one feed once, for an `EventSource`, which cannot send a token in a header.

use actix_web::HttpResponse;
use actix_web::http::header::RETRY_AFTER;
use actix_web::web;
use serde::Deserialize;
use serde_json::json;

use super::accept::accepted;
use super::caching::Caching;
use super::collection_paths::CollectionPaths;
use super::problem::{Kind, Problem};
use super::query::{NoParams, decoded_pairs};
use super::request::RequestContext;
use super::respond::JSON;
use crate::access::need::{MissingScope, Need, Part};
use crate::access::tickets::{TICKET, TicketFeed, VALID};
use crate::access::token::Secret;
use crate::domain::collection::Registry;
use crate::domain::json::{check_names, decode, expect_object, member_names};

/// The body of the request.
#[derive(Deserialize)]
struct WantedTicket {
    /// The path of a feed, with the query that selects what it shows.
    feed: String,
}

/// `POST /-/tickets {"feed":"/person-events?key=1"}`. A service without tokens gives tickets that nobody needs, so that the
/// same page works with it.
pub(super) async fn issue(context: RequestContext, payload: web::Payload) -> Result<HttpResponse, Problem> {
    let NoParams {} = context.params()?;
    accepted(&context.request, &[JSON])?;
    let body = context.json_body(payload).await?;
    expect_object(&body)?;
    check_names(member_names::<WantedTicket>(), &body)?;
    let WantedTicket { feed } = decode(body)?;
    let (path, query) = feed.split_once('?').unwrap_or((&feed, ""));
    let need = need_of_feed(&context.shared.registry, path).ok_or_else(not_a_feed)?;
    let caller = context.caller();
    if !caller.may(need, path) {
        return Err(Problem::missing_scope(&MissingScope::of(need, path, &context.shared.registry)));
    }
    let params = decoded_pairs(query).map_err(|_| not_a_feed())?;
    let secret = Secret::random().map_err(|error| {
        log::error!("the operating system has no random bytes: {error}");
        Problem::internal()
    })?;
    if let (Some(tokens), Some(grant)) = (&context.shared.tokens, caller.grant()) {
        let issued = tokens.tickets().issue(&secret, TicketFeed::new(path, &params), grant);
        issued.map_err(|_| {
            let detail = "there are too many tickets that nobody has used";
            Problem::new(Kind::Busy, detail).header(RETRY_AFTER.as_str(), VALID.as_secs().to_string())
        })?;
    }
    let ticket = secret.reveal();
    let url = format!("{feed}{}{TICKET}={ticket}", if feed.contains('?') { '&' } else { '?' });
    let body = json!({"ticket": ticket, "url": url, "seconds": VALID.as_secs()});
    let mut response = HttpResponse::Created();
    Caching::MOMENT.insert(&mut response, None);
    Ok(response.json(body))
}

fn not_a_feed() -> Problem {
    let detail = "feed: expected the path of a feed of this service, such as /person-events?key=1";
    Problem::new(Kind::Invalid, detail).with("member", "feed")
}

/// What a caller needs to follow the feed at a path; `None` if there is none.
fn need_of_feed(registry: &Registry, path: &str) -> Option<Need> {
    if path == "/events" || path == "/journal" {
        return Some(Need::Read(Part::Document));
    }
    registry.ids().find_map(|id| {
        let paths = CollectionPaths(registry.get(id));
        if path == paths.feed() || path == paths.feed_by_name() {
            return Some(Need::Read(Part::Collection(id)));
        }
        let key = path.strip_prefix(&paths.state())?.strip_prefix('/')?.strip_suffix("/events")?;
        (!key.is_empty() && !key.contains('/')).then_some(Need::Read(Part::Aggregate(id)))
    })
}
