//! Erasing an aggregate, for those who operate the service.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::{Value, json};

use super::metadata::metadata;
use super::problem::Problem;
use super::projections::json_response;
use super::request::RequestContext;
use super::shared::Shared;
use crate::domain::json::{self, ValidationError};
use crate::domain::key::{CollectionId, Key};
use crate::domain::metadata::Metadata;
use crate::domain::revision::Revision;
use crate::read::pool::CountErasures;
use crate::write::aggregator::ExecuteError;
use crate::write::erasing::Erase;

/// How long a response waits for the projections, which may have to be rebuilt.
const PATIENCE: Duration = Duration::from_secs(10);

const MEMBERS: &[&str] = &["collection", "key"];

#[derive(Deserialize)]
struct Body {
    collection: String,
    key: String,
}

/// `POST /-/erase {"collection":"carts","key":"0193…"}`: the response is sent when nothing is left in the database.
pub(super) async fn erase(context: RequestContext, payload: web::Payload) -> Result<HttpResponse, Problem> {
    context.query(&[])?;
    let body = context.json_body(payload).await?;
    json::expect_object(&body)?;
    json::check_names(Some(MEMBERS), &body)?;
    let Body { collection, key } = json::decode(body)?;
    let path = format!("/{collection}/{key}");
    let wanted = Wanted::new(&context.shared, &collection, &key)?;
    let of_command = |error| Problem::of_command(error, &path);
    let erased = wanted.erase(&context.shared, metadata(&context)?, PATIENCE).await.map_err(of_command)?;
    Ok(json_response(&context, StatusCode::OK, &erased.to_json()))
}

/// An aggregate that is to be erased.
pub(crate) struct Wanted<'a> {
    collection: CollectionId,
    name: &'a str,
    key: Key,
}

/// An aggregate of which nothing is left in the database.
pub(crate) struct Erased<'a> {
    name: &'a str,
    key: Key,
    /// That of its last change event.
    revision: Revision,
    /// The projections that may still have something of it.
    pending: Vec<&'static str>,
}

impl<'a> Wanted<'a> {
    /// # Errors
    /// There is no such collection, or the key is invalid.
    pub(crate) fn new(shared: &Shared, name: &'a str, key: &str) -> Result<Self, ValidationError> {
        let registry = &shared.registry;
        let collection = registry.id(name).ok_or_else(|| {
            let known: Vec<_> = registry.ids().map(|id| registry.get(id).name()).collect();
            ValidationError::new(
                "collection",
                format!("unknown collection {name:?}; expected one of {}", known.join(", ")),
            )
        })?;
        let key = Key::parse(key).map_err(|invalid| ValidationError::new("key", invalid.to_string()))?;
        Ok(Self { collection, name, key })
    }

    /// Erases the aggregate from the database, and waits for the projections, but no longer than `patience`.
    pub(crate) async fn erase(
        self,
        shared: &Shared,
        metadata: Metadata,
        patience: Duration,
    ) -> Result<Erased<'a>, ExecuteError> {
        let Self { collection, name, key } = self;
        let message = Erase { collection, key: key.clone(), metadata };
        let revision = shared.aggregator.send(message).await.unwrap_or(Err(ExecuteError::Unknown))?;
        let counted = shared.readers.send(CountErasures).await;
        // Without the number nobody knows when they are done.
        let erasures = counted.ok().and_then(Result::ok).unwrap_or(i64::MAX);
        let pending = shared.projections.wait_for_erasures(name, erasures, patience).await;
        Ok(Erased { name, key, revision, pending })
    }
}

impl Erased<'_> {
    /// `{"collection":"carts","key":"0193…","revision":42,"pending":["cart_items"]}`
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "collection": self.name,
            "key": self.key.as_str(),
            "revision": self.revision.number(),
            "pending": self.pending,
        })
    }
}
