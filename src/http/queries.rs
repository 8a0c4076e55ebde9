//! Reads of the current state.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use tokio::sync::oneshot;

use super::accept::accepted;
use super::answer;
use super::problem::{Kind, Problem};
use super::request::Call;
use crate::cursor::Revision;
use crate::readers::{ReadAggregate, ReadCollection};
use crate::spool::spool;

/// `GET /persons`: streamed, exact at the revision that it names.
pub(super) async fn collection(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &["application/json"])?;
    call.query(&[])?;
    let (spool, body) = spool(&call.shared.spool_directory);
    let (shown, revision) = oneshot::channel();
    call.shared.scanners.do_send(ReadCollection { collection: call.collection, revision: shown, body: spool });
    let revision = revision.await.map_err(|_| Problem::new(Kind::Internal, "the collection cannot be read"))?;
    Ok(state(&call, revision).body(body))
}

/// `GET /persons/1`
pub(super) async fn aggregate(call: Call) -> Result<HttpResponse, Problem> {
    accepted(&call.request, &["application/json"])?;
    call.query(&[])?;
    let read = ReadAggregate { collection: call.collection, key: call.key()? };
    let (revision, row) = call.shared.readers.send(read).await??;
    match row.and_then(|row| row.body) {
        Some(body) => Ok(state(&call, revision).body(body.as_str().to_owned())),
        None => Err(Problem::not_found(call.request.path()).at(&call.shared.epoch, revision)),
    }
}

fn state(call: &Call, revision: Revision) -> actix_web::HttpResponseBuilder {
    let mut response = answer(StatusCode::OK, &call.shared.epoch, revision);
    response
        .insert_header((CONTENT_TYPE, "application/json"))
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((VARY, "Accept, Accept-Encoding"));
    response
}
