//! The wire: routes, requests in, answers out. Knows collections by name and state as bytes, and no SQL.

mod accept;
mod commands;
mod conditions;
mod cors;
mod feeds;
mod journal;
mod pages;
mod problem;
mod projections;
mod queries;
mod request;
mod routes;
mod server;
mod whole;

pub(crate) use cors::cors;
pub(crate) use routes::routes;
pub(crate) use server::server;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use actix_web::HttpResponseBuilder;
use actix_web::http::StatusCode;
use tokio::sync::watch;

use crate::admission::Admission;
use crate::aggregator::{Aggregator, CommittedRevision, JournalMark};
use crate::bodies::Bodies;
use crate::collection::Registry;
use crate::cursor::{Epoch, Revision};
use crate::projections::Projections;
use crate::readers::Readers;

/// What every worker shares.
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) epoch: Epoch,
    pub(crate) committed: Arc<CommittedRevision>,
    pub(crate) projections: Arc<Projections>,
    /// How far the journal is.
    pub(crate) journal: Arc<watch::Sender<JournalMark>>,
    /// One address for all: its mailbox is bounded per address.
    pub(crate) aggregator: Addr<Aggregator>,
    /// For pages and single aggregates.
    pub(crate) readers: Addr<Readers>,
    /// For whole collections, which take long: they must not keep a page waiting.
    pub(crate) scanners: Addr<Readers>,
    pub(crate) bodies: Arc<Bodies>,
    /// Where a body that is not taken fast enough waits.
    pub(crate) spool_directory: PathBuf,
    /// The longest request body, in bytes.
    pub(crate) max_body: usize,
    /// What may wait for one stream, in bytes.
    pub(crate) session_buffer: usize,
    /// After how much quiet a stream gets a comment line.
    pub(crate) heartbeat: Duration,
    pub(crate) admission: Arc<Admission>,
}

/// The forms of a state.
const JSON: &str = "application/json";
/// A line for each aggregate or event (<https://github.com/ndjson/ndjson-spec>).
const NDJSON: &str = "application/x-ndjson";
/// The form of a stream.
const SSE: &str = "text/event-stream";

/// An answer that names the state it shows.
fn answer(status: StatusCode, epoch: &Epoch, revision: Revision) -> HttpResponseBuilder {
    let mut builder = HttpResponseBuilder::new(status);
    builder.insert_header(("X-Revision", revision.to_string())).insert_header(("X-Epoch", epoch.as_str()));
    builder
}
