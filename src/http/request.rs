//! The parts of a request that handlers use: the collection and the key in the path, the body, the query.

use std::borrow::Cow;
use std::future::{Ready, ready};
use std::ops::RangeInclusive;
#[cfg(feature = "direct-write")]
use std::rc::{Rc, Weak};

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, UPGRADE,
};
use actix_web::web;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::authorization::ended;
use super::options::{accept_of, body_types};
use super::preferences::Preferences;
use super::problem::{Kind, Problem};
use super::query::{self, Lenient};
use super::request_body::{ParsedBody, RequestBody};
use super::shared::Shared;
use crate::access::caller::Caller;
use crate::access::need::{MissingScope, name_in, second_segment};
use crate::access::permissions::Readable;
use crate::access::redaction::without_secrets;
#[cfg(feature = "direct-write")]
use crate::delivery::direct_write::DirectWriter;
use crate::domain::collection::Collection;
use crate::domain::key::{CollectionId, Key};
use crate::memory::fair_shares::Network;
use crate::read_model::report::Parameters;

/// A request, with the state of the service.
pub(super) struct RequestContext {
    pub(super) request: HttpRequest,
    pub(super) shared: web::Data<Shared>,
    /// The collection in the path, if there is one.
    collection: Option<CollectionId>,
}

impl FromRequest for RequestContext {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.app_data::<web::Data<Shared>>() {
            Some(_) if wants_websocket(request) => Err(Problem::new(
                Kind::MalformedRequest,
                "Upgrade: WebSockets are not supported; feeds are streams of Server-Sent Events",
            )),
            // Health and metrics say so as well.
            Some(shared) if shared.database.health().is_replaced() && !OPERATIONAL.contains(&request.path()) => {
                Err(Problem::replaced())
            }
            Some(shared) => Ok(Self {
                request: request.clone(),
                shared: shared.clone(),
                collection: request.app_data::<CollectionId>().copied(),
            }),
            None => Err(Problem::no_such_path(request.path())),
        })
    }
}

