//! **duality** stores aggregates and publishes their change events: two views of the same state.
//!
//! A client loads `GET /persons` and follows `GET /person-events` (Server-Sent Events that carry JSON merge patches). Its
//! copy then stays exact across disconnects and restarts. Declare your own collections with [`Document`], [`Derived`] and
//! [`EventSourced`] and register them with a [`Service`]; their routes, feeds and storage follow from that.
//!
//! # The crate in reading order
//!
//! Two paths lead through the crate:
//!
//! - **A write:** `http::routes` → `http::commands` → `write::aggregator` → `storage::writer` → `storage::commit` →
//!   `domain::collection` → the file of the aggregate in `aggregates`. The aggregator executes all waiting commands in one
//!   transaction, and the responses are sent when it is on disk.
//! - **An event:** `delivery::relay` → `delivery::hub` → `delivery::session` → `http::feeds`. The relay reads committed
//!   changes and sends them to the hub of each worker thread, which puts the same bytes into the queues of all live streams.
//!   A session is the actor of one stream: it reads what the client has missed, and then subscribes at the hub.
//!
//! The rooms, from the bottom up: `threads` (names of threads), `metrics` (counters), `domain` (aggregates, commands,
//! revisions and cursors, without SQL, actors or HTTP), `access` (tokens and their scopes), `read_model` (projections and
//! reports, as a developer writes them), `storage` (all SQL of the main database), `events` (change events as bytes, and the next page for a consumer), `write` (the aggregator
//! and its replies), `read` (reader threads, and bodies of whole collections), `delivery` (relay, hubs and streams),
//! `projector` (runs projections in the background), `publish` (change events and domain events for message brokers),
//! `http` (routes, requests and responses), and `service` (settings, command line, start and stop). `aggregates` has the
//! shipped collections, which use the public interface only; `testing` has scenarios for aggregates.

// From the bottom up: a room imports only the rooms above it in this list.
mod threads;

mod metrics;

mod memory;

mod domain;

mod access;

mod read_model;

mod storage;

mod events;

mod write;

mod read;

mod delivery;

mod projector;

mod publish;

mod http;

mod service;

pub mod aggregates;

pub mod testing;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(test)]
mod model_test;

pub use bytesize::ByteSize;
pub use domain::clock::Timestamp;
pub use domain::collection::{BusinessRule, Derived, Document, EventSourced, InvalidRegistration, Keys, Root};
pub use domain::json::ValidationError;
pub use domain::key::{InvalidKey, Key, MAX_KEY_BYTES};
pub use domain::metadata::{InvalidMetadata, MAX_METADATA_LENGTH, Metadata};
pub use publish::address::BrokerUrl;
pub use publish::carrier::{Carrier, CarrierError, Keep, Output, Past, Position, Removal, Stored};
pub use publish::message::{Content, Header, Message, Part};
pub use read_model::csv_file::CsvFile;
pub use read_model::error::ProjectionError;
pub use read_model::projection::{Erased, Event, Feed, Many, Projection};
pub use read_model::report::{Parameters, Report, ReportError};
pub use read_model::sink::{Sink, Tables};
/// Derive [`schemars::JsonSchema`] for the types of an aggregate, beside those of serde. The derive finds this crate by its
/// name, so `use duality::schemars::{self, JsonSchema};` needs no dependency of your own.
pub use schemars;
pub use service::builder::Service;
pub use service::log_format::LogFormat;
pub use service::running::{CommandError, Outcome, ReadError, Running, StartError, WithMetadata};
pub use service::settings::{CollectionTask, EpochTask, InvalidSetting, ProjectionTask, Settings, Task, TokenTask};
pub use storage::error::StoreError;
pub use storage::verified::Verified;
pub use write::refusal::Refusal;

/// The Rust in the README and in the guides compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/evolution.md")]
struct EvolutionGuide;

#[cfg(doctest)]
#[doc = include_str!("../docs/event-sourcing.md")]
struct EventSourcingGuide;

#[cfg(doctest)]
#[doc = include_str!("../docs/projections.md")]
struct ProjectionsGuide;
