//! **duality** keeps aggregates and publishes their change events as two views of one truth.
//!
//! A consumer loads `GET /persons`, follows `GET /person-events` (Server-Sent Events that carry JSON merge patches) and
//! is exactly up to date for ever. Declare your own collections with [`Document`], [`Derived`] and [`EventSourced`],
//! register them with a [`Service`], and routes, feeds and storage follow.
//!
//! The crate in reading order. A write goes from `http::commands` to `aggregator`, to `store::commit`, to the
//! collection's own file; an event from `relay` to `session` to `http::feeds`.

// From the bottom up: a module uses those above it only.
mod clock;
mod cursor;
mod key;
mod merge_patch;
mod precondition;

mod json;

mod collection;

mod projection;

mod feed;

mod store;

mod bodies;
mod budget;
mod follow;
mod frames;
mod segments;
mod socket;
mod spool;
mod verify;

mod aggregator;
mod answers;
mod channel;
mod readers;
mod relay;

mod projector;

mod projections;

mod hub;

mod session;

mod admission;

mod heard;
mod http;

mod settings;

mod running;

mod command_line;

mod service;

#[cfg(feature = "test-hooks")]
#[doc(hidden)]
pub mod benchmarks;

pub mod collections;

pub mod testing;

#[cfg(test)]
mod law;

pub use clock::Timestamp;
pub use collection::{BusinessRule, Derived, Document, EventSourced, InvalidRegistration, Keys, Root};
pub use json::Invalid;
pub use key::{InvalidKey, Key, LONGEST_KEY};
pub use projection::{
    CsvFile, Event, Feed, Parameters, Projection, ProjectionError, Report, ReportError, Sink, Tables,
};
pub use running::{CommandError, Outcome, Running, StartError};
pub use service::Service;
pub use settings::{ProjectionTask, Settings, Task};
pub use store::StoreError;
pub use verify::Verified;

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