/// The paths that are answered whatever has happened.
const OPERATIONAL: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The framework treats such a connection as upgraded, and would send a streamed response without chunk framing.
fn wants_websocket(request: &HttpRequest) -> bool {
    request
        .headers()
        .get_all(UPGRADE)
        .any(|protocol| protocol.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
}

impl RequestContext {
    pub(super) fn collection_id(&self) -> Result<CollectionId, Problem> {
        self.collection.ok_or_else(|| Problem::no_such_path(self.request.path()))
    }

    pub(super) fn collection(&self) -> Result<&dyn Collection, Problem> {
        self.collection_id().map(|id| self.shared.registry.get(id))
    }

    /// Who sends the request.
    pub(super) fn caller(&self) -> Caller {
        if self.shared.tokens.is_none() {
            return Caller::Anybody;
        }
        self.request.extensions().get().cloned().unwrap_or(Caller::Stranger)
    }

    /// Waits for something, as long as the token is valid that the request came with.
    ///
    /// # Errors
    /// 401 if it was taken away meanwhile, or has expired.
    pub(super) async fn while_permitted<T>(&self, waiting: impl Future<Output = T>) -> Result<T, Problem> {
        let grant = self.caller().grant().cloned();
        let outcome = tokio::select! {
            biased;
            () = ended(grant.clone(), self.shared.heartbeat) => None,
            outcome = waiting => Some(outcome),
        };
        // If both have come, the token counts.
        outcome.filter(|_| !grant.is_some_and(|grant| grant.is_over())).ok_or_else(Problem::token_ended)
    }

    /// The connection that the request has come with, while the framework has it.
    #[cfg(feature = "direct-write")]
    pub(super) fn connection(&self) -> Option<Rc<DirectWriter>> {
        self.request.conn_data::<Weak<DirectWriter>>().and_then(Weak::upgrade)
    }

    /// The address of the client, as far as trusted proxies say it; otherwise that of the peer.
    pub(super) fn address(&self) -> Option<Network> {
        let peer = self.request.peer_addr()?.ip();
        Some(self.shared.proxies.client(peer, self.request.headers()).into())
    }

    /// The path of the state that the feed at this path changes.
    pub(super) fn bootstrap(&self) -> String {
        match (self.collection(), self.request.uri().path().strip_suffix("/events")) {
            (Err(_), _) => "/aggregates".to_owned(),
            (Ok(_), Some(aggregate)) => aggregate.to_owned(),
            (Ok(collection), None) => format!("/{}", collection.name()),
        }
    }

    /// The aggregates that `?key=` selects, if it is present.
    ///
    /// # Errors
    /// One of them is not a valid key, or the caller may not read it; without any, the caller may not read the collection.
    pub(super) fn keys(&self, query: &Query) -> Result<Option<Vec<Key>>, Problem> {
        self.selected_keys(query.all("key"))
    }

    /// The keys in a query, sorted and without duplicates; `None` without any.
    ///
    /// # Errors
    /// One of them is not a valid key, or the caller may not read it; without any, the caller may not read the collection.
    pub(super) fn selected_keys<'a>(&self, keys: impl Iterator<Item = &'a str>) -> Result<Option<Vec<Key>>, Problem> {
        let mut keys = keys.map(checked).collect::<Result<Vec<_>, _>>()?;
        keys.sort();
        keys.dedup();
        let keys = (!keys.is_empty()).then_some(keys);
        let readable = self.caller().check_keys(&self.shared.registry, self.collection_id()?, keys.as_deref());
        readable.map_err(|scope| Problem::missing_scope(&scope))?;
        Ok(keys)
    }

    /// The collections that `?collection=` selects; without it, those that the caller may read; `None` for all.
    ///
    /// # Errors
    /// One of them is unknown, or the caller may not read it.
    pub(super) fn collections(&self, query: &Query) -> Result<Option<Vec<CollectionId>>, Problem> {
        self.named_collections(query.all("collection"))
    }

    /// The collections with these names, sorted and without duplicates; without any names, those that the caller may read;
    /// `None` for all.
    ///
    /// # Errors
    /// One of them is unknown, or the caller may not read it.
    pub(super) fn named_collections<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Option<Vec<CollectionId>>, Problem> {
        let registry = &self.shared.registry;
        let known = |name: &str| {
            registry.id(name).ok_or_else(|| {
                let names: Vec<_> = registry.ids().map(|id| registry.get(id).name()).collect();
                let detail = format!("unknown collection {name:?}; expected {}", names.join(", "));
                Problem::new(Kind::MalformedRequest, detail)
            })
        };
        let mut collections = names.map(known).collect::<Result<Vec<_>, _>>()?;
        collections.sort();
        collections.dedup();
        match self.caller().readable() {
            Readable::All => Ok((!collections.is_empty()).then_some(collections)),
            Readable::These { collections: readable, .. } if collections.is_empty() => Ok(Some(readable.to_vec())),
            Readable::These { collections: readable, .. } => {
                match collections.iter().find(|id| !readable.contains(id)) {
                    Some(id) => Err(Problem::missing_scope(&MissingScope::of_collection(registry.get(*id).name()))),
                    None => Ok(Some(collections)),
                }
            }
        }
    }

    /// The response to a `HEAD` is that to a `GET`; the framework omits the body.
    pub(super) fn is_head(&self) -> bool {
        self.request.method() == Method::HEAD
    }

    /// The key in the second segment of the path, decoded from the raw path: the framework's path is partly decoded already.
    pub(super) fn key(&self) -> Result<Key, Problem> {
        checked(&self.name("key")?)
    }

    /// The name in the second segment of the path, as the check of the scopes has read it. `what` it is, is for the error.
    pub(super) fn name(&self, what: &str) -> Result<Cow<'_, str>, Problem> {
        let path = self.request.uri().path();
        name_in(path).ok_or_else(|| {
            Problem::new(Kind::Invalid, format!("the {what} {} is not valid UTF-8", second_segment(path)))
        })
    }

    /// The path of the aggregate: the first two segments of the path.
    pub(super) fn aggregate_path(&self) -> String {
        self.request.uri().path().split('/').take(3).collect::<Vec<_>>().join("/")
    }

    /// The parameters of the query, in the struct that declares them.
    ///
    /// # Errors
    /// See [`query::parse`].
    pub(super) fn params<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        query::parse(self.request.query_string())
    }

    /// The parameters of the query, where only the running service knows their names.
    ///
    /// # Errors
    /// The query cannot be parsed, or has a parameter that is not one of `known`.
    pub(super) fn query(&self, known: &[&str]) -> Result<Query, Problem> {
        let pairs = query::pairs(self.request.query_string(), known)?;
        Ok(Query { pairs, remarks: Vec::new() })
    }

    /// The parameters of the query of a stream. Those that are not `known` are remarked on, and so are those `of_pages`.
    ///
    /// # Errors
    /// The query cannot be parsed.
    pub(super) fn stream_query(&self, known: &[&str], of_pages: &[&str]) -> Result<Query, Problem> {
        let Lenient { pairs, remarks } = query::lenient_pairs(self.request.query_string(), known, of_pages)?;
        for remark in &remarks {
            log::debug!("{}: {remark}", without_secrets(self.request.uri().path()));
        }
        Ok(Query { pairs, remarks })
    }

    pub(super) fn preferences(&self) -> Preferences {
        Preferences::of(self.request.headers())
    }

    /// The text of a header, if it is present. `shown` is its name as a problem has it.
    pub(super) fn header(&self, name: &HeaderName, shown: &str) -> Result<Option<&str>, Problem> {
        let Some(value) = self.request.headers().get(name) else { return Ok(None) };
        let text = value.to_str();
        text.map(Some).map_err(|_| Problem::new(Kind::MalformedRequest, format!("{shown}: expected ASCII text")))
    }

    /// The name of the command in the third segment of the path.
    ///
    /// # Errors
    /// The collection has no such command.
    pub(super) fn command(&self) -> Result<String, Problem> {
        let name = self.request.uri().path().split('/').nth(3).unwrap_or_default();
        let known = self.collection()?.journaled().map_or(&[][..], |journaled| journaled.commands());
        if known.iter().any(|known| known == name) {
            return Ok(name.to_owned());
        }
        let detail = format!("unknown command {name:?}; expected one of {}", known.join(", "));
        Err(Problem::new(Kind::UnknownCommand, detail).with("expected", known.to_vec()))
    }

    /// Checks the type of the body of a write, and charges for what it takes while it is read.
    pub(super) fn admit(&self, body: &mut RequestBody) -> Result<(), Problem> {
        if self.has_no_fields(body)? {
            return Ok(());
        }
        self.check_type()?;
        self.shared.bodies.charge_parsed(body)
    }

    /// The JSON in the body of a write, which was [admitted](Self::admit).
    pub(super) fn json(&self, body: RequestBody) -> Result<ParsedBody, Problem> {
        if self.has_no_fields(&body)? { Ok(body.replace(json!({}))) } else { body.parse() }
    }

    /// A command without fields needs no body.
    fn has_no_fields(&self, body: &RequestBody) -> Result<bool, Problem> {
        Ok(body.is_empty() && self.collection()?.journaled().is_some())
    }

    /// The JSON body of an administrative request.
    pub(super) async fn json_body(&self, payload: web::Payload) -> Result<Value, Problem> {
        self.check_type()?;
        let mut body = self.body(payload).await?;
        self.shared.bodies.charge_parsed(&mut body)?;
        Ok(body.parse()?.json)
    }

    fn check_type(&self) -> Result<(), Problem> {
        let types = body_types(self.request.method());
        let unsupported = |reason: &str| {
            let expected = types.join(" or ");
            let problem = Problem::new(Kind::UnsupportedType, format!("Content-Type: {reason}; expected {expected}"));
            let problem = problem.with("expected", types.to_vec()).header(ACCEPT.as_str(), types.join(", "));
            match accept_of(self.request.method()) {
                Some(name) => problem.header(name, types.join(", ")),
                None => problem,
            }
        };
        let Some(sent) = self.request.headers().get(CONTENT_TYPE) else { return Err(unsupported("missing")) };
        let sent = sent.to_str().map_err(|_| unsupported("not ASCII text"))?;
        let media_type = self.request_type();
        let matches = types.iter().any(|expected| media_type.eq_ignore_ascii_case(expected));
        let utf8 = sent.split(';').skip(1).all(|parameter| match parameter.trim().split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        });
        if !matches || !utf8 {
            return Err(unsupported(&format!("got {sent}")));
        }
        match self.request.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                let detail = "Content-Encoding: encoded request bodies are not supported; expected identity";
                let problem = Problem::new(Kind::UnsupportedType, detail).with("expected", vec!["identity"]);
                Err(problem.header(ACCEPT_ENCODING.as_str(), "identity"))
            }
            _ => Ok(()),
        }
    }

    /// The length of the body according to its header, in bytes; 0 if there is none.
    pub(super) fn announced_length(&self) -> usize {
        let length = self.request.headers().get(CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
    }

    /// The media type of the body, without parameters; empty if the request names none.
    pub(super) fn request_type(&self) -> &str {
        self.request.content_type()
    }

    /// The body of the request. Nothing has been done by then, so the token has to be valid until it is complete.
    pub(super) async fn body(&self, payload: web::Payload) -> Result<RequestBody, Problem> {
        let bodies = &self.shared.bodies;
        let (announced, charge) = (self.announced_length(), bodies.memory.share(self.address()));
        if self.caller().grant().is_none() {
            return bodies.receive(payload, announced, charge).await;
        }
        // In an allocation of its own: a request without a token needs no room for it.
        Box::pin(self.while_permitted(bodies.receive(payload, announced, charge))).await?
    }
}

