//! What a handler is called with: the collection and the key of its path, the body, the query.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::Method;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{self, BytesMut};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use futures_core::Stream as _;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::Shared;
use super::problem::{Kind, Problem};
use crate::collection::{Collection, CollectionId, Verb};
use crate::json;
use crate::key::Key;

/// A request for something of one collection.
pub(super) struct Call {
    pub(super) request: HttpRequest,
    pub(super) shared: web::Data<Shared>,
    pub(super) collection: CollectionId,
}

impl FromRequest for Call {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = request.app_data::<web::Data<Shared>>().zip(request.app_data::<CollectionId>());
        ready(match found {
            Some((shared, collection)) => {
                Ok(Self { request: request.clone(), shared: shared.clone(), collection: *collection })
            }
            None => Err(Problem::no_such_path(request.path())),
        })
    }
}

impl Call {
    pub(super) fn collection(&self) -> &dyn Collection {
        self.shared.registry.get(self.collection)
    }

    /// A `HEAD` is answered as a `GET`; the framework leaves the body out.
    pub(super) fn is_head(&self) -> bool {
        self.request.method() == Method::HEAD
    }

    /// The second segment of the path. Decoded from the path as it was sent: the framework's own has some of it decoded.
    pub(super) fn key(&self) -> Result<Key, Problem> {
        let segment = self.request.uri().path().split('/').nth(2).unwrap_or_default();
        let text = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| Problem::new(Kind::Invalid, format!("the key {segment} is not UTF-8")))?;
        Key::parse(&text).map_err(|invalid| Problem::new(Kind::Invalid, format!("the key {text:?} {invalid}")))
    }

    /// The members of the query, which has no others than the `known` ones.
    pub(super) fn query(&self, known: &[&str]) -> Result<Vec<(String, String)>, Problem> {
        let malformed = |why: String| Problem::new(Kind::MalformedRequest, why);
        let query = web::Query::<Vec<(String, String)>>::from_query(self.request.query_string())
            .map_err(|error| malformed(format!("the query cannot be read: {error}")))?
            .into_inner();
        match query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            None => Ok(query),
            Some((name, _)) if known.is_empty() => Err(malformed(format!("{name}: no query is known here"))),
            Some((name, _)) => {
                Err(malformed(format!("{name}: is not known in a query here; expected {}", known.join(", "))))
            }
        }
    }

    /// The text of a header, if it is there.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, Problem> {
        let Some(value) = self.request.headers().get(name) else { return Ok(None) };
        let text = value.to_str();
        text.map(Some).map_err(|_| Problem::new(Kind::MalformedRequest, format!("{name}: is not plain ASCII")))
    }

    /// The JSON body of a write.
    pub(super) async fn json(&self, verb: Verb, payload: web::Payload) -> Result<Value, Problem> {
        let types: &[&str] = match verb {
            Verb::Patch => &["application/merge-patch+json", "application/json"],
            Verb::Create | Verb::Replace => &["application/json"],
        };
        self.check_type(types)?;
        Ok(json::parse(&self.bytes(payload).await?)?)
    }

    fn check_type(&self, types: &[&str]) -> Result<(), Problem> {
        let expected = types.join(" or ");
        let unsupported = |got: &str| {
            Problem::new(Kind::UnsupportedType, format!("Content-Type: {got}; expected {expected}"))
                .with("expected", types.to_vec())
        };
        let Some(sent) = self.request.headers().get(CONTENT_TYPE) else { return Err(unsupported("is missing")) };
        let sent = sent.to_str().map_err(|_| unsupported("is not plain ASCII"))?;
        let matches = types.iter().any(|expected| self.request.content_type().eq_ignore_ascii_case(expected));
        let utf8 = sent.split(';').skip(1).all(|parameter| match parameter.trim().split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        });
        if !matches || !utf8 {
            return Err(unsupported(&format!("is {sent}")));
        }
        match self.request.headers().get(CONTENT_ENCODING) {
            Some(encoding) if encoding != "identity" => {
                Err(Problem::new(Kind::UnsupportedType, "Content-Encoding: no encoding of a body is read here"))
            }
            _ => Ok(()),
        }
    }

    async fn bytes(&self, payload: web::Payload) -> Result<BytesMut, Problem> {
        let limit = self.shared.max_body;
        let too_large =
            || Problem::new(Kind::TooLarge, format!("the body is longer than {limit} bytes")).with("limit", limit);
        let announced =
            self.request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: usize| length > limit) {
            return Err(too_large());
        }
        let mut payload = std::pin::pin!(payload);
        let mut body = BytesMut::with_capacity(announced.unwrap_or(0));
        while let Some(chunk) = std::future::poll_fn(|context| payload.as_mut().poll_next(context)).await {
            let chunk = chunk
                .map_err(|error| Problem::new(Kind::MalformedRequest, format!("the body cannot be read: {error}")))?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
