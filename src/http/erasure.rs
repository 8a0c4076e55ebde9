//! Erasing an aggregate, for those who operate the service.

use std::time::{Duration, Instant};

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
use crate::publish::status::wait_for_erasure;
use crate::read::pool::CountErasures;
use crate::write::aggregator::ExecuteError;
use crate::write::erasing::{BegunErasure, Erase};

/// How long a response waits for the database, whose readers may delay it, and for the projections, which may have to be
/// rebuilt.
const PATIENCE: Duration = Duration::from_secs(10);

const MEMBERS: &[&str] = &["collection", "key"];

#[derive(Deserialize)]
struct Body {
    collection: String,
    key: String,
}

/// `POST /-/erase {"collection":"carts","key":"0193…"}`: the response is sent when nothing is left, or says where something
/// may still be.
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
    Ok(json_response(&context, erased.status(), &erased.to_json()))
}

/// An aggregate that is to be erased.
pub(crate) struct Wanted<'a> {
    collection: CollectionId,
    name: &'a str,
    key: Key,
}

/// An aggregate that does not exist any more.
pub(crate) struct Erased<'a> {
    name: &'a str,
    key: Key,
    /// That of its last change event.
    revision: Revision,
    /// Whether the database had a row or events of it.
    was_known: bool,
    /// The projections and streams that may still have something of it; or only the database, which they follow.
    pending: Vec<&'static str>,
}

/// What is pending while the files of the database may still have something.
const DATABASE: &str = "database";

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

    /// Erases the aggregate, and waits for the database and for the projections, but no longer than `patience`.
    pub(crate) async fn erase(
        self,
        shared: &Shared,
        metadata: Metadata,
        patience: Duration,
    ) -> Result<Erased<'a>, ExecuteError> {
        let Self { collection, name, key } = self;
        let began = Instant::now();
        let message = Erase { collection, key: key.clone(), metadata };
        let BegunErasure { revision, was_known, finished } =
            shared.aggregator.send(message).await.unwrap_or(Err(ExecuteError::Unknown))?;
        let pending = match actix_web::rt::time::timeout(patience, finished).await {
            Ok(Ok(())) => {
                let counted = shared.readers.send(CountErasures).await;
                // Without the number nobody knows when they are done.
                let erasures = counted.ok().and_then(Result::ok).unwrap_or(i64::MAX);
                let left = || patience.saturating_sub(began.elapsed());
                let mut pending = shared.projections.wait_for_erasures(name, erasures, left()).await;
                pending.extend(wait_for_erasure(&shared.outputs, revision, left()).await);
                pending
            }
            _ => vec![DATABASE],
        };
        Ok(Erased { name, key, revision, was_known, pending })
    }
}

impl Erased<'_> {
    /// `202` while the database may still have something: nothing more has to be done for it to go.
    fn status(&self) -> StatusCode {
        if self.pending == [DATABASE] { StatusCode::ACCEPTED } else { StatusCode::OK }
    }

    /// `{"collection":"carts","key":"0193…","revision":42,"known":true,"pending":["cart_items"]}`
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "collection": self.name,
            "key": self.key.as_str(),
            "revision": self.revision.number(),
            "known": self.was_known,
            "pending": self.pending,
        })
    }
}