fn checked(key: &str) -> Result<Key, Problem> {
    Key::parse(key).map_err(|invalid| Problem::new(Kind::Invalid, format!("the key {key:?} {invalid}")))
}

/// The parameters of a query.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
    /// What is ignored of them, for the first lines of a stream.
    pub(super) remarks: Vec<String>,
}

impl Query {
    /// The parameters of a report.
    pub(super) fn into_parameters(self) -> Parameters {
        Parameters(self.pairs)
    }

    /// The number of values of a parameter.
    pub(super) fn count(&self, parameter: &str) -> usize {
        self.all(parameter).count()
    }

    fn all(&self, parameter: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(name, _)| name == parameter).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter; the last one, if there are several.
    pub(super) fn last(&self, parameter: &str) -> Option<&str> {
        self.all(parameter).last()
    }

    /// The value of a parameter that is `true` or `false`.
    pub(super) fn is_set(&self, parameter: &str) -> Result<bool, Problem> {
        match self.last(parameter) {
            None | Some("" | "false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::new(Kind::MalformedRequest, format!("{parameter}: expected true or false"))),
        }
    }

    /// The value of a parameter that is a number within a range.
    pub(super) fn number(&self, parameter: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.last(parameter).filter(|text| !text.is_empty()) else { return Ok(None) };
        query::number(parameter, text, range).map(Some)
    }
}
