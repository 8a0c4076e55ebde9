//! The wire: routes, requests in, answers out. Knows collections by name and state as bytes, and no SQL.

mod accept;
mod commands;
mod feeds;
mod problem;
mod queries;
mod request;
mod routes;

pub(crate) use routes::routes;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use actix::Addr;
use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;

use crate::aggregator::{Aggregator, CommittedRevision};
use crate::collection::Registry;
use crate::cursor::{Epoch, Revision};
use crate::readers::Readers;

/// What every worker shares.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) epoch: Epoch,
    pub(crate) committed: Arc<CommittedRevision>,
    /// One address for all: its mailbox is bounded per address.
    pub(crate) aggregator: Addr<Aggregator>,
    /// For pages and single aggregates.
    pub(crate) readers: Addr<Readers>,
    /// For whole collections, which take long: they must not keep a page waiting.
    pub(crate) scanners: Addr<Readers>,
    /// Where a body that is not taken fast enough waits.
    pub(crate) spool_directory: PathBuf,
    /// The longest request body, in bytes.
    pub(crate) max_body: usize,
    /// Streams that are open.
    pub(crate) sessions: AtomicUsize,
}

/// An answer that names the state it shows.
fn answer(status: StatusCode, epoch: &Epoch, revision: Revision) -> HttpResponseBuilder {
    let mut builder = HttpResponseBuilder::new(status);
    builder.insert_header(("X-Revision", revision.to_string())).insert_header(("X-Epoch", epoch.as_str()));
    builder
}
