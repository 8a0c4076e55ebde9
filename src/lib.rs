//! **duality** keeps aggregates and publishes their change events as two views of one truth.
//!
//! A consumer loads `GET /persons`, follows `GET /person-events` (Server-Sent Events that carry JSON merge patches) and
//! is exactly up to date for ever. Declare your own collections with [`Document`], [`Derived`] and [`EventSourced`],
//! register them with a [`Service`], and routes, feeds and storage follow.
//!
//! The crate in reading order. A write goes from `http::commands` to `aggregator`, to `store::commit`, to the
//! collection's own file; an event from `relay` to `session` to `http::feeds`.

// From the bottom up: a room uses those above it in this list only.
mod threads;

mod domain;

mod read_model;

mod storage;

mod events;

mod write;

mod read;

mod delivery;

mod projector;

mod http;

mod service;

pub mod aggregates;

pub mod testing;

#[cfg(test)]
mod model_test;

pub use domain::clock::Timestamp;
pub use domain::collection::{BusinessRule, Derived, Document, EventSourced, InvalidRegistration, Keys, Root};
pub use domain::json::ValidationError;
pub use domain::key::{InvalidKey, Key, MAX_KEY_BYTES};
pub use read_model::csv_file::CsvFile;
pub use read_model::error::ProjectionError;
pub use read_model::projection::{Event, Feed, Projection};
pub use read_model::report::{Parameters, Report, ReportError};
pub use read_model::sink::{Sink, Tables};
pub use service::builder::Service;
pub use service::running::{CommandError, Outcome, Running, StartError};
pub use service::settings::{ProjectionTask, Settings, Task};
pub use storage::error::StoreError;
pub use storage::verify::Verified;

/// The Rust in the README and in the guides compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/event-sourcing.md")]
struct EventSourcingGuide;

#[cfg(doctest)]
#[doc = include_str!("../docs/projections.md")]
struct ProjectionsGuide;
